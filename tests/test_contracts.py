"""What Python expects of objects and functions: comparing, copying, closing, types, advice in errors."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import subprocess
import typing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pythia_cpu
from pythia_cpu import FormatError, Token, hf
from pythia_cpu._arguments import unwrapped
from tiny_pcpu import write_file


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load(threads=1)


def test_types_of_public_callables_can_be_read() -> None:
    for name in pythia_cpu.__all__:
        found = getattr(pythia_cpu, name)
        members = [] if not inspect.isclass(found) else [m for k, m in vars(found).items() if not k.startswith("_")]
        for callable_ in (found, *members):
            if inspect.isfunction(callable_):
                typing.get_type_hints(callable_)
    for name, method in inspect.getmembers(pythia_cpu.Model, inspect.isfunction):
        assert typing.get_type_hints(method) or name.startswith("_")


def test_mappings_of_arrays_equal_themselves_only(model: pythia_cpu.Model, mini_checkpoint: Path) -> None:
    with pythia_cpu.open_checkpoint(mini_checkpoint) as checkpoint:
        output = hf.GPTNeoXForCausalLM.from_pretrained(mini_checkpoint)(np.array([[1, 2]]))
        for mapping in (model.tensors, checkpoint, output):
            assert mapping == mapping and mapping in [1, mapping] and {mapping: 1}[mapping] == 1
        assert model.tensors != pythia_cpu.load().tensors and checkpoint != dict(checkpoint)
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"dict\(model.tensors\) has all of them in memory"):
            copied(model.tensors)


def test_a_closed_checkpoint_says_so_and_closes_no_copy(mini_checkpoint: Path) -> None:
    checkpoint = pythia_cpu.open_checkpoint(mini_checkpoint)
    name = next(iter(checkpoint))
    others = copy.copy(checkpoint), copy.deepcopy(checkpoint)
    checkpoint.close()
    with pytest.raises(ValueError, match=r"model.safetensors: is closed: open the checkpoint again"):
        checkpoint[name]
    for other in others:
        assert other[name].size
        other.close()


def test_a_closed_prefix_cache(model: pythia_cpu.Model) -> None:
    with model.prefix_cache(1 << 24) as cache:
        for _ in range(2):
            model.generate("Once upon a time there was a girl who lived in a house with a cat", max_new_tokens=8)
        found = cache.tokens_found
        assert cache.size_bytes > 0 and found > 0
    assert (cache.size_bytes, cache.max_bytes, cache.tokens_found) == (0, 1 << 24, found)
    assert repr(cache) == "PrefixCache(closed)"
    cache.close()
    with pytest.raises(ValueError, match="the prefix cache is closed: open another"), cache:
        pass


def test_a_closed_stream_gives_nothing_more(model: pythia_cpu.Model) -> None:
    with contextlib.closing(model.stream("It was", max_new_tokens=8)) as stream:
        first = next(stream)
    assert first.id == model.generate("It was", max_new_tokens=1).tokens[0]
    assert list(stream) == [] and stream.finish_reason is None
    stream.close()


def test_provenance_and_config_are_the_callers_own(model: pythia_cpu.Model) -> None:
    model.provenance["weights"] = "f32"
    assert model.provenance["weights"] == "f16"
    other = model.config.copy()
    other.hidden_size = 7
    assert isinstance(other, pythia_cpu.Config) and model.config.hidden_size == 128


def test_tensors_warn_of_nothing(model: pythia_cpu.Model) -> None:
    ids = torch.tensor([5, 6, 7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (model.logits(ids) == model.logits([5, 6, 7])).all()
        assert model.generate(ids, seed=3) == model.generate([5, 6, 7])


def test_misspelt_arguments_name_what_is_meant(model: pythia_cpu.Model, mini_checkpoint: Path) -> None:
    wrong: dict[str, str] = {"top_K": "top_k", "max_length": "max_new_tokens", "stop_strings": "stop", "seeds": "seed"}
    for name, meant in wrong.items():
        message = rf"Model.generate\(\) got an unexpected keyword argument '{name}'; perhaps {meant} is meant"
        with pytest.raises(TypeError, match=message):
            model.generate("It", **{name: 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError) as caught:
        model.stream("It", zzz=1)  # type: ignore[call-arg]
    names = str(caught.value).partition("it has ")[2].split(", ")
    assert "draft" in names and "num_beams" not in names and "perhaps" not in str(caught.value)
    with pytest.raises(
        ValueError, match="max_new_token=3 is not supported by pythia_cpu: perhaps max_new_tokens is me"
    ):
        hf.GPTNeoXForCausalLM.from_pretrained(mini_checkpoint).generate(np.array([[1, 2]]), max_new_token=3)


def test_options_of_beams_without_beams(model: pythia_cpu.Model) -> None:
    with pytest.warns(UserWarning, match="length_penalty without num_beams: there are no beams"):
        model.generate("It", max_new_tokens=1, length_penalty=2.0)
    for option in ({"length_penalty": "x"}, {"early_stopping": "soon"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            model.generate("It", **option)  # type: ignore[arg-type]


def test_numbers_in_arrays_without_dimensions(model: pythia_cpu.Model) -> None:
    options: dict[str, Any] = {"do_sample": True, "seed": 1}
    expected = model.generate("It", temperature=0.5, **options)
    for half in (np.array(0.5), torch.tensor(0.5), np.float32(0.5)):
        assert model.generate("It", temperature=half, **options) == expected  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature is .*True.*, expected a number"):
        model.generate("It", temperature=np.array(True))  # type: ignore[arg-type]


def test_a_bad_prompt_of_many_is_named(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match=r"^prompt\[1\]: text has a lone surrogate at position 0"):
        model.generate(["ok", "\ud800"])


@pytest.mark.parametrize("ids", [b"Hello", bytearray(b"a"), {5, 6}, frozenset({5})])
def test_ids_have_an_order(model: pythia_cpu.Model, ids: Any) -> None:
    with pytest.raises(ValueError, match=f"ids are of type {type(ids).__name__}, expected token ids in their order"):
        model.tokenizer.decode(ids)


def test_a_mask_is_no_text(mini_checkpoint: Path) -> None:
    neox = hf.GPTNeoXForCausalLM.from_pretrained(mini_checkpoint)
    with pytest.raises(ValueError, match="input_ids is an array of bool"):
        neox(np.array([[True, False]]))
    mask = np.array([[False, True]])
    assert (neox(np.array([[0, 5]]), attention_mask=mask).logits[0, 1] == neox(np.array([[5]])).logits[0, 0]).all()


class _Scalar:
    def as_py(self) -> str:
        return "It was"


class _Column:
    """As pyarrow.ChunkedArray: numpy makes an array of objects of it, and it gives scalars of its own."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray[Any, Any]:
        return np.array(["It was"], dtype=object)

    def __iter__(self) -> typing.Iterator[_Scalar]:
        return iter([_Scalar()])

    def __len__(self) -> int:
        return 1


