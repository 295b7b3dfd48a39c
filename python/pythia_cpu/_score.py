"""How likely a text is, and what its perplexity is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._results import Result


@dataclass(frozen=True, eq=False, repr=False)
class Score(Result):
    """How likely a text is.

    Attributes:
        tokens: the text's token ids; of a continuation its own, without the context's.
        logprobs: float32, natural logarithms. Of a text ``[len(tokens) - 1]``: entry i is log p(token i+1 | tokens 0 to
            i). Of a continuation ``[len(tokens)]``: entry i is log p(token i | the context and tokens 0 to i-1).
        is_greedy: bool, same shape: the token is the most likely one in its place (the lowest id of equals).
        ranks: int32, same shape: how many tokens are more likely in its place, or as likely with a lower id; 0 is the
            most likely one; -1 where the log-probability is NaN, by a model whose logits are no numbers.
        entropies: float32, same shape: the entropy of the model's distribution over the tokens in its place, in nats.
        varentropies: float32, same shape: the variance of the log-probability over that distribution, in nats squared.
        greedy_tokens: int32, same shape: the most likely token in its place; -1 where all logits are NaN.
    """

    _also_shown = ("total",)

    tokens: list[int]
    logprobs: npt.NDArray[np.float32]
    is_greedy: npt.NDArray[np.bool_]
    ranks: npt.NDArray[np.int32]
    entropies: npt.NDArray[np.float32]
    varentropies: npt.NDArray[np.float32]
    greedy_tokens: npt.NDArray[np.int32]

    @property
    def total(self) -> float:
        """The sum of ``logprobs``, exact before its one rounding."""
        return math.fsum(self.logprobs.tolist())


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        value: exp(nll / num_tokens), the perplexity per token.
        nll: the negative log-likelihood of all scored tokens together, in nats.
        num_tokens: how many tokens were scored.
        num_words: pieces of the text between runs of white space, as lm-evaluation-harness counts them, without those
            that begin in tokens which were not scored (the first, or with disjoint windows that of each); None for
            token ids.
        num_bytes: the length in UTF-8 of the tokens that were scored; None for token ids.
    """

    value: float = field(init=False)
    nll: float
    num_tokens: int
    num_words: int | None = None
    num_bytes: int | None = None

    def __post_init__(self) -> None:
        """Sets ``value``."""
        object.__setattr__(self, "value", _core.exp_exact(self.nll / self.num_tokens))

    @property
    def word_perplexity(self) -> float | None:
        """exp(nll / num_words); None for token ids."""
        return _core.exp_exact(self.nll / self.num_words) if self.num_words else None

    @property
    def byte_perplexity(self) -> float | None:
        """exp(nll / num_bytes); None for token ids."""
        return _core.exp_exact(self.nll / self.num_bytes) if self.num_bytes else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits (not nats) of ``nll`` per byte; None for token ids."""
        return self.nll / self.num_bytes / math.log(2) if self.num_bytes else None
