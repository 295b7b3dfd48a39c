"""From checkpoints of every dialect to .pcpu files: exact values, the same bytes every time, nothing half-written."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import (
    MINI_PYTHIA,
    from_bfloat16_bits,
    neox_config,
    random_tensors,
    write_checkpoint,
)
from pcpu_file import parse, read_tensor
from pythia_cpu import CheckpointError, _core, convert, open_checkpoint
from pythia_cpu._cli_convert import main
from pythia_cpu._convert import convert_checkpoint
from pythia_cpu._provenance import provenance

SMALL: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 70}
HEAD, EMBEDDING = "embed_out.weight", "gpt_neox.embed_in.weight"
QKV = "gpt_neox.layers.0.attention.query_key_value.weight"


def small_tensors(dtype: str = "float16", **config: Any) -> dict[str, np.ndarray]:
    return random_tensors(neox_config(**{**SMALL, **config}), dtype=dtype)


def write_small(folder: Path, **arguments: Any) -> Path:
    return write_checkpoint(folder, **{**SMALL, **arguments})


def opened(folder: Path, output: Path, **arguments: Any) -> _core.PcpuFile:
    convert(folder, output, progress=False, **arguments)
    return _core.PcpuFile.open(str(output))


def as_float32(array: np.ndarray) -> np.ndarray:
    return from_bfloat16_bits(array) if array.dtype == np.uint16 else array.astype(np.float32)


def formats(file: _core.PcpuFile) -> dict[str, str]:
    return {tensor["name"]: tensor["format"] for tensor in file.tensors}


# Values


def test_the_shipped_model_is_made_again_byte_for_byte(tmp_path: Path, shipped_model: Path) -> None:
    report = convert(MINI_PYTHIA.parent, tmp_path / "again.pcpu", revision="step1800", progress=False)
    assert (tmp_path / "again.pcpu").read_bytes() == shipped_model.read_bytes()
    assert (report.source, report.revision, report.weights) == ("mini-pythia", "step1800", "f16")
    assert report.num_parameters == 2_238_464
    assert report.size_bytes == shipped_model.stat().st_size


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "f16"), ("bfloat16", "bf16"), ("float32", "f32")])
def test_auto_is_the_smallest_exact_format(tmp_path: Path, dtype: str, expected: str) -> None:
    tensors = small_tensors(dtype)
    file = opened(write_small(tmp_path / "c", tensors=tensors), tmp_path / "m.pcpu")
    assert file.weights == expected
    assert formats(file)[HEAD] == expected
    assert {t["source_dtype"] for t in file.tensors} == {expected}
    for name, array in tensors.items():
        np.testing.assert_array_equal(file.read(name), as_float32(array), err_msg=name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, -0.0, 65504, 2**-24], "f16"),
        ([0.5, 2**-25], "bf16"),
        ([0.5, 65536], "bf16"),
        ([1 + 2**-7, 2**100], "bf16"),
        ([1 + 2**-8, 2**100], "f32"),
        ([1 + 2**-11], "f32"),
        ([float("inf"), float("nan"), 2**-149], "f32"),
        ([float("inf"), float("nan"), 1.0], "f16"),
    ],
)
def test_auto_looks_at_every_value(tmp_path: Path, values: list[float], expected: str) -> None:
    tensors = {name: np.zeros_like(array, dtype=np.float32) for name, array in small_tensors().items()}
    tensors[QKV][-1, -len(values) :] = values
    file = opened(write_small(tmp_path / "c", tensors=tensors), tmp_path / "m.pcpu")
    assert file.weights == expected
    assert formats(file)[EMBEDDING] == "f16"
    np.testing.assert_array_equal(file.read(QKV), tensors[QKV])


def test_mixed_dtypes(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = small_tensors("float16")
    tensors |= {name: array for name, array in small_tensors("bfloat16").items() if "mlp" in name}
    tensors |= {name: array for name, array in small_tensors("float32").items() if "norm" in name}
    file = opened(write_small(tmp_path / "c", tensors=tensors), tmp_path / "m.pcpu")
    assert file.weights == "f32"
    assert formats(file)[EMBEDDING] == "f16"
    dtypes = {"float16": "f16", "uint16": "bf16", "float32": "f32"}
    for tensor in file.tensors:
        array = tensors[tensor["name"]]
        assert tensor["source_dtype"] == dtypes[str(array.dtype)]
        assert tensor["source_sha256"] == hashlib.sha256(array.tobytes()).digest()
        np.testing.assert_array_equal(file.read(tensor["name"]), as_float32(array), err_msg=tensor["name"])


def test_rounding_to_a_narrower_format_is_to_nearest_even(tmp_path: Path) -> None:
    tensors = small_tensors("float32")
    file = opened(write_small(tmp_path / "c", tensors=tensors), tmp_path / "m.pcpu", weights="f16")
    np.testing.assert_array_equal(file.read(QKV), tensors[QKV].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(file.read(EMBEDDING), tensors[EMBEDDING])
    assert formats(file)[EMBEDDING] == "f32"


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_quantized_weights_are_near(tmp_path: Path, weights: str) -> None:
    tensors = small_tensors("float16")
    file = opened(write_small(tmp_path / "c", tensors=tensors), tmp_path / "m.pcpu", weights=weights)
    assert file.weights == weights
    assert formats(file)[QKV] == weights
    assert formats(file)[EMBEDDING] == "f16"
    wanted = as_float32(tensors[QKV])
    parsed = parse((tmp_path / "m.pcpu").read_bytes())
    for record in parsed.records:
        name = record["name"].rstrip(b"\0").decode()
        np.testing.assert_array_equal(read_tensor(parsed, record), file.read(name), err_msg=name)
    error = np.linalg.norm(file.read(QKV) - wanted) / np.linalg.norm(wanted)
    assert 0 < error < {"q8": 0.006, "q4": 0.09}[weights]


@pytest.mark.parametrize(("hidden_size", "head"), [(504, "q8"), (512, "q4")])
def test_a_small_models_q4_head_is_q8(tmp_path: Path, hidden_size: int, head: str) -> None:
    sizes = {
        "hidden_size": hidden_size,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "rotary_pct": 1.0,
    }
    folder = write_small(tmp_path / "c", **sizes)
    stored = {weights: opened(folder, tmp_path / f"{weights}.pcpu", weights=weights) for weights in ("q4", "q8", "f32")}
    assert {weights: formats(file)[HEAD] for weights, file in stored.items()} == {"q4": head, "q8": "q8", "f32": "f32"}
    assert formats(stored["q4"])[QKV] == "q4"
    if head == "q8":
        np.testing.assert_array_equal(stored["q4"].read(HEAD), stored["q8"].read(HEAD))


def test_overflow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pythia_cpu._convert._CHUNK_BYTES", 5000)
    tensors = small_tensors("float32")
    tensors[QKV][85, 7] = -70000
    folder = write_small(tmp_path / "c", tensors=tensors)
    place = rf"model.safetensors: tensor '{QKV}': .*-70000.* at row 85, column 7 is too large for f16"
    with pytest.raises(CheckpointError, match=place):
        convert(folder, tmp_path / "m.pcpu", weights="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert opened(folder, tmp_path / "m.pcpu").weights == "f32"


@pytest.mark.parametrize(
    "variant",
    [
        {"tied": True},
        {"attention_bias": False},
        {"parallel": False},
        {"rotary_pct": 1.0},
        {"tied": True, "attention_bias": False, "parallel": False, "intermediate_size": 37, "vocab_size": 16},
    ],
    ids=str,
)
def test_variants(tmp_path: Path, variant: dict[str, Any]) -> None:
    folder = write_small(tmp_path / "c", **variant)
    file = opened(folder, tmp_path / "m.pcpu")
    assert file.config["tie_word_embeddings"] == variant.get("tied", False)
    assert file.config["attention_bias"] == variant.get("attention_bias", True)
    assert file.config["use_parallel_residual"] == variant.get("parallel", True)
    assert file.config["rotary_ndims"] == int(16 * variant.get("rotary_pct", 0.25))
    with open_checkpoint(folder) as checkpoint:
        for name, array in checkpoint.items():
            np.testing.assert_array_equal(file.read(name), array.astype(np.float32), err_msg=name)
        if variant.get("tied"):
            np.testing.assert_array_equal(file.read(HEAD), checkpoint[EMBEDDING].astype(np.float32))
            assert HEAD not in provenance(file)["tensors"]


@pytest.mark.parametrize("tied", [False, True])
def test_the_report(tmp_path: Path, tied: bool) -> None:
    tensors = small_tensors(tied=tied)
    tensors[EMBEDDING] = tensors[EMBEDDING].astype(np.float32)
    tensors[EMBEDDING][0, 0] = 1 + 2**-20
    folder = write_small(tmp_path / "c", tensors=tensors, tied=tied)
    report = convert(folder, tmp_path / "m.pcpu", weights="q8", progress=False)
    assert (report.weights, report.embedding_format) == ("q8", "f32")
    assert report.num_parameters == sum(tensor.size for tensor in tensors.values())
    assert report.source_size_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert report.num_tensors == len(_core.PcpuFile.open(report.output).tensors) == len(tensors) + tied
    assert report.size_bytes == (tmp_path / "m.pcpu").stat().st_size
    assert convert(write_small(tmp_path / "d"), tmp_path / "n.pcpu", weights="q8").embedding_format == "f16"


def test_provenance(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "some-model")
    facts = provenance(opened(folder, tmp_path / "m.pcpu"))
    with open_checkpoint(folder) as checkpoint:
        hashes = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in checkpoint.items()}
    assert facts.pop("tensors") == hashes
    assert facts == {
        "source": "some-model",
        "revision": None,
        "commit": None,
        "weights": "f16",
        "converter_version": "6",
        "tokenizer_sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        "tokenizer_revision": None,
        "edited": None,
    }


# The same bytes


@pytest.mark.parametrize("weights", ["auto", "q8", "q4"])
def test_bytes_do_not_depend_on_threads_or_place(tmp_path: Path, weights: str) -> None:
    tensors = random_tensors(neox_config(**{**SMALL, "vocab_size": 5000}), dtype="float32")
    results = []
    for i, threads in enumerate((1, 2, 5)):
        folder = write_small(tmp_path / str(i) / "same-name", tensors=tensors, vocab_size=5000)
        with open_checkpoint(folder) as checkpoint:
            convert_checkpoint(checkpoint, tmp_path / "m.pcpu", weights=weights, threads=threads)
        results.append((tmp_path / "m.pcpu").read_bytes())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    "variant",
    [
        {"dtype": "float32"},
        {"hidden_size": 35, "num_attention_heads": 5, "rotary_pct": 0.3},  # chunks that are no multiple of 64 bytes
    ],
)
def test_chunks_do_not_change_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: dict[str, Any]
) -> None:
    folder = write_small(tmp_path / "c", **variant)
    convert(folder, tmp_path / "whole.pcpu")
    monkeypatch.setattr("pythia_cpu._convert._CHUNK_BYTES", 2000)
    convert(folder, tmp_path / "chunks.pcpu")
    assert (tmp_path / "whole.pcpu").read_bytes() == (tmp_path / "chunks.pcpu").read_bytes()


# Interruption


class _Stop(BaseException):
    """Stands for KeyboardInterrupt, which pytest would take for its own."""


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_small(tmp_path / "c")
    output = tmp_path / "m.pcpu"
    output.write_bytes(b"precious")
    calls = iter(range(5))

    def stop(*_: object, **__: object) -> Any:
        if next(calls, None) is None:
            raise _Stop
        return pack(*_, **__)

    pack = _core.convert_elements
    monkeypatch.setattr(_core, "convert_elements", stop)
    with pytest.raises(_Stop):
        convert(folder, output)
    assert output.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "m.pcpu"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    folder = write_checkpoint(
        tmp_path / "c", hidden_size=512, num_hidden_layers=6, num_attention_heads=8, vocab_size=20000
    )
    out = tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "pythia_cpu._cli_convert",
        str(folder),
        "-o",
        str(out / "m.pcpu"),
        "--weights",
        "q4",
    ]
    # The test run may ignore it, as under nohup.
    heeding = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    deadline = time.monotonic() + 60
    while not any(out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130}.get(signum, 128 + signum), errors
    assert not list(out.iterdir())


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "c")
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from pythia_cpu._cli_convert import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, str(folder), "-o", str(tmp_path / "m.pcpu")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "File too large" in done.stderr and "m.pcpu" in done.stderr and done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_small(tmp_path / "c")
    output = str(tmp_path / "m.pcpu")
    os.mkfifo(tmp_path / "pipe")  # as good as /dev/null, which a rename would replace
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    for bad, problem in (
        ("pipe", "is no regular file"),
        ("stdout", "is no regular file"),
        ("c", "Is a directory"),
        ("none/r", "folder does not exist"),
    ):
        for options in (["-o", f"{tmp_path}/{bad}"], ["-o", output, "--report", f"{tmp_path}/{bad}"]):
            assert main([str(folder), *options]) == 1
            assert problem in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "stdout").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "pipe", "stdout"]
    with pytest.raises(ValueError, match="null"):
        convert(folder, f"{output}\0")


def test_a_report_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = write_small(tmp_path / "c")
    monkeypatch.setattr(os, "replace", full)
    assert main([str(folder), "-o", str(tmp_path / "m.pcpu"), "--report", str(tmp_path / "r.json")]) == 1
    assert capsys.readouterr().err == f"pythia-convert: {tmp_path}/r.json: No space left on device\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "m.pcpu"]


def test_a_second_signal_does_not_stop_the_cleaning_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []

    def stopped(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGHUP)
            cleaned.append(True)

    before = signal.getsignal(signal.SIGHUP)
    monkeypatch.setattr("pythia_cpu._cli_convert.convert", stopped)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "-o", str(tmp_path / "m.pcpu")])
    assert stop.value.code == 128 + signal.SIGTERM and cleaned
    assert signal.getsignal(signal.SIGHUP) == before
