"""Where a model's files are: a folder, an object store, a bucket, or a repository on the Hub at one commit."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from checkpoints import Token, open_checkpoint
from checkpoints.gguf_files import models as gguf_models
from checkpoints.json_value import parse_json
from checkpoints.names import hub_id, is_address, is_folder, split_adapters
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories import open_repository
from checkpoints.repositories.cache import cached_commit, snapshot_folder
from checkpoints.repositories.hub_errors import hub_errors
from checkpoints.repositories.repository import HUB_SCHEME, MAX_CONFIG, Repository, current_token, read_small
from evaluation.downloads import DOWNLOADS
from evaluation.error import EvaluationError
from evaluation.plain_copy import needs_plain_copy, plain_copy
from evaluation.store_downloads import fetch_from_store

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Besides the weights, all that a model and its tokenizer may consist of.
_SMALL_FILE = re.compile(r"[^/]+\.(json|jinja|txt|model|tiktoken)")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, found but not yet read.

    Attributes:
        name: how people call it: "owner/name", the folder, or the address.
        place: what `checkpoints.open_checkpoint` opens it by: the folder, "owner/name", or the address in a store
            or a bucket.
        commit: the Hub's commit, None elsewhere.
        identity: equal for two models only if their files are the same.
        fetch: downloads the files unless they are on this machine, and returns their folder; raises
            `EvaluationError` if they cannot be read.
        adapters: applied in this order; then `name` and `commit` have all parts, with "+" between them (no commit
            if a part is a folder), and `fetch` is for the base alone.
    """

    name: str
    place: str
    commit: str | None
    identity: tuple[object, ...]
    fetch: Callable[[], Path]
    adapters: tuple[ModelFiles, ...] = ()


def is_gguf_file(name: str | Path) -> bool:
    """Whether a name is that of a GGUF file, and not of a folder or a repository."""
    return str(name).partition("@")[0].endswith(".gguf")


def find_model(
    name: str | Path, *, revision: str | None = None, token: Token = None, allow_folders: bool = True
) -> ModelFiles:
    """Find a model, and for one on the Hub check that this token may read it.

    Args:
        name: a folder, an address in an object store or a bucket, or "owner/name" on the Hub, with or without "hf://"
            before and "@revision" after it; or a GGUF file in one of them; each "+" is followed by an adapter, which
            is named in the same way.
        revision: branch, tag or commit on the Hub, of the base if there are adapters.
        token: a token or a function that returns one; None for this machine's login, False for none.
        allow_folders: whether `name` may be a folder of this machine.

    Raises:
        EvaluationError: there is no such model, or this token may not read it.
    """
    if isinstance(name, Path) and not (allow_folders and name.expanduser().exists()):
        raise EvaluationError(Problem("no-folder", {"path": str(name)}))
    first, *others = split_adapters(str(name), allow_folders=allow_folders)
    if not others:
        return _find(str(name), CONFIG, revision, token, allow_folders)
    if not (first and all(others)):
        raise EvaluationError(Problem("no-base-or-adapter", {"given": str(name)}))
    base = _find(first, CONFIG, revision, token, allow_folders)
    adapters = tuple(_find(other, ADAPTER, None, token, allow_folders) for other in others)
    parts = (base, *adapters)
    commits = [part.commit for part in parts if part.commit is not None]
    return ModelFiles(
        "+".join(part.name for part in parts),
        base.place,
        "+".join(commits) if len(commits) == len(parts) else None,
        tuple(part.identity for part in parts),
        base.fetch,
        adapters,
    )


def _find(text: str, config: str, revision: str | None, token: Token, allow_folders: bool) -> ModelFiles:
    """Find one model or adapter, by the config that it has to have."""
    if allow_folders and is_folder(text):
        if revision is not None:
            raise EvaluationError(Problem("folder-revision", {"model": text, "revision": revision}))
        return _in_folder(text, Path(text).expanduser(), config)
    if is_gguf_file(text):
        file, _, at = (text if is_address(text) else text.removeprefix(HUB_SCHEME)).partition("@")
        with as_evaluation_error():
            return _quantized(file, at or revision, token, allow_folders)
    if is_address(text):
        return _at_address(text, config, revision, token, allow_folders)
    repo, _, at = text.removeprefix(HUB_SCHEME).partition("@")
    if not hub_id(repo):
        code = "no-folder-or-model-id" if allow_folders else "no-model-id"
        raise EvaluationError(Problem(code, {"given": text}))
    if at and revision and at != revision:
        raise EvaluationError(Problem("two-revisions", {"model": text, "one": at, "two": revision}))
    revision = at or revision
    if constants.HF_HUB_OFFLINE:
        return _in_cache(repo, config, revision, token)
    return _on_hub(repo, config, revision, current_token(token))


