"""Text generation: its arguments, its results, and the way to the core's generator."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import biases, boolean, integer, number, strings
from pythia_cpu._beam_search import BeamOptions, beam_search
from pythia_cpu._speculative import speculate
from pythia_cpu._tokenizer import Tokenizer

FinishReason: TypeAlias = Literal["eos", "stop", "length"]
TopLogprobs: TypeAlias = list[tuple[int, float]]

_SEED_BITS = 53  # of a random seed: a whole number for every reader of JSON
_INT32_MAX = 2**31 - 1
_MAX_LENGTH_PENALTY = 10  # powers of a context's length stay in float32's range


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes:
        text: what was written after the prompt: without the end-of-text token, and ending before a stop string.
        tokens: all new token ids, the end-of-text token and the tokens that complete a stop string included.
        prompt_tokens: the prompt's token ids.
        finish_reason: "eos" (an end-of-text token), "stop" (a stop string), "length" (max_new_tokens, or the context is
            full).
        logprobs: float32 ``[len(tokens)]``, log-probability of each new token under the model (log-softmax of the
            logits, before penalties, temperature and filters); None unless asked for.
        top_logprobs: for each new token the most likely ones, (id, log-probability), best first; None unless asked for.
        seed: the seed of the draws, which gives the same text again; None for greedy text.
        draft_acceptance: the part of the draft's tokens that was accepted, 0 to 1; None without a draft.
    """

    text: str
    tokens: list[int]
    prompt_tokens: list[int]
    finish_reason: FinishReason
    logprobs: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    top_logprobs: list[TopLogprobs] | None = field(default=None, compare=False)
    seed: int | None = None
    draft_acceptance: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Token:
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


@dataclass(frozen=True)
class GenerationArguments:
    """The arguments of ``Model.generate`` beside the prompt; ``Model.generate`` documents them."""

    max_new_tokens: int = 20
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    stop: str | Sequence[str] | None = None
    eos_token_id: int | Sequence[int] | None = None
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None

    def sampling(self) -> _core.SamplingOptions:
        """The core's options; ranges are checked there, when a request is added."""
        return _core.SamplingOptions(
            do_sample=boolean("do_sample", self.do_sample),
            temperature=number("temperature", self.temperature),
            top_k=integer("top_k", self.top_k, 0),
            top_p=number("top_p", self.top_p),
            min_p=number("min_p", self.min_p),
            typical_p=number("typical_p", self.typical_p),
            repetition_penalty=number("repetition_penalty", self.repetition_penalty),
            presence_penalty=number("presence_penalty", self.presence_penalty),
            frequency_penalty=number("frequency_penalty", self.frequency_penalty),
            logit_bias=biases("logit_bias", self.logit_bias),
        )

    def num_sequences(self) -> int:
        """num_return_sequences, after a look at what it goes with."""
        num_beams = integer("num_beams", self.num_beams, 1)
        count = integer("num_return_sequences", self.num_return_sequences, 1)
        if num_beams > 1:
            self._check_goes_with_beams()
            if count > num_beams:
                raise ValueError(f"num_return_sequences is {count}, but num_beams is {num_beams}: use as many beams")
        elif count > 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences is {count} with do_sample=False, which would give {count} equal texts: use 1"
            )
        return count

    def _check_goes_with_beams(self) -> None:
        for name, value, off in (
            ("do_sample", self.do_sample, False),
            ("stop", self.stop, None),
            ("logprobs", self.logprobs, None),
        ):
            if value != off:
                raise ValueError(f"{name} is {value!r} and num_beams is {self.num_beams}, expected one of them only")

    def beams(self, eos_token_ids: list[int]) -> BeamOptions:
        """Options of a beam search."""
        length_penalty = number("length_penalty", self.length_penalty)
        if not abs(length_penalty) <= _MAX_LENGTH_PENALTY:
            limits = f"-{_MAX_LENGTH_PENALTY} to {_MAX_LENGTH_PENALTY}"
            raise ValueError(f"length_penalty is {length_penalty}, expected {limits}; 0 is off")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping is {self.early_stopping!r}, expected True, False or 'never'")
        return BeamOptions(
            num_beams=self.num_beams,
            length_penalty=length_penalty,
            early_stopping=self.early_stopping,
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=frozenset(eos_token_ids),
            logit_bias=biases("logit_bias", self.logit_bias),
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )

    def eos_token_ids(self, default: int | None) -> list[int]:
        """The ids that end a text; ``default`` is the checkpoint's."""
        given = self.eos_token_id
        if given is None:
            ids = [] if default is None else [default]
        elif isinstance(given, Sequence) and not isinstance(given, str):
            ids = [integer("eos_token_id", id, 0, _INT32_MAX) for id in given]
        else:
            ids = [integer("eos_token_id", given, 0, _INT32_MAX)]
        return [] if boolean("ignore_eos", self.ignore_eos) else ids

    def num_logprobs(self) -> int:
        """How many log-probabilities the core is to give: -1 none, 0 the chosen token's, n the best ones' too."""
        return -1 if self.logprobs is None else integer("logprobs", self.logprobs, 0, _INT32_MAX)

    def draw_seed(self) -> int:
        """The seed given, or a random one."""
        return secrets.randbits(_SEED_BITS) if self.seed is None else integer("seed", self.seed, 0, 2**64 - 1)

    def request(self, default_eos: int | None) -> dict[str, Any]:
        """Arguments of ``_core.Generator.add`` that all texts of a call share."""
        return {
            "sampling": self.sampling(),
            "max_new_tokens": integer("max_new_tokens", self.max_new_tokens, 0),
            "stop": strings("stop", self.stop),
            "eos_token_ids": self.eos_token_ids(default_eos),
        }


