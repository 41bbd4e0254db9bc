"""The Space, and the page on a laptop: `python app.py`.

The port is GRADIO_SERVER_PORT, else the first free one from 7860.
"""

from __future__ import annotations

import os

# torch's threads sleep while they wait for each other instead of spinning: on a machine that also merges and
# serves, spinning slowed answers down several times. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "SPACE_ID" in os.environ:
    # The Space's own token must not be used for a visitor; huggingface_hub reads this when it is imported.
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"

import spaces  # noqa: F401 (before anything that imports torch: on ZeroGPU it stands in for CUDA)

from evaluation.downloads import DOWNLOADS
from ui.host import Host
from ui.page import build_page, launch_settings

# The name `demo` is what Gradio's reload looks for.
host = Host.from_environment()
if host.on_space:
    DOWNLOADS.limit()
demo = build_page(host)
# On ZeroGPU Gradio would let one visitor wait and send the second away.
demo.queue(max_size=64, default_concurrency_limit=4)

if __name__ == "__main__":
    demo.launch(**launch_settings(demo, host))