def _in_folder(name: str, folder: Path, config: str) -> ModelFiles:
    folder = folder.resolve()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if config == ADAPTER and not (folder / ADAPTER).is_file():
        raise EvaluationError(_lacks(name, config))
    # A folder has no commit. Sizes and times tell a model from the one that was merged over it.
    stamps = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)

    def fetch() -> Path:
        if config == CONFIG and _is_unread([path.name for path in files], folder):
            with as_evaluation_error():
                return _quantized(str(folder), None, False, True).fetch()
        return folder

    return ModelFiles(name, str(folder), None, (str(folder), stamps), fetch)


def _is_unread(files: Sequence[str], folder: Path) -> bool:
    """Whether transformers cannot read the form of a model here.

    Args:
        files: of the model
        folder: where its config is, if it has one
    """
    if _in_gguf_alone(files):
        return True
    file = folder / CONFIG
    if not file.is_file() or file.stat().st_size > MAX_CONFIG:
        return False
    try:
        found = parse_json(file.read_bytes())
    except ValueError:
        return False
    return isinstance(found, dict) and needs_plain_copy(found)


def _in_gguf_alone(files: Iterable[str]) -> bool:
    """Whether a model has weights in GGUF files, and in no others."""
    weights = [file for file in files if file.endswith(_OTHER_WEIGHTS)]
    return bool(gguf_models(weights)) and all(is_gguf_file(file) for file in weights)


def _quantized(name: str, revision: str | None, token: Token, allow_folders: bool) -> ModelFiles:
    """A model whose form is read by `checkpoints`.

    Raises:
        CheckpointError: there is none, or this token may not read it.
    """
    with closing(open_repository(name, revision, token, allow_folders)) as found:
        version, is_on_hub = found.version, not (found.is_folder or is_address(name))

    def fetch() -> Path:
        at = version if is_on_hub else None
        with (
            as_evaluation_error(),
            closing(open_checkpoint(name, at, token=token, allow_folders=allow_folders)) as checkpoint,
        ):
            if checkpoint.version != version:
                raise CheckpointError(Problem("model-changed", {"model": name}, name))
            small = [file for file in checkpoint.files if _SMALL_FILE.fullmatch(file) and file != INDEX]
            return plain_copy(checkpoint, small)

    return ModelFiles(name, name, version if is_on_hub else None, (name, version), fetch)


def _at_address(
    name: str, config: str, revision: str | None, token: Token, allow_folders: bool
) -> ModelFiles:
    """Find one in an object store or a bucket."""
    with as_evaluation_error(), closing(open_repository(name, revision, token, allow_folders)) as found:
        if config == CONFIG and _in_gguf_alone(found.files):
            return _quantized(name, None, token, allow_folders)
        if config not in found.files:
            raise EvaluationError(_lacks(name, config, is_adapter=ADAPTER in found.files))
        version = found.version

    def fetch() -> Path:
        with as_evaluation_error(), closing(open_repository(name, None, token, allow_folders)) as repository:
            if repository.version != version:
                raise CheckpointError(Problem("model-changed", {"model": name}, name))
            return fetch_from_store(repository, _wanted(repository, config))

    return ModelFiles(name, name, None, (name, version), fetch)


def _wanted(repository: Repository, config: str) -> list[str]:
    """The files of a model or an adapter in an object store or a bucket that evaluation needs."""
    small = [file for file in repository.files if _SMALL_FILE.fullmatch(file)]
    if config == ADAPTER:
        return [*small, *({ADAPTER_WEIGHTS} & repository.files.keys())]
    index = None
    if INDEX in repository.files:
        index = read_small(repository, INDEX, MAX_CONFIG).decode(errors="replace")
    return sorted({*small, *weight_names(repository.name, repository.files, index)})


def _lacks(name: str, config: str, *, is_adapter: bool = False) -> Problem:
    """A model or an adapter without its config, or a lone adapter where a model is expected."""
    if config == ADAPTER:
        return Problem("no-adapter-config", {"adapter": name, "file": ADAPTER})
    return Problem("adapter", {"adapter": name}) if is_adapter else Problem("no-config", {"model": name})


