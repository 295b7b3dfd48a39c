"""Checkpoints on the Hugging Face hub: a revision becomes a commit once, and everything is read at that commit."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported at run time only
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from pythia_cpu._errors import CheckpointError
from pythia_cpu._hub_access import hub_access
from pythia_cpu._hub_calls import HTTP_ERRORS, cause_of, explained, is_refusal, patiently, status_of
from pythia_cpu._layouts import LAYOUT_FILES, read_index
from pythia_cpu._snapshot import is_whole
from pythia_cpu._source import Source, sorted_steps

_SHORT_NAME = re.compile(r"pythia-[\w.-]+")
_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIKE_A_COMMIT = re.compile(r"[0-9a-fA-F]{6,40}")
_STEP = re.compile(r"step(\d+)")
_NUM_NEAREST = 4
_SILENCE_S = 300.0  # so long a hub that did not answer is not asked again for what was seen before
_SMALL_BYTES = 1 << 24  # files that are looked at whenever they are asked for, and not only before a conversion
_DOWNLOAD_ERRORS: tuple[type[BaseException], ...] = (ValueError, *HTTP_ERRORS)  # of force_download without the hub

_silent_since_s = -math.inf  # on time.monotonic's clock


@dataclass(frozen=True)
class Revision:
    """A revision of a model on the hub. ``commit`` never changes; ``name`` is what was asked for, or None."""

    repo_id: str
    name: str | None
    commit: str


def repo_id_of(source: str | os.PathLike[str]) -> str:
    """The hub id a source means: "pythia-14m" is "EleutherAI/pythia-14m".

    Raises:
        CheckpointError: it is neither a hub id nor a folder.
    """
    text = os.fspath(source)
    if Path(source).is_file():
        if Path(source).suffix == ".pcpu":
            raise CheckpointError(f"{text}: is converted already, expected the checkpoint that it was made from")
        raise CheckpointError(f"{text}: is a file, expected a checkpoint folder, which holds config.json and weights")
    if isinstance(source, str) and _SHORT_NAME.fullmatch(text):
        return f"EleutherAI/{text}"
    if isinstance(source, str) and _REPO_ID.fullmatch(text):
        return text
    home = f"; ~ is a shell's: did you mean {os.path.expanduser(text)}?" if text.startswith("~") else ""
    raise CheckpointError(
        f"{text}: is not a folder, and not a hub id such as 'EleutherAI/pythia-14m' or 'pythia-14m'; "
        f"give a checkpoint folder that holds config.json and weights, or a hub id{home}"
    )


def resolve(repo_id: str, revision: str | None) -> Revision:
    """The commit that a branch or tag (None: main) is at now; offline, the one it was at when last seen.

    Raises:
        CheckpointError: the hub has no such model or revision; the message names the nearest revisions.
        OSError: the hub cannot be reached, and the revision was not seen before.
    """
    wanted = revision or "main"
    if _COMMIT.fullmatch(wanted):
        return Revision(repo_id, revision, wanted)
    seen = _last_seen_commit(repo_id, wanted)
    try:
        commit = _commit_now(repo_id, wanted, tries=1 if seen else 3)
    except errors.RevisionNotFoundError:
        raise CheckpointError(_unknown_revision(repo_id, wanted)) from None
    except HTTP_ERRORS as error:
        unknown = f"and its cache {_cache_folder()} does not have it"
        problem = f" at {wanted}: is no folder here, the hub cannot be reached, {unknown}"
        if seen is None or is_refusal(error):
            raise explained(repo_id, error, problem) from None
        if not isinstance(error, errors.OfflineModeIsEnabled):
            warnings.warn(
                f"{repo_id} at {wanted}: the hub cannot be reached ({error}); using commit {seen}, seen earlier",
                UserWarning,
                stacklevel=2,
            )
        return Revision(repo_id, revision, seen)
    if commit is None:
        raise CheckpointError(f"{repo_id} at {wanted}: the hub gives no commit for it")
    return Revision(repo_id, revision, commit)


def _commit_now(repo_id: str, wanted: str, *, tries: int) -> str | None:
    """Of a hub that is silent each try takes the client's timeout, so one that was silent just now is not asked."""
    global _silent_since_s
    if tries == 1 and time.monotonic() - _silent_since_s < _SILENCE_S:
        raise TimeoutError("it did not answer just now")
    timeout_s = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT
    try:
        commit = patiently(
            lambda: _api().model_info(repo_id, revision=wanted, timeout=timeout_s).sha, tries_without_answer=tries
        )
    except HTTP_ERRORS as error:
        if status_of(error) is None and not isinstance(error, errors.OfflineModeIsEnabled):
            _silent_since_s = time.monotonic()
        raise
    _silent_since_s = -math.inf
    return commit


