"""Speculative decoding: a small model proposes tokens, the large one reads them all at once and keeps those that it
would have written itself.

Each place has its own draw (seed, sequence, step), from the large model's logits as in plain decoding, so the tokens
are those of plain decoding, one by one. The small model draws with the same numbers, which makes it agree more often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pythia_cpu import _core

_NUM_PROPOSED = 5  # tokens in one round


@dataclass
class Speculation:
    """What came out: the new tokens, and how many of the proposed ones were accepted."""

    tokens: list[int]
    num_proposed: int
    num_accepted: int


def speculate(
    model: _core.Model,
    draft: _core.Model,
    prompt: list[int],
    *,
    sampling: _core.SamplingOptions,
    max_new_tokens: int,
    eos_token_ids: list[int],
    seed: int,
    sequence: int,
) -> Speculation:
    """Writes on from one prompt, whose request has been checked; ends as ``_core.Generator`` does."""
    context = model.file.config["max_position_embeddings"]
    limit = min(max_new_tokens, context - len(prompt) + 1)
    result = Speculation([], 0, 0)
    if limit == 0:
        return result
    large, small = _core.KvCache(model), _core.KvCache(draft)
    tokens = result.tokens

    def draw(row: np.ndarray[tuple[int, ...], np.dtype[np.float32]], step: int, written: list[int]) -> int:
        ids = _core.sample_logits(
            row, sampling, prompt=prompt, generated=written, seed=seed, sequence=sequence, first_step=step
        )
        return int(ids[0])

    while True:
        known = [*prompt, *tokens]
        proposed: list[int] = []
        # The last token is never read back, and the small model's context may be the shorter one.
        room = min(limit - len(tokens) - 1, small.capacity - len(known) + 1, _NUM_PROPOSED)
        while len(proposed) < room:
            new = np.array([*known, *proposed][small.length :], np.int32)
            row = draft.forward([(small, new, 1)])[0]
            proposed.append(draw(row, len(tokens) + len(proposed), [*tokens, *proposed]))
        new = np.array([*known, *proposed][large.length :], np.int32)
        rows = model.forward([(large, new, len(proposed) + 1)])
        result.num_proposed += len(proposed)
        for i, row in enumerate(rows):
            id = draw(row, len(tokens), tokens)
            tokens.append(id)
            if i < len(proposed) and proposed[i] == id:
                result.num_accepted += 1
            if id in eos_token_ids or len(tokens) == limit:
                return result
            if i < len(proposed) and proposed[i] != id:
                break
        length = len(prompt) + len(tokens) - 1
        large.truncate(min(large.length, length))
        small.truncate(min(small.length, length))
