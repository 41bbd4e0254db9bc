"""Models that are scored by the machines of a cluster, each by one of them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import Token, open_checkpoint
from checkpoints.cluster import Call, Calls, Cluster, ClusterError, check_size
from checkpoints.problems import Cancelled
from evaluation.error import EvaluationError
from evaluation.model_files import as_evaluation_error, find_model
from evaluation.perplexity import DocumentScore, Perplexity

# A machine that scores: its processors, and bytes of memory besides twice the weights, which may be read as float32.
CPUS = 4
MEMORY = 2_000_000_000
_ARRAYS = {"token_nats": np.dtype(np.float32), "token_ends": np.dtype(np.int32)}


def perplexities_elsewhere(
    cluster: Cluster,
    models: Mapping[str, int],
    texts: Sequence[str],
    *,
    token: Token = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> list[Perplexity]:
    """Score models on the same texts, each on a machine of a cluster; in the order given.

    Args:
        cluster: whose machines can read the models, by the same names
        models: bytes of their weights, by name; folders have to be shared by all machines
        token: which machines use; None: their own login
        settings: of `perplexity`

    Raises:
        EvaluationError: a model cannot be scored, or the cluster cannot be used
        Cancelled: `cancel` was set
    """

    def pulse() -> None:
        if cancel and cancel.is_set():
            raise Cancelled

    try:
        machines = cluster.machines()
        cpus = min(CPUS, max((machine.cpus for machine in machines), default=CPUS))
        calls = Calls(cluster, token, pulse)
        for name, nbytes in models.items():
            text = json.dumps(
                {"model": _whole(name), "name": name, "texts": list(texts), "settings": settings}
            )
            call = Call(
                "evaluation.elsewhere:lines", text, f"perplexity of {name}", cpus, 2 * nbytes + MEMORY
            )
            check_size(call, machines)
            calls.submit(call)
        found = [json.loads(line.text) for lines in calls.arrivals() for line in lines]
    except ClusterError as error:
        raise EvaluationError(error.problems) from error
    scores = {data["name"]: _from_data(data["score"]) for data in found}
    return [scores[name] for name in models]


def weight_bytes(name: str, token: Token = None) -> int:
    """Bytes of a model's weights, from headers alone.

    Raises:
        EvaluationError: it cannot be read.
    """
    with (
        as_evaluation_error(),
        closing(open_checkpoint(find_model(name, token=token).place, token=token)) as model,
    ):
        return sum(header.nbytes for header in model.tensors.values())


def _whole(name: str) -> str:
    """A model's name as it is understood from any folder."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def lines(text: str, token: Token, cpus: int) -> Iterator[str]:
    """What a machine does that is to score a model: yields the score, as JSON."""
    import torch

    from evaluation.model import load_model
    from evaluation.perplexity import perplexity

    what = json.loads(text)
    torch.set_num_threads(cpus)
    model = load_model(what["model"], token=token, device="cpu")
    score = perplexity(model, what["texts"], **what["settings"])
    yield json.dumps({"name": what["name"], "score": _to_data(score)})


def _to_data(score: Perplexity) -> dict[str, Any]:
    """A score ready for JSON, to the last bit."""
    documents = [
        {
            each.name: base64.b64encode(value.tobytes()).decode() if each.name in _ARRAYS else value
            for each in fields(document)
            for value in [getattr(document, each.name)]
        }
        for document in score.documents
    ]
    return {**score.to_dict(), "documents": documents}


def _from_data(data: Mapping[str, Any]) -> Perplexity:
    """The inverse of `_to_data`."""
    documents = tuple(map(_document, data["documents"]))
    return Perplexity(**{**data, "documents": documents})


def _document(data: Mapping[str, Any]) -> DocumentScore:
    arrays: dict[str, Any] = {
        name: np.frombuffer(base64.b64decode(data[name]), dtype) for name, dtype in _ARRAYS.items()
    }
    return DocumentScore(**{**data, **arrays})
