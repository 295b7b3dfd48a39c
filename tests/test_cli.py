"""The pythia-cpu binary, as a user's shell sees it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
import pythia_cpu._cli_convert

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(binary: Path) -> Run:
    def call(*arguments: str | Path, stdin: str | bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [binary, *map(str, arguments)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env={**os.environ, **environment},
            timeout=120,
            check=False,
        )
        return subprocess.CompletedProcess(
            result.args, result.returncode, result.stdout.decode("utf-8"), result.stderr.decode("utf-8")
        )

    return call


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def output(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def assert_fails(result: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """One line on standard error that names the trouble, and nothing on standard output."""
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith("pythia-cpu: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ((), {}),
        (("--temperature", "0.8", "--seed", "1"), {"temperature": 0.8, "seed": 1}),
        (("--top-k", "20", "--seed", "2"), {"top_k": 20, "seed": 2}),
        (("--top-p=0.9", "--min-p=0.01", f"--seed={2**64 - 1}"), {"top_p": 0.9, "min_p": 0.01, "seed": 2**64 - 1}),
        (("--typical-p", "0.8", "--seed", "3", "-t", "1"), {"typical_p": 0.8, "seed": 3}),
        (("--repetition-penalty", "1.3"), {"repetition_penalty": 1.3, "do_sample": False}),
        (("--no-repeat-ngram-size", "2"), {"no_repeat_ngram_size": 2, "do_sample": False}),
        (
            ("--presence-penalty", "1", "--frequency-penalty", "-0.5"),
            {"presence_penalty": 1, "frequency_penalty": -0.5, "do_sample": False},
        ),
        (
            ("--logit-bias", "13:-100", "--logit-bias", "264:-inf"),
            {"logit_bias": {13: -100.0, 264: -np.inf}, "do_sample": False},
        ),
        (("--logit-bias=282:+3",), {"logit_bias": {282: 3.0}, "do_sample": False}),
        (("--stop", " man", "--stop", "xyz"), {"stop": [" man", "xyz"], "do_sample": False}),
        (("--logit-bias=0:100",), {"logit_bias": {0: 100.0}, "do_sample": False}),  # of the end-of-text token
        (("--logit-bias=0:100", "--ignore-eos"), {"logit_bias": {0: 100.0}, "ignore_eos": True, "do_sample": False}),
        (("--temperature", "0", "--top-k", "5", "--seed", "1"), {"do_sample": False}),
    ],
    ids=str,
)
def test_the_same_text_as_python(
    run: Run, model: pythia_cpu.Model, flags: tuple[str, ...], options: dict[str, Any]
) -> None:
    options = {"do_sample": bool(options), **options}
    for prompt in ("Once upon a time", "Ünïcödé — 中 😀"):
        expected = model.generate(prompt, max_new_tokens=48, logprobs=2, **options)
        assert output(run("generate", "-n", "48", *flags, prompt)) == expected.text + "\n"
        got = json.loads(output(run("generate", "-n", "48", *flags, "--json", "--logprobs", "2", prompt)))
        assert got["prompt"] == prompt
        for name in ("text", "tokens", "prompt_tokens", "finish_reason", "seed"):
            assert got[name] == getattr(expected, name)
        assert expected.logprobs is not None and expected.top_logprobs is not None
        np.testing.assert_array_equal(np.array(got["logprobs"], np.float32), expected.logprobs)
        for mine, theirs in zip(got["top_logprobs"], expected.top_logprobs, strict=True):
            assert [id for id, _ in mine] == [id for id, _ in theirs]
            assert [np.float32(value) for _, value in mine] == [np.float32(value) for _, value in theirs]


def test_random_seed_is_reported(run: Run, model: pythia_cpu.Model) -> None:
    got = [json.loads(output(run("generate", "--temperature", "1", "--json", "Once"))) for _ in range(2)]
    assert got[0]["seed"] != got[1]["seed"]
    for one in got:
        again = model.generate("Once", max_new_tokens=64, do_sample=True, seed=one["seed"])
        assert again.text == one["text"]


def test_where_prompts_come_from(run: Run, tmp_path: Path) -> None:
    expected = output(run("generate", "-n", "8", "Once upon a time"))
    path = tmp_path / "prompt.txt"
    path.write_text("Once upon a time\n")
    assert output(run("generate", "-n", "8", "--prompt-file", path)) == expected
    assert output(run("generate", "-n", "8", "-f", path)) == expected
    assert output(run("generate", "-n8", "-", stdin="Once upon a time\n")) == expected
    assert output(run("generate", "-n", "8", "-", stdin="Once upon a time")) == expected
    assert output(run("generate", "-n", "8", "-", stdin="Once upon a time\r\n")) == expected
    assert output(run("generate", "-n", "8", "-", stdin="Once upon a time\n\n")) != expected
    assert output(run("generate", "-n", "8", "--echo", "Once upon a time")) == "Once upon a time" + expected
    assert output(run("generate", "-n", "0", "Once upon a time")) == "\n"
    assert json.loads(output(run("generate", "-n", "0", "--json", "Once")))["tokens"] == []
    assert output(run("generate", "-n", "8", "--", "--json")) != ""


def test_batch(run: Run, model: pythia_cpu.Model) -> None:
    prompts = [f"Chapter {i}" + " and so on" * (i % 5) for i in range(150)]
    options = {"do_sample": True, "seed": 9, "max_new_tokens": 10}
    lines = output(
        run("generate", "--batch", "-n", "10", "--seed", "9", "-", stdin="\n".join(prompts) + "\n")
    ).splitlines()
    got = [json.loads(line) for line in lines]
    assert [one["prompt"] for one in got] == prompts
    assert [one["text"] for one in got] == [generation.text for generation in model.generate(prompts, **options)]
    stopped = output(run("generate", "--batch", "-n", "30", "--stop", ",", "-", stdin="\n".join(prompts[:20])))
    expected = model.generate(prompts[:20], max_new_tokens=30, stop=",")
    assert len({len(generation.tokens) for generation in expected}) > 5  # they end at different times
    for line, prompt, generation in zip(stopped.splitlines(), prompts[:20], expected, strict=True):
        one = json.loads(line)
        assert (one["prompt"], one["text"]) == (prompt, generation.text)
        assert (one["tokens"], one["finish_reason"]) == (generation.tokens, generation.finish_reason)
    crlf = output(run("generate", "--batch", "-n", "1", "-", stdin="one\r\ntwo\rthree\r\n")).splitlines()
    assert [json.loads(line)["prompt"] for line in crlf] == ["one", "two\rthree"]
    assert output(run("generate", "--batch", "-", stdin="")) == ""
    assert_fails(run("generate", "--batch", "-", stdin="\nb\n"), 1, "line 1")
    assert_fails(run("generate", "--batch", "-", stdin="word " * 3000 + "\na\n"), 1, "line 1", "2048")


def test_tokenize(run: Run, model: pythia_cpu.Model, tmp_path: Path) -> None:
    text = "Hello,  wörld!\n\nÜ 中 😀 \u2010 <|endoftext|> x"
    ids = model.tokenizer.encode(text)
    assert output(run("tokenize", text)) == "".join(f"{id}\n" for id in ids)
    assert output(run("tokenize", "-", stdin=text)).split() == [str(id) for id in ids]
    assert output(run("tokenize", "-", stdin=text + "\n")).split() == [
        str(id) for id in model.tokenizer.encode(text + "\n")
    ]
    path = tmp_path / "text.txt"
    path.write_text(text)
    got = json.loads(output(run("tokenize", "--json", "-f", path)))
    assert got["tokens"] == ids
    assert got["pieces"] == [model.tokenizer.decode([id], skip_special_tokens=False) for id in ids]
    assert output(run("tokenize", "")) == ""
    assert output(run("tokenize", "--", "--help")).split() == [str(id) for id in model.tokenizer.encode("--help")]


def test_info(run: Run, model: pythia_cpu.Model, shipped_model: Path, tmp_path: Path) -> None:
    text = output(run("info", shipped_model))
    assert output(run("info", PYTHIA_CPU_MODEL="")).splitlines()[1:] == text.splitlines()[1:]
    (tmp_path / "any-name").symlink_to(shipped_model)
    assert output(run("info", tmp_path / "any-name")).splitlines()[1:] == text.splitlines()[1:]
    assert "f16, 2,238,464 parameters" in text
    got = json.loads(output(run("info", "--json", "-m", shipped_model)))
    assert got == json.loads(output(run("info", "--json", shipped_model)))
    assert got["size_bytes"] == shipped_model.stat().st_size
    assert {name: got[name] for name in ("source", "revision", "commit", "weights", "converter_version")} == {
        name: model.provenance[name] for name in ("source", "revision", "commit", "weights", "converter_version")
    }
    assert {t["name"]: t["source_sha256"] for t in got["tensors"] if t["source_sha256"]} == model.provenance["tensors"]
    for name, value in got["config"].items():
        assert model.config[name] == value


def test_help_for_everything(run: Run) -> None:
    overview = output(run("--help"))
    assert output(run("-h")) == output(run("help")) == overview
    assert output(run("--version")) == f"pythia-cpu {pythia_cpu.__version__}\n"
    for command in ("generate", "score", "tokenize", "info", "verify", "bench"):
        assert f"\n  {command:12}" in overview
        text = output(run(command, "--help"))
        assert text.startswith(f"usage: pythia-cpu {command} ")
        assert f"pythia-cpu {command} " in text.split("\n", 1)[1]  # an example
        assert max(map(len, text.splitlines())) <= 110


def test_help_lists_the_options(run: Run) -> None:
    assert output(run("tokenize", "--help")).partition("\nOptions:\n")[2].splitlines() == [
        "  -m, --model FILE          the .pcpu file to use",
        "  -f, --file FILE           read the text from FILE",
        "      --json                print a JSON object: tokens, and pieces, the text of each token",
        "  -h, --help                show this help",
    ]
    lines = output(run("generate", "--help")).splitlines()
    long = lines.index("      --repetition-penalty X")  # too long for its column
    assert lines[long + 1] == " " * 28 + "divide scores of tokens seen before by X"
    seed = next(i for i, line in enumerate(lines) if line.startswith("      --seed S              seed of the draws"))
    assert lines[seed + 1] == " " * 28 + "seed gives the same text"


def test_an_options_value_asks_for_no_help(run: Run) -> None:
    expected = output(run("generate", "-n", "5", "Once"))
    for stop in (("--stop", "-h"), ("--stop=--help",), ("--stop", "--help")):
        assert output(run("generate", *stop, "-n", "5", "Once")) == expected
    assert output(run("generate", "--stop", "-h", "-h")) == output(run("generate", "--help"))
    assert_fails(run("info", "--model", "-h"), 1, "-h")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "no command"),
        (("sing",), "unknown command 'sing', expected one of generate, score, tokenize, info, verify, bench; see"),
        (("generate",), "no prompt"),
        (("generate", "a", "b"), "2 prompts"),
        (("generate", "--no-such-option", "a"), "'--no-such-option'"),
        (("generate", "-x", "a"), "'-x'"),
        (("generate", "a", "--temperature"), "--temperature needs a value"),
        (("generate", "--temperature", "warm", "a"), "'warm'"),
        (("generate", "--temperature", "-1", "a"), "temperature is -1, expected a finite number above 0; see"),
        (("generate", "--temperature", "nan", "a"), "temperature is nan"),
        (("generate", "--top-p", "1.5", "a"), "--top-p is 1.5"),
        (("generate", "--top-k", "-1", "a"), "--top-k is -1"),
        (("generate", "--seed", "-1", "a"), "'-1'"),
        (("generate", "--seed", str(2**64), "a"), str(2**64)),
        (("generate", "-n", "-5", "a"), "-5"),
        (("generate", "-n", "many", "a"), "'many'"),
        (("generate", "-n", "5x", "a"), "--max-new-tokens is '5x', expected a whole number"),
        (("generate", "--top-p", "0.5 ", "a"), "--top-p is '0.5 ', expected a number"),
        (("generate", "--top-p", " 0.5", "a"), "--top-p is ' 0.5', expected a number"),
        (("generate", "--top-p", "0x1p-1", "a"), "--top-p is '0x1p-1', expected a number"),
        (("generate", "--temperature", "1e999", "a"), "--temperature is '1e999', expected a number"),
        (("generate", "--temperature", "", "a"), "--temperature is '', expected a number"),
        (("generate", "--temperature", "1,5", "a"), "--temperature is '1,5', expected a number"),
        (("generate", "-t", "0", "a"), "--threads is 0"),
        *(
            ((command, "-t", "1025", "a"), "--threads is 1025, expected 1 to 1024")
            for command in ("generate", "score", "verify", "bench")
        ),
        (("generate", "--json=yes", "a"), "takes no value"),
        (("generate", "--logit-bias", "7", "a"), "ID:BIAS"),
        (("generate", "--logit-bias", "7:+-1", "a"), "'+-1'"),
        (("generate", "--logit-bias=-1:5", "a"), "--logit-bias names token -1, expected an id of 0 or more"),
        (("generate", "--logit-bias=4294967296:5", "a"), "--logit-bias names token 4294967296"),
        (("generate", "--stop", "", "a"), "empty"),
        (("generate", "--stop", "\udcff", "a"), "a stop string is not valid UTF-8"),
        (("generate", "--batch", "--echo", "a"), "--echo makes no sense with --batch"),
        (("generate", "--json", "--echo", "a"), "--echo makes no sense with --json"),
        (("generate", "--logprobs", "2", "a"), "needs --json or --batch"),
        (("generate", "--prompt-file", "p.txt", "a"), "--prompt-file"),
        (("tokenize",), "0 texts"),
        (("info", "a", "b"), "2 files"),
        (("info", "a", "-m", "b"), "2 files"),
        # What shells make of a variable that is not set; the shipped model would answer in another's place.
        (("generate", "-m", "", "a"), "--model is empty"),
        (("generate", "--prompt-file=", "a"), "--prompt-file is empty"),
        (("tokenize", "-f", ""), "--file is empty"),
        *(((command, ""), "FILE is empty") for command in ("info", "verify")),
    ],
    ids=str,
)
def test_bad_usage(run: Run, arguments: tuple[str, ...], part: str) -> None:
    assert_fails(run(*arguments), 2, part, "--help")


def test_errors(run: Run, tmp_path: Path, shipped_model: Path) -> None:
    damaged = tmp_path / "damaged.pcpu"
    damaged.write_bytes(shipped_model.read_bytes()[:100_000])
    missing = tmp_path / "missing.pcpu"
    for command in (("generate", "a", "-m"), ("tokenize", "a", "-m"), ("info",)):
        assert_fails(run(*command, damaged), 1, str(damaged))
        assert_fails(run(*command, missing), 1, str(missing), "No such file")
        assert_fails(run(*command, tmp_path), 1, f"{tmp_path}: is a folder, expected a .pcpu file; pythia-convert")
        assert_fails(run(*command, "EleutherAI/pythia-14m"), 1, "pythia-14m: No such file, expected a .pcpu file")
    assert_fails(run("generate", "a", PYTHIA_CPU_MODEL=str(missing)), 1, str(missing))
    assert_fails(run("generate", "--prompt-file", missing), 1, str(missing))
    assert_fails(run("generate", ""), 1, "empty", "<|endoftext|>")
    assert_fails(run("generate", "-", stdin=""), 1, "empty")
    assert_fails(run("generate", "-", stdin="word " * 10_000), 1, "2048")
    assert_fails(run("generate", "-", stdin=b"\xff\xfe"), 1, "UTF-8")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    for to_read in ("generate -f", "generate --batch -f", "tokenize -f", "score", "score --jsonl"):
        assert_fails(run(*to_read.split(), latin), 1, f"{latin}: ", "UTF-8")
    assert_fails(run("tokenize", "-f", tmp_path), 1, f"{tmp_path}: Is a directory")
    assert_fails(run("info", "two\nlines"), 1, "two lines: No such file")
    assert_fails(run("generate", "a", PYTHIA_CPU_ISA="mmx"), 1, "mmx")
    assert_fails(run("generate", "--logit-bias", "4096:1", "a"), 1, "4096")


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(run("--version")) == f"pythia-cpu {pythia_cpu.__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        pythia_cpu._cli_convert.main(["--version"])
    assert capsys.readouterr().out == f"pythia-convert {pythia_cpu.__version__}\n"


def test_any_locale(run: Run) -> None:
    expected = output(run("generate", "--temperature", "0.7", "--seed", "1", "Ü"))
    for locale in ("C", "C.UTF-8", "de_DE.UTF-8", "nonsense"):
        assert output(run("generate", "--temperature", "0.7", "--seed", "1", "Ü", LC_ALL=locale)) == expected


def test_a_copy_finds_the_model_beside_it(run: Run, binary: Path, shipped_model: Path, tmp_path: Path) -> None:
    """In ../share, or in a Python package in ../lib; else it says where it looked."""
    copy = tmp_path / "bin" / "pythia-cpu"
    copy.parent.mkdir()
    copy.write_bytes(binary.read_bytes())
    copy.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHIA_CPU_MODEL"}

    def info() -> subprocess.CompletedProcess[str]:
        return subprocess.run([copy, "info"], capture_output=True, text=True, env=environment, timeout=60, check=False)

    assert_fails(info(), 1, "share/pythia-cpu", "PYTHIA_CPU_MODEL")
    for folder in ("lib/python3.12/site-packages/pythia_cpu/data", "share/pythia-cpu"):
        place = tmp_path / folder
        place.mkdir(parents=True)
        (place / "mini-pythia.pcpu").symlink_to(shipped_model)
        assert str(place) in output(info())
