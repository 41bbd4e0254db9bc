"""Merges in memory, to try before anything is saved: few, bounded in bytes, each for the page that made it."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

from checkpoints.memory import free_memory, machine_memory
from evaluation import EvaluationError, LanguageModel
from evaluation.downloads import DOWNLOADS
from merging import MergeError, Plan, Problem, Progress, merge_into_memory
from merging.plan import PlannedModel
from ui.hub.account import Account
from ui.widgets.html import size

SHARE_OF_MEMORY = 1 / 6
SECONDS_KEPT = 1800
# Prefix of the name of a merge in memory: no model on the Hub and no folder has it.
MARK = "try: "


@dataclass
class _InMemoryMerge:
    name: str
    recipe: str
    model: LanguageModel
    used: float


class InMemoryMerges:
    """The live models. The least recently used leave first, and each when its page is closed or idle.

    Args:
        most_bytes: limit for all together; None: a sixth of the machine's memory
        clock: gives seconds
    """

    def __init__(self, most_bytes: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes or int(machine_memory() * SHARE_OF_MEMORY)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _InMemoryMerge] = OrderedDict()  # by page
        self._merging = threading.Lock()

    def check(self, plan: Plan) -> None:
        """Check that the merge of a plan may be kept here.

        Raises:
            MergeError: it is too large.
        """
        if plan.bytes_out > self.most_bytes:
            values = {"size": size(plan.bytes_out), "most": size(self.most_bytes)}
            raise MergeError(Problem("too-large", values))

    def make(
        self,
        page: str,
        name: str,
        plan: Plan,
        who: Account,
        on_progress: Callable[[Progress], None],
        cancel: threading.Event,
    ) -> str:
        """Merge, and keep the result for a page instead of its last one.

        Args:
            page: the session of the page that asks
            name: what the visitor calls it
            plan: without a destination and without problems

        Returns:
            The name under which `get` finds it.

        Raises:
            MergeError: it cannot be merged or does not fit.
        """
        self.check(plan)
        with self._merging:  # one at a time: memory was checked for one
            self.forget(page)
            self._make_room(plan.bytes_out)
            network = merge_into_memory(
                plan,
                token=who.for_hub,
                device="cpu",
                memory=free_memory(),
                on_progress=on_progress,
                cancel=cancel,
            )
            model = _language_model(
                MARK + name, plan, network, who, widen=2 * plan.bytes_out <= self.most_bytes
            )
            with self._lock:
                self._kept[page] = _InMemoryMerge(MARK + name, plan.recipe, model, self._clock())
        self._make_room(0)
        return MARK + name

    def get(self, page: str, name: str) -> LanguageModel | None:
        """The live model of a page; None if it has none of this name, or no longer."""
        with self._lock:
            merge = self._kept.get(page)
            if merge is None or merge.name != name:
                return None
            merge.used = self._clock()
            self._kept.move_to_end(page)
            return merge.model

    def recipe(self, page: str, name: str) -> str:
        """The recipe of a page's model; empty if it has none of this name, or no longer."""
        with self._lock:
            merge = self._kept.get(page)
            return merge.recipe if merge and merge.name == name else ""

    def forget(self, page: str) -> None:
        """Free the model of a page."""
        with self._lock:
            found = self._kept.pop(page, None)
        if found:
            del found
            gc.collect()

    def _make_room(self, nbytes: int) -> None:
        with self._lock:
            idle = [page for page, merge in self._kept.items() if self._clock() - merge.used > SECONDS_KEPT]
            for page in idle:
                del self._kept[page]
            while (
                self._kept
                and sum(kept.model.bytes for kept in self._kept.values()) + nbytes > self.most_bytes
            ):
                self._kept.popitem(last=False)
        gc.collect()


def _language_model(name: str, plan: Plan, network: Any, who: Account, *, widen: bool) -> LanguageModel:
    # Imported here: transformers takes seconds to import, and the page does not need it to start.
    from transformers import AutoTokenizer, GenerationConfig

    with _tokenizer_files(plan, who) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    stored = str(network.dtype).removeprefix("torch.")
    if widen and stored in ("bfloat16", "float16"):
        # Most CPUs compute in these several times slower than in float32, which represents each value exactly.
        network = network.float()
    network.requires_grad_(False)
    stated = getattr(network.generation_config, "eos_token_id", None)
    ends = [*(stated if isinstance(stated, list) else [stated]), tokenizer.eos_token_id]
    known = [end for end in dict.fromkeys(ends) if end is not None]
    network.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=known or None, pad_token_id=known[0] if known else 0
    )
    nbytes = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return LanguageModel(name, None, network, tokenizer, "cpu", stored, nbytes)


def _fetched(model: PlannedModel, file: str, who: Account) -> Path:
    """A small file of a model on the Hub, in this machine's cache.

    Raises:
        MergeError: there is no room for it.
    """
    address = hf_hub_url(model.name, file, revision=model.version)
    size = get_hf_file_metadata(address, token=who.for_hub).size or 0
    try:
        with DOWNLOADS.room_for(model.name, model.version, {file: size}):
            return Path(hf_hub_download(model.name, file, revision=model.version, token=who.for_hub))
    except EvaluationError as error:
        raise MergeError(error.problems) from error


@contextmanager
def _tokenizer_files(plan: Plan, who: Account) -> Iterator[Path]:
    """A folder with the small files of the result."""
    with tempfile.TemporaryDirectory(prefix="alloy-try-") as place:
        folder = Path(place)
        for file, index in plan.copied_files.items():
            model = plan.models[index]
            source = Path(model.name) / file if model.is_folder else _fetched(model, file, who)
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / file)
        for file, text in plan.files.items():
            if file.endswith(".json") and "index" not in file and json.loads(text) is not None:
                (folder / file).write_text(text)
        yield folder
