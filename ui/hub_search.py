"""Search the Hub for models while the visitor types."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import httpx2
from huggingface_hub import constants, get_session

from ui.account import Account, account
from ui.host import Host

MOST = 20
MOST_OFFERED = 300
SHORTEST_QUERY = 2
SECONDS_TO_WAIT = 4
# After the Hub did not answer, typing must not wait for it at every key.
SECONDS_OF_SILENCE = 30


class HubSearch:
    """Finds model ids; knows when the Hub does not answer and then stays quiet for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._silent_until = 0.0

    def __call__(self, query: str, who: Account) -> list[str]:
        """Ids of models whose name contains the query, the most downloaded first; empty if the Hub is silent.

        Asks the Hub's search directly: `HfApi.list_models` repeats a failed request for over twenty seconds,
        while the visitor has long typed on.
        """
        if len(query) < SHORTEST_QUERY or self._clock() < self._silent_until:
            return []
        try:
            response = get_session().get(
                f"{constants.ENDPOINT}/api/models",
                params={"search": query, "sort": "downloads", "direction": "-1", "limit": str(MOST)},
                headers={"authorization": f"Bearer {who.token}"} if who.token else {},
                timeout=SECONDS_TO_WAIT,
            )
            response.raise_for_status()
            found = response.json()
        except (httpx2.HTTPError, OSError, ValueError):
            self._silent_until = self._clock() + SECONDS_OF_SILENCE
            return []
        return [str(model["id"]) for model in found if isinstance(model, dict) and "id" in model][:MOST]


# Gradio shows the whole list whenever its choices change, and filters it by the typed text only at the next key.
# In between, other names lie under the mouse than a moment ago. A key that types nothing lets it filter.
FILTER_AGAIN = """() => {
  const field = document.activeElement;
  if (field?.getAttribute("role") !== "combobox") return;
  const list = document.getElementById(field.getAttribute("aria-controls"));
  const offered = Number(list?.querySelector("[role=option]")?.getAttribute("aria-setsize") ?? 0);
  if (offered <= (field.offeredBefore ?? KNOWN)) return;
  field.offeredBefore = offered;
  field.dispatchEvent(new KeyboardEvent("keydown", {key: "Unidentified", bubbles: true}));
}"""


def search_as_you_type(dropdown: gr.Dropdown, search: HubSearch, host: Host, known: Sequence[str]) -> None:
    """Let a dropdown offer what the Hub finds for the typed text, and the known models before."""

    def offer(field: gr.Dropdown, key: gr.KeyUpData, oauth: gr.OAuthToken | None) -> Any:
        # Gradio hands over the field's properties here, because of the type.
        offered = [str(choice[1]) for choice in field.choices]
        typed = str(key.input_value or "").strip()
        near = [name for name in known if typed.lower() in name.lower()]
        names = kept_in_place(offered, [*near, *search(typed, account(host, oauth))], typed)
        return gr.skip() if names == offered else gr.update(choices=names)

    dropdown.key_up(
        offer,
        dropdown,
        dropdown,
        queue=False,
        show_progress="hidden",
        # `always_last` would send what the key before the last one had typed.
        trigger_mode="multiple",
        api_visibility="private",
    ).then(None, None, None, js=FILTER_AGAIN.replace("KNOWN", str(len(known))), api_visibility="private")


def kept_in_place(offered: Sequence[str], found: Sequence[str], typed: str) -> list[str]:
    """What was offered before, each at its place, and what was found behind it.

    The browser shows of the list what matches the typed text, and a click chooses by place: if a name moved while
    the list is open, the click that is on its way would choose another model. So names only join at the end; a
    long list lets newcomers take the places of names that are hidden because they do not match.
    """
    names = list(offered)
    hidden = (i for i, name in enumerate(offered) if typed.lower() not in name.lower())
    for name in found:
        if name in names:
            continue
        place = None if len(names) < MOST_OFFERED else next(hidden, None)
        if place is None:
            names.append(name)
        else:
            names[place] = name
    return names
