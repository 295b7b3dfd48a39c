"""What scoring needs of a model, and the ways to it."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pythia_cpu import _core
from pythia_cpu._arguments import Prompt, Prompts, integer, is_batch, token_ids, unwrapped
from pythia_cpu._edits import Editor, refuse_list_of_edits
from pythia_cpu._score import Perplexity, Score
from pythia_cpu._score_run import IdsRequest, ScoreRequest, TargetScores, run_edited, run_requests
from pythia_cpu._tokenizer import Tokenizer


def _begun_unscored(windows: Sequence[ScoreRequest], num_tokens: int) -> list[tuple[int, int]]:
    """First and last token of the windows of a text of ``num_tokens`` whose first token none scores: with a stride one
    or all.
    """
    num_scored = sum(len(tokens) - begin for tokens, begin in windows)
    return [(int(tokens[0]), int(tokens[-1])) for tokens, _ in windows[: num_tokens - num_scored]]


class ScoringModel:
    """What scoring needs of a model, and the ways to it; ``Model`` has one."""

    def __init__(self, core: _core.Model, tokenizer: Tokenizer, eos_token_id: int | None) -> None:
        """``Model`` makes these."""
        self.core = core
        self.tokenizer = tokenizer
        self._editor: Editor | None = None
        self._eos_token_id = eos_token_id
        config = core.file.config
        self.vocab_size: int = config["vocab_size"]
        self.context_length: int = config["max_position_embeddings"]

    def edited(self, edit: object) -> ScoringModel:
        """The same with edits of its activations; None: none."""
        if edit is None:
            return self
        refuse_list_of_edits(edit)
        found = copy.copy(self)
        found._editor = Editor(edit, self.core.hook_names)
        return found

    def run_each(self, requests: Sequence[ScoreRequest], *, progress: bool) -> Iterator[tuple[int, TargetScores]]:
        """Each request's number and scores, in the order in which they end."""
        if self._editor:
            return run_edited(self.core, requests, self._editor, progress=progress)
        return run_requests(self.core, requests, progress=progress)

    def run(self, requests: Sequence[ScoreRequest], *, progress: bool) -> list[TargetScores]:
        """The scores of all requests, in their order."""
        found = dict(self.run_each(requests, progress=progress))
        return [found[number] for number in range(len(requests))]

    def score(
        self, text: Prompt | Prompts, continuation: Prompt | Prompts | None, *, progress: bool
    ) -> Score | list[Score]:
        """``Model.score``."""
        if continuation is not None:
            batch, requests = self._pairs(text, continuation)
        elif batch := is_batch("text", text):
            requests = [self._whole(f"text[{i}]", one) for i, one in enumerate(text)]
        else:
            requests = [self._whole("text", text)]
        scores = [
            Score(
                tokens=ids if continuation is None else ids[begin:],
                logprobs=one.logprobs,
                is_greedy=one.ranks == 0,
                ranks=one.ranks,
                entropies=one.entropies,
                varentropies=one.varentropies,
                greedy_tokens=one.argmax,
            )
            for (ids, begin), one in zip(requests, self.run(requests, progress=progress), strict=True)
        ]
        return scores if batch else scores[0]

    def _pairs(self, context: Any, continuation: Any) -> tuple[bool, list[IdsRequest]]:
        """Whether there is a list of continuations, and the requests."""
        context_list = is_batch("context", context)
        # An empty list is a row without token ids, but for beside texts.
        batch = is_batch("continuation", continuation) or (
            isinstance(context, str) and isinstance(continuation, list | tuple) and not continuation
        )
        if not batch and not context_list:
            return False, [self.pair(context, continuation)]
        if not batch:
            raise ValueError("text is a list of contexts and continuation is one text: pass a continuation for each")
        if not context_list:
            before = self._context_ids("context", context) if len(continuation) else []
            named = ((f"continuation[{i}]", one) for i, one in enumerate(continuation))
            return True, [self.pair(context, one, names=("context", name), before=before) for name, one in named]
        if len(context) != len(continuation):
            raise ValueError(
                f"text has {len(context)} contexts and continuation {len(continuation)}, expected as many of both"
            )
        pairs = enumerate(zip(context, continuation, strict=True))
        return True, [self.pair(a, b, names=(f"context[{i}]", f"continuation[{i}]")) for i, (a, b) in pairs]

    def perplexity(
        self, text: Prompt | Prompts, *, context_length: int | None, stride: int | None, progress: bool
    ) -> Perplexity | list[Perplexity]:
        """``Model.perplexity``."""
        if not is_batch("text", text):
            return self._perplexities({"text": text}, context_length, stride, progress)[0]
        return self._perplexities({f"text[{i}]": one for i, one in enumerate(text)}, context_length, stride, progress)

    def _perplexities(
        self, texts: dict[str, Any], context_length: int | None, stride: int | None, progress: bool
    ) -> list[Perplexity]:
        """Of texts by the names that errors call them by."""
        windows: list[Sequence[ScoreRequest]] = []
        counts: list[int] = []
        for name, text in texts.items():
            ids = self.some_ids(name, text)
            counts.append(len(ids))
            windows.append(self.windows(ids, context_length=context_length, stride=stride))
            if all(begin >= len(tokens) for tokens, begin in windows[-1]):
                raise ValueError(f"{name} has {len(ids)} tokens and none of them has one before it: pass a longer text")
        scored = iter(self.run([one for several in windows for one in several], progress=progress))
        found = []
        for text, count, several in zip(texts.values(), counts, windows, strict=True):
            logprobs = [x for _ in several for x in next(scored).logprobs.tolist()]
            nll, num_tokens = -math.fsum(logprobs), len(logprobs)
            if not isinstance(text, str):
                found.append(Perplexity(nll=nll, num_tokens=num_tokens))
                continue
            num_words = len(re.split(r"\s+", text)) - self._num_unscored_words(count, several)
            num_bytes = self.num_scored_bytes(text, count, several)
            found.append(Perplexity(nll=nll, num_tokens=num_tokens, num_words=num_words, num_bytes=num_bytes))
        return found

    def num_scored_bytes(self, text: str, num_tokens: int, windows: Sequence[ScoreRequest]) -> int:
        """The bytes of those of a text's ``num_tokens`` that its windows score."""
        unscored = _begun_unscored(windows, num_tokens)
        return len(text.encode("utf-8")) - sum(len(self.tokenizer.token_bytes(first)) for first, _ in unscored)

    def _num_unscored_words(self, num_tokens: int, windows: Sequence[ScoreRequest]) -> int:
        """How many words begin in tokens that no window scores."""
        before, count = " ", 0
        for first, last in _begun_unscored(windows, num_tokens):
            text = self.tokenizer.token_bytes(first).decode("utf-8", errors="replace")
            count += len(re.findall(r"\s\S", before[-1:] + text))
            before = self.tokenizer.token_bytes(last).decode("utf-8", errors="replace")
        return count

    def windows(self, ids: list[int], *, context_length: int | None, stride: int | None) -> Sequence[ScoreRequest]:
        """How a text is cut into requests; ``Model.perplexity`` documents it."""
        length = self.context_length
        if context_length is not None:
            length = integer("context_length", context_length, 2, self.context_length)
        if stride is not None:
            return _core.strided_windows(ids, length, integer("stride", stride, 1, length))
        if self._eos_token_id is None:
            raise ValueError("the model has no end-of-text token to begin the text with: pass stride")
        return _core.rolling_windows(ids, self._eos_token_id, length)

    def start_id(self) -> int:
        """The end-of-text token, for a text to begin after."""
        if self._eos_token_id is None:
            raise ValueError("the model has no end-of-text token to begin the text with: use score, which needs none")
        return self._eos_token_id

    def ids(self, name: str, text: object) -> list[int]:
        """Token ids of a text, perhaps none."""
        text = unwrapped(text)
        if isinstance(text, str):
            return self._encode(name, text)
        ids: list[int] = token_ids(name, text, self.vocab_size, what="a str or a list of token ids").tolist()
        return ids

    def _context_ids(self, name: str, context: object) -> list[int]:
        """As in lm-evaluation-harness, and in score_lines.cc, white space at its end is the continuation's."""
        return self._encode(name, context.rstrip()) if isinstance(context, str) else self.ids(name, context)

    def pair(
        self,
        context: object,
        continuation: object,
        *,
        names: tuple[str, str] = ("context", "continuation"),
        before: list[int] | None = None,
    ) -> IdsRequest:
        """Ids of both together, and where the continuation begins; errors call them by their names. ``before``: the
        context's ids, if they are known.
        """
        if isinstance(context, str) != isinstance(continuation, str):
            raise ValueError(f"one of {names[0]} and {names[1]} is a str and the other is not: pass two of a kind")
        before = self._context_ids(names[0], context) if before is None else before
        if isinstance(context, str) and isinstance(continuation, str):
            after = self._encode(f"{names[0]} + {names[1]}", context + continuation)[len(before) :]
            if continuation and before and not after:
                raise ValueError(
                    f"{names[1]} adds no token to the {len(before)} of {names[0]}, because they are encoded together: "
                    "begin it with a space, or pass token ids of both"
                )
        else:
            after = self.ids(names[1], continuation)
        if not before:
            if self._eos_token_id is None:
                raise ValueError(f"{names[0]} has no tokens, and the model has no end-of-text token to stand for it")
            before = [self._eos_token_id]
        if not after:
            raise ValueError(f"{names[1]} has no tokens, expected at least one")
        self._check_length(f"{names[0]} and {names[1]} have", before + after)
        return before + after, len(before)

    def _encode(self, name: str, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def some_ids(self, name: str, text: object) -> list[int]:
        """Token ids of a text that has some."""
        ids = self.ids(name, text)
        if not ids:
            raise ValueError(f"{name} has no tokens, expected at least one")
        return ids

    def _whole(self, name: str, text: object) -> IdsRequest:
        ids = self.some_ids(name, text)
        self._check_length(f"{name} has", ids)
        return ids, 1

    def _check_length(self, found: str, ids: list[int]) -> None:
        """Refuses more tokens than one request may have."""
        if len(ids) > self.context_length + 1:
            raise ValueError(
                f"{found} {len(ids)} tokens, expected at most {self.context_length + 1}, the model's context and "
                "the token after it: shorten the text, or use perplexity, which cuts it into windows"
            )
