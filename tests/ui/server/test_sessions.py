"""A visitor's session holds what it changed, and no copy of the whole page."""

from __future__ import annotations

import gradio as gr
from fastapi.testclient import TestClient
from gradio.routes import App

from ui.server.sessions import NO_STATE_LINKS, keep_sessions_small


def page() -> gr.Blocks:
    with gr.Blocks() as blocks:
        number, text = gr.Number(value=1), gr.Textbox(visible=False)
        kept = gr.State(0)
        gr.Textbox("nothing changes this")

        def more(given: float, so_far: int) -> tuple[dict[str, object], int]:
            return gr.update(visible=True, value=f"{given:g}, {so_far}"), so_far + 1

        number.change(more, [number, kept], [text, kept], api_name="more", queue=False)
    return blocks


def test_sessions_keep_their_state_and_copy_no_components() -> None:
    keep_sessions_small()
    blocks = page()
    app = App.create_app(blocks, app_kwargs={"routes": [NO_STATE_LINKS]})
    client = TestClient(app)

    def more(session: str | None) -> object:
        asked = {"data": [5, None], "session_hash": session, "fn_index": 0}
        return client.post("/gradio_api/run/more", json=asked).json()["data"][0]["value"]

    assert [more("a"), more("a"), more("b"), more(None)] == ["5, 0", "5, 1", "5, 0", "5, 0"]
    changed = {key for session in app.state_holder.session_data.values() for key in session.config_values}
    assert {type(blocks.blocks[key]).__name__ for key in changed} == {"Number", "Textbox", "State"}
    assert len(changed) == 3


def test_nothing_is_written_for_a_link_to_a_pages_state() -> None:
    keep_sessions_small()
    client = TestClient(App.create_app(page(), app_kwargs={"routes": [NO_STATE_LINKS]}))
    client.post("/gradio_api/run/more", json={"data": [5, None], "session_hash": "a", "fn_index": 0})

    assert client.get("/gradio_api/deep_link?session_hash=a").status_code == 404
