"""The ``pythia-convert`` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pythia_cpu import _core
from pythia_cpu._convert import ConversionReport, convert

_EPILOG = """\
examples:
  pythia-convert my-checkpoint/ -o model.pcpu
  pythia-convert my-checkpoint/ -o model-q8.pcpu --weights q8 --report report.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for an error (one line on standard error), 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)  # so that an interrupted conversion leaves nothing behind
    try:
        report = convert(
            options.source,
            options.output,
            revision=options.revision,
            weights=options.weights,
            progress=not options.quiet,
        )
        if options.report:
            _write_text(options.report, json.dumps(dataclasses.asdict(report), indent=2) + "\n")
        if not options.quiet:
            print(_summary(report))
    except KeyboardInterrupt:
        return _error("interrupted; nothing was written", 130)
    except OSError as error:
        return _error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        return _error(str(error))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pythia-convert",
        description="Convert a GPT-NeoX checkpoint (safetensors or PyTorch .bin) to one .pcpu file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="folder with config.json, tokenizer.json and weights")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the .pcpu file to write")
    parser.add_argument("--revision", help="which revision, where the folder has a subfolder for each")
    parser.add_argument(
        "--weights",
        choices=("auto", *_core.WEIGHT_FORMATS),
        default="auto",
        help="format of the matmul weights; auto (the default) is the smallest that holds every value exactly",
    )
    parser.add_argument("--report", metavar="FILE", help="write what was converted as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    return parser


def _summary(report: ConversionReport) -> str:
    origin = report.source + (f" at {report.revision}" if report.revision else "")
    return (
        f"{report.output}: {origin}, {report.num_parameters:,} parameters in {report.weights}, "
        f"{report.size_bytes / 1e6:.1f} MB, {report.time_s:.1f} s"
    )


def _write_text(path: str, text: str) -> None:
    """Writes a file that appears when it is complete."""
    target = Path(path)
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


def _terminate(signum: int, frame: object) -> NoReturn:
    del frame
    raise SystemExit(128 + signum)


def _error(message: str, status: int = 1) -> int:
    print(f"pythia-convert: {' '.join(message.splitlines())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
