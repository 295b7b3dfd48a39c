"""How far the predictions of two models, or of two runs, are from each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import Prompt, Prompts, boolean, float_array, integer, is_batch, numpy_array
from pythia_cpu._passes import passes_of
from pythia_cpu._progress import ProgressBar
from pythia_cpu._results import Result
from pythia_cpu._scoring_model import ScoringModel


@dataclass(frozen=True, eq=False, repr=False)
class Divergence(Result):
    """How far another model's predictions of a text are from a model's own.

    Attributes:
        tokens: the text's token ids.
        kl: float32 ``[len(tokens)]``: entry i is KL(model || other) in nats, of the distributions over the token that
            follows tokens 0 to i (those of i's window, where the text was cut). NaN where logits are no numbers.
        same_top: bool, same shape: both have the same most likely token there (the lowest id of equals).
    """

    _also_shown = ("mean_kl", "top_agreement")

    tokens: list[int]
    kl: npt.NDArray[np.float32]
    same_top: npt.NDArray[np.bool_]

    @property
    def mean_kl(self) -> float:
        """The mean of ``kl``."""
        return math.fsum(self.kl.tolist()) / len(self.kl)

    @property
    def top_agreement(self) -> float:
        """The share of positions where both have the same most likely token."""
        return float(self.same_top.mean())


def kl_divergence(logits: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """KL(P || Q) = sum of P log(P / Q) over the vocabulary, in nats, of two arrays of logits: what an edit changes, or
    another checkpoint. As precise where they hardly differ; the same bits on every machine.

    Args:
        logits: ``[..., vocab_size]``, those of P, such as ``model.run(tokens).logits``; numbers beside float32 are
            rounded to it. -infinity stands for a token that cannot be.
        other: of the same shape, those of Q.

    Returns:
        float32 ``[...]``; infinity where P has a token that Q never gives, NaN where a logit is NaN or infinity.

    Raises:
        ValueError: other shapes, or something other than real numbers.
    """
    p, q = _rows("logits", logits), _rows("other", other)
    if p.shape != q.shape:
        raise ValueError(f"other has shape {list(q.shape)} and logits {list(p.shape)}, expected the same")
    flat = (array.reshape(-1, array.shape[-1]) for array in (p, q))
    return _core.kl_divergence(*flat, threads=_core.available_physical_cores()).reshape(p.shape[:-1])


def _rows(name: str, value: object) -> npt.NDArray[np.float32]:
    shape = numpy_array(name, value).shape
    if not shape or shape[-1] == 0:
        raise ValueError(f"{name} has shape {list(shape)}, expected [..., vocab_size]")
    return float_array(name, value, copy=False)


class ComparesModels(ABC):
    """The method of ``Model`` that compares it with another one."""

    @abstractmethod
    def _scoring(self) -> ScoringModel:
        """The model's parts that scoring uses."""

    @overload
    def divergence(  # type: ignore[overload-overlap]  # a str is a sequence of them
        self, other: ComparesModels, text: Prompt, *, context_length: int | None = None, progress: bool = True
    ) -> Divergence: ...
    @overload
    def divergence(
        self, other: ComparesModels, text: Prompts, *, context_length: int | None = None, progress: bool = True
    ) -> list[Divergence]: ...
    def divergence(
        self, other: ComparesModels, text: Prompt | Prompts, *, context_length: int | None = None, progress: bool = True
    ) -> Divergence | list[Divergence]:
        """KL divergence of another model's predictions from this one's, position by position: between checkpoints,
        between seeds, between weight formats. Ctrl-C ends it within a pass of 512 tokens.

        Args:
            other: a model with the same vocabulary.
            text: a str, a sequence of token ids, or a list of these; short ones run together, and each result is, bit
                for bit, what it would be alone. A text of any length: it is cut into windows of ``context_length``
                tokens, each of which is read from nothing.
            context_length: tokens of a window, 1 to what both models' contexts hold, which is the default.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Returns:
            a Divergence; for lists a list of them in the same order.

        Raises:
            ValueError: a model of another vocabulary or with another tokenizer, a text without tokens, or ids that are
                not the model's.
        """
        boolean("progress", progress)
        mine, theirs = self._scoring(), _scoring_of(other)
        if theirs.vocab_size != mine.vocab_size:
            raise ValueError(
                f"other has a vocabulary of {theirs.vocab_size} tokens and this model one of {mine.vocab_size}: "
                "compare models of the same one, or kl_divergence of logits cut to the same tokens"
            )
        most = min(mine.context_length, theirs.context_length)
        window = most if context_length is None else integer("context_length", context_length, 1, most)
        batch = is_batch("text", text)
        named: dict[str, Any] = {f"text[{i}]": one for i, one in enumerate(text)} if batch else {"text": text}
        ids = [_common_ids(mine, theirs, name, one) for name, one in named.items()]
        found = _divergences(mine.core, theirs.core, ids, window, progress) if ids else []
        return found if batch else found[0]


def _scoring_of(other: object) -> ScoringModel:
    if not isinstance(other, ComparesModels):
        raise ValueError(f"other is of type {type(other).__name__}, expected a Model")
    return other._scoring()


def _common_ids(mine: ScoringModel, theirs: ScoringModel, name: str, text: object) -> list[int]:
    ids = mine.some_ids(name, text)
    if isinstance(text, str) and theirs.ids(name, text) != ids:
        raise ValueError(f"{name} has other token ids with the other model's tokenizer: pass token ids")
    return ids


def _divergences(
    model: _core.Model, other: _core.Model, texts: list[list[int]], window: int, progress: bool
) -> list[Divergence]:
    windows = [np.array(ids[i : i + window], np.int32) for ids in texts for i in range(0, len(ids), window)]
    kls, same = [], []
    with ProgressBar(sum(map(len, texts)), what="comparing", unit=" tokens", enabled=progress) as bar:
        for p, q in zip(passes_of(model, windows), passes_of(other, windows), strict=True):
            kls.append(_core.kl_divergence(p, q, threads=model.threads))
            same.append(p.argmax(-1) == q.argmax(-1))
            bar.update(len(p))
    ends = np.cumsum([len(ids) for ids in texts])[:-1]
    parts = zip(texts, np.split(np.concatenate(kls), ends), np.split(np.concatenate(same), ends), strict=True)
    return [Divergence(ids, kl.copy(), top.copy()) for ids, kl, top in parts]
