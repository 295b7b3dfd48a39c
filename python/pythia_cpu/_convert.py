"""Converts a checkpoint to one ``.pcpu`` file, streaming tensor by tensor."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import output_file
from pythia_cpu._checkpoint import Checkpoint
from pythia_cpu._config import parse_config
from pythia_cpu._errors import CheckpointError
from pythia_cpu._fidelity import MAX_LOSSLESS_BYTES, Fidelity, TensorError, compare_models, read_texts, unusable_text
from pythia_cpu._plan import PANELS, ROWS, TensorPlan, plan_tensors, stored_format
from pythia_cpu._progress import ProgressBar
from pythia_cpu._resolve import resolve_source
from pythia_cpu._tensor_file import DTYPE_SIZES, WEIGHT_DTYPES
from pythia_cpu._tokenizer_export import compile_tokenizer

# Stored in every file. Raise it when the same checkpoint gives other bytes than before.
CONVERTER_VERSION = "6"

_CHUNK_BYTES = 1 << 22  # of source read at a time, by each thread
_MAX_WORKERS = 32  # each holds a chunk in several forms: about 30 MB
_NO_SHA256 = bytes(32)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion read and wrote.

    Attributes:
        output: the file written.
        source: hub id or folder name of the checkpoint.
        revision: its revision, or None.
        commit: the hub commit it was read at, or None.
        weights: format of the matmul weights; "auto" resolved.
        embedding_format: format of the embedding, always lossless.
        num_tensors: tensors in the file.
        num_parameters: numbers in the checkpoint's weights.
        source_size_bytes: size of these as stored in the checkpoint.
        size_bytes: size of the file written.
        tokenizer_revision: the revision tokenizer.json came from, where that is another one.
        time_s: wall time.
        fidelity: what quantization cost; None for lossless weights, or if it was not asked for.
        edited: what was done to the weights before, by ``Checkpoint.edited``, or None.
    """

    output: str
    source: str
    revision: str | None
    commit: str | None
    weights: str
    embedding_format: str
    num_tensors: int
    num_parameters: int
    source_size_bytes: int
    size_bytes: int
    tokenizer_revision: str | None
    time_s: float
    fidelity: Fidelity | None = None
    edited: str | None = None


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    output: str | os.PathLike[str],
    *,
    revision: str | int | None = None,
    weights: str = "auto",
    tokenizer: str | os.PathLike[str] | None = None,
    progress: bool = True,
    fidelity: bool = False,
    fidelity_text: str | os.PathLike[str] | None = None,
) -> ConversionReport:
    """Converts a checkpoint to a ``.pcpu`` file. The same checkpoint under the same names (hub id or folder, revision)
    gives the same bytes on every machine.

    Norms and biases are stored in float32, the embedding in the smallest lossless format; the output head of a small
    model is q8 where ``weights`` is "q4". At the end the model is run once, on 32 tokens, for the fingerprint that
    ``Model.verify`` computes again.

    Args:
        source: a local checkpoint folder or a hub id, as in ``open_checkpoint``; or what that returned.
        output: the file to write; it appears when it is complete, in place of any before it.
        revision: the revision to convert, as in ``open_checkpoint``.
        weights: format of the matmul weights. "auto" is the smallest of "f16", "bf16" and "f32" that holds all of them
            exactly.
        tokenizer: of a local folder: the ``tokenizer.json`` to use, or a folder that has it, such as another checkpoint
            of the run. None: the folder's own.
        progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.
        fidelity: measure what q8 or q4 weights cost, for the report: each tensor's relative error, and both models'
            predictions on a bundled text. For the latter the checkpoint is converted without loss too, to a temporary
            file beside the output; not if that would take more than 4 GiB.
        fidelity_text: a text file, in UTF-8, to measure on beside the bundled one; not read unless ``fidelity``.

    Raises:
        CheckpointError: the checkpoint cannot be read or is not supported.
        ValueError: unknown ``weights``, or a value too large for the format asked for.
        OSError: a file cannot be read or written, or the hub cannot be reached.
    """
    # Before a download, which may take hours.
    check_weights(weights)
    output_file(output)
    _core.Kernels()  # is there what PYTHIA_CPU_ISA names?
    with contextlib.ExitStack() as opened:
        if isinstance(source, Checkpoint):  # its user closes it
            checkpoint = with_options(source, revision=revision, tokenizer=tokenizer)
        else:
            found = resolve_source(source, revision, tokenizer=tokenizer, progress=progress, verify=True)
            checkpoint = opened.enter_context(Checkpoint(found))
        checkpoint.source.refuse_overwriting(output)
        text = None if fidelity_text is None else Path(fidelity_text)
        return convert_checkpoint(
            checkpoint, output, weights=weights, progress=progress, fidelity=fidelity, fidelity_text=text
        )