def _api() -> huggingface_hub.HfApi:
    return huggingface_hub.HfApi(token=hub_access().token)


def _cache_folder() -> str:
    """Where the client keeps its files."""
    return hub_access().cache_dir or huggingface_hub.constants.HF_HUB_CACHE


def download(revision: Revision, *, progress: bool = False, verify: bool = False) -> Source:
    """Brings config, tokenizer and one layout of weights to the client's cache; what is there is not fetched again,
    unless ``verify`` finds that weights are not those whose hash the hub gave.

    Raises:
        CheckpointError: a file is missing from the revision, or comes damaged.
        OSError: the hub cannot be reached, and a file is not in the cache.
    """
    with _progress_bars(progress):
        folder = _file(revision, "config.json").parent
        tokenizer_path, tokenizer_revision = _tokenizer(revision)
        weights_file = _weights(revision, verify=verify)
        _remember(revision)
        return Source(
            name=revision.repo_id,
            folder=folder,
            revision=revision.name,
            commit=revision.commit,
            weights_file=weights_file,
            tokenizer_path=tokenizer_path,
            tokenizer_revision=tokenizer_revision,
        )


def _weights(revision: Revision, *, verify: bool) -> str:
    """Downloads the first layout that the revision has, and returns the file that shows it."""
    for name in LAYOUT_FILES:
        path = optional_file(revision, name, verify=verify)
        if path is None:
            continue
        if name.endswith(".index.json"):
            for shard in sorted(set(read_index(path).values())):
                _file(revision, shard, verify=verify)
        return name
    raise _lacks(revision, f"weights; expected one of {', '.join(LAYOUT_FILES)}", LAYOUT_FILES)


def _tokenizer(revision: Revision) -> tuple[Path | None, str | None]:
    """Some revisions have no tokenizer.json; the same repository's main has it."""
    if optional_file(revision, "tokenizer.json") is not None:
        return None, None
    main = resolve(revision.repo_id, None)
    path = optional_file(main, "tokenizer.json")
    if path is None:
        raise CheckpointError(f"{revision.repo_id}: has no tokenizer.json, neither at this revision nor at main")
    _remember(main)
    return path, "main"


def tokenizer_file(revision: Revision) -> Path:
    """``tokenizer.json`` of a revision, or main's where it has none, without its weights.

    Raises:
        CheckpointError: neither has one.
        OSError: the hub cannot be reached, and the file is not in the cache.
    """
    of_main, _ = _tokenizer(revision)
    _remember(revision)
    return of_main or _file(revision, "tokenizer.json")


def _file(revision: Revision, name: str, *, verify: bool = False) -> Path:
    path = optional_file(revision, name, verify=verify)
    if path is None:
        raise _lacks(revision, name, (name,))
    return path


def _lacks(revision: Revision, what: str, names: tuple[str, ...]) -> Exception:
    """The error where none of these files was found: offline, the hub may have them."""
    where = f"{revision.repo_id} at {revision.name or revision.commit}"
    if huggingface_hub.constants.HF_HUB_OFFLINE and not all(_known_missing(revision, name) for name in names):
        return OSError(f"{where}: the hub cannot be reached, and its cache {_cache_folder()} has no {what}")
    return CheckpointError(f"{where}: has no {what}")


def optional_file(revision: Revision, name: str, *, verify: bool = False) -> Path | None:
    """A file of the revision in the client's cache, downloaded if need be; None if the revision has none. A small file,
    with ``verify`` any, that is not what the hub said is downloaded once more.
    """
    if _known_missing(revision, name):
        return None
    path = _downloaded(revision, name)
    if path is None or not (verify or path.stat().st_size <= _SMALL_BYTES) or is_whole(path):
        return path
    again = _downloaded(revision, name, again=True)
    if again is None:
        raise CheckpointError(f"{path}: is damaged, and offline it cannot be downloaded again")
    if not is_whole(again):
        raise CheckpointError(f"{path}: is not what the hub says it is, also when it is downloaded again; try later")
    return again


