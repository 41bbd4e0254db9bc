"""The Space, and the page on a laptop: `python app.py`, or `alloy app`."""

from __future__ import annotations

from ui.serve import launch, page

# The name `demo` is what Gradio's reload looks for.
demo, host = page()

if __name__ == "__main__":
    launch(demo, host)
