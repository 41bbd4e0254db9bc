"""What the Hub and the way to it can answer, as problems."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    BucketNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from checkpoints.problems import CheckpointError, Problem


@contextmanager
def hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Raise what goes wrong while the Hub is asked for a model as a `CheckpointError` that names the model.

    Args:
        name: `owner/name`, or an address in a bucket
        revision: that was asked for
    """
    at = f"{name}@{revision}" if revision else name
    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(Problem("no-model-id", {"given": name}, at)) from error
    except GatedRepoError as error:
        raise gated(name) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(Problem("no-revision", {"model": name, "revision": revision}, at)) from error
    except (RepositoryNotFoundError, BucketNotFoundError) as error:
        host = urlsplit(constants.ENDPOINT).netloc
        raise CheckpointError(Problem("model-not-found", {"model": name, "host": host}, at)) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise CheckpointError(Problem("no-disk-for-model", {"model": name}, at)) from error
        reason = type(error).__name__
        if isinstance(error, HfHubHTTPError):
            reason = f"status {error.response.status_code}"
        raise CheckpointError(Problem("hub-silent-for", {"model": name, "error": reason}, at)) from error


def gated(name: str) -> CheckpointError:
    """A model that this login has no access to."""
    page = f"{constants.ENDPOINT}/{name}"
    return CheckpointError(Problem("gated", {"model": name, "page": page}, name))