def _on_hub(repo: str, config: str, revision: str | None, token: str | bool | None) -> ModelFiles:
    with as_evaluation_error(), hub_errors(repo, revision):
        # One HEAD request answers three questions: whether it exists, whether this token may read it (model info
        # says yes for a gated model), and which commit it is. It is asked every time: neither the models in
        # memory nor the files on disk record whose token they came with.
        try:
            found = get_hf_file_metadata(hf_hub_url(repo, config, revision=revision), token=token)
        except RemoteEntryNotFoundError as error:
            api = HfApi(token=token)
            if config == CONFIG and _in_gguf_alone(api.list_repo_files(repo, revision=revision)):
                return _quantized(repo, revision, token, allow_folders=False)
            is_adapter = api.file_exists(repo, ADAPTER, revision=revision)
            raise EvaluationError(_lacks(repo, config, is_adapter=is_adapter)) from error
    commit = found.commit_hash
    if commit is None:
        raise EvaluationError(Problem("no-commit", {"model": repo, "host": constants.ENDPOINT}))

    def fetch() -> Path:
        with as_evaluation_error(), hub_errors(repo, revision):
            entries = HfApi(token=token).list_repo_tree(repo, revision=commit)
            sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
            small = [file for file in sizes if _SMALL_FILE.fullmatch(file)]
            wanted = [*small, ADAPTER_WEIGHTS] if config == ADAPTER else small
            folder = download(wanted, sizes)
            if config == ADAPTER:
                return folder
            if _is_unread([*sizes], folder):
                return _quantized(repo, commit, token, allow_folders=False).fetch()
            index = _index(repo, folder) if INDEX in sizes else None
            return download(weight_names(repo, sizes, index), sizes)

    def download(wanted: list[str], sizes: Mapping[str, int]) -> Path:
        only = [*map(glob.escape, wanted)]  # these files, whatever their names would match
        with DOWNLOADS.room_for(repo, commit, {file: sizes.get(file, 0) for file in wanted}):
            # By its revision, so that the cache knows it by that name when the machine is offline.
            folder = Path(snapshot_download(repo, revision=revision, token=token, allow_patterns=only))
            if folder.name != commit:  # it has moved since
                folder = Path(snapshot_download(repo, revision=commit, token=token, allow_patterns=only))
            return folder

    return ModelFiles(repo, repo, commit, (repo, commit), fetch)


def _in_cache(repo: str, config: str, revision: str | None, token: Token) -> ModelFiles:
    """With HF_HUB_OFFLINE: the cached revision. On a Space only its own login may read what others brought there."""
    if token is not None and "SPACE_ID" in os.environ:
        raise EvaluationError(Problem("cache-closed", {"model": repo}))
    commit = cached_commit(repo, revision)
    if commit is None:
        raise EvaluationError(Problem("not-cached", {"model": repo, "revision": revision}))
    folder = snapshot_folder(repo, commit)
    if not (folder / config).is_file():
        raise EvaluationError(_lacks(repo, config, is_adapter=(folder / ADAPTER).is_file()))
    return ModelFiles(repo, repo, commit, (repo, commit), lambda: folder)


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
    names = weight_names(name, sizes, _index(name, folder) if INDEX in sizes else None)
    return {file: sizes[file] for file in names}


def _index(name: str, folder: Path) -> str:
    """The text of a model's index.

    Raises:
        EvaluationError: it is larger than any.
    """
    size = (folder / INDEX).stat().st_size
    if size > MAX_CONFIG:
        raise EvaluationError(Problem("large-file", {"file": INDEX, "size": size}, name))
    return (folder / INDEX).read_text("utf-8")


def adapter_size(name: str, folder: Path) -> int:
    """Bytes of an adapter's weights.

    Raises:
        EvaluationError: there are none in a safetensors file.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise EvaluationError(Problem("no-adapter-weights", {"adapter": name, "file": ADAPTER_WEIGHTS}))
    return path.stat().st_size


def weight_names(name: str, files: Mapping[str, int], index: str | None) -> list[str]:
    """List the safetensors files that make up a model: what transformers loads, and nothing that can run code.

    Args:
        name: what to call the model in an error.
        files: all files beside its config.json, with their sizes.
        index: the text of the index, None if there is none.

    Raises:
        EvaluationError: there is no whole model in safetensors files.
    """
    if CONFIG not in files:
        raise EvaluationError(_lacks(name, CONFIG, is_adapter=ADAPTER in files))
    if ADAPTER in files:
        # transformers would load it on top without a word, and the judgement would not be of the model alone.
        raise EvaluationError(Problem("model-and-adapter", {"model": name, "file": ADAPTER}))
    if index is None:
        if WEIGHTS in files:
            return [WEIGHTS]
        others = sorted(file for file in files if file.endswith(_OTHER_WEIGHTS))
        raise EvaluationError(
            Problem("no-safetensors", {"model": name, "files": others[:3], "file": WEIGHTS})
        )
    try:
        names = sorted(set(parse_json(index.encode())["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EvaluationError(Problem("damaged-index", {"model": name, "file": INDEX})) from None
    # transformers would load any other kind, pickles too.
    others = [file for file in names if not str(file).endswith(".safetensors")]
    if others:
        raise EvaluationError(
            Problem("no-safetensors", {"model": name, "files": others[:3], "file": WEIGHTS})
        )
    # `files` are plain names: "../other/model.safetensors", which may be another model's, is not among them.
    missing = [file for file in names if file not in files]
    if missing:
        raise EvaluationError(Problem("missing-shard", {"model": name, "index": INDEX, "file": missing[0]}))
    return names


@contextmanager
def as_evaluation_error() -> Iterator[None]:
    """Raise what `checkpoints` finds wrong with a model as an `EvaluationError`."""
    try:
        yield
    except CheckpointError as error:
        raise EvaluationError(error.problems) from error
