"""The checkpoints of a training run."""

from __future__ import annotations

import os

from pythia_cpu import _cache
from pythia_cpu._arguments import file_path
from pythia_cpu._source import local_revisions, sorted_steps


def revisions(
    source: str | os.PathLike[str],
    *,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[str]:
    """The checkpoints of a training run, by step, to loop over.

    Each is a ``revision`` for ``load``, ``convert`` and ``open_checkpoint``.

    Args:
        source: a hub id ("EleutherAI/pythia-70m") or its short form ("pythia-70m"), whose branches are listed by the
            hub; or a local folder of checkpoints, each in a subfolder.
        local_files_only: do not ask the hub, but name those branches that were loaded before, on this machine.
        cache_dir: with ``local_files_only``, where converted checkpoints are kept, as in ``load``.

    Returns:
        names such as "step1000", or "checkpoint-1000", as transformers' Trainer has it; empty if there are none.
        Others, such as "main", are left out.

    Raises:
        CheckpointError: it is neither a folder nor a model on the hub.
        OSError: the hub cannot be reached.
    """
    if file_path("source", source).is_dir():
        return local_revisions(source)
    from pythia_cpu import _hub  # imports an HTTP client, which local folders do not need

    repo_id = _hub.repo_id_of(source)
    if not local_files_only:
        return _hub.step_revisions(repo_id)
    return sorted_steps({*_hub.known_revisions(repo_id), *_cache.known_revisions(repo_id, cache_dir)})