def with_options(
    checkpoint: Checkpoint, *, revision: str | int | None, tokenizer: str | os.PathLike[str] | None
) -> Checkpoint:
    """An open checkpoint with the options that go with its path; one from the hub is hashed first."""
    if revision is not None:
        raise ValueError(f"revision is {revision!r}, but {checkpoint!r} is open and has one revision: leave it out")
    checkpoint.refuse_damaged()
    return checkpoint.with_tokenizer(tokenizer)


def check_weights(weights: str) -> None:
    """Refuses a format that does not exist."""
    formats = ("auto", *_core.WEIGHT_FORMATS)
    if weights not in formats:
        raise ValueError(f"weights is {weights!r}, expected one of {', '.join(formats)}")


def convert_checkpoint(
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    weights: str = "auto",
    progress: bool = True,
    threads: int | None = None,
    fidelity: bool = False,
    fidelity_text: Path | None = None,
) -> ConversionReport:
    """As ``convert``, for a checkpoint that is open; ``threads`` defaults to the processors this process may use."""
    start_s = time.monotonic()
    texts = read_texts(fidelity_text) if fidelity else {}  # before the long work, so that a bad file is known at once
    config_text = checkpoint.config_text()
    config = parse_config(config_text, str(checkpoint.folder / "config.json"))
    tokenizer_json = checkpoint.tokenizer_json()
    try:
        tokenizer_section = compile_tokenizer(tokenizer_json)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.folder}: {error}") from None
    plans = plan_tensors(checkpoint, config)

    total = sum(plan.rows * plan.cols * DTYPE_SIZES[plan.dtype] for plan in plans)
    bar = ProgressBar(total, what="converting", unit="B", enabled=progress)
    with bar, _Workers(threads) as workers:
        if weights == "auto":
            weights = _smallest_exact_format(checkpoint, [p for p in plans if p.layout == PANELS], workers)
        errors: dict[str, TensorError] | None = {} if fidelity and weights in _core.QUANTIZED_FORMATS else None
        embedding = next(p for p in plans if p.layout == ROWS)
        embedding_format = _smallest_exact_format(checkpoint, [embedding], workers)
        with _core.PcpuWriter(str(Path(output)), config.to_core(), weights) as writer:
            writer.set_tokenizer(tokenizer_section)
            writer.set_metadata(_metadata(checkpoint, config_text, tokenizer_json))
            for plan in plans:
                stored = stored_format(plan, config.hidden_size, weights, embedding_format)
                _write_tensor(checkpoint, plan, stored, writer, workers, bar, errors)
            checkpoint.forget()
            writer.finish(fingerprint=True, threads=threads or 0)
    measured = None
    if errors is not None:
        measured = _measure(checkpoint, Path(output), texts, errors, plans, progress, threads)
    originals = [plan for plan in plans if not plan.derived]
    source = checkpoint.source
    return ConversionReport(
        output=os.fspath(output),
        source=source.name,
        revision=source.revision,
        commit=source.commit,
        weights=weights,
        embedding_format=embedding_format,
        num_tensors=len(plans),
        num_parameters=sum(plan.rows * plan.cols for plan in originals),
        source_size_bytes=sum(checkpoint.info(plan.source_name).size_bytes for plan in originals),
        size_bytes=os.path.getsize(output),
        tokenizer_revision=source.tokenizer_revision,
        time_s=time.monotonic() - start_s,
        fidelity=measured,
        edited=source.edited,
    )


def _measure(
    checkpoint: Checkpoint,
    output: Path,
    texts: dict[str, str],
    errors: dict[str, TensorError],
    plans: list[TensorPlan],
    progress: bool,
    threads: int | None,
) -> Fidelity:
    """Compares a quantized file with the lossless weights of its checkpoint, if these are small enough."""
    relative_errors = {name: error.relative_error for name, error in errors.items()}
    size_bytes = sum(plan.rows * plan.cols * DTYPE_SIZES[plan.dtype] for plan in plans)
    if size_bytes > MAX_LOSSLESS_BYTES:
        reason = f"the lossless weights take {size_bytes} bytes, more than {MAX_LOSSLESS_BYTES}: tensors only"
        return Fidelity(None, [], reason, relative_errors)
    if problem := unusable_text(output, texts):
        return Fidelity(None, [], problem, relative_errors)
    try:
        with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f"{output.name}.lossless-") as folder:
            lossless = Path(folder) / "lossless.pcpu"
            report = convert_checkpoint(checkpoint, lossless, progress=progress, threads=threads)
            compared = compare_models(lossless, output, texts, threads or 0)
    except OSError as error:  # the file itself is whole
        reason = f"the lossless weights cannot be kept beside the output: {error.strerror or error}"
        return Fidelity(None, [], reason, relative_errors)
    return Fidelity(report.weights, compared, None, relative_errors)


