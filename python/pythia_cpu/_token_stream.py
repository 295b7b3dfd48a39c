"""One text, token by token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from pythia_cpu import _core
from pythia_cpu._generation import FinishReason, Token
from pythia_cpu._generation_arguments import GenerationArguments
from pythia_cpu._process_lock import ProcessLock


class TokenStream(Iterator[Token]):
    """Gives the tokens of one text as they come. Dropping it at any point is fine. Threads may share it: each takes the
    token that comes next.

    Attributes:
        prompt_tokens: the prompt's token ids.
        seed: as Generation.seed.
        finish_reason: as Generation.finish_reason; None before the last token.
        draft_acceptance: as Generation.draft_acceptance; None before the last token.
    """

    def __init__(
        self, generator: _core.Generator, prompt: list[int], arguments: GenerationArguments, eos: Sequence[int]
    ):
        """``Model.stream`` makes these."""
        if arguments.num_sequences() != 1:
            raise ValueError(
                f"num_return_sequences is {arguments.num_return_sequences}, but a stream gives one text: use 1"
            )
        if arguments.num_beams != 1:
            raise ValueError(
                f"num_beams is {arguments.num_beams}, but a stream writes text as it is found, which beam search knows "
                "only in the end: use 1, or generate"
            )
        arguments.refuse_seeds()
        seed = arguments.draw_seed()
        num_logprobs = max(arguments.num_logprobs(), 0)
        self._lock = ProcessLock("this stream")
        self._generator: _core.Generator | None = generator
        self._tokens: deque[Token] = deque()
        generator.add(prompt, **arguments.request(eos), seed=seed, num_logprobs=num_logprobs)
        self._has_top = num_logprobs > 0
        self.prompt_tokens: list[int] = list(prompt)
        self.seed: int | None = seed if arguments.do_sample else None
        self.finish_reason: FinishReason | None = None
        self.draft_acceptance: float | None = None
        self._finish_reason: FinishReason | None = None  # once it is known
        self._draft_acceptance: float | None = None

    def __next__(self) -> Token:
        """The next token, one run of the model later."""
        with self._lock:
            while not self._tokens and self._generator is not None and not self._generator.done:
                for _, id, text, logprob, top, finish_reason, proposed, accepted in self._step(self._generator):
                    self._finish_reason = finish_reason
                    self._draft_acceptance = accepted / proposed if proposed else None
                    if id >= 0:
                        self._tokens.append(Token(id, text, logprob, top if self._has_top else None))
            token = self._tokens.popleft() if self._tokens else None
            if not self._tokens:
                self.finish_reason, self.draft_acceptance = self._finish_reason, self._draft_acceptance
                if self._generator is not None and self._generator.done:
                    self._generator = None  # and with it the memory of keys and values, and the edit
            if token is None:
                raise StopIteration
            return token

    def close(self) -> None:
        """Ends it where it is, and gives back the memory of keys and values. Doing so again is fine."""
        with self._lock:
            self._tokens.clear()
            self._generator = None

    @staticmethod
    def _step(generator: _core.Generator) -> list[tuple[Any, ...]]:
        try:
            return generator.step()
        except StopIteration as error:  # of an edit: it would end the stream
            raise RuntimeError("an edit raised StopIteration") from error

    def __repr__(self) -> str:
        """Whether it has ended."""
        return f"<TokenStream: {self.finish_reason or 'not ended'}>"

    def __reduce__(self) -> NoReturn:
        """Raises TypeError."""
        raise TypeError("a stream cannot be pickled: send its tokens")
