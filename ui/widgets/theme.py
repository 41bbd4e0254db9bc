"""How the page looks: one warm accent on quiet greys, readable in light and dark mode."""

from __future__ import annotations

import gradio as gr
from gradio.themes import Base, Color

# Bronze: c600 on white and white on c600 have a contrast above 5 to 1, c300 on the dark backgrounds above 8 to 1.
BRONZE = Color(
    c50="#fdf6f0",
    c100="#fae8d9",
    c200="#f3cfb1",
    c300="#eab080",
    c400="#dd8b4f",
    c500="#c76d2f",
    c600="#a85220",
    c700="#87401b",
    c800="#6b341a",
    c900="#562c18",
    c950="#2f160b",
    name="bronze",
)
_FONTS = ["Inter", "Pretendard", "ui-sans-serif", "system-ui", "Noto Sans", "Noto Sans KR", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


# Of the variables of Gradio's theme: https://www.gradio.app/guides/theming-guide
_VARIABLES = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "body_text_color": "*neutral_900",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "background_fill_primary": "white",
    "background_fill_primary_dark": "*neutral_900",
    "background_fill_secondary": "*neutral_50",
    "background_fill_secondary_dark": "*neutral_900",
    "block_background_fill": "white",
    "block_background_fill_dark": "*neutral_900",
    "block_border_width": "1px",
    "block_border_color": "*neutral_200",
    "block_border_color_dark": "*neutral_800",
    "block_shadow": "none",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_border_width": "0px",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_300",
    "block_label_text_weight": "600",
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_200",
    "block_title_text_weight": "600",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_400",
    "input_background_fill": "white",
    "input_background_fill_dark": "*neutral_950",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_700",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_400",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "slider_color": "*primary_600",
    "slider_color_dark": "*primary_400",
    "checkbox_label_border_width": "1px",
    "checkbox_label_border_color": "*neutral_300",
    "checkbox_label_border_color_dark": "*neutral_700",
    "checkbox_label_background_fill": "white",
    "checkbox_label_background_fill_dark": "*neutral_950",
    "checkbox_label_background_fill_selected": "*primary_50",
    "checkbox_label_background_fill_selected_dark": "*primary_950",
    "checkbox_label_border_color_selected": "*primary_600",
    "checkbox_label_border_color_selected_dark": "*primary_400",
    "checkbox_label_text_color_selected": "*body_text_color",
    "checkbox_background_color_selected": "*primary_600",
    "checkbox_background_color_selected_dark": "*primary_500",
    "checkbox_border_color_selected": "*primary_600",
    "checkbox_border_color_selected_dark": "*primary_500",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_primary_text_color": "white",
    "button_primary_border_color": "*primary_600",
    "button_border_width": "1px",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_dark": "*neutral_800",
    "button_secondary_background_fill_hover_dark": "*neutral_700",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_700",
    "color_accent": "*primary_600",
    "link_text_color": "*primary_700",
    "link_text_color_hover": "*primary_800",
    "link_text_color_dark": "*primary_300",
    "link_text_color_hover_dark": "*primary_200",
}


def theme() -> gr.themes.Base:
    """The theme; fonts are the system's, so that the page requests nothing from other hosts."""
    return Base(
        primary_hue=BRONZE,
        secondary_hue=BRONZE,
        neutral_hue="stone",
        radius_size="md",
        spacing_size="md",
        text_size="md",
        font=_FONTS,
        font_mono=_MONO,
    ).set(**_VARIABLES)