def generate(
    engine: _core.GenerationEngine, prompts: list[list[int]], arguments: GenerationArguments, eos: int | None
) -> list[list[Generation]]:
    """For each prompt its ``num_return_sequences`` texts. All run together; each is what it would be alone."""
    count, num_logprobs = arguments.num_sequences(), arguments.num_logprobs()
    request = arguments.request(eos)
    generator = _core.Generator(engine)
    requests = []
    for prompt in prompts:
        seed = arguments.draw_seed()
        for sequence in range(count):
            generator.add(prompt, **request, seed=seed, sequence=sequence, num_logprobs=num_logprobs)
            requests.append((prompt, seed if arguments.do_sample else None))
    texts = [
        Generation(
            text=text,
            tokens=tokens,
            prompt_tokens=list(prompt),
            finish_reason=finish_reason,
            logprobs=logprobs if num_logprobs >= 0 else None,
            top_logprobs=top if num_logprobs > 0 else None,
            seed=seed,
        )
        for (prompt, seed), (tokens, text, logprobs, top, finish_reason) in zip(requests, generator.run(), strict=True)
    ]
    return [texts[i : i + count] for i in range(0, len(texts), count)]


def generate_with_beams(
    model: _core.Model,
    engine: _core.GenerationEngine,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    arguments: GenerationArguments,
) -> list[list[Generation]]:
    """As ``generate``, by beam search: for each prompt its ``num_return_sequences`` best texts, best first."""
    count = arguments.num_sequences()
    request = arguments.request(tokenizer.eos_token_id)
    generator = _core.Generator(engine)
    for prompt in prompts:
        generator.add(prompt, **request, seed=0)  # checks the request; nothing is run
    options = arguments.beams(request["eos_token_ids"])
    texts: list[list[Generation]] = [[] for _ in prompts]
    for index, hypotheses in beam_search(model, prompts, options):
        texts[index] = [
            Generation(
                text=tokenizer.decode(one.tokens[:-1] if one.finish_reason == "eos" else one.tokens),
                tokens=one.tokens,
                prompt_tokens=list(prompts[index]),
                finish_reason=one.finish_reason,
            )
            for one in hypotheses[:count]
        ]
    return texts


def generate_with_draft(
    model: _core.Model,
    draft: _core.Model,
    engine: _core.GenerationEngine,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    arguments: GenerationArguments,
) -> list[list[Generation]]:
    """As ``generate``, with a smaller model's help; one text after the other."""
    for name, value, off in (("num_beams", arguments.num_beams, 1), ("stop", arguments.stop, None),
                             ("logprobs", arguments.logprobs, None)):  # fmt: skip
        if value != off:
            raise ValueError(f"{name} is {value!r} with a draft, expected one of them only")
    if draft.file.tokenizer != model.file.tokenizer:
        raise ValueError("the draft has another tokenizer than the model, expected two models with the same one")
    if draft.file.config["vocab_size"] != model.file.config["vocab_size"]:
        sizes = draft.file.config["vocab_size"], model.file.config["vocab_size"]
        raise ValueError(f"the draft's vocab_size is {sizes[0]}, expected the model's {sizes[1]}")
    count, request = arguments.num_sequences(), arguments.request(tokenizer.eos_token_id)
    generator = _core.Generator(engine)
    for prompt in prompts:
        generator.add(prompt, **request, seed=0)  # checks the request; nothing is run
    del request["stop"]
    texts = []
    for prompt in prompts:
        seed = arguments.draw_seed()
        several = []
        for sequence in range(count):
            found = speculate(model, draft, prompt, **request, seed=seed, sequence=sequence)
            eos = found.tokens[-1:] and found.tokens[-1] in request["eos_token_ids"]
            generation = Generation(
                text=tokenizer.decode(found.tokens[:-1] if eos else found.tokens),
                tokens=found.tokens,
                prompt_tokens=list(prompt),
                finish_reason="eos" if eos else "length",
                seed=seed if arguments.do_sample else None,
                draft_acceptance=found.num_accepted / found.num_proposed if found.num_proposed else None,
            )
            several.append(generation)
        texts.append(several)
    return texts


class TokenStream(Iterator[Token]):
    """Gives the tokens of one text as they come. Dropping it at any point is fine.

    Attributes:
        prompt_tokens: the prompt's token ids.
        seed: as Generation.seed.
        finish_reason: as Generation.finish_reason; None before the last token.
    """

    def __init__(
        self, engine: _core.GenerationEngine, prompt: list[int], arguments: GenerationArguments, eos: int | None
    ) -> None:
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
        seed = arguments.draw_seed()
        num_logprobs = max(arguments.num_logprobs(), 0)
        self._generator = _core.Generator(engine)
        self._generator.add(prompt, **arguments.request(eos), seed=seed, num_logprobs=num_logprobs)
        self._has_top = num_logprobs > 0
        self.prompt_tokens = list(prompt)
        self.seed = seed if arguments.do_sample else None
        self.finish_reason: FinishReason | None = None

    def __next__(self) -> Token:
        """The next token, one run of the model later."""
        while not self._generator.done:
            for _, id, text, logprob, top, finish_reason in self._generator.step():
                self.finish_reason = finish_reason
                if id >= 0:
                    return Token(id, text, logprob, top if self._has_top else None)
        raise StopIteration
