"""Ways to a model: the shipped one, a ``.pcpu`` file, a checkpoint."""

from __future__ import annotations

import errno
import functools
import importlib.resources
import os
import tempfile
from pathlib import Path

from pythia_cpu._arguments import file_path
from pythia_cpu._checkpoint import Checkpoint
from pythia_cpu._convert import check_weights, convert_checkpoint, with_options
from pythia_cpu._errors import CheckpointError, FormatError
from pythia_cpu._model import Model
from pythia_cpu._source import revision_name


def load(
    source: str | os.PathLike[str] | Checkpoint | None = None,
    *,
    revision: str | int | None = None,
    weights: str = "auto",
    threads: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Model:
    """Opens a model; a checkpoint is converted once and kept in the cache.

    Args:
        source: a ``.pcpu`` file, a local checkpoint folder, a hub id ("EleutherAI/pythia-14m") or its short form
            ("pythia-14m"), or None for the small model that ships inside the package. Or what ``open_checkpoint``
            returned, perhaps ``edited``: that is converted each time, to a temporary file (where TMPDIR says) which is
            removed at once, so that its space is free when the model is gone.
        revision: revision of a checkpoint; a whole number is a training step (3000 and "3000" are "step3000").
        weights: format to convert a checkpoint's weights to: "f32", "f16", "bf16", "q8", "q4", or "auto", the smallest
            of f16, bf16 and f32 that holds every stored value exactly.
        threads: threads of a forward pass; None means the physical cores this process may use.
        cache_dir: where converted checkpoints are kept; None means the folder that the variable PYTHIA_CPU_CACHE names,
            else ``~/.cache/pythia-cpu`` (or ``pythia-cpu`` in XDG_CACHE_HOME). Downloads are kept by the hub's client,
            where HF_HOME says.
        tokenizer: of a local folder: the ``tokenizer.json`` to use, or a folder that has it, such as another checkpoint
            of the run. None: the folder's own.
        progress: show a bar on standard error, in a terminal or notebook, while a checkpoint is brought and converted.

    Raises:
        FormatError: a damaged or foreign ``.pcpu`` file.
        CheckpointError: a checkpoint that cannot be read or is not supported.
        ValueError: a bad argument; also ``revision`` or another ``weights`` for a file that is converted already.
        OSError: a file cannot be read or written.
    """
    check_weights(weights)
    if isinstance(source, Checkpoint):
        if cache_dir is not None:
            raise ValueError(f"cache_dir is {cache_dir!r}, but an open checkpoint is not kept: leave it out")
        return _of_open(with_options(source, revision=revision, tokenizer=tokenizer), weights, threads, progress)
    path = shipped_model() if source is None else file_path("source", source)
    if source is not None and path.suffix != ".pcpu" and not path.is_file():
        from pythia_cpu._cache import cached_conversion, remove_damaged

        converted = functools.partial(cached_conversion, source, revision, weights, cache_dir, progress, tokenizer)
        try:
            model = Model(converted(), threads=threads)
        except FileNotFoundError:  # removed by another process in the meantime
            model = Model(converted(), threads=threads)
        except FormatError:  # damaged, by a disk or whoever writes there
            remove_damaged(converted())
            model = Model(converted(), threads=threads)
        return model if path.is_dir() else model._with_revision(revision_name(revision))
    if path.suffix in (".safetensors", ".bin", ".json") and path.is_file():
        raise CheckpointError(f"{path}: is one file of a checkpoint, expected its folder: pass {path.parent}")
    if tokenizer is not None:
        raise ValueError(f"tokenizer is {tokenizer!r}, but {path.name} is converted already: leave it out")
    if revision is not None:
        raise ValueError(
            f"revision is {revision!r}, but {path.name} is converted already and has one revision: leave it out"
        )
    model = Model(path, threads=threads)
    stored = model.provenance["weights"]
    if weights not in ("auto", stored):
        raise ValueError(
            f"weights is {weights!r}, but {path.name} holds {stored!r} weights: convert the checkpoint again"
        )
    return model


def _of_open(checkpoint: Checkpoint, weights: str, threads: int | None, progress: bool) -> Model:
    """The model of an open checkpoint, whose file has no name any more."""
    with tempfile.TemporaryDirectory(prefix="pythia-cpu-") as folder:
        path = Path(folder) / "model.pcpu"
        try:
            convert_checkpoint(checkpoint, path, weights=weights, progress=progress)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            advice = "set TMPDIR to a folder with more room, or convert() the checkpoint to a file"
            raise OSError(error.errno, f"{error.strerror}; {advice}", folder) from None
        return Model(path, threads=threads)


def shipped_model() -> Path:
    """The ``.pcpu`` file inside the package."""
    return Path(str(importlib.resources.files("pythia_cpu") / "data" / "mini-pythia.pcpu"))
