"""Where a model's files are: a folder, or a repository on the Hub at one commit."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from checkpoints import Token
from checkpoints.problems import CheckpointError
from checkpoints.repositories.repository import current_token
from evaluation.downloads import DOWNLOADS
from evaluation.error import EvaluationError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Besides the weights, all that a model and its tokenizer may consist of.
_SMALL_FILE = re.compile(r"[^/]+\.(json|jinja|txt|model|tiktoken)")
_LOOKS_LIKE_A_FOLDER = re.compile(r"[/\\.~]|[A-Za-z]:\\")


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model, found but not yet read.

    Attributes:
        name: how people call it: "owner/name", or the folder.
        place: what `checkpoints.open_checkpoint` opens it by: the folder, or "owner/name".
        commit: the Hub's commit, None for a folder.
        identity: equal for two checkpoints only if their files are the same.
        fetch: brings the files to this machine, unless they are here, and returns their folder; raises
            `EvaluationError` if they cannot be had.
        adapters: put on it in this order; then `name` and `commit` have all parts, with "+" between them (no
            commit if a part is a folder), and `fetch` brings the base alone.
    """

    name: str
    place: str
    commit: str | None
    identity: tuple[object, ...]
    fetch: Callable[[], Path]
    adapters: tuple[Checkpoint, ...] = ()


def find_checkpoint(
    name: str | Path, *, revision: str | None = None, token: Token = None, allow_folders: bool = True
) -> Checkpoint:
    """Find a checkpoint, and for one on the Hub check that this token may read it.

    Args:
        name: a folder, or "owner/name" on the Hub, with or without "hf://" before and "@revision" behind; each
            "+" is followed by an adapter, which is named likewise.
        revision: branch, tag or commit on the Hub, of the base where there are adapters.
        token: a token or what gives one; None for the machine's own login, False for none at all.
        allow_folders: whether `name` may be a folder of this machine.

    Raises:
        EvaluationError: there is no such model, or this token may not read it.
    """
    first, *others = _parts(str(name), allow_folders)
    if not others:
        return _find(name, CONFIG, revision, token, allow_folders)
    if not (first and all(others)):
        raise EvaluationError(f"{name}: expected a model before each '+' and an adapter behind it.")
    base = _find(first, CONFIG, revision, token, allow_folders)
    adapters = tuple(_find(other, ADAPTER, None, token, allow_folders) for other in others)
    parts = (base, *adapters)
    commits = [part.commit for part in parts if part.commit is not None]
    return Checkpoint(
        "+".join(part.name for part in parts),
        base.place,
        "+".join(commits) if len(commits) == len(parts) else None,
        tuple(part.identity for part in parts),
        base.fetch,
        adapters,
    )


def _parts(text: str, allow_folders: bool) -> list[str]:
    """Base and adapters of "BASE+ADAPTER+..."; a folder may have a "+" in its name."""
    words, parts = text.split("+"), []
    while words:
        count = 1
        if allow_folders:
            count = next((n for n in range(len(words), 1, -1) if _is_folder("+".join(words[:n]))), 1)
        parts.append("+".join(words[:count]))
        words = words[count:]
    return parts


def _is_folder(text: str) -> bool:
    return Path(text).expanduser().is_dir()


def _find(
    name: str | Path, config: str, revision: str | None, token: Token, allow_folders: bool
) -> Checkpoint:
    """Find one model or adapter, by the config that it has to have."""
    text = str(name)
    on_hub = isinstance(name, str) and text.startswith("hf://")
    if allow_folders and not on_hub:
        folder = Path(name).expanduser()
        if folder.is_dir():
            if revision is not None:
                raise EvaluationError(
                    f"{text} is a folder, and revision {revision!r} was asked for: only models on the Hub"
                    " have revisions. Leave it out."
                )
            return _in_folder(text, folder, config)
        if isinstance(name, Path) or _LOOKS_LIKE_A_FOLDER.match(text):
            raise EvaluationError(
                f"{text}: no such folder. Expected a folder with {config}, or"
                f" {'a model' if config == CONFIG else 'an adapter'} on the Hub as owner/name."
            )
    elif not on_hub and (isinstance(name, Path) or _LOOKS_LIKE_A_FOLDER.match(text)):
        raise EvaluationError(f"{text}: only models on the Hub can be opened here. Give one as owner/name.")
    repo, _, at = text.removeprefix("hf://").partition("@")
    if at and revision and at != revision:
        raise EvaluationError(f"{text}: two revisions were given, {at!r} and {revision!r}. Give one.")
    revision = at or revision or constants.DEFAULT_REVISION
    return _on_hub(repo, config, revision, current_token(token))


