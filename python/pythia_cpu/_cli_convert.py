"""The ``pythia-convert`` command."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from pythia_cpu import __version__, _core
from pythia_cpu._arguments import output_file
from pythia_cpu._cache import cache_folder, clear_cache, list_cache, remove_cached
from pythia_cpu._convert import ConversionReport, convert
from pythia_cpu._duplicates import find_duplicates
from pythia_cpu._fidelity import Fidelity, TextFidelity
from pythia_cpu._json import json_text
from pythia_cpu._provenance import provenance
from pythia_cpu._resolve import resolve_source

_EPILOG = """\
examples:
  pythia-convert my-checkpoint/ -o model.pcpu
  pythia-convert pythia-14m --revision step3000 -o model.pcpu
  pythia-convert EleutherAI/pythia-70m -o model-q8.pcpu --weights q8 --report report.json
  pythia-convert --list
  pythia-convert pythia-14m --revision step3000 --remove
"""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # from batch systems, and from a terminal that is closed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status is 0, 1 for an error (one line on standard error), 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    actions = [options.output is not None, options.list, options.clear, options.remove, options.duplicates is not None]
    if sum(actions) != 1 or (options.source is not None) != (options.output is not None or options.remove):
        parser.error("give SOURCE and -o FILE, or SOURCE and --remove, or --list, or --clear, or --duplicates")
    if options.source is None and (options.revision or options.weights):
        parser.error("--revision and --weights go with SOURCE: leave them out")
    if options.output is None and (options.report or options.report_text):
        parser.error("--report and --report-text go with -o FILE: leave them out")
    if options.report_text and options.quiet and not options.report:
        parser.error("--report-text measures for the report and the summary: give --report, or leave out -q")
    if options.remove and options.weights == "auto":
        parser.error("--weights is auto, but conversions have the format that it came to: name that, or leave it out")
    if "-" in (options.output, options.report):
        parser.error("a model or report cannot be written to standard output, -: name a file")
    files = [options.output, options.report, options.report_text]
    named = [Path(file).resolve() for file in files if file]
    if len(set(named)) < len(named):
        parser.error("-o, --report and --report-text name the same file: name one for each")
    # So that an interrupted conversion leaves nothing behind; what is ignored (nohup) stays so.
    heeded = [signum for signum in _STOP_SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, _terminate) for signum in heeded}
    try:
        if options.list:
            _list_cache()
        elif options.clear:
            print(f"removed {clear_cache() / 1e6:.1f} MB from {cache_folder()}")
        elif options.remove:
            _remove_cached(options)
        elif options.duplicates is not None:
            _print_duplicates(options.duplicates or _readable_cache())
        else:
            _convert(options)
        if sys.stdout is not None:  # as it is where standard output is closed
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _error("interrupted; no half-written file is left", 130)
    except BrokenPipeError:  # who reads has seen enough; nothing more can be written when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        return _error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except ValueError as error:
        return _error(str(error))
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 0


def _convert(options: argparse.Namespace) -> None:
    if options.report:
        output_file(options.report)
        if Path(options.source).is_dir():
            resolve_source(options.source, options.revision).refuse_overwriting(options.report)
    report = convert(
        options.source,
        options.output,
        revision=options.revision,
        weights=options.weights or "auto",
        tokenizer=options.tokenizer,
        progress=not options.quiet,
        fidelity=options.report is not None or options.report_text is not None,
        fidelity_text=options.report_text,
    )
    if options.report:
        _write_text(options.report, json_text(dataclasses.asdict(report), indent=2) + "\n")
    if not options.quiet:
        print(_summary(report))
        if report.fidelity:
            print(_fidelity_table(report.fidelity))
        elif options.report_text:
            print(f"{report.weights} holds every value exactly: nothing to measure")


def _list_cache() -> None:
    """One line for each converted checkpoint: size, format, source, revision, path; and for those not yet finished."""
    for cached in list_cache():
        facts = cached.provenance()
        what = f"{facts['weights']!s:4}  {_origin(facts)}" if facts else "?     damaged, or of another version"
        print(f"{cached.size_bytes / 1e6:9.1f} MB  {what}  {cached.path}")
    for path in sorted(cache_folder().glob("*/*.pcpu.partial-*")):
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            print(
                f"{path.lstat().st_size / 1e6:9.1f} MB  ?     unfinished; if it is none's, --clear removes it  {path}"
            )


def _readable_cache() -> list[Path]:
    """The converted checkpoints; those that cannot be read are named on standard error."""
    paths = []
    for cached in list_cache():
        if cached.provenance() is not None:
            paths.append(cached.path)
        else:
            print(f"pythia-convert: {cached.path}: damaged, or of another version: left out", file=sys.stderr)
    return paths


def _origin(facts: dict[str, object]) -> str:
    revision = facts["revision"] or ("main" if facts["commit"] else None)
    edited = f" (edited: {facts['edited']})" if facts["edited"] else ""
    return (f"{facts['source']}@{revision}" if revision else str(facts["source"])) + edited


def _remove_cached(options: argparse.Namespace) -> None:
    removed = remove_cached(options.source, revision=options.revision, weights=options.weights)
    if not removed:
        raise ValueError(f"{cache_folder()} has no such conversion of {options.source}; --list shows what it has")
    for cached in removed:
        print(f"removed {cached.size_bytes / 1e6:.1f} MB, {cached.path}")


def _print_duplicates(paths: Sequence[str | Path]) -> None:
    """A paragraph for each finding: what is the same, and the files."""
    found = find_duplicates(paths)
    for shared in found:
        more = f" and {len(shared.tensors) - 1} more" if len(shared.tensors) > 1 else ""
        print("equal checkpoints:" if shared.is_whole else f"equal tensors, {shared.tensors[0]}{more}:")
        for path in shared.files:
            print(f"  {_origin(provenance(_core.PcpuFile.open(str(path))))}  {path}")
    count = len(set(map(Path, paths)))
    print(f"{count} file{'s' * (count != 1)} compared{'' if found else ', nothing found that is in two of them'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pythia-convert",
        description="Convert a GPT-NeoX checkpoint (safetensors or PyTorch .bin) to one .pcpu file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="a checkpoint folder, or a hub id such as EleutherAI/pythia-14m or pythia-14m",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the .pcpu file to write")
    parser.add_argument("--revision", help="branch, tag, commit or step; for a folder, which of its subfolders")
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer.json, or a folder with it, for a folder without")
    parser.add_argument(
        "--weights",
        choices=("auto", *_core.WEIGHT_FORMATS),
        help="format of the matmul weights; auto (the default) is the smallest that holds every value exactly",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="write what was converted as JSON; for q8 and q4, also what quantization cost (null: not a number)",
    )
    parser.add_argument("--report-text", metavar="FILE", help="measure that on this text too, beside a bundled one")
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the converted checkpoints that pythia_cpu.load keeps, in ~/.cache/pythia-cpu "
        "(pythia-cpu in XDG_CACHE_HOME) or where PYTHIA_CPU_CACHE says",
    )
    parser.add_argument("--clear", action="store_true", help="remove all of them")
    parser.add_argument(
        "--remove", action="store_true", help="remove those of SOURCE; with --revision or --weights, only such"
    )
    parser.add_argument(
        "--duplicates",
        metavar="FILE",
        nargs="*",
        help="show which .pcpu files (default: those that pythia_cpu.load keeps) have equal checkpoints or tensors",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    return parser


def _summary(report: ConversionReport) -> str:
    origin = report.source + (f" at {report.revision}" if report.revision else "")
    origin += f" (tokenizer.json from {report.tokenizer_revision})" if report.tokenizer_revision else ""
    return (
        f"{report.output}: {origin}, {report.num_parameters:,} parameters in {report.weights}, "
        f"{report.size_bytes / 1e6:.1f} MB, {report.time_s:.1f} s"
    )


def _fidelity_table(fidelity: Fidelity) -> str:
    """What quantization cost, for a terminal."""
    worst = max(fidelity.relative_errors, key=lambda name: fidelity.relative_errors[name])
    lines = [f"largest relative error of a tensor: {fidelity.relative_errors[worst]:.3%} ({worst})"]
    if fidelity.not_compared:
        return "\n".join([*lines, f"predictions not compared: {fidelity.not_compared}"])
    names = "  ".join(f"{text.text:>12}" for text in fidelity.texts)
    lines.append(f"{f'against {fidelity.lossless_weights}':16}  {names}")
    rows: list[tuple[str, Callable[[TextFidelity], str]]] = [
        ("tokens", lambda text: str(text.num_tokens)),
        ("mean KL (nats)", lambda text: f"{text.mean_kl:.3g}"),
        ("max KL (nats)", lambda text: f"{text.max_kl:.3g}"),
        ("perplexity", lambda text: "-" if text.perplexity is None else f"{text.perplexity:.4f}"),
        ("  change", lambda text: "-" if text.perplexity_change is None else f"{text.perplexity_change:+.3%}"),
        ("top-1 agreement", lambda text: f"{text.top1_agreement:.2%}"),
        ("max |logit diff|", lambda text: f"{text.max_logit_difference:.4g}"),
    ]
    for label, cell in rows:
        columns = (f"{cell(text):>{max(12, len(text.text))}}" for text in fidelity.texts)
        lines.append(f"{label:16}  " + "  ".join(columns))
    return "\n".join([*lines, _attention_table(fidelity)])


def _attention_table(fidelity: Fidelity) -> str:
    """Each head's attention score of largest magnitude over all texts, by the lossless weights; lines of 8 heads."""
    scores = [np.array(text.lossless_attention_scores) for text in fidelity.texts]
    largest = functools.reduce(lambda a, b: np.where(np.abs(b) > np.abs(a), b, a), scores)
    lines = [f"largest attention score, each head in {fidelity.lossless_weights}:"]
    for layer, heads in enumerate(largest):
        for first in range(0, len(heads), 8):
            label = f"layer {layer}" if first == 0 else ""
            lines.append(f"  {label:14}" + "".join(f"  {score:8.4g}" for score in heads[first : first + 8]))
    return "\n".join(lines)


def _write_text(path: str, text: str) -> None:
    """Writes a file that appears when it is complete."""
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f"{target.name}.", delete=False) as file:
            try:
                file.write(text)
                file.close()
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(file.name, 0o666 & ~umask)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:  # which names the temporary file, or none
        raise OSError(error.errno, error.strerror, path) from None


def _terminate(signum: int, frame: object) -> NoReturn:
    del frame
    for other in _STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # shells and systemd send several: the cleaning up is not stopped too
    raise SystemExit(128 + signum)


def _error(message: str, status: int = 1) -> int:
    print(f"pythia-convert: {' '.join(message.splitlines())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
