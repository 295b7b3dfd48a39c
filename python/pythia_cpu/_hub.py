"""Checkpoints on the Hugging Face hub: a revision becomes a commit once, and everything is read at that commit."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported at run time only
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from pythia_cpu._errors import CheckpointError
from pythia_cpu._hub_access import hub_access
from pythia_cpu._layouts import LAYOUT_FILES, read_index
from pythia_cpu._source import Source, sorted_steps

_SHORT_NAME = re.compile(r"pythia-[\w.-]+")
_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_STEP = re.compile(r"step(\d+)")
_NUM_TRIES = 6
_NUM_TRIES_WITHOUT_ANSWER = 3
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_NUM_NEAREST = 4
# What the client raises when the hub does not answer as it should: OSErrors, and those of the HTTP library beneath it.
_HTTP_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    errors.HfHubHTTPError.__bases__[0],
    json.JSONDecodeError,  # a network that answers for the hub, with a page to log in
)

_Result = TypeVar("_Result")


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
    try:
        commit = _patiently(lambda: _api().model_info(repo_id, revision=wanted).sha)
    except errors.RevisionNotFoundError:
        raise CheckpointError(_unknown_revision(repo_id, wanted)) from None
    except errors.GatedRepoError:
        raise CheckpointError(f"{repo_id}: asks for an agreement; accept it on the hub and log in") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{repo_id}: is neither a folder nor a model on the hub; check its name") from None
    except _HTTP_ERRORS as error:
        seen = _last_seen_commit(repo_id, wanted)
        if seen is None:
            problem = f"is no folder here, the hub cannot be reached, and its cache {_cache_folder()} does not have it"
            raise OSError(f"{repo_id} at {wanted}: {problem} ({error})") from None
        return Revision(repo_id, revision, seen)
    if commit is None:
        raise CheckpointError(f"{repo_id} at {wanted}: the hub gives no commit for it")
    return Revision(repo_id, revision, commit)


def _api() -> huggingface_hub.HfApi:
    return huggingface_hub.HfApi(token=hub_access().token)


def _cache_folder() -> str:
    """Where the client keeps its files."""
    return hub_access().cache_dir or huggingface_hub.constants.HF_HUB_CACHE


def download(revision: Revision, *, progress: bool = False) -> Source:
    """Brings config, tokenizer and one layout of weights to the client's cache; what is there is not fetched again.

    Raises:
        CheckpointError: a file is missing from the revision.
        OSError: the hub cannot be reached, and a file is not in the cache.
    """
    with _progress_bars(progress):
        folder = _file(revision, "config.json").parent
        _remember(revision)
        tokenizer_path, tokenizer_revision = _tokenizer(revision)
        return Source(
            name=revision.repo_id,
            folder=folder,
            revision=revision.name,
            commit=revision.commit,
            weights_file=_weights(revision),
            tokenizer_path=tokenizer_path,
            tokenizer_revision=tokenizer_revision,
        )


def _weights(revision: Revision) -> str:
    """Downloads the first layout that the revision has, and returns the file that shows it."""
    for name in LAYOUT_FILES:
        path = optional_file(revision, name)
        if path is None:
            continue
        if name.endswith(".index.json"):
            for shard in sorted(set(read_index(path).values())):
                _file(revision, shard)
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


def _file(revision: Revision, name: str) -> Path:
    path = optional_file(revision, name)
    if path is None:
        raise _lacks(revision, name, (name,))
    return path


def _lacks(revision: Revision, what: str, names: tuple[str, ...]) -> Exception:
    """The error where none of these files was found: offline, the hub may have them."""
    where = f"{revision.repo_id} at {revision.name or revision.commit}"
    if huggingface_hub.constants.HF_HUB_OFFLINE and not all(_known_missing(revision, name) for name in names):
        return OSError(f"{where}: the hub cannot be reached, and its cache {_cache_folder()} has no {what}")
    return CheckpointError(f"{where}: has no {what}")


def optional_file(revision: Revision, name: str) -> Path | None:
    """A file of the revision in the client's cache, downloaded if need be; None if the revision has none."""
    try:
        where = hub_access()
        return Path(
            _patiently(
                lambda: huggingface_hub.hf_hub_download(
                    revision.repo_id, name, revision=revision.commit, cache_dir=where.cache_dir, token=where.token
                )
            )
        )
    except errors.LocalEntryNotFoundError as error:
        # Offline, a file that is not in the cache may or may not be in the revision.
        if _known_missing(revision, name) or errors.OfflineModeIsEnabled.__name__ in repr(error.__cause__):
            return None
        where_not = f"{name} is not in {_cache_folder()}, and the hub cannot be reached"
        raise OSError(f"{revision.repo_id}: {where_not}") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{revision.repo_id}: has no commit {revision.commit}") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{revision.repo_id}: is not a model on the hub; check its name") from None
    except errors.EntryNotFoundError:
        return None


def _known_missing(revision: Revision, name: str) -> bool:
    cached = huggingface_hub.try_to_load_from_cache(
        revision.repo_id, name, cache_dir=hub_access().cache_dir, revision=revision.commit
    )
    return cached is not None and not isinstance(cached, str)


def _patiently(call: Callable[[], _Result]) -> _Result:
    """Calls again after 429, 5xx and cut connections, waiting as the hub asks or twice as long each time."""
    wait_s = _FIRST_WAIT_S
    for tries in range(1, _NUM_TRIES + 1):
        try:
            return call()
        except (errors.OfflineModeIsEnabled, errors.EntryNotFoundError):
            raise
        except _HTTP_ERRORS as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None)
            passing = status is None or status == 429 or status >= 500
            if not passing or tries == (_NUM_TRIES_WITHOUT_ANSWER if status is None else _NUM_TRIES):
                raise
            asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
            time.sleep(min(float(asked) if asked.isdecimal() else wait_s, _LONGEST_WAIT_S))
            wait_s *= 2
    raise AssertionError("the last try returns or raises")


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
        refs = _patiently(lambda: _api().list_repo_refs(repo_id))
    except errors.GatedRepoError:
        raise CheckpointError(f"{repo_id}: asks for an agreement; accept it on the hub and log in") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{repo_id}: is not a model on the hub; check its name") from None
    except _HTTP_ERRORS as error:
        problem = "the hub cannot be reached, and only it knows all revisions"
        raise OSError(
            f"{repo_id}: {problem}; local_files_only=True names those that are known here ({error})"
        ) from None
    return sorted_steps(ref.name for ref in refs.branches)


def known_revisions(repo_id: str) -> list[str]:
    """The branches and tags whose commits the client's cache remembers."""
    folder = _ref_path(repo_id, "main").parent
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _unknown_revision(repo_id: str, wanted: str) -> str:
    """The message for a revision that is not there, with those most like it."""
    try:
        refs = _patiently(lambda: _api().list_repo_refs(repo_id))
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except _HTTP_ERRORS:
        names = []
    nearest = nearest_revisions(wanted, names)
    return f"{repo_id}: has no revision '{wanted}'; the nearest are {', '.join(nearest) or 'not known'}"


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