def weight_files(name: str, folder: Path) -> dict[str, int]:
    """List the safetensors files that make up the model in a folder.

    Args:
        name: what to call the model in an error.
        folder: the folder.

    Returns:
        File names with their sizes in bytes.

    Raises:
        EvaluationError: there is no whole model in safetensors files.
    """
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    index = folder / INDEX
    names = weight_names(name, sizes, index.read_text("utf-8") if INDEX in sizes else None)
    return {file: sizes[file] for file in names}


def adapter_size(name: str, folder: Path) -> int:
    """Bytes of an adapter's weights.

    Raises:
        EvaluationError: there are none in a safetensors file.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise EvaluationError(
            f"{name} has no {ADAPTER_WEIGHTS}. Expected an adapter as PEFT saves it: other formats can run code of"
            " strangers. Load it with PEFT and save it again."
        )
    return path.stat().st_size


def _in_folder(name: str, folder: Path, config: str) -> Checkpoint:
    folder = folder.resolve()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if config == ADAPTER and not (folder / ADAPTER).is_file():
        raise EvaluationError(_no_adapter(name))
    # A folder has no commit. Sizes and times tell a model from the one that was merged over it.
    stamps = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return Checkpoint(name, str(folder), None, (str(folder), stamps), lambda: folder)


def _no_adapter(name: str) -> str:
    return f"{name} has no {ADAPTER}. Expected behind the '+' an adapter as PEFT saves it: BASE+ADAPTER."


def _on_hub(repo: str, config: str, revision: str, token: str | bool | None) -> Checkpoint:
    with hub_errors_named(repo, revision, token, config):
        # One HEAD request answers three questions: is it there, may this token read it (model info would say
        # yes for a gated model), and which commit is it. It is asked every time: neither the models in
        # memory nor the files on disk know whose token brought them.
        found = get_hf_file_metadata(hf_hub_url(repo, config, revision=revision), token=token)
    commit = found.commit_hash
    if commit is None:
        raise EvaluationError(
            f"{repo}: {constants.ENDPOINT} does not say at which commit it is. Is this a Hub?"
        )

    def fetch() -> Path:
        with hub_errors_named(repo, revision, token):
            entries = HfApi(token=token).list_repo_tree(repo, revision=commit)
            sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
            small = [file for file in sizes if _SMALL_FILE.fullmatch(file)]
            wanted = [*small, ADAPTER_WEIGHTS] if config == ADAPTER else small
            folder = download(wanted, sizes)
            if config == ADAPTER:
                return folder
            index = (folder / INDEX).read_text("utf-8") if INDEX in sizes else None
            return download(weight_names(repo, sizes, index), sizes)

    def download(wanted: list[str], sizes: Mapping[str, int]) -> Path:
        with DOWNLOADS.room_for(repo, commit, {file: sizes.get(file, 0) for file in wanted}):
            return Path(snapshot_download(repo, revision=commit, token=token, allow_patterns=wanted))

    return Checkpoint(repo, repo, commit, (repo, commit), fetch)


def weight_names(name: str, files: Mapping[str, int], index: str | None) -> list[str]:
    """List the safetensors files that make up a model.

    Args:
        name: what to call the model in an error.
        files: all files beside its config.json, with their sizes.
        index: the text of the index, None where there is none.

    Raises:
        EvaluationError: there is no whole model in safetensors files.
    """
    if CONFIG not in files:
        raise EvaluationError(
            f"{name} has no {CONFIG}. Expected a model as transformers saves it; "
            + (
                "an adapter is named behind its base: BASE+ADAPTER."
                if ADAPTER in files
                else "choose another."
            )
        )
    if ADAPTER in files:
        # transformers would load it on top without a word: nobody could say what was judged.
        raise EvaluationError(
            f"{name} has both {CONFIG} and {ADAPTER}, and it is not clear which of the two to run."
            " Expected a whole model: merge the adapter into it, or take the adapter's files away."
        )
    if index is None:
        if WEIGHTS in files:
            return [WEIGHTS]
        others = sorted(
            file for file in files if file.endswith((".bin", ".pt", ".pth", ".gguf", ".safetensors"))
        )
        held = f"only {', '.join(others[:3])}" if others else "no weights at all"
        raise EvaluationError(
            f"{name} has {held}. Expected {WEIGHTS} or {INDEX}: other formats can run code of strangers or"
            " are not read here. Convert it first, for example at"
            " https://huggingface.co/spaces/safetensors/convert."
        )
    try:
        names = sorted(set(json.loads(index)["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EvaluationError(
            f"{name}: {INDEX} is damaged. Expected a weight_map of tensor to file."
        ) from None
    # `files` are plain names: "../other/model.safetensors", which might be somebody else's, is not among them.
    missing = [file for file in names if file not in files]
    if missing:
        raise EvaluationError(
            f"{name}: {INDEX} names {len(missing)} file(s) that are not beside it, such as {missing[0]!r}."
            " Upload or merge it again."
        )
    return names


@contextmanager
def as_evaluation_error() -> Iterator[None]:
    """Raise what `checkpoints` says of a model that cannot be read as an `EvaluationError`."""
    try:
        yield
    except CheckpointError as error:
        raise EvaluationError(str(error)) from error


@contextmanager
def hub_errors_named(
    repo: str, revision: str, token: str | bool | None, config: str = CONFIG
) -> Iterator[None]:
    """Turn what the Hub and the way to it can answer into an `EvaluationError` that names the model."""
    whose = "without signing in" if token is False else "with this sign-in"
    try:
        yield
    except HFValidationError as error:
        raise EvaluationError(f"{repo!r} is no model's name. Expected owner/name, or a folder.") from error
    except GatedRepoError as error:
        raise EvaluationError(
            f"{repo} is gated and cannot be read {whose}. Accept its terms at {constants.ENDPOINT}/{repo}"
            " and come back signed in."
        ) from error
    except RepositoryNotFoundError as error:
        raise EvaluationError(
            f"{repo}: no such model at {constants.ENDPOINT}, or it is private and cannot be read {whose}."
            " Correct the name, or sign in as somebody who may read it."
        ) from error
    except RevisionNotFoundError as error:
        raise EvaluationError(
            f"{repo} has no revision {revision!r}. Give a branch, a tag or a commit."
        ) from error
    except RemoteEntryNotFoundError as error:
        if config == ADAPTER:
            raise EvaluationError(_no_adapter(f"{repo} at {revision}")) from error
        raise EvaluationError(
            f"{repo} at {revision} has no {CONFIG}. Expected a model as transformers saves it; an adapter is"
            " named behind its base: BASE+ADAPTER."
        ) from error
    except HfHubHTTPError as error:
        raise EvaluationError(
            f"{repo}: {constants.ENDPOINT} answered {error.response.status_code} {whose}. Try again, or"
            " sign in anew."
        ) from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise EvaluationError(
                f"{repo}: the disk of this machine is full. Choose a smaller model."
            ) from error
        raise EvaluationError(
            f"{repo}: {constants.ENDPOINT} cannot be reached ({type(error).__name__}), and it is no folder"
            " here. Check the connection and try again."
        ) from error
