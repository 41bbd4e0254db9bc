"""Search the Hub for models while the visitor types, with what each is and whether it fits.

The first model of the recipe decides what fits: its relatives come first; models of another architecture or size are
marked, as are those that cannot be read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import gradio as gr
import httpx2
from huggingface_hub import constants, get_session

from checkpoints.names import hub_id
from ui.host import Host
from ui.hub.account import Account, account
from ui.hub.timed_cache import TimedCache
from ui.languages.translate import t
from ui.widgets.events import PRIVATE, QUIET
from ui.widgets.html import count

MAX_FOUND = 20
MAX_RELATIVES = 100
MAX_OFFERED = 300
MIN_QUERY = 2
SECONDS_TO_WAIT = 4
# After the Hub failed to answer, typing must not wait for it at every key.
SECONDS_OF_SILENCE = 30
# The first model and its relatives are not requested again at every key.
SECONDS_KEPT, MAX_KEPT = 300, 256
EXPANDED = ("config", "downloads", "gated", "likes", "safetensors", "tags")
# Above this ratio of parameters two models differ in size; an extended vocabulary stays below.
SAME_SIZE = 1.25
# Forms that `checkpoints.quantized` does not read, and how the Hub tags all that are common.
UNREAD = ("exl2", "exl3", "mlx", "hqq", "aqlm", "quanto", "vptq", "spqr", "higgs")
QUANTIZED = (*UNREAD, "gptq", "awq", "bitsandbytes", "4-bit", "8-bit", "compressed-tensors", "fp8")


@dataclass(frozen=True)
class HubModel:
    """A model as the Hub lists it.

    Args:
        name: owner/name
        model_type: from its config; empty if unknown
        parameters: 0 if unknown
        licence: empty if its card states none
        likes: on the Hub
        gated: whether access must be requested
        bases: what its card says it was made from
        quantized: how; empty if it is not
        weights: the file formats, among safetensors, pytorch, gguf
        is_adapter: whether it is an adapter without a base
    """

    name: str
    model_type: str = ""
    parameters: int = 0
    licence: str = ""
    likes: int = 0
    gated: bool = False
    bases: tuple[str, ...] = ()
    quantized: str = ""
    weights: frozenset[str] = frozenset()
    is_adapter: bool = False

    @classmethod
    def listed(cls, entry: Mapping[str, Any]) -> HubModel:
        """From an entry of the Hub's list, which may lack any field except the name."""
        tags = [str(tag) for tag in entry.get("tags") or ()]
        config = entry.get("config") or {}
        method = (config.get("quantization_config") or {}).get("quant_method")
        named = {tag.rpartition(":")[2] for tag in tags if tag.startswith("base_model:")}
        return cls(
            name=str(entry["id"]),
            model_type=str(config.get("model_type") or ""),
            parameters=int((entry.get("safetensors") or {}).get("total") or 0),
            licence=next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), ""),
            likes=int(entry.get("likes") or 0),
            gated=bool(entry.get("gated")),
            bases=tuple(sorted(named)),
            quantized=str(method or next((tag for tag in QUANTIZED if tag in tags), "")),
            weights=frozenset({"safetensors", "pytorch", "gguf"} & set(tags)),
            is_adapter="peft" in tags or any(tag.startswith("base_model:adapter:") for tag in tags),
        )

    @property
    def about(self) -> str:
        """Architecture, size, licence and likes, as far as the Hub knows them."""
        size = count(self.parameters) if self.parameters and not self.is_adapter else ""
        liked = f"♥ {self.likes}" if self.likes else ""
        return " · ".join(filter(None, [self.model_type, size, self.licence, liked]))

    @property
    def is_read_as_plain(self) -> bool:
        """Whether it is quantized in a form that is read as plain numbers."""
        return self.quantized not in UNREAD and (bool(self.quantized) or self.is_gguf)

    @property
    def is_gguf(self) -> bool:
        """Whether its weights are in GGUF files only."""
        return self.weights == {"gguf"}

    def is_relative(self, first: HubModel) -> bool:
        """Whether both come from one base, or one from the other."""
        return bool({self.name, *self.bases} & {first.name, *first.bases})

    def hindrance(self, first: HubModel | None) -> str:
        """Why it cannot be merged with the first model; empty if no reason is known."""
        if self.quantized in UNREAD:
            return t("search.quantized", how=self.quantized)
        if first is None or self.is_adapter:
            return ""
        if self.model_type and first.model_type and self.model_type != first.model_type:
            return t("search.architecture", other=first.model_type)
        small, large = sorted((self.parameters, first.parameters))
        return t("search.size", other=count(first.parameters)) if small and large / small > SAME_SIZE else ""

    def remark(self) -> str:
        """What to know or do before it can be merged."""
        notes = [
            t("search.gated") if self.gated else "",
            t("search.adapter") if self.is_adapter else "",
            t("search.pickle") if self.weights == {"pytorch"} else "",
            t("search.dequantized", how="GGUF" if self.is_gguf else self.quantized)
            if self.is_read_as_plain
            else "",
        ]
        return ", ".join(filter(None, notes))