def _downloaded(revision: Revision, name: str, *, again: bool = False) -> Path | None:
    where = hub_access()
    try:
        return Path(
            patiently(
                lambda: huggingface_hub.hf_hub_download(
                    revision.repo_id,
                    name,
                    revision=revision.commit,
                    cache_dir=where.cache_dir,
                    token=where.token,
                    force_download=again,
                )
            )
        )
    except errors.LocalEntryNotFoundError as error:
        # Offline, a file that is not in the cache may or may not be in the revision.
        cause = cause_of(error)
        if isinstance(cause, errors.OfflineModeIsEnabled) or errors.OfflineModeIsEnabled.__name__ in repr(cause):
            return None
        problem = f": {name} is not in {_cache_folder()}, and the hub cannot be reached"
        raise explained(revision.repo_id, cause, problem) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{revision.repo_id}: has no commit {revision.commit}") from None
    except errors.EntryNotFoundError:
        return None
    except _DOWNLOAD_ERRORS as failure:
        if again and huggingface_hub.constants.HF_HUB_OFFLINE:
            return None
        cause = failure.__cause__ or failure if isinstance(failure, ValueError) else failure
        raise explained(revision.repo_id, cause, f": {name} cannot be brought to {_cache_folder()}") from None


def _known_missing(revision: Revision, name: str) -> bool:
    cached = huggingface_hub.try_to_load_from_cache(
        revision.repo_id, name, cache_dir=hub_access().cache_dir, revision=revision.commit
    )
    return cached is not None and not isinstance(cached, str)


def _ref_path(repo_id: str, revision: str) -> Path:
    """Where the client's cache remembers the commit of a branch or tag."""
    folder = Path(_cache_folder(), f"models--{repo_id.replace('/', '--')}")
    return folder / "refs" / revision


def _last_seen_commit(repo_id: str, revision: str) -> str | None:
    try:
        commit = _ref_path(repo_id, revision).read_text().strip()
    except OSError:
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _remember(revision: Revision) -> None:
    """Files are fetched by commit, so the client does not note the branch's name by itself, which it needs offline."""
    name = revision.name or "main"
    if name == revision.commit or ".." in name or _last_seen_commit(revision.repo_id, name) == revision.commit:
        return
    path = _ref_path(revision.repo_id, name)
    working = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a cache that is read-only serves as it is
        path.parent.mkdir(parents=True, exist_ok=True)
        working.write_text(revision.commit)
        working.replace(path)


def step_revisions(repo_id: str) -> list[str]:
    """Branches of a model that are named after training steps, by step.

    Raises:
        CheckpointError: the hub has no such model.
        OSError: the hub cannot be reached.
    """
    try:
        _commit_now(repo_id, "main", tries=3)  # list_repo_refs takes no timeout, and a hub may be silent
        refs = patiently(lambda: _api().list_repo_refs(repo_id))
    except HTTP_ERRORS as error:
        problem = (
            ": the hub cannot be reached, and only it knows all revisions; local_files_only=True names those known here"
        )
        raise explained(repo_id, error, problem) from None
    return sorted_steps(ref.name for ref in refs.branches)


def known_revisions(repo_id: str) -> list[str]:
    """The branches and tags whose commits the client's cache remembers."""
    folder = _ref_path(repo_id, "main").parent
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _unknown_revision(repo_id: str, wanted: str) -> str:
    """The message for a revision that is not there, with those most like it."""
    try:
        refs = patiently(lambda: _api().list_repo_refs(repo_id))
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except HTTP_ERRORS:
        names = []
    nearest = nearest_revisions(wanted, names)
    of_commits = "; a commit has 40 digits, in lower case" if _LIKE_A_COMMIT.fullmatch(wanted) else ""
    return f"{repo_id}: has no revision '{wanted}'; the nearest are {', '.join(nearest) or 'not known'}{of_commits}"


def nearest_revisions(wanted: str, names: list[str]) -> list[str]:
    """The names most like ``wanted``: for a step the steps around it, else those spelt alike."""
    steps = {name: int(match[1]) for name in names if (match := _STEP.fullmatch(name))}
    if (match := _STEP.fullmatch(wanted)) and steps:
        step = int(match[1])
        nearest = sorted(steps, key=lambda name: (abs(steps[name] - step), steps[name]))[:_NUM_NEAREST]
        return sorted(nearest, key=lambda name: steps[name])
    return difflib.get_close_matches(wanted, names, n=_NUM_NEAREST, cutoff=0.0)


@contextlib.contextmanager
def _progress_bars(enabled: bool) -> Iterator[None]:
    """The client's bars are a global setting: set for a while."""
    disabled_before = are_progress_bars_disabled()
    if not enabled:
        disable_progress_bars()
    try:
        yield
    finally:
        if not disabled_before:
            enable_progress_bars()
