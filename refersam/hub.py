"""Loading of Hugging Face Hub files from a folder, the cache or the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from refersam.errors import CheckpointError, one_line

PATIENCE = 5.0
"""Timeout of a Hub request in seconds; huggingface_hub itself would retry each file for half a minute."""

_VALID_FOR = 60.0
"""Cache time of the reachability check in seconds, so that a run that loads several models waits once."""


MODEL_FILES = ["*.json", "*.safetensors", "README.md", "*.txt"]
"""Patterns of the downloaded files of a repository: no pickles, no code."""


class DownloadError(CheckpointError):
    """Model `name` is neither in a folder nor in the cache, and the Hub is not reachable."""

    def __init__(self, name: str) -> None:
        from huggingface_hub import constants

        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
        super().__init__(
            f"No such model: {name} is not a folder, was never downloaded, and the Hub cannot be reached ({reason}): "
            f"run 'hf download {name} --local-dir FOLDER' on a machine with network and give that folder instead, or "
            f"copy that machine's cache and set HF_HOME."
        )
        self.name = name


def hub_options(name: str) -> dict[str, bool]:
    """Return options of `from_pretrained` that disable network access for a folder or when offline."""
    return {"local_files_only": Path(name).exists() or not hub_answers()}


def raise_if_not_downloaded(name: str, error: Exception, *, local_files_only: bool) -> None:
    """Raise DownloadError if a missing download caused an error of `from_pretrained(name)`; see `hub_options`."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    if Path(name).exists() or not local_files_only:
        return
    with suppress(HFValidationError):
        validate_repo_id(name)
        causes = list(_causes(error))
        # A broken file raises a ValueError; for a missing file, messages and types differ.
        is_broken = any(isinstance(cause, ValueError | PermissionError) for cause in causes)
        if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes) or (
            isinstance(error, OSError) and not is_broken
        ):
            raise DownloadError(name) from error


def fetch(name: str) -> Path:
    """Return the directory of a model's files; download the files of a Hub id with a progress bar.

    Args:
        name: directory or Hub id.

    Raises:
        DownloadError: the model was never downloaded, and the Hub is not reachable.
        CheckpointError: the repository does not exist, or is gated.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if Path(name).is_dir():
        return Path(name)
    offline = hub_options(name)["local_files_only"]
    try:
        return Path(snapshot_download(name, allow_patterns=MODEL_FILES, local_files_only=offline))
    except Exception as error:  # no network, no such file: the types differ between versions
        raise_if_not_downloaded(name, error, local_files_only=offline)
        causes = list(_causes(error))
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            raise CheckpointError(f"{name} is gated: {how_to_get_access(name)}.") from error
        if any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
            raise CheckpointError(
                f"No such model: {name} is neither a folder nor a public Hub id; for a private one run 'hf auth login'."
            ) from error
        raise CheckpointError(f"The files of {name} could not be downloaded: {one_line(error)}.") from error


def how_to_get_access(name: str) -> str:
    """Return instructions for a gated repository, as the end of a sentence."""
    return (
        f"accept its licence on https://huggingface.co/{name} with an account of the Hub, wait for access, and run "
        "'hf auth login' once on this machine (or set HF_TOKEN)"
    )


def hub_answers() -> bool:
    """Return whether the Hub is reachable; checked at most once a minute, within `PATIENCE` seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    return _answers(constants.ENDPOINT, int(time.monotonic() / _VALID_FOR))


@lru_cache(maxsize=1)
def _answers(endpoint: str, _period: int) -> bool:
    from huggingface_hub import get_session

    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # no network: the types differ between versions
            get_session().head(endpoint, timeout=PATIENCE)
            answered.set()

    # A thread, because name resolution and attempts at each address may exceed the timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
