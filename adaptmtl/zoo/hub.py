"""Adapters to and from the Hub: nothing enters the zoo that was not verified, and nothing is ever executed."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from adaptmtl.adapters.bundle import CARD, FILES
from adaptmtl.adapters.manifest import MANIFEST
from adaptmtl.errors import AdapterError, AdaptMTLError, OfflineError, StorageError
from adaptmtl.storage import PARTIAL
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.card import render_card
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

#: What a pull fetches at most; the card is written anew from the manifest.
FETCHED = tuple(name for name in FILES if name != CARD)
MAX_BYTES = 2 << 30
MAX_MANIFEST_BYTES = 16 << 20
_LOGIN = "log in with 'hf auth login' or set HF_TOKEN"


def push(
    name: str,
    repo_id: str,
    workspace: Workspace | None = None,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Uploads an adapter of the zoo, with a card written from its manifest, in one commit.

    Args:
        name: anything that :meth:`Zoo.get` accepts.
        repo_id: "user/name"; made if it does not exist.
        workspace: whose zoo; by default the one that the environment names.
        private: whether a repository that is made now is private.
        revision: branch, made if it does not exist; None for main.
        token: None for the one that the Hub's own tools stored.
        endpoint: address of the Hub; None for HF_ENDPOINT or huggingface.co.

    Returns:
        The address of the commit.

    Raises:
        OfflineError: the workspace is offline, or the Hub does not answer.
        AdapterError: the adapter's files are damaged.
        AdaptMTLError: a malformed or forbidden repository.
    """
    workspace = workspace or Workspace()
    _check_request("push", repo_id, workspace)
    entry = Zoo(workspace).get(name)
    manifest = entry.load().manifest
    api = HfApi(endpoint=endpoint, token=token, library_name="adaptmtl")
    with (
        tempfile.TemporaryDirectory(prefix="adaptmtl-push-") as temporary,
        _explained("push to", repo_id, revision, api),
    ):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision and revision != constants.DEFAULT_REVISION:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        for file in (*manifest.files, MANIFEST):
            shutil.copyfile(entry.path / file, Path(temporary, file))
        Path(temporary, CARD).write_text(render_card(manifest, repo_id), encoding="utf-8")
        return _upload(api, repo_id, temporary, revision, f"Add the adapter {manifest.name}")


def pull(
    repo_id: str,
    workspace: Workspace | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Entry:
    """Downloads an adapter, verifies it and only then puts it into the zoo.

    Args:
        repo_id: "user/name".
        workspace: whose zoo; by default the one that the environment names.
        revision: branch, tag or commit; None for main.
        token: None for the one that the Hub's own tools stored.
        endpoint: address of the Hub; None for HF_ENDPOINT or huggingface.co.

    Raises:
        OfflineError: the workspace is offline, or the Hub does not answer.
        AdapterError: no adapter of ours, too large, changed, damaged, or its key is taken by other content.
        AdaptMTLError: a malformed, missing or forbidden repository.
        StorageError: the disk is full.
    """
    workspace = workspace or Workspace()
    _check_request("pull", repo_id, workspace)
    zoo = Zoo(workspace)
    api = HfApi(endpoint=endpoint, token=token, library_name="adaptmtl")
    with _explained("pull from", repo_id, revision, api):
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
        _check_listing(repo_id, {one.rfilename: one.size for one in info.siblings or ()})
        zoo.adapters.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}pull-", dir=zoo.adapters))
    try:
        with _explained("pull from", repo_id, revision, api):
            api.snapshot_download(repo_id, revision=info.sha, allow_patterns=list(FETCHED), local_dir=temporary)
        try:
            return zoo.adopt(temporary)
        except AdapterError as error:  # the temporary folder's name says nothing to a person
            raise AdapterError(str(error).replace(str(temporary), repo_id)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _upload(api: HfApi, repo_id: str, folder: str, revision: str | None, message: str) -> str:
    try:
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message
        ).commit_url
    except ValueError as error:
        # Clients before 1.0 make the commit and then cannot parse its address on a Hub other than the default one.
        if "Unable to retrieve user and repo ID" not in str(error):
            raise
    return f"{api.endpoint}/{repo_id}/commit/{api.model_info(repo_id, revision=revision).sha}"


