"""Converted checkpoints, kept so that each is converted once: a folder of ``.pcpu`` files that processes share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pythia_cpu import _core
from pythia_cpu._arguments import file_path
from pythia_cpu._checkpoint import Checkpoint
from pythia_cpu._convert import CONVERTER_VERSION, check_weights, convert_checkpoint
from pythia_cpu._errors import FormatError
from pythia_cpu._provenance import provenance
from pythia_cpu._snapshot import refuse_damaged
from pythia_cpu._source import Source, local_source, name_of, refuse_tokenizer, revision_name

CACHE_VARIABLE = "PYTHIA_CPU_CACHE"
_SUFFIX = ".pcpu"
_LOCK_TRIES = 10
# <commit, or identity of a folder>-v<converter>-<format>, of every version of the package; links have a revision first.
_FILE_STEM = re.compile(rf"[0-9a-f]{{32,64}}-v\d+-(auto|{'|'.join(_core.WEIGHT_FORMATS)})")
_LINK_STEM = re.compile(rf".+-v\d+-(auto|{'|'.join(_core.WEIGHT_FORMATS)})", re.DOTALL)


@dataclass(frozen=True)
class CachedFile:
    """A converted checkpoint in the cache.

    Attributes:
        path: the ``.pcpu`` file.
        size_bytes: its size.
    """

    path: Path
    size_bytes: int

    def __fspath__(self) -> str:
        """Its path: it can be given wherever a file can."""
        return str(self.path)

    def provenance(self) -> dict[str, object] | None:
        """Where its weights came from, as ``Model.provenance``; None if this version of the package cannot read it, or
        if it is gone.
        """
        try:
            return provenance(_core.PcpuFile.open(str(self.path)))
        except (FormatError, FileNotFoundError):
            return None


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """``cache_dir``, else the variable PYTHIA_CPU_CACHE, else ``pythia-cpu`` in the user's cache folder."""
    if cache_dir is not None:
        return file_path("cache_dir", cache_dir).expanduser()
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "pythia-cpu"
    try:
        return Path.home() / ".cache" / "pythia-cpu"
    except RuntimeError:
        raise OSError(f"the home folder is not known: set {CACHE_VARIABLE} to a folder for conversions") from None


