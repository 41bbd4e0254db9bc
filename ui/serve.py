"""The page as a server: what the Space, `python app.py` and `alloy app` start."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from ui.host import Host


def page() -> tuple[gr.Blocks, Host]:
    """Build the page for this machine, ready to be launched.

    Call this before anything imports torch or the Hub's client: both read the environment when they are imported.
    """
    # torch's threads sleep while they wait for each other instead of spinning. On a machine that also merges and
    # serves, spinning slowed answers down several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "SPACE_ID" in os.environ:
        # The Space's own token must not be used for a visitor.
        os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"

    from ui.host import Host
    from ui.hub.sign_in import hold_back

    host = Host.from_environment()
    hold_back()

    import spaces  # noqa: F401 (before torch: on ZeroGPU it stands in for CUDA)

    from ui.hub.space import running_commit
    from ui.page import build_page

    if host.on_space:
        host = replace(host, commit=running_commit(host.space_id))
    built = build_page(host)
    # On ZeroGPU Gradio would let one visitor wait and send the second away.
    built.queue(max_size=64, default_concurrency_limit=4)
    return built, host


def launch(built: gr.Blocks, host: Host) -> None:
    """Serve a page until it is stopped. The port is GRADIO_SERVER_PORT, else the first free one from 7860."""
    from merging.planning.confined_plan import warm_up
    from ui.page import launch_settings
    from ui.server.model_process import MODELS

    warm_up()
    MODELS.warm_up()
    # A search for garbage stops all threads, and the plan of a large model is a million objects that are none. So
    # search rarely, and never through the page and the libraries.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    built.launch(**launch_settings(built, host))
