"""What the Python methods say to arguments that they do not have or cannot take."""

from __future__ import annotations

import pytest

import pythia_cpu


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
