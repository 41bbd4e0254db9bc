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


def search_as_you_type(dropdown: gr.Dropdown, search: HubSearch, host: Host, known: Sequence[str]) -> None:
    """Let a dropdown offer what the Hub finds for the typed text, and the known models before."""

    def offer(field: gr.Dropdown, key: gr.KeyUpData, oauth: gr.OAuthToken | None) -> Any:
        # Gradio hands over the field's properties here, because of the type.
        offered = [str(choice[1]) for choice in field.choices]
        typed = str(key.input_value or "").strip()
        near = [name for name in known if typed.lower() in name.lower()]
        return gr.update(choices=longer(offered, [*near, *search(typed, account(host, oauth))]))

    dropdown.key_up(
        offer,
        dropdown,
        dropdown,
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )


def longer(offered: Sequence[str], found: Sequence[str]) -> list[str]:
    """What was found, and then what was offered before: never fewer than before.

    The browser hides what does not match the typed text. An open list that gets shorter is drawn once more
    with the places of the old one, and Gradio stumbles over those that are gone.
    """
    names = list(dict.fromkeys([*found, *offered]))
    return names[: max(MOST_OFFERED, len(offered))]
