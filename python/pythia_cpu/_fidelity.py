"""What quantized weights cost: their logits against those of the lossless weights, and each tensor's relative error."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._tokenizer import Tokenizer

# Lossless weights larger than this are not converted for the comparison: both models are in memory at once.
MAX_LOSSLESS_BYTES = 4 << 30

BUNDLED_TEXT = "bundled"  # its name: the beginning of "The Man Who Was Thursday" (G. K. Chesterton, 1908)

_WINDOW_TOKENS = 512  # each window of a text is read from nothing
_ROWS = 64  # of logits compared at a time
_ELEMENTS = 1 << 18  # of a tensor compared at a time, in float64


@dataclass(frozen=True)
class TextFidelity:
    """Two models' predictions on one text, read in windows of 512 tokens (or the context, if that is shorter).

    Where logits are no numbers, differences are NaN; in the JSON of ``pythia-convert --report`` they are null, and so
    are infinities.

    Attributes:
        text: "bundled", or the name of the file.
        num_tokens: tokens read; each position's logits are compared.
        mean_kl: mean of KL(lossless || quantized) over positions, in nats.
        max_kl: the largest of these.
        lossless_perplexity: of the lossless weights, over all tokens but each window's first; None if there are none,
            or if it is above 1.8e308.
        perplexity: of the quantized weights.
        perplexity_change: perplexity / lossless_perplexity - 1.
        top1_agreement: share of positions where both have the same most likely token.
        max_logit_difference: the largest absolute difference of two logits.
        lossless_attention_scores: of the lossless weights, for each layer and head, the score of largest magnitude
            (scaled, before softmax), with its sign.
        attention_scores: of the quantized weights.
    """

    text: str
    num_tokens: int
    mean_kl: float
    max_kl: float
    lossless_perplexity: float | None
    perplexity: float | None
    perplexity_change: float | None
    top1_agreement: float
    max_logit_difference: float
    lossless_attention_scores: list[list[float]]
    attention_scores: list[list[float]]


@dataclass(frozen=True)
class Fidelity:
    """How near a quantized model is to the lossless weights of its checkpoint.

    Attributes:
        lossless_weights: format that the lossless weights were run in; None if they were not.
        texts: predictions compared, one entry for each text; empty if the lossless weights were not run.
        not_compared: why they were not; None if they were.
        relative_errors: quantized tensor -> ||stored - original|| / ||original|| (Frobenius; 0 for a tensor of zeros).
    """

    lossless_weights: str | None
    texts: list[TextFidelity]
    not_compared: str | None
    relative_errors: dict[str, float]


@dataclass
class TensorError:
    """Sums up a tensor's relative error over the pieces it is packed in."""

    error_squares: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)

    def measure(
        self, data: bytes, dtype: str, packed: npt.NDArray[np.uint8], target: str, rows: int, cols: int
    ) -> None:
        """Adds a piece: ``data`` in ``dtype`` as read, ``packed`` in ``target`` as stored, both ``[rows, cols]``."""
        original = _core.convert_elements(data, dtype, "f32").view(np.float32)
        stored = _core.unpack_matrix(packed.data, target, rows, cols).reshape(-1)
        for begin in range(0, original.size, _ELEMENTS):
            values = original[begin : begin + _ELEMENTS].astype(np.float64)
            self.error_squares.append(float(np.square(stored[begin : begin + _ELEMENTS] - values).sum()))
            self.squares.append(float(np.square(values).sum()))

    @property
    def relative_error(self) -> float:
        """||stored - original|| / ||original||; pieces may come in any order."""
        total = math.fsum(self.squares)
        return math.sqrt(math.fsum(self.error_squares) / total) if total > 0 else 0.0


