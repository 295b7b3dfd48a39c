"""What a user calls a checkpoint, resolved to its files on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from pythia_cpu._arguments import file_path
from pythia_cpu._snapshot import refuse_damaged
from pythia_cpu._source import Source, local_source, refuse_tokenizer, revision_name


def resolve_source(
    source: str | os.PathLike[str],
    revision: str | int | None = None,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: bool = False,
    verify: bool = False,
) -> Source:
    """Finds a checkpoint: a folder on this machine, else a model on the Hugging Face hub, which is downloaded;
    ``verify``: weights in the client's cache too are hashed, and fetched again where they are not what the hub said, or
    refused where the folder is a snapshot there.

    Raises:
        CheckpointError: there is no such folder or model, it has no such revision, or it is damaged.
        OSError: the hub cannot be reached, and the checkpoint is not in its local cache.
    """
    name = revision_name(revision)
    if file_path("source", source).is_dir():
        local = local_source(Path(source), name).with_tokenizer(tokenizer)
        if verify and local.commit is not None:
            refuse_damaged(local.folder)
        return local
    refuse_tokenizer(source, tokenizer)
    from pythia_cpu import _hub  # imports an HTTP client, which local folders do not need

    repo_id = _hub.repo_id_of(source)
    return _hub.download(_hub.resolve(repo_id, name), progress=progress, verify=verify)
