"""What is right: transformers' GPT-NeoX, eager attention, float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Agreement asked of float32 logits, as a part of the largest |logit|. docs/numerics.md promises 1e-4.
# A fifth of it is asked here, because a wrong GELU could hide in the rest; two sound float32 runs differ by about 1e-6.
TOLERANCE = 2e-5


class Reference:
    """A checkpoint in transformers."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import GPTNeoXForCausalLM

        torch.set_num_threads(2)
        self._torch = torch
        self.model = GPTNeoXForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Float32 [num_tokens, vocab_size]."""
        with self._torch.inference_mode():
            return self.model(self._torch.tensor([list(tokens)])).logits[0].numpy()

    def generate(self, tokens: Sequence[int], max_new_tokens: int) -> list[int]:
        """The new tokens of transformers' own greedy generation, end of text ignored."""
        ids = self._torch.tensor([list(tokens)])
        with self._torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                min_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return out[0, len(tokens) :].tolist()


def assert_logits_agree(actual: np.ndarray, expected: np.ndarray) -> None:
    """Logits [num_tokens, vocab_size] within the tolerance; the same argmax wherever the top two are further apart."""
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    bound = TOLERANCE * np.abs(expected).max()
    difference = np.abs(actual.astype(np.float64) - expected).max()
    assert difference <= bound, f"logits differ by {difference:.3g}, more than {bound:.3g}"
    clear = is_clear(expected)
    np.testing.assert_array_equal(actual.argmax(1)[clear], expected.argmax(1)[clear])


def is_clear(logits: np.ndarray) -> np.ndarray:
    """Bool [num_tokens]: the best logit leads the second by more than the tolerance."""
    top = np.partition(logits, -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0] > TOLERANCE * np.abs(logits).max()


def assert_greedy_agrees(prompt: Sequence[int], generated: Sequence[int], reference: Reference) -> None:
    """Every generated token is the reference's best, given those before it; at a tie, one of the best."""
    sequence = [*prompt, *generated]
    expected = reference.logits(sequence[:-1])[len(prompt) - 1 :]
    chosen = expected[np.arange(len(generated)), list(generated)]
    behind = expected.max(1) - chosen
    bound = TOLERANCE * np.abs(expected).max()
    assert (behind <= bound).all(), f"token {int(np.argmax(behind > bound))} is not the reference's best"