def test_columns_of_arrow_tables(model: pythia_cpu.Model) -> None:
    assert unwrapped(_Scalar()) == "It was" and unwrapped(3) == 3
    assert model.score(_Column()) == model.score(["It was"])  # type: ignore[call-overload]
    assert model.generate(_Column(), max_new_tokens=2) == model.generate(["It was"], max_new_tokens=2)  # type: ignore[call-overload]


def test_a_token_with_many_others_is_shown_in_a_line() -> None:
    token = Token(5, "a", -1.5, [(i, -1.0) for i in range(5000)])
    assert len(repr(token)) < 300 and token == Token(5, "a", -1.5, [(i, -1.0) for i in range(5000)])


def test_special_ids_by_attribute(mini_checkpoint: Path) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(mini_checkpoint)
    assert tokenizer.eos_token_id == 0 and tokenizer.cls_token_id is None
    tokenizer.pad_token_id = 1
    assert tokenizer.pad_token == "<|padding|>"
    with pytest.raises(ValueError, match="cls_token_id is 99999999, expected an id of this tokenizer"):
        tokenizer.cls_token_id = 99999999
    assert type(tokenizer).eos_token_id.__doc__ == "The id of ``eos_token``; None where there is none."


def test_a_damaged_tokenizer_names_its_file(tmp_path: Path, binary: Path) -> None:
    path = tmp_path / "tiny.pcpu"
    write_file(path)
    with pytest.raises(FormatError, match=r"tiny.pcpu: its tokenizer: "):
        pythia_cpu.load(path).tokenizer  # noqa: B018
    for command in ("verify", "info"):
        done = subprocess.run([binary, command, path], capture_output=True, text=True)
        assert done.returncode == 1 and f"{path}: its tokenizer: " in done.stderr


def test_an_empty_session_is_a_session(model: pythia_cpu.Model) -> None:
    session = model.session()
    assert session and not len(session)