def _check_request(action: str, repo_id: str, workspace: Workspace) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise AdaptMTLError(
            f"{repo_id!r} is not the name of a repository on the Hub: write it as 'user/name', "
            "with letters, digits, '-', '_' and '.'"
        ) from error
    if workspace.offline or constants.HF_HUB_OFFLINE:
        raise OfflineError(
            f"cannot {action} {repo_id}: the network is off; leave out --offline, "
            "and unset ADAPTMTL_OFFLINE and HF_HUB_OFFLINE"
        )


def _check_listing(repo_id: str, sizes: dict[str, int | None]) -> None:
    if missing := [name for name in FETCHED if name not in sizes]:
        raise AdapterError(f"{repo_id} is not an adapter of AdaptMTL: it has no {', '.join(missing)}")
    total = sum(sizes[name] or 0 for name in FETCHED)
    if total > MAX_BYTES or (sizes[MANIFEST] or 0) > MAX_MANIFEST_BYTES:
        raise AdapterError(
            f"{repo_id} is too large: {total:,} bytes, {sizes[MANIFEST] or 0:,} of them {MANIFEST}; "
            f"at most {MAX_BYTES:,} and {MAX_MANIFEST_BYTES:,} are fetched"
        )


@contextmanager
def _explained(action: str, repo_id: str, revision: str | None, api: HfApi) -> Iterator[None]:
    """Runs the Hub's client without progress bars and turns its errors into ours, of one line."""
    quiet = are_progress_bars_disabled()
    if not quiet:
        disable_progress_bars()
    try:
        yield
    except AdaptMTLError:
        raise
    except Exception as error:
        explanation = _explain(error, f"cannot {action} {repo_id}", revision, api.endpoint)
        if explanation is None:
            raise
        raise explanation from error
    finally:
        if not quiet:
            enable_progress_bars()


def _explain(error: BaseException, what: str, revision: str | None, endpoint: str) -> AdaptMTLError | None:
    for cause in _causes(error):
        if isinstance(cause, RevisionNotFoundError):
            return AdaptMTLError(f"{what}: it has no revision {revision!r}; name a branch, tag or commit that exists")
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            return AdaptMTLError(f"{what}: {_status(cause, cause.response.status_code)}")
        if isinstance(cause, OfflineModeIsEnabled) or _is_connection_error(cause):
            return OfflineError(
                f"{what}: {endpoint} does not answer ({type(cause).__name__}); check the connection and repeat"
            )
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(f"{what}: the disk is full; free some space and repeat")
    if isinstance(error, LocalEntryNotFoundError):
        return OfflineError(f"{what}: {endpoint} gave no file list; check the connection and repeat")
    return None


def _status(error: HfHubHTTPError, status: int) -> str:
    if isinstance(error, GatedRepoError):
        return "access must be asked for on its page first"
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"it does not exist, or is private and the token gives no access; check the name, or {_LOGIN}"
    known = {
        401: f"the Hub knows no such token; {_LOGIN}",
        403: f"the token does not allow it; {_LOGIN} with a token that may",
        429: "the Hub asks to wait (too many requests); repeat later",
    }
    return known.get(status) or f"the Hub answered {status} ({_first_line(error)}); repeat later"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _is_connection_error(error: BaseException) -> bool:
    """Whether an error is one of reaching a server (requests or httpx, by the version of the Hub's client)."""
    library = type(error).__module__.split(".")[0]
    return library in {"requests", "httpx", "urllib3"} or isinstance(error, (ConnectionError, TimeoutError))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
