"""What Gradio's editors of code, and its other components, lack in the browser."""

from __future__ import annotations

# Gradio's editor of code keeps Tab to itself, so that the keyboard cannot leave it, and its name is no visitor's word.
# A form that is paused is not only grey: nothing in it can be reached. The editor counts the heights of its lines
# before the fonts have come, and again when the window changes. The pictures of Gradio's footer repeat the words beside
# them, and its link to download holds a button, which would be reached by a Tab of its own. So would a long list of
# options, which browsers let the keyboard scroll: it goes when its field is left, and the focus with it. Gradio's field
# for files has a name that differs from the words it shows.
MEND_COMPONENTS = """() => {
  if (window.alloyMended) return;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && event.target.closest?.(".cm-content")) event.stopImmediatePropagation();
  }, true);
  const mend = () => {
    for (const editor of document.querySelectorAll(".cm-content[aria-label='Code input container']")) {
      const label = editor.closest(".block")?.querySelector("label")?.textContent.trim();
      if (label) editor.setAttribute("aria-label", label);
    }
    for (const form of document.querySelectorAll(".alloy-form")) {
      const paused = form.querySelector(".alloy-held") !== null;
      for (const fields of form.querySelectorAll(".alloy-fields")) fields.inert = paused;
    }
    for (const picture of document.querySelectorAll("footer img:not([alt=''])")) picture.alt = "";
    for (const drop of document.querySelectorAll(".upload-container[aria-label]")) drop.removeAttribute("aria-label");
    const stops = "a > button:not([tabindex]), ul[role=listbox]:not([tabindex])";
    for (const stop of document.querySelectorAll(stops)) stop.tabIndex = -1;
  };
  window.alloyMended = new MutationObserver(mend);
  window.alloyMended.observe(document.body, {childList: true, subtree: true});
  mend();
  document.fonts?.ready.then(() => window.dispatchEvent(new Event("resize")));
}"""
# Brings the line about what the page did to the recipe into view.
SHOW_EDITOR = """() => document.querySelector(".alloy-undo")?.scrollIntoView({block: "center"})"""