def _metadata(checkpoint: Checkpoint, config_text: str, tokenizer_json: bytes) -> dict[str, str]:
    """The file's metadata section: nothing in it depends on the machine or the time."""
    source = checkpoint.source
    entries = {
        "source": source.name,
        "revision": source.revision,
        "commit": source.commit,
        "config": config_text,
        "converter_version": CONVERTER_VERSION,
        "tokenizer_sha256": hashlib.sha256(tokenizer_json).hexdigest(),
        "tokenizer_revision": source.tokenizer_revision,
        "edited": source.edited,
    }
    return {key: value for key, value in entries.items() if value is not None}


def _num_processors() -> int:
    """Those this process may use, or all where the system does not say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Workers:
    """Threads that do work ahead of its use, a bounded number of items at a time, results in order."""

    def __init__(self, threads: int | None) -> None:
        self._threads = min(threads or _num_processors(), _MAX_WORKERS)
        self._executor = ThreadPoolExecutor(self._threads)

    def map(self, function: Callable[[_Item], _Result], items: Iterator[_Item]) -> Iterator[_Result]:
        pending: collections.deque[Future[_Result]] = collections.deque()
        try:
            for item in items:
                pending.append(self._executor.submit(function, item))
                if len(pending) > self._threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *unused: object) -> None:
        self._executor.shutdown(cancel_futures=True)


def _row_chunks(plan: TensorPlan) -> Iterator[tuple[int, int]]:
    """Row ranges of about _CHUNK_BYTES that begin at a panel."""
    row_bytes = plan.cols * DTYPE_SIZES[plan.dtype]
    step = max(_CHUNK_BYTES // max(row_bytes, 1) // _core.PANEL_WIDTH * _core.PANEL_WIDTH, _core.PANEL_WIDTH)
    for begin in range(0, plan.rows, step):
        yield begin, min(begin + step, plan.rows)


def _smallest_exact_format(checkpoint: Checkpoint, plans: list[TensorPlan], workers: _Workers) -> str:
    """The first of f16, bf16 and f32 that holds every value of these tensors."""
    for target in ("f16", "bf16"):

        def holds(item: tuple[TensorPlan, int, int], target: str = target) -> bool:
            plan, begin, end = item
            data = checkpoint.read(plan.source_name, begin * plan.cols, end * plan.cols)
            return _core.holds_exactly(data, WEIGHT_DTYPES[plan.dtype], target)

        unsure = [plan for plan in plans if WEIGHT_DTYPES[plan.dtype] != target]
        if all(workers.map(holds, ((plan, *rows) for plan in unsure for rows in _row_chunks(plan)))):
            return target
    return "f32"


def _write_tensor(
    checkpoint: Checkpoint,
    plan: TensorPlan,
    target: str,
    writer: _core.PcpuWriter,
    workers: _Workers,
    bar: ProgressBar,
    errors: dict[str, TensorError] | None,
) -> None:
    dtype = WEIGHT_DTYPES[plan.dtype]

    def pack(rows: tuple[int, int]) -> tuple[bytes, npt.NDArray[np.uint8]]:
        begin, end = rows
        data = checkpoint.read(plan.source_name, begin * plan.cols, end * plan.cols)
        if plan.layout == PANELS:
            packed = _core.pack_matrix(data, dtype, end - begin, plan.cols, target, begin)
            if errors is not None:
                errors.setdefault(plan.name, TensorError()).measure(data, dtype, packed, target, end - begin, plan.cols)
            return data, packed
        return data, _core.convert_elements(data, dtype, target)

    sha256 = hashlib.sha256()
    writer.begin_tensor(plan.name, target, dtype)
    try:
        for data, packed in workers.map(pack, _row_chunks(plan)):
            writer.append(packed.data)
            if not plan.derived:
                sha256.update(data)
            bar.update(len(data))
    except ValueError as error:
        where = f"{checkpoint.path(plan.source_name)}{', edited' if checkpoint.source.edited else ''}"
        raise CheckpointError(f"{where}: tensor '{plan.source_name}': {error}") from None
    writer.end_tensor(_NO_SHA256 if plan.derived else sha256.digest())
