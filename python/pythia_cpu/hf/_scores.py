"""What the tokens of generated rows were chosen from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._generation_arguments import GenerationArguments
from pythia_cpu._model import Model
from pythia_cpu.hf._arrays import id_rows, is_torch, to_torch
from pythia_cpu.hf._forward import Floats, Rows, last_logits

# Options of transformers that pythia_cpu.Model.generate has under the same name, and that need do_sample.
FILTERS = "temperature", "top_k", "top_p", "min_p", "typical_p"


def step_logits(model: Model, prompts: Sequence[Rows], new_tokens: Rows) -> Floats:
    """The model's logits before each new token, ``[num_steps, rows, vocab_size]``.

    Rows that have ended go on with padding, as in transformers, so that all have as many steps; zeros where a row has
    come to the context's end.
    """
    (num_rows, num_steps), context_length = new_tokens.shape, model.context_length
    sequences = [np.concatenate([prompt, row[:-1]]) for prompt, row in zip(prompts, new_tokens, strict=True)]
    counts = [num_steps - max(0, len(sequence) - context_length) for sequence in sequences]
    found = np.zeros((num_steps, num_rows, model.config["vocab_size"]), np.float32)
    for i, logits in enumerate(last_logits(model, [ids[:context_length] for ids in sequences], counts)):
        found[: len(logits), i] = logits
    return found


def step_scores(
    logits: Floats,
    prompts: Sequence[Rows],
    new_tokens: Rows,
    engine: Mapping[str, Any],
    min_new_tokens: int,
    eos_token_ids: Sequence[int],
) -> Floats:
    """What transformers' processors make of ``step_logits``: penalties, ends of text that cannot come yet, and of drawn
    rows the temperature and the filters, -inf for tokens that they leave out.
    """
    names = ("repetition_penalty", "no_repeat_ngram_size", *(FILTERS if engine.get("do_sample") else ()))
    wanted: dict[str, Any] = {name: engine[name] for name in names if name in engine}
    if not wanted and not min_new_tokens:
        return logits
    no_end = dict.fromkeys(eos_token_ids, -math.inf)
    scores = np.full_like(logits, -np.inf)
    for step, rows in enumerate(logits):
        bias = no_end if step < min_new_tokens else None
        sampling = GenerationArguments(do_sample=True, logit_bias=bias, **wanted).sampling()
        for i, row in enumerate(rows):
            generated = new_tokens[i, :step].tolist()
            ids, left, _ = _core.filter_logits(row, sampling, prompt=prompts[i].tolist(), generated=generated)
            scores[step, i, ids] = left
    return scores


def transition_scores(sequences: Any, scores: Any, beam_indices: Any, normalize_logits: object) -> Any:
    """``GPTNeoXForCausalLM.compute_transition_scores``."""
    if beam_indices is not None:
        raise ValueError("beam_indices are given, but pythia_cpu gives no scores of beams: leave them out")
    stacked = np.stack([np.asarray(step.detach() if is_torch(step) else step, np.float64) for step in scores], axis=1)
    tokens = id_rows("sequences", sequences)[:, -stacked.shape[1] :]
    if normalize_logits:
        top = stacked.max(axis=2, keepdims=True)
        stacked = stacked - top - np.log(np.exp(stacked - top).sum(axis=2, keepdims=True))
    found: npt.NDArray[np.float32] = np.take_along_axis(stacked, tokens[..., None], 2)[..., 0].astype(np.float32)
    return to_torch(found) if is_torch(sequences) else found
