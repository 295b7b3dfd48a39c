"""What the Python methods say to arguments that they do not have or cannot take."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from pythia_cpu import _core
from pythia_cpu._generation_arguments import GenerationArguments


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load(threads=1)


def test_unknown_arguments_name_the_method(model: pythia_cpu.Model) -> None:
    with pytest.raises(TypeError, match=r"stream\(\) got an unexpected keyword argument 'progress'; it has"):
        model.stream("It", progress=False)
    with pytest.raises(TypeError, match=r"generate_each\(\) got an unexpected keyword argument 'max_tokens'"):
        model.generate_each(["It"], max_tokens=3)
    with pytest.raises(ValueError, match="temperature is more than a float holds"):
        model.generate("It", temperature=10**400)
    with pytest.raises(ValueError, match="source is 14 of type int, expected a path"):
        pythia_cpu.load(14)  # type: ignore[arg-type]


def test_a_config_that_is_changed_changes_no_model() -> None:
    """Whether it was asked for before or not."""
    model = pythia_cpu.load()
    model.config.eos_token_id = 542
    assert model.config.eos_token_id == model.config["eos_token_id"] == 542
    assert model.tokenizer.eos_token_id == pythia_cpu.load().config.eos_token_id


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty"])
def test_truths_are_no_numbers(model: pythia_cpu.Model, name: str) -> None:
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 1}
    for value in (True, np.bool_(True)):
        with pytest.raises(ValueError, match=rf"^{name} is .*True.* of type bool_?, expected a number$"):
            model.generate("It", **options, **{name: value})
    for number in (1, np.int64(1), np.float32(1)):
        model.generate("It", **options, **{name: number})


def test_options_of_draws_that_have_no_effect(model: pythia_cpu.Model) -> None:
    for name, value in {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5}.items():
        options: dict[str, Any] = {name: value, "max_new_tokens": 1}
        for beams in ({}, {"num_beams": 2}):
            with pytest.warns(UserWarning, match=f"^{name} without do_sample=True: nothing is drawn$"):
                model.generate("It", **options, **beams)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.generate("It", **options, do_sample=True)
            model.generate("It", max_new_tokens=1, **{name: GenerationArguments.__dataclass_fields__[name].default})


def test_a_file_has_one_format(shipped_model: Path) -> None:
    for weights in _core.WEIGHT_FORMATS:
        if weights != "f16":
            message = f"^weights is '{weights}', but mini-pythia.pcpu holds 'f16' weights: convert"
            with pytest.raises(ValueError, match=message):
                pythia_cpu.load(shipped_model, weights=weights)
    assert pythia_cpu.load(shipped_model, weights="f16").path == pythia_cpu.load(shipped_model).path
