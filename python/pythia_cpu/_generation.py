"""What generation gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pythia_cpu._results import Result

FinishReason: TypeAlias = Literal["eos", "stop", "length"]
TopLogprobs: TypeAlias = list[tuple[int, float]]


@dataclass(frozen=True, eq=False, repr=False)
class Generation(Result):
    """One generated text. Two are equal where texts, tokens, prompts, reasons and seeds are: log-probabilities, which
    not every call asks for, are not compared.

    Attributes:
        text: what was written after the prompt: without the end-of-text token, and ending before a stop string.
        tokens: all new token ids, the end-of-text token and the tokens that complete a stop string included.
        prompt_tokens: the prompt's token ids.
        finish_reason: "eos" (an end-of-text token), "stop" (a stop string), "length" (max_new_tokens, or the context is
            full).
        logprobs: float32 ``[len(tokens)]``, log-probability of each new token under the model (log-softmax of the
            logits, before penalties, temperature and filters); None unless asked for.
        top_logprobs: for each new token the most likely ones, (id, log-probability), best first; None unless asked for.
        seed: the seed of the draws, which gives the same text again (with ``num_return_sequences``, in the same place);
            None for greedy text.
        draft_acceptance: the part of the draft's tokens that was accepted, 0 to 1, where those after a wrong one count
            as not accepted; None without a draft.
        beam_score: what ranks the texts of a beam search: the sum of its log-probabilities, with penalties and biases,
            divided by its length to the power of ``length_penalty`` (transformers' ``sequences_scores``); None without
            beams.
    """

    text: str
    tokens: list[int]
    prompt_tokens: list[int]
    finish_reason: FinishReason
    logprobs: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    top_logprobs: list[TopLogprobs] | None = field(default=None, compare=False)
    seed: int | None = None
    draft_acceptance: float | None = field(default=None, compare=False)
    beam_score: float | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False, repr=False)
class Token(Result):
    """One token of a stream.

    Attributes:
        id: its id.
        text: the text that it made certain, perhaps empty, always whole characters; all of them joined are
            Generation.text.
        logprob: its log-probability under the model, as in Generation.logprobs.
        top_logprobs: the most likely tokens in its place, (id, log-probability), best first; None unless asked for.
    """

    id: int
    text: str
    logprob: float
    top_logprobs: TopLogprobs | None = None