def cached_conversion(
    source: str | os.PathLike[str],
    revision: str | int | None = None,
    weights: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Path:
    """The ``.pcpu`` file of a checkpoint, converted now if it is not in the cache.

    A hub checkpoint is known by its commit, a local folder by the identity of its files: changed files are converted
    again.
    Processes that ask for the same file at the same time wait for the one that converts it.

    Raises:
        CheckpointError, ValueError, OSError: as ``convert``.
    """
    check_weights(weights)
    name = revision_name(revision)
    if file_path("source", source).is_dir():
        local = local_source(Path(source), name).with_tokenizer(tokenizer)
        identity = _place(Path(source)) + _identity(local)
        entry = _Entry(cache_dir, local.name, identity, weights)
        if local.commit is not None and not entry.path.exists():
            refuse_damaged(local.folder)
        return _convert_once(entry, local, progress)
    refuse_tokenizer(source, tokenizer)
    from pythia_cpu import _hub

    repo_id = _hub.repo_id_of(source)
    # A link named after the revision: what it was last, for when the hub cannot be reached and its client has lost it.
    last = _Entry(cache_dir, repo_id, _as_file_name(name or "main"), weights).path
    try:
        resolved = _hub.resolve(repo_id, name)
    except OSError:
        if last.is_symlink() and last.exists():
            return last.with_name(os.readlink(last))
        raise
    entry = _Entry(cache_dir, repo_id, resolved.commit, weights)
    if not entry.path.exists():
        with _locked(entry.lock_path):
            pass  # a cache that cannot be written to is known before the download
        _convert_once(entry, _hub.download(resolved, progress=progress, verify=True), progress)
    if last != entry.path:
        _link(last, entry.path.name)
    return entry.path


def list_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedFile]:
    """All converted checkpoints that ``load`` keeps, by name.

    Args:
        cache_dir: the cache; None is the one that ``load`` uses by default.
    """
    found = []
    for path in sorted(cache_folder(cache_dir).glob(f"*/*{_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if _is_conversion(path):
                found.append(CachedFile(path, path.stat().st_size))
    return found


def known_revisions(repo_id: str, cache_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Names that a hub model's conversions go by; None is the cache that ``load`` uses by default."""
    links = _folder(cache_dir, repo_id).glob(f"*{_SUFFIX}")
    return [path.name.rpartition("-v")[0] for path in links if path.is_symlink()]


def _is_conversion(path: Path) -> bool:
    """Whether ``load`` made this file, and not somebody who keeps files of their own here."""
    return path.is_file() and not path.is_symlink() and _FILE_STEM.fullmatch(path.stem) is not None


def _is_ours(path: Path) -> bool:
    """Conversions, half of them, their locks, and links to them."""
    stem, suffix, rest = path.name.partition(_SUFFIX)
    known = suffix and (rest in ("", ".lock") or rest.startswith(".partial-"))
    stems = _LINK_STEM if path.is_symlink() or rest == ".lock" else _FILE_STEM
    return bool(known) and stems.fullmatch(stem) is not None and (path.is_symlink() or path.is_file())


def remove_cached(
    source: str | os.PathLike[str],
    *,
    revision: str | int | None = None,
    weights: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[CachedFile]:
    """Removes one model's converted checkpoints from the cache, for example in a sweep, each when it is done with.

    Nothing else is removed: not the checkpoint, nor what the hub's client downloaded, which
    ``huggingface_hub.scan_cache_dir().delete_revisions(model.provenance["commit"]).execute()`` removes. A model that
    has the file open can still be used.

    Args:
        source: as for ``load``; a folder may be gone meanwhile. Or the path of a file that ``list_cache`` names.
        revision: the revision it was loaded with ("main" for none), or its commit; None removes all revisions. Others
            of the same commit go with it: they are one file.
        weights: the format; None removes all of them.
        cache_dir: the cache; None is the one that ``load`` uses by default.

    Returns:
        what was removed; nothing, if the cache has no such file.

    Raises:
        CheckpointError: ``source`` is neither a folder nor a hub id.
        ValueError: a bad revision, or ``weights`` that do not exist.
        OSError: a file cannot be removed.
    """
    if weights is not None and weights not in _core.WEIGHT_FORMATS:
        raise ValueError(f"weights is {weights!r}, expected one of {', '.join(_core.WEIGHT_FORMATS)}, or None for all")
    wanted = revision_name(revision)
    folder, start = _place_in_cache(file_path("source", source), source, cache_dir)
    links: dict[str, list[str]] = {}  # file -> names of those that point to it
    for link in folder.glob(f"*{_SUFFIX}"):
        if link.is_symlink():
            links.setdefault(link.resolve().name, []).append(link.name)
    removed = [
        cached
        for cached in list_cache(cache_dir)
        if cached.path.parent == folder
        and cached.path.name.startswith(start)
        and (weights is None or cached.path.stem.endswith(f"-{weights}"))
        and (wanted is None or _is_revision(cached, wanted, links))
    ]
    for cached in removed:
        cached.path.unlink(missing_ok=True)
        _remove_unless_converting(_lock_path(cached.path))
    for link in list(folder.glob(f"*{_SUFFIX}")) if removed else ():
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
            _remove_unless_converting(_lock_path(link))
    if removed:
        _remove_if_empty(folder)
    return removed


def _place_in_cache(
    path: Path, source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None
) -> tuple[Path, str]:
    """The folder of a source's conversions, and how their names begin."""
    if any(path.absolute() == cached.path.absolute() for cached in list_cache(cache_dir)):
        return cache_folder(cache_dir) / path.parent.name, path.name
    folder, place = _folder(cache_dir, name_of(path)), _place(path)
    if path.is_dir() or any(folder.glob(f"{place}*{_SUFFIX}")):
        return folder, place
    from pythia_cpu import _hub

    return _folder(cache_dir, _hub.repo_id_of(source)), ""


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not, or another process has removed it
        folder.rmdir()


def _is_revision(cached: CachedFile, wanted: str, links: dict[str, list[str]]) -> bool:
    """Whether a conversion goes by this name; it is opened only if it has no names but its own: that takes time."""
    if cached.path.name.startswith(f"{wanted}-"):
        return True
    commit = cached.path.name.partition("-v")[0]
    revisions = [name for name in links.get(cached.path.name, []) if not name.startswith(commit)]
    if revisions:
        return any(name.startswith(f"{_as_file_name(wanted)}-v") for name in revisions)
    facts = cached.provenance()
    if facts is None:
        return False
    if facts["commit"] not in (None, commit):  # of a snapshot's path
        return wanted in (facts["revision"], facts["commit"])
    return wanted == (facts["revision"] or "main")


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> int:
    """Removes every converted checkpoint from the cache, and nothing else; returns the bytes freed.

    What another process is converting stays.
    """
    freed_bytes = 0
    root = cache_folder(cache_dir)
    for folder in [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []:
        for path in list(folder.iterdir()):
            if _is_ours(path):
                freed_bytes += _remove_unless_converting(path)
        _remove_if_empty(folder)
    return freed_bytes


def _remove_unless_converting(path: Path) -> int:
    """Removes a file of a conversion, unless a process is making that; returns the bytes freed."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_held(_lock_path(path), os.O_RDONLY, fcntl.LOCK_NB))
        except BlockingIOError:
            return 0
        except FileNotFoundError:
            pass  # nobody has locked it
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            size_bytes = 0 if path.is_symlink() else path.stat().st_size
            path.unlink()
            return size_bytes
    return 0


def _lock_path(path: Path) -> Path:
    """The lock of the conversion that a file belongs to, itself if it is one."""
    return path.with_name(f"{path.name.partition(_SUFFIX)[0]}{_SUFFIX}.lock")


def _folder(cache_dir: str | os.PathLike[str] | None, name: str) -> Path:
    """Where a model's conversions lie."""
    return cache_folder(cache_dir) / _as_file_name(name)


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "--", name)


class _Entry:
    """Where a conversion lies: ``<cache>/<model>/<commit or identity>-<converter>-<format>.pcpu``."""

    def __init__(self, cache_dir: str | os.PathLike[str] | None, name: str, identity: str, weights: str) -> None:
        folder = _folder(cache_dir, name)
        self._stem = f"{identity}-v{CONVERTER_VERSION}"
        self.weights = weights
        self.path = folder / f"{self._stem}-{weights}{_SUFFIX}"
        self.lock_path = _lock_path(self.path)

    def path_for(self, weights: str) -> Path:
        return self.path.with_name(f"{self._stem}-{weights}{_SUFFIX}")


def _place(folder: Path) -> str:
    """Tells local folders of one name apart: a hash of the path."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]


def _identity(source: Source) -> str:
    """Changes whenever a file of a local checkpoint does: a hash of names, sizes, times and inodes."""
    sha256 = hashlib.sha256(os.fsencode(source.folder.resolve()))
    for path in source.files():
        s = path.stat()
        facts = f"\n{path.name} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_dev} {s.st_ino}"
        sha256.update(os.fsencode(facts))
    if source.tokenizer_path is not None:
        sha256.update(hashlib.sha256(source.tokenizer_path.read_bytes()).digest())
    return sha256.hexdigest()[:32]


def _convert_once(entry: _Entry, source: Source, progress: bool) -> Path:
    if entry.path.exists():
        return entry.path
    with _locked(entry.lock_path):
        if not entry.path.exists():
            for left in entry.path.parent.glob(f"{entry.path.name}.partial-*"):
                left.unlink(missing_ok=True)  # by a process that was killed: whoever writes holds the lock
            # A name of this process's own until the format is known: no other process may see the file under two names.
            working = entry.path.with_name(f"{entry.path.name}.partial-{os.getpid()}-{threading.get_ident()}")
            with Checkpoint(source) as checkpoint:
                report = convert_checkpoint(checkpoint, working, weights=entry.weights, progress=progress)
            kept = entry.path_for(report.weights)
            working.replace(kept)
            if kept != entry.path:  # "auto" points to the format it came to
                try:
                    working.symlink_to(kept.name)
                except OSError:  # some file systems have no links
                    working = kept
                working.replace(entry.path)
    return entry.path


def remove_damaged(path: Path) -> None:
    """Removes a file of the cache that cannot be read, so that it is converted again, unless somebody has done so."""
    with contextlib.suppress(FileNotFoundError), _locked(_lock_path(path)):
        try:
            _core.PcpuFile.open(str(path))
        except FormatError:
            path.resolve().unlink()


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    working = path.with_name(f"{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    with contextlib.suppress(OSError):  # a cache that is read-only serves as it is
        working.symlink_to(target)
        working.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that other processes and threads wait for; the system lifts it if this process dies."""
    with contextlib.ExitStack() as stack:
        try:
            for tries_left in reversed(range(_LOCK_TRIES)):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(_held(path, os.O_RDWR | os.O_CREAT))
                    break
                except FileNotFoundError:  # the folder was empty for a moment, and another process has removed it
                    if not tries_left:
                        raise
        except OSError as error:  # many machines give a process a home folder that it cannot write to, or none
            advice = f"set {CACHE_VARIABLE} or cache_dir to a folder for conversions that can be written to"
            raise OSError(error.errno, f"{error.strerror}; {advice}", error.filename) from None
        yield


@contextlib.contextmanager
def _held(path: Path, open_flags: int, lock_flags: int = 0) -> Iterator[None]:
    """Holds the lock that a file is. Whoever removes it holds it too, so one that has been removed is none any more."""
    is_there = False
    while not is_there:
        fd = os.open(path, open_flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | lock_flags)
            with contextlib.suppress(FileNotFoundError):
                is_there = os.path.samestat(os.fstat(fd), path.stat())
            if is_there:
                yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # also for processes that were forked meanwhile, which have the file too
            os.close(fd)