class ChosenModels(Protocol):
    """A form that knows which models were chosen in its fields."""

    def names(self) -> tuple[str, ...]: ...


class HubSearch:
    """Finds models. After the Hub failed to answer, it pauses for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._silent_until = 0.0
        self._kept = TimedCache[list[HubModel]](SECONDS_KEPT, MAX_KEPT, clock)

    def __call__(self, query: str, who: Account, first: HubModel | None = None) -> list[HubModel]:
        """Models whose name contains the query: relatives of the first model, then the most downloaded, then quantized
        ones, then those that do not fit; empty if the Hub does not answer.

        It calls the search endpoint directly: `HfApi.list_models` retries a failed request for over twenty seconds, and
        by then the visitor has typed on.
        """
        if len(query) < MIN_QUERY:
            return []
        related = (
            [it for it in self._relatives(first, who) if query.lower() in it.name.lower()] if first else []
        )
        found = [*related, *self._ask("", {"search": query, "limit": str(MAX_FOUND)}, who)]
        found = list({model.name: model for model in found}.values())

        def place(model: HubModel) -> int:
            if model.hindrance(first):
                return 3
            if model.is_read_as_plain:
                return 2
            return 0 if first and model.is_relative(first) else 1

        return sorted(found, key=place)[:MAX_FOUND]

    def model(self, name: str, who: Account) -> HubModel | None:
        """One model; None if this visitor cannot see it."""
        name = name.partition("+")[0].partition("@")[0].strip()
        if "/" not in name or not hub_id(name):
            return None
        return next(iter(self._remembered(f"/{quote(name)}", {}, who)), None)

    def _relatives(self, first: HubModel, who: Account) -> list[HubModel]:
        root = first.bases[0] if first.bases else first.name
        wanted = {"filter": f"base_model:{root}", "limit": str(MAX_RELATIVES)}
        return [it for it in self._remembered("", wanted, who) if it.name != first.name]

    def _remembered(self, path: str, wanted: Mapping[str, str], who: Account) -> list[HubModel]:
        # By visitor: what one may see, another may not. Python's hash of a token differs in every process.
        key = f"{path} {sorted(wanted.items())}", hash(who.token)
        found = self._kept.get(key)
        if found is None:
            found = self._ask(path, wanted, who)
            self._kept.keep(key, found)
        return found

    def _ask(self, path: str, wanted: Mapping[str, str], who: Account) -> list[HubModel]:
        """The models of an answer; none if the Hub does not answer, or refuses."""
        if self._clock() < self._silent_until:
            return []
        order = {} if path else {"sort": "downloads", "direction": "-1"}
        try:
            response = get_session().get(
                f"{constants.ENDPOINT}/api/models{path}",
                params={**wanted, **order, "expand": list(EXPANDED)},
                headers={"authorization": f"Bearer {who.token}"} if who.token else {},
                timeout=SECONDS_TO_WAIT,
            )
            if path and response.status_code in (401, 403, 404):
                return []
            response.raise_for_status()
            answer = response.json()
            listed = answer if isinstance(answer, list) else [answer]
            return [HubModel.listed(model) for model in listed if isinstance(model, dict) and "id" in model]
        except (httpx2.HTTPError, OSError, ValueError, TypeError, AttributeError):
            self._silent_until = self._clock() + SECONDS_OF_SILENCE
            return []


# Gradio shows the whole list whenever its choices change, and filters it by the typed text only at the next key: the
# names under the mouse change, and a click chooses another model. So names that do not match are hidden before the
# browser draws them or takes a click. If the list is longer than what Gradio draws of it, a match may be behind that:
# then a key that types nothing makes Gradio filter.
KEEP_FILTERED = """() => {
  if (window.alloyFilters) return;
  const typing = new WeakSet();
  const filter = () => {
    const field = document.activeElement;
    if (field?.getAttribute("role") !== "combobox") return;
    const options = document.getElementById(field.getAttribute("aria-controls"))?.querySelectorAll("[role=option]");
    const typed = typing.has(field) ? field.value.toLowerCase() : "";
    for (const option of options ?? []) {
      const matches = option.getAttribute("aria-label").toLowerCase().includes(typed);
      option.style.display = matches ? "" : "none";
    }
    const isCut = typed && options?.length < Number(options?.[0]?.getAttribute("aria-setsize") ?? 0);
    if (isCut) field.dispatchEvent(new KeyboardEvent("keydown", {key: "Unidentified", bubbles: true}));
  };
  document.addEventListener("input", (event) => { typing.add(event.target); filter(); });
  document.addEventListener("focusin", (event) => { typing.delete(event.target); filter(); });
  window.alloyFilters = new MutationObserver(filter);
  window.alloyFilters.observe(document.body, {childList: true, subtree: true, attributeFilter: ["aria-label"]});
}"""


# Gradio takes what stands in a field for a model's name as soon as the field is left. A word that was typed to search
# for one, and is no name, is put back to the name before; Enter, a pasted text and a choice from the list count.
KEEP_NAMES = """() => {
  if (window.alloyNames) return;
  const before = (window.alloyNames = new WeakMap());
  const listed = (field, word) =>
    [...(document.getElementById(field.getAttribute("aria-controls"))?.querySelectorAll("[role=option]") ?? [])]
      .some((option) => option.getAttribute("aria-label") === word);
  document.addEventListener("focusin", ({target}) => {
    if (target.closest(".alloy-search") && target.getAttribute("role") === "combobox") before.set(target, target.value);
  }, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Enter") before.delete(event.target); }, true);
  document.addEventListener("paste", (event) => before.delete(event.target), true);
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest?.("[role=option]")) before.delete(document.activeElement);
  }, true);
  document.addEventListener("blur", ({target}) => {
    const name = before.get(target), word = target.value?.trim();
    before.delete(target);
    if (name === undefined || !word || word === name || /[/\\\\.~+]/.test(word) || listed(target, word)) return;
    target.value = name;
    target.dispatchEvent(new Event("input", {bubbles: true}));
  }, true);
}"""

# Shows what the Hub says about a model below its name in an open list. Gradio redraws the list while it is open, and
# knows only the options' names.
DESCRIBE = """(models) => {
  const known = (window.alloyModels ??= {});
  Object.assign(known, JSON.parse(models || "{}"));
  const describe = () => document.querySelectorAll("[role=option]").forEach((option) => {
    const [about, fits] = known[option.getAttribute("aria-label")] ?? [null, true];
    if (option.getAttribute("aria-description") === about) return;
    if (about) option.setAttribute("aria-description", about); else option.removeAttribute("aria-description");
    option.classList.toggle("alloy-unfit", !fits);
  });
  if (!window.alloyDescribes) {
    window.alloyDescribes = new MutationObserver(describe);
    window.alloyDescribes.observe(document.body, {childList: true, subtree: true, attributeFilter: ["aria-label"]});
  }
  describe();
}"""


def search_as_you_type(
    dropdown: gr.Dropdown, search: HubSearch, host: Host, known: Sequence[str], chosen: gr.State | None = None
) -> None:
    """Let a dropdown offer the known models, then what the Hub finds for the typed text.

    Args:
        chosen: holds the `ChosenModels` of the form that the field belongs to; the first of them decides what fits.
            None: anything fits
    """
    about = gr.Textbox(visible=False, label=t("search.about"))
    dropdown.elem_classes = [*dropdown.elem_classes, "alloy-search"]

    def offer(
        field: gr.Dropdown, chosen: ChosenModels | None, key: gr.KeyUpData, oauth: gr.OAuthToken | None
    ) -> tuple[Any, Any]:
        # Because of the type, Gradio passes the field's properties.
        offered = [str(choice[1]) for choice in field.choices]
        typed = str(key.input_value or "").strip()
        who = account(host, oauth)
        others = [name for name in chosen.names() if name != typed] if chosen else []
        first = search.model(others[0], who) if others and len(typed) >= MIN_QUERY else None
        found = search(typed, who, first)
        near = [name for name in known if typed.lower() in name.lower()]
        names = kept_in_place(offered, [*near, *(model.name for model in found)], typed)
        return gr.skip() if names == offered else gr.update(choices=names), descriptions(found, first)

    dropdown.key_up(
        offer,
        [dropdown, gr.State(None) if chosen is None else chosen],
        [dropdown, about],
        # `always_last` would send the text as it was one key earlier.
        trigger_mode="multiple",
        **QUIET,
    ).then(None, about, None, js=DESCRIBE, **PRIVATE)
    dropdown.focus(None, None, None, js=KEEP_FILTERED, **PRIVATE)


def descriptions(found: Sequence[HubModel], first: HubModel | None) -> str:
    """By name, as JSON: the text below a model in the list, and whether it fits."""
    texts = {}
    for model in found:
        hindrance = model.hindrance(first)
        words = " · ".join(filter(None, [model.about, hindrance, model.remark()]))
        texts[model.name] = [words or None, not hindrance]
    return json.dumps(texts, ensure_ascii=False)


def kept_in_place(offered: Sequence[str], found: Sequence[str], typed: str) -> list[str]:
    """What was offered before, each at its place, followed by what was found.

    The browser shows the entries that match the typed text, and a click chooses by position: if a name moved while the
    list is open, a click in flight would choose another model. So new names only join at the end; in a long list they
    take the places of names that are hidden because they do not match.
    """
    names = list(offered)
    hidden = (i for i, name in enumerate(offered) if typed.lower() not in name.lower())
    for name in found:
        if name in names:
            continue
        place = None if len(names) < MAX_OFFERED else next(hidden, None)
        if place is None:
            names.append(name)
        else:
            names[place] = name
    return names
