"""Special tokens of the tokenizer that are not those of config.json: pythia_cpu.eval takes the ones that HFLM takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from pythia_cpu.eval import HarnessModel

WRITING = {"until": ["zzz"], "max_gen_toks": 40, "do_sample": False}
REQUESTS: dict[str, list[tuple[Any, ...]]] = {
    "loglikelihood": [("", "Once upon a time"), ("It was", " there"), ("$Once", " upon a time")],
    "loglikelihood_rolling": [("Once upon a time there was",), ("The old man said that he would go.",)],
    "generate_until": [("Once upon a time, there was", WRITING), ("The old man", WRITING)],
}


def edited(source: Path, folder: Path, name: str, changes: dict[str, Any]) -> None:
    path = folder / name
    stored = json.loads((source / name).read_text()) if (source / name).exists() else {}
    path.write_text(json.dumps({**stored, **changes}))


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [
        ({"bos_token_id": 5, "eos_token_id": 9}, {}),
        ({"bos_token_id": None, "eos_token_id": None}, {}),
        ({"bos_token_id": 0, "eos_token_id": 13}, {"eos_token": "$"}),
        ({"bos_token_id": 0, "eos_token_id": 0}, {"bos_token": "$", "eos_token": "&"}),
        ({"eos_token_id": [264, 13]}, {}),
    ],
    ids=str,
)
def test_special_tokens(
    mini_checkpoint: Path, tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any]
) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = Path(shutil.copytree(mini_checkpoint, tmp_path / "checkpoint"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    edited(mini_checkpoint, folder, "config.json", config)
    edited(mini_checkpoint, folder, "tokenizer_config.json", {"tokenizer_class": "GPTNeoXTokenizer", **tokenizer})
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, logits_cache=False)
    ours = HarnessModel(folder, cache_dir=tmp_path / "cache")
    assert (ours.prefix_token_id, ours.eot_token_id) == (theirs.prefix_token_id, theirs.eot_token_id)
    for kind, arguments in REQUESTS.items():
        requests = [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]
        found, expected = (getattr(one, kind)(requests, disable_tqdm=True) for one in (ours, theirs))
        if kind == "generate_until":
            assert found == expected
        elif kind == "loglikelihood":
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
            assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=1e-3)
        else:
            assert found == pytest.approx(expected, abs=1e-3)
