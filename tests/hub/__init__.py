"""A Hugging Face Hub on loopback, for the tests and for the demo.

The real ``huggingface_hub`` and ``transformers`` use it unchanged when ``HF_ENDPOINT`` names it::

    with Hub() as hub:
        token = hub.add_user("alice", orgs=["lab"])
        hub.put("alice/tiny", {"config.json": b"{}"})
        HfApi(endpoint=hub.endpoint, token=token).model_info("alice/tiny")

``HF_ENDPOINT`` is read when ``huggingface_hub`` is imported, so start the Hub and set it before that
import, and call ``hub.reset()`` between tests. Large files come by LFS or, unless ``HF_HUB_DISABLE_XET=1`` is set too,
through Xet.

Where things are: ``server`` answers HTTP, ``routes_*`` hold what each address does, ``store`` what the Hub holds and
who may see it, ``blobs`` the bytes, ``xet`` the store behind it, ``repo`` the history, ``card`` and ``listing`` what
the Hub says about a model, ``log`` and ``faults`` what tests ask for.
"""

from tests.hub.hub import Hub

__all__ = ["Hub"]
