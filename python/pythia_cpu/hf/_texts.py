"""The new texts of a call of ``generate``, which end where transformers' do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pythia_cpu._model import Model
from pythia_cpu.hf._forward import Rows
from pythia_cpu.hf._stepwise import Ends, Functions, Stepwise


class Texts:
    """The texts of one call, to be written."""

    def __init__(
        self,
        model: Model,
        rows: Rows,
        prompts: Sequence[Rows],
        *,
        fill: int,
        ends: Ends,
        engine: dict[str, Any],
        functions: Functions,
    ) -> None:
        """Padded rows ``[n, width]`` and their prompts without padding; ``fill`` goes on where a row has ended;
        ``engine`` has options of ``Model.generate``, its seed a list.
        """
        self._model, self._rows, self._prompts = model, rows, prompts
        self._fill, self._ends, self._engine, self._functions = fill, ends, engine, functions
        self._stops = [_StopStrings(model, engine.get("stop", []), prompt) for prompt in prompts]
        self._has_beams = engine.get("num_beams", 1) != 1
        self.beam_scores: list[float] = []  # of all texts that were written, if there are beams

    def write(self) -> list[list[int]]:
        """New tokens of all texts, those of a prompt one after the other.

        Raises:
            ValueError: options that a beam search does not have.
        """
        ends = self._ends
        if self._needs_steps():
            return self._write_in_steps()
        if ends.min_new_tokens == 0 or not ends.eos_token_ids:
            return self._write(self._prompts, ends.max_new_tokens)
        no_end = dict.fromkeys(ends.eos_token_ids, -math.inf)
        if ends.min_new_tokens >= ends.max_new_tokens:
            return self._write(self._prompts, ends.max_new_tokens, no_end)
        return self._write_in_two(no_end)

    def _needs_steps(self) -> bool:
        """Whether a script sees every token, or the ends that cannot come yet change what ``Model.generate`` draws or
        where a stop string is looked for.
        """
        functions, ends = self._functions, self._ends
        if functions.processors or functions.criteria or functions.max_time_s < math.inf:
            return True
        has_later_end = 0 < ends.min_new_tokens < ends.max_new_tokens and bool(ends.eos_token_ids)
        return has_later_end and bool(self._engine.get("do_sample") or self._engine.get("stop"))

    def _write_in_steps(self) -> list[list[int]]:
        if self._has_beams:
            raise ValueError(
                "stopping_criteria, logits_processor, max_time and min_new_tokens below max_new_tokens are not "
                "supported by pythia_cpu with num_beams: leave them out"
            )
        count: int = self._engine.get("num_return_sequences", 1)

        def is_stopped(number: int, tokens: list[int]) -> bool:
            return self._stops[number // count].is_in(tokens)

        stepwise = Stepwise(self._model, self._rows, self._prompts, fill=self._fill, engine=self._engine)
        return stepwise.run(self._functions, self._ends, is_stopped)

    def _write_in_two(self, no_end: dict[int, float]) -> list[list[int]]:
        """First as many tokens as there are at least, without an end, then the rest."""
        least, most = self._ends.min_new_tokens, self._ends.max_new_tokens
        if self._has_beams:
            raise ValueError(
                f"min_new_tokens is {least}, but pythia_cpu supports less than max_new_tokens ({most}) "
                "only without num_beams: leave it out, or use max_new_tokens' value"
            )
        texts = self._write(self._prompts, least, no_end)
        beginnings = [np.array([*prompt, *text]) for prompt, text in zip(self._prompts, texts, strict=True)]
        going_on = [i for i, ids in enumerate(beginnings) if len(ids) <= self._model.context_length]
        rests = self._write([beginnings[i] for i in going_on], most - least) if going_on else []
        for i, rest in zip(going_on, rests, strict=True):
            texts[i] = texts[i] + rest
        return texts

    def _write(self, prompts: Sequence[Rows], count: int, bias: dict[int, float] | None = None) -> list[list[int]]:
        """At most ``count`` tokens of all texts; ``bias`` is added to their scores too."""
        eos_token_ids = self._ends.eos_token_ids
        ends = {"eos_token_id": eos_token_ids, "ignore_eos": not eos_token_ids}
        arguments: dict[str, Any] = {"max_new_tokens": count, **ends, **self._engine}
        if bias or "logit_bias" in self._engine:
            arguments["logit_bias"] = {**self._engine.get("logit_bias", {}), **(bias or {})}
        if self._functions.put is not None:
            return [self._stream(prompts[0], arguments)]
        results: Any = self._model.generate(prompts, **arguments)
        several = [result if isinstance(result, list) else [result] for result in results]
        if self._has_beams:
            self.beam_scores = [text.beam_score for texts in several for text in texts]
        return [text.tokens[: self._stops[i].end(text.tokens)] for i, texts in enumerate(several) for text in texts]

    def _stream(self, prompt: Rows, arguments: dict[str, Any]) -> list[int]:
        """The only text, whose tokens go out one by one."""
        put = self._functions.put
        assert put is not None
        if isinstance(seeds := arguments.get("seed"), list):
            arguments = {**arguments, "seed": seeds[0]}
        tokens: list[int] = []
        for token in self._model.stream(prompt, **arguments):
            tokens.append(token.id)
            put(token.id)
            if self._stops[0].end(tokens) is not None:
                break
        return tokens


class _StopStrings:
    """Stop strings after a prompt. One begun at the prompt's end may end a text in transformers."""

    def __init__(self, model: Model, stop: Sequence[str], prompt: Rows) -> None:
        self._tokenizer, self._stop = model.tokenizer, stop
        self._completions: tuple[str, ...] = ()  # beginnings of a new text that complete a stop string
        if stop:
            most_tokens = 4 * max(map(len, stop))  # a character has at most four
            text = self._text(prompt[-most_tokens:].tolist())
            self._completions = tuple(s[i:] for s in stop for i in range(1, len(s)) if text.endswith(s[:i]))

    def is_in(self, tokens: list[int]) -> bool:
        """Whether a text has one of them, or completes one."""
        if not self._stop:
            return False
        text = self._text(tokens)
        return any(s in text for s in self._stop) or self.end(tokens) is not None

    def end(self, tokens: list[int]) -> int | None:
        """How many of a text's tokens it takes until it has completed one that the prompt began; None: it does not."""
        for n in range(1, 1 + min(len(tokens), 4 * max(map(len, self._completions), default=0))):
            if self._text(tokens[:n]).startswith(self._completions):
                return n
        return None

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)