def read_texts(path: Path | None) -> dict[str, str]:
    """The bundled text and that of a file in UTF-8, by name."""
    bundled = importlib.resources.files("pythia_cpu") / "data" / "fidelity.txt"
    texts = {BUNDLED_TEXT: bundled.read_text(encoding="utf-8")}
    if path is not None:
        if path.name in texts:
            raise ValueError(f"{path} has the name that the bundled text goes by: give it another one")
        try:
            texts[path.name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 (byte {error.start}): pass a text file in UTF-8") from None
        if not texts[path.name]:
            raise ValueError(f"{path} is empty, expected a text")
    return texts


def unusable_text(path: Path, texts: Mapping[str, str]) -> str | None:
    """Why a model cannot read one of the texts; None if it can read all."""
    file = _core.PcpuFile.open(str(path))
    tokenizer, vocab_size = Tokenizer(file.tokenizer, None), file.config["vocab_size"]
    for name, text in texts.items():
        ids = tokenizer.encode(text)
        if not ids or max(ids) >= vocab_size:
            found = f"ids up to {max(ids)}" if ids else "no tokens"
            return f"the tokenizer makes {found} of {name}, and the model has {vocab_size}: tensors only"
    return None


def compare_models(lossless: Path, quantized: Path, texts: Mapping[str, str], threads: int = 0) -> list[TextFidelity]:
    """Runs two ``.pcpu`` files of the same checkpoint on texts. A text's name stands for it in the result."""
    models = [_core.Model.open(str(path), threads) for path in (lossless, quantized)]
    tokenizer = Tokenizer(models[0].file.tokenizer, None)
    return [_compare(models, name, np.array(tokenizer.encode(text), np.int32)) for name, text in texts.items()]


def _compare(models: list[_core.Model], name: str, tokens: npt.NDArray[np.int32]) -> TextFidelity:
    kls: list[npt.NDArray[np.float32]] = []
    losses: list[list[float]] = [[], []]
    same, max_difference = 0, 0.0
    scores = [_LargestScores(model) for model in models]
    for logits, following in _rows(models, scores, tokens):
        kls.append(_core.kl_divergence(*logits, threads=models[0].threads))
        same += int((np.isfinite(kls[-1]) & (logits[0].argmax(-1) == logits[1].argmax(-1))).sum())
        max_difference = float(np.maximum(max_difference, np.abs(logits[0] - logits[1]).max()))
        for loss, rows in zip(losses, logits, strict=True):
            rows = rows[: len(following)]
            loss.extend(_core.log_sum_exps(rows) - rows[np.arange(len(following)), following])
    kl = np.concatenate(kls).astype(np.float64)
    before, after = map(_perplexity, losses)
    return TextFidelity(
        text=name,
        num_tokens=len(tokens),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        lossless_perplexity=before,
        perplexity=after,
        perplexity_change=after / before - 1 if before and after else None,
        top1_agreement=same / len(tokens),
        max_logit_difference=max_difference,
        lossless_attention_scores=scores[0].largest.tolist(),
        attention_scores=scores[1].largest.tolist(),
    )


def _perplexity(losses: list[float]) -> float | None:
    """The exponential of the mean; None if there are no losses, or if it is more than a float holds."""
    perplexity = _core.exp_exact(math.fsum(losses) / len(losses)) if losses else math.inf
    return perplexity if perplexity < math.inf else None


class _LargestScores:
    """Keeps each head's attention score of largest magnitude, over all passes that show theirs."""

    def __init__(self, model: _core.Model) -> None:
        config = model.file.config
        self.names = [f"blocks.{i}.attn.hook_attn_scores" for i in range(config["num_hidden_layers"])]
        self.largest = np.zeros((len(self.names), config["num_attention_heads"]))

    def __call__(self, sequence: int, name: str, scores: npt.NDArray[np.float32]) -> None:
        """Sees the scores ``[num_heads, num_tokens, num_tokens]`` of a layer; masked ones are -inf."""
        layer = self.largest[self.names.index(name)]
        largest = scores.max((1, 2))
        smallest = scores.min((1, 2), where=scores > -np.inf, initial=np.inf)
        for found in (largest, smallest):
            np.copyto(layer, found, where=np.abs(found) > np.abs(layer))


def _rows(
    models: list[_core.Model], scores: list[_LargestScores], tokens: npt.NDArray[np.int32]
) -> Iterator[tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.int32]]]:
    """Both models' logits of a few positions at a time, and the tokens that follow: one less at a window's end. Each
    model's attention scores are shown to its entry of ``scores``.
    """
    length = min(_WINDOW_TOKENS, models[0].file.config["max_position_embeddings"])
    for begin in range(0, len(tokens), length):
        window = tokens[begin : begin + length]
        whole = [model.inspect([window], set(seen.names), seen) for model, seen in zip(models, scores, strict=True)]
        for row in range(0, len(window), _ROWS):
            logits = [rows[row : row + _ROWS] for rows in whole]
            yield logits, window[row + 1 : row + 1 + len(logits[0])]