# Gradio adds these rules twice: as they are, and below its own classes; those in @media only the latter way. In `:is`
# it would put its classes before the second choice.
CSS = """
.gradio-container { max-width: 1240px !important; width: 100%; margin: 0 auto; }
.gradio-container .html-container { padding: 0; }
.gradio-container, .gradio-container .prose * { word-break: keep-all; }
.alloy-head { display: flex; align-items: center; gap: .9rem; padding: .6rem 0 .2rem; }
.alloy-head svg { width: 2.6rem; height: 2.6rem; flex: none; }
.alloy-head h1 { font-size: 1.6rem; line-height: 1.1; margin: 0; letter-spacing: -.02em; }
.alloy-head p { margin: .2rem 0 0; color: var(--body-text-color-subdued); max-width: 84ch; }
.dark button[role=tab].selected { color: var(--primary-300) !important; }
footer > .divider { display: none; }
footer { gap: 1rem; }
.alloy-votes button { white-space: nowrap; padding-left: .3rem; padding-right: .3rem; }
.alloy-section { font-size: 1.1rem; font-weight: 650; margin: 1rem 0 0; }
.alloy-tray { flex: 0 1 24rem !important; align-items: flex-end; gap: .2rem; min-width: 0 !important; }
.alloy-tray:not(:has(button)) { display: none; }
.alloy-tray button { display: block; max-width: 100%; padding: .3rem .8rem; border: 1px solid var(--block-border-color);
  border-radius: 2rem; background: var(--block-background-fill); color: var(--body-text-color); cursor: pointer;
  font-size: .85rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; margin: .15rem 0 0 auto; }
.alloy-tray details { text-align: right; font-size: .85rem; }
.alloy-tray summary { cursor: pointer; color: var(--body-text-color-subdued); padding: .2rem; }
.alloy-tray ul { list-style: none; margin: 0; padding: 0; }
.alloy-tray li { display: flex; align-items: center; justify-content: flex-end; gap: .4rem; margin: 0; }
.alloy-tray li button { margin: .15rem 0 0; min-width: 0; } .alloy-tray li button:last-child { flex: none; }
.alloy-tray time { flex: none; color: var(--body-text-color-subdued); }
.alloy-wishes { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin-top: .5rem; }
.alloy-wishes button { margin: 0 !important; display: flex; gap: .9rem; align-items: center; text-align: left;
  padding: .7rem .9rem;
  border: 1px solid var(--block-border-color); border-radius: var(--radius-lg);
  background: var(--block-background-fill); color: var(--body-text-color); cursor: pointer; }
.alloy-wishes button:hover { border-color: var(--primary-500); }
.alloy-wishes svg { width: 4.5rem; height: 2.5rem; flex: none; }
.alloy-wishes button > span { display: flex; font-weight: 400; flex-direction: column; min-width: 0; font-size: .88rem;
  line-height: 1.35; }
.alloy-wishes b { font-size: .98rem; font-weight: 650; }
.alloy-wishes span > span, .alloy-wishes small { color: var(--body-text-color-subdued); }
.alloy-wishes small { font-size: .76rem; margin-top: .15rem; }
.alloy-wishes .bronze { fill: #c76d2f; } .alloy-wishes .steel { fill: #8a8580; } .alloy-wishes .light { fill: #eab080; }
.alloy-wishes .line { fill: none; stroke: var(--body-text-color); stroke-width: 2; stroke-linecap: round; }
.alloy-wishes text { font-size: 15px; font-weight: 700; text-anchor: middle; fill: white; }
@media (max-width: 900px) { .alloy-wishes { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 640px) {
  .alloy-wishes { grid-template-columns: 1fr; gap: .4rem; }
  .alloy-wishes button { padding: .45rem .7rem; }
  .alloy-wishes svg { width: 3.6rem; height: 2rem; }
  .alloy-presets, .alloy-suggested { flex-wrap: nowrap !important; overflow-x: auto; padding: 3px; }
  .alloy-suggested button { white-space: nowrap; }
}
.alloy-presets { align-items: center; gap: .45rem; }
.alloy-presets > .block { flex: none; width: auto; min-width: 0; font-weight: 600; padding-right: .3rem; }
.alloy-presets button { flex: none; width: auto; padding: .3rem .9rem; border-radius: 2rem; white-space: nowrap; }
.prose :is(.alloy-card, .alloy-method, .alloy-table) a { margin: 0; padding: 0; }
.alloy-fields .row .block > label:not(:has([type=checkbox])) { display: flex; flex-direction: column; height: 100%; }
.alloy-fields .row .block > label > .input-container { margin-top: auto; }
.alloy-presets label:has(input:focus-visible) { outline: 2px solid var(--primary-500); outline-offset: 2px; }

.alloy-card { border: 1px solid var(--block-border-color); border-radius: var(--radius-lg);
  background: var(--block-background-fill); padding: .9rem 1rem; overflow-wrap: anywhere; }
.alloy-card + .alloy-card { margin-top: .7rem; }
.alloy-card h2, .alloy-card h3 { font-size: 1rem; font-weight: 650; margin: 0; }
.alloy-card p { margin: .35rem 0 0; }
.alloy-card :is(p, details):first-child, .alloy-card > .alloy-scroll:first-child .alloy-table { margin-top: 0; }
.alloy-facts + p { margin-top: .8rem; }
.alloy-quiet { color: var(--body-text-color-subdued); }
.alloy-mark { display: inline-block; width: .6rem; height: .6rem; border-radius: 50%; margin-right: .45rem; }
.alloy-good .alloy-mark { background: #2f8f4e; } .alloy-bad .alloy-mark { background: #c8372d; }
.alloy-busy .alloy-mark { background: var(--primary-500); } .alloy-idle .alloy-mark { background: #8a8580; }
.alloy-facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.4rem, 1fr)); gap: .7rem 1rem;
  margin: .8rem 0 0; }
.alloy-facts dt { font-size: .8rem; color: var(--body-text-color-subdued); }
.alloy-facts dd { margin: 0; font-size: 1.15rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.alloy-facts dd small { display: block; font-size: .78rem; font-weight: 400; color: var(--body-text-color-subdued); }
.alloy-card details dt { font-weight: 600; margin-top: .6rem; }
.alloy-card details dd { margin: .1rem 0 0; }
.alloy-problems { list-style: none; margin: .6rem 0 0; padding: 0; }
.alloy-problems li { padding: .55rem 0 .1rem; border-top: 1px solid var(--block-border-color); margin-top: .5rem; }
.alloy-problems li:first-child { border-top: 0; margin-top: 0; padding-top: 0; }
.alloy-problems .where { font-family: var(--font-mono); font-size: .8rem; color: var(--body-text-color-subdued); }
.alloy-problems .fix { display: block; font-weight: 600; }
:is(.alloy-problems, .alloy-trouble) [lang=en] { font-size: .9em; color: var(--body-text-color-subdued); }
.gradio-container .prose .alloy-table, .gradio-container .prose .alloy-table tr { border: 0; }
.gradio-container .alloy-table { width: 100%; border-collapse: collapse; margin: .8rem 0 0; font-size: .9rem;
  overflow-wrap: normal; }
.gradio-container .prose .alloy-table :is(th, td) { border: 0; border-top: 1px solid var(--block-border-color);
  padding: .4rem .6rem .4rem 0; text-align: left; vertical-align: top; color: inherit; }
.gradio-container .prose .alloy-table thead :is(th, td) { border-top: 0; font-weight: 600;
  color: var(--body-text-color-subdued); }
.gradio-container .alloy-table tbody th { font-weight: 500; overflow-wrap: anywhere; min-width: 6rem; }
.gradio-container .alloy-table :is(th, td).number { text-align: right; font-variant-numeric: tabular-nums; }
.gradio-container .alloy-table td.number { white-space: nowrap; }
.gradio-container .alloy-table td[colspan] { overflow-wrap: anywhere; }
.gradio-container .alloy-table .best { font-weight: 700; }
.gradio-container .alloy-table small { display: block; font-weight: 400; color: var(--body-text-color-subdued); }
.alloy-table caption { caption-side: bottom; text-align: left; padding-top: .5rem;
  color: var(--body-text-color-subdued); }
.alloy-scroll { overflow-x: auto; }
@media (max-width: 640px) {
  .alloy-scores, .alloy-scores tr { display: flex; flex-wrap: wrap; }
  .alloy-scores caption, .alloy-scores thead, .alloy-scores tbody { display: block; flex: 0 0 100%; }
  .alloy-scores, .alloy-scores thead, .alloy-scores tbody, .alloy-scores tr, .alloy-stacked tbody, .alloy-stacked tr {
    margin: 0 !important; padding: 0 !important; }
  .alloy-scores caption { order: 1; margin: 0 !important; }
  .alloy-scores thead th { font-size: .75rem; padding-right: .2rem !important; }
  .alloy-scores td { padding-right: .2rem !important; }
  .alloy-scores tr > * { flex: 1 1 0; min-width: 0 !important; }
  .alloy-scores tr > th:first-child, .alloy-scores td[colspan] { flex-basis: 100%; padding-bottom: 0 !important; }
  .alloy-scores tr > td { border-top: 0 !important; padding-top: .1rem !important; }
  .alloy-stacked thead { display: none; }
  .alloy-stacked tbody, .alloy-stacked tr, .alloy-stacked th, .alloy-stacked td { display: block; }
  .alloy-stacked td { border-top: 0 !important; padding-top: 0 !important; }
}
.gradio-container .alloy-scroll .alloy-table :is(th, td):not(.number) { min-width: 7rem; }
.alloy-bar { height: .5rem; border-radius: 1rem; background: var(--neutral-200); overflow: hidden;
  margin: .7rem 0 .4rem; }
.dark .alloy-bar { background: var(--neutral-700); }
.alloy-bar > span { display: block; height: 100%; border-radius: 1rem; background: var(--primary-600);
  transition: width .6s; }
.dark .alloy-bar > span { background: var(--primary-400); }
.alloy-numbers { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .88rem;
  font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); }
.alloy-card details { margin-top: .6rem; font-size: .85rem; }
.alloy-card details pre, .alloy-gguf pre { white-space: pre-wrap; margin: .4rem 0 0; font-size: .8rem; }
.alloy-verdict { font-weight: 600; }
.alloy-overview:not(:has(.alloy-card)) { display: none; }
.alloy-result { font-size: 1.05rem; font-weight: 600; }
.alloy-held { border-left: 3px solid var(--primary-500); padding: .5rem .8rem; background: var(--block-background-fill);
  border-radius: 0 var(--radius-lg) var(--radius-lg) 0; }
.alloy-form:has(.alloy-held) .alloy-fields { opacity: .6; pointer-events: none; }
.alloy-undo { align-items: center; gap: .6rem; }
.alloy-undo:not(:has(button)) { display: none; }
.alloy-undo > .block { flex: 1; min-width: 0; }
.alloy-checking { visibility: hidden; height: 0; min-height: 0; overflow: visible; z-index: 1; text-align: right;
  margin-bottom: calc(-1 * var(--layout-gap)); padding: .9rem 1rem 0 !important; }
.alloy-plan > :is(.wrap, [data-testid=status-tracker]) { display: none !important; }
.alloy-plan .html-container.pending { opacity: 1; }
.alloy-checking:has(+ .alloy-plan .html-container.pending) { animation: alloy-checking 0s .3s forwards; }
.alloy-plan .html-container.pending { animation: alloy-dimmed 0s .3s forwards; }
@keyframes alloy-checking { to { visibility: visible; } }
@keyframes alloy-dimmed { to { opacity: .45; } }
:is(button, a, summary, input, textarea, select, [tabindex], .cm-content):focus-visible {
  outline: 2px solid var(--primary-500) !important; outline-offset: 2px; }
.alloy-fold { display: none; }
@media (max-width: 640px) {
  .alloy-fold { display: block; }
  .alloy-fold button { width: 100%; padding: .6rem .9rem; border: 1px solid var(--block-border-color); text-align: left;
    border-radius: var(--radius-lg); background: var(--block-background-fill); color: var(--body-text-color);
    font-weight: 600; cursor: pointer; }
  .alloy-fold button::before { content: "▸"; display: inline-block; width: 1.2rem; }
  .alloy-fold button[aria-expanded=true]::before { content: "▾"; }
  .alloy-fold:has([aria-expanded=false]) + .alloy-folded { display: none; }
}
@media (prefers-reduced-motion: reduce) {
  *, ::before, ::after { animation-duration: 0s !important; transition: none !important;
    scroll-behavior: auto !important; }
}
html { scroll-padding: 1rem 0 6rem; }
.gradio-container { overflow: clip !important; }
.alloy-go { position: sticky; bottom: 0; z-index: var(--layer-5, 50); padding: .6rem .8rem; gap: .5rem;
  border: 1px solid var(--block-border-color); border-radius: var(--radius-lg) var(--radius-lg) 0 0;
  background: var(--block-background-fill); box-shadow: 0 -4px 14px rgb(0 0 0 / 8%); }
.alloy-go > .row { align-items: center; gap: .6rem; }
.alloy-go .alloy-said { max-height: 45vh; overflow: auto; }
.alloy-go .alloy-said:not(:has(*)) { display: none; }
.alloy-state { flex: 1 1 0; min-width: 0; font-size: .92rem; }
.alloy-state p { margin: 0 !important; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.alloy-state p > span + span::before, .alloy-state b + span::before { content: "·"; margin: 0 .45rem;
  color: var(--body-text-color-subdued); }
.alloy-jump { display: block; width: 100%; padding: .2rem; border: 0; background: none; color: inherit;
  text-align: left;
  cursor: pointer; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; border-radius: var(--radius-sm); }
.alloy-go button[aria-disabled=true] { opacity: .5; }
.gradio-container:has(.alloy-plan .html-container.pending) .alloy-state { animation: alloy-dimmed 0s .3s forwards; }
@media (max-width: 640px) {
  .alloy-go { padding: .45rem .6rem; gap: .3rem; }
  .alloy-state { flex: 1 0 100%; }
  .alloy-go > .row > button { flex: 1 1 0 !important; min-width: 0 !important; white-space: nowrap; }
}
.alloy-method { padding: 0 .2rem; color: var(--body-text-color-subdued); font-size: .92rem; }
.alloy-formula { font-family: "STIX Two Math", "Cambria Math", "DejaVu Serif", Georgia, serif;
  overflow-wrap: anywhere; }
.alloy-composer { position: sticky; bottom: 0; z-index: var(--layer-5, 50); padding: .5rem 0; gap: .5rem;
  background: var(--body-background-fill); }
.alloy-suggested { gap: .4rem; flex-wrap: wrap; }
.alloy-suggested button { flex: none; width: auto; padding: .25rem .8rem; border-radius: 2rem; font-weight: 500; }
.alloy-talk label { max-width: calc(100% - 3rem); background: var(--block-background-fill); }
.alloy-yaml label { max-width: calc(100% - 5rem); }
:is(.alloy-talk, .alloy-yaml) label { display: block; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
:is(.alloy-talk, .alloy-yaml) label > span { display: inline-block; vertical-align: -.15em; }
@media (max-width: 640px) {
  .alloy-talk { height: 300px !important; }
  .tab-wrapper button { padding-left: .3rem !important; padding-right: .3rem !important; font-size: .85rem !important; }
}
.dark [role=tab][aria-selected=true] { color: var(--primary-300) !important; }
.dark input[type=range] { --neutral-200: var(--neutral-700); }
.alloy-trouble { border-left: 3px solid #c8372d; padding: .1rem .7rem; margin: .4rem .2rem !important; }
.alloy-model .block:has(.alloy-trouble) { background: var(--block-background-fill); padding: .3rem .6rem; }
.alloy-heed { border-left: 3px solid var(--primary-500); padding: .1rem .7rem; margin: .6rem 0 0 !important; }
.alloy-card h3.alloy-part { font-size: .9rem; font-weight: 600; margin: .9rem 0 .3rem; }
.alloy-lines { margin: .2rem 0 0; padding-left: 1.2rem; }
.alloy-layers { display: grid; grid-template-columns: minmax(4.5rem, 27%) 1fr max-content; gap: .25rem .7rem;
  align-items: center; font-size: .85rem; font-variant-numeric: tabular-nums; }
.alloy-layers .kind { text-align: right; overflow-wrap: anywhere; line-height: 1.2; }
.alloy-layers svg { width: 100%; height: 1.1rem; border-radius: 3px; display: block; background: var(--neutral-100); }
.dark .alloy-layers svg { background: var(--neutral-800); }
.alloy-layers rect { fill: var(--primary-600); } .dark .alloy-layers rect { fill: var(--primary-400); }
.alloy-layers rect.copy { fill: #8a8580; opacity: .45; }
.alloy-layers .said { color: var(--body-text-color-subdued); }
.alloy-layers .axis { display: flex; justify-content: space-between; color: var(--body-text-color-subdued); }
@media (max-width: 640px) {
  .alloy-layers { grid-template-columns: 1fr max-content; }
  .alloy-layers > .kind { grid-column: 1 / -1; text-align: left; margin-top: .2rem; }
  .alloy-layers > :has(+ .axis) { display: none; }
}
.alloy-stairs { display: block; width: 100%; height: 9rem; margin: .4rem 0; background: var(--neutral-100);
  border-radius: 3px; }
.dark .alloy-stairs { background: var(--neutral-800); }
.alloy-legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.alloy-legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .4rem; }
.alloy-stairs .m0 { fill: #c76d2f; } .alloy-stairs .m1 { fill: #3f7fa6; } .alloy-stairs .m2 { fill: #2f8f4e; }
.alloy-stairs .m3 { fill: #8a8580; }
.alloy-legend .m0 { background: #c76d2f; } .alloy-legend .m1 { background: #3f7fa6; }
.alloy-legend .m2 { background: #2f8f4e; } .alloy-legend .m3 { background: #8a8580; }
.alloy-lineage { display: block; width: 100%; min-width: 280px; height: auto; }
.alloy-lineage text { font-size: 12.5px; fill: var(--body-text-color); }
.alloy-lineage rect { fill: var(--block-background-fill); stroke: var(--neutral-400); }
.alloy-lineage .result rect { stroke: var(--primary-600); stroke-width: 2; }
.dark .alloy-lineage .result rect { stroke: var(--primary-400); }
.alloy-lineage path { fill: none; stroke: var(--neutral-400); stroke-width: 1.5; }
.alloy-gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: .8rem; }
.alloy-gallery .alloy-card { margin: 0; min-width: 0; display: flex; flex-direction: column; gap: .3rem; }
.alloy-gallery .alloy-choices { margin-top: auto; padding-top: .4rem; }
.alloy-gallery .alloy-choices button { margin: 0 !important; }
.alloy-card figure { margin: .2rem 0 0; }
.alloy-card figcaption { font-size: .8rem; color: var(--body-text-color-subdued); }
.alloy-curve { display: block; width: 100%; max-width: 16rem; height: auto; }
.alloy-curve path { fill: none; stroke: var(--primary-600); stroke-width: 1.5; }
.dark .alloy-curve path { stroke: var(--primary-400); }
.alloy-curve .line-attention { stroke-dasharray: 5 2; } .alloy-curve .line-mlp { stroke-dasharray: 1.5 2; }
.alloy-chips { display: flex; flex-wrap: wrap; gap: .25rem .4rem; font-size: .8rem; }
.alloy-chips span { padding: .05rem .5rem; border: 1px solid var(--block-border-color); border-radius: 1rem; }
.alloy-gain { font-size: .92rem; }
.alloy-side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: .6rem; }
.alloy-answer { border: 1px solid var(--block-border-color); border-radius: var(--radius-lg); padding: .5rem .8rem;
  background: var(--block-background-fill); overflow-wrap: anywhere; min-width: 0; }
.alloy-answer h4 { font-size: .85rem; margin: 0; } .alloy-answer p { margin: .3rem 0 0; white-space: pre-wrap; }
.alloy-sample { margin: .4rem 0 0; padding: .4rem .8rem; border-left: 3px solid var(--primary-500); }
.alloy-sample p + p { font-weight: 600; }
.alloy-actions { margin-top: -.6rem; gap: .5rem; }
.alloy-actions > button { flex: none; width: auto; padding-left: .9rem; padding-right: .9rem; white-space: nowrap; }
.alloy-curves details { border: 1px solid var(--block-border-color); border-radius: var(--radius-lg);
  padding: .6rem .9rem; background: var(--block-background-fill); }
.alloy-curves summary { font-weight: 600; cursor: pointer; }
.alloy-curves p { margin: .3rem 0 .5rem; font-size: .88rem; }
.alloy-choices { display: flex; flex-wrap: wrap; gap: .35rem; margin: .35rem 0; }
.alloy-choices button { padding: .2rem .7rem; font-weight: 400; border: 1px solid var(--neutral-300);
  border-radius: 2rem;
  font-size: .85rem;
  background: var(--button-secondary-background-fill); color: var(--body-text-color); cursor: pointer; }
.dark .alloy-choices button { border-color: var(--neutral-700); }
.alloy-choices button[aria-pressed=true] { border-color: var(--primary-600); color: var(--primary-700);
  font-weight: 650; }
.dark .alloy-choices button[aria-pressed=true] { border-color: var(--primary-400); color: var(--primary-300); }
.alloy-curves [hidden] { display: none; }
.alloy-curves svg { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; overflow: visible;
  user-select: none; }
.alloy-curves .axis { font-size: 10px; fill: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.alloy-curves .ruler { stroke: var(--neutral-200); stroke-width: 1; }
.dark .alloy-curves .ruler { stroke: var(--neutral-700); }
.alloy-curves [data-line] path { fill: none; stroke: var(--neutral-400); stroke-width: 1.5; }
.alloy-curves [data-line].chosen path { stroke: var(--primary-600); stroke-width: 2.5; }
.dark .alloy-curves [data-line].chosen path { stroke: var(--primary-400); }
.alloy-curves .line-attention path { stroke-dasharray: 6 3; } .alloy-curves .line-mlp path { stroke-dasharray: 2 3; }
.alloy-curves [data-line]:not(.chosen) [role=slider] { display: none; }
.alloy-curves [role=slider] { cursor: ns-resize; touch-action: none; }
.alloy-curves [role=slider] circle { fill: var(--primary-600); stroke: var(--block-background-fill); stroke-width: 2; }
.dark .alloy-curves [role=slider] circle:not(.reach) { fill: var(--primary-400); }
.alloy-curves [role=slider] .reach { fill: transparent; stroke: none; }
.alloy-curves [role=slider]:focus { outline: none; }
.alloy-curves [role=slider]:focus-visible .reach { stroke: var(--primary-500); stroke-width: 2; }
.alloy-curves [role=slider] text { font-size: 10px; fill: var(--body-text-color); visibility: hidden; }
.alloy-curves [role=slider]:is(:hover, :focus) text { visibility: visible; }
.alloy-demo { width: 100%; max-width: 460px; display: block; margin: 0 auto; background: var(--block-background-fill);
  border: 1px solid var(--block-border-color); border-radius: var(--radius-lg); }
.alloy-sliders .block:has([type=checkbox]) { min-width: 140px !important; }
.alloy-demo + p { margin-top: .6rem; }
.alloy-demo text { font-size: 14px; fill: var(--body-text-color); }
.alloy-demo path { fill: none; } .alloy-demo .axis { stroke: var(--neutral-300); stroke-width: 1; }
.dark .alloy-demo .axis { stroke: var(--neutral-700); }
.alloy-demo .vector { stroke: var(--neutral-400); stroke-width: 1.5; stroke-dasharray: 4 4; }
.alloy-demo .base { fill: #8a8580; } .alloy-demo .model { fill: var(--neutral-600); }
.dark .alloy-demo .model { fill: var(--neutral-300); }
.alloy-demo .path { fill: none; stroke: var(--primary-500); stroke-width: 2; opacity: .7; }
.alloy-demo .result { fill: var(--primary-600); stroke: white; stroke-width: 1.5; }
.alloy-trials { display: block; width: 100%; min-width: 440px; max-width: 620px; height: auto; margin-top: .8rem; }
.alloy-trials text { font-size: 10px; fill: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.alloy-trials path { fill: none; stroke: var(--neutral-400); }
.alloy-trials .layer { fill: var(--neutral-400); } .alloy-trials .dropped { fill: var(--primary-600); }
.alloy-trials .baseline { stroke-dasharray: 4 3; }
.alloy-trials .best { stroke: var(--primary-600); stroke-width: 2; }
.alloy-trials .trial { fill: var(--primary-600); stroke: var(--block-background-fill); }
.alloy-trials .winner { stroke: var(--body-text-color); stroke-width: 2; } .alloy-trials .known { fill: #8a8580; }
.dark .alloy-trials .best { stroke: var(--primary-400); } .dark .alloy-trials .trial { fill: var(--primary-400); }
.alloy-yaml { font-size: .9rem; }
.alloy-yaml .icon-button-wrapper :is(a, button) { display: inline-flex; min-width: 24px; min-height: 24px;
  align-items: center; justify-content: center; }
.alloy-yaml .cm-line span { color: var(--primary-700) !important; }
.dark .alloy-yaml .cm-line span { color: var(--primary-300) !important; }
.alloy-home { padding: 0 .2rem; }
.alloy-home pre { white-space: pre-wrap; font-size: .8rem; max-height: 24rem; overflow: auto; margin: .5rem 0 0; }
"""
