"""The arguments of generation, checked and in the form the core takes."""

from __future__ import annotations

import difflib
import inspect
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np

from pythia_cpu import _core
from pythia_cpu._arguments import biases, boolean, integer, number, strings
from pythia_cpu._beam_search import BeamOptions

F = TypeVar("F", bound=Callable[..., Any])

_MOST_SEED = 2**64 - 1
_SEED_BITS = 53  # of a random seed: a whole number for every reader of JSON
_INT32_MAX = 2**31 - 1
_MOST_BEAMS, _MOST_SEQUENCES = 1 << 12, 1 << 20  # more are a slip, and would take all memory before they fail
# Names that others give to arguments.
_MEANT = {
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "stop_strings": "stop",
    "n": "num_return_sequences",
}
_MAX_LENGTH_PENALTY = 10  # powers of a context's length stay in float32's range


class _OneTextOptions(TypedDict, total=False):
    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    logit_bias: Mapping[int, float] | None
    stop: str | Sequence[str] | None
    eos_token_id: int | Sequence[int] | None
    ignore_eos: bool
    logprobs: int | None


class StreamOptions(_OneTextOptions, total=False):
    """The types of ``GenerationArguments`` that a stream takes, for type checkers."""

    seed: int | None


class TextOptions(_OneTextOptions, total=False):
    """The types of ``GenerationArguments`` but ``num_return_sequences``, for type checkers."""

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    seed: int | Sequence[int] | None


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
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    stop: str | Sequence[str] | None = None
    eos_token_id: int | Sequence[int] | None = None
    ignore_eos: bool = False
    seed: int | Sequence[int] | None = None
    logprobs: int | None = None

    @classmethod
    def spelled_out(cls, *without: str, first: bool = False) -> Callable[[F], F]:
        """Decorates a method that takes them as ``**arguments``: help and completion show them by name, after its own
        keyword arguments or ``first``.
        """

        def decorate(method: F) -> F:
            signature = inspect.signature(method)
            own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
            added = [
                inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
                for one in fields(cls)
                if one.name not in without
            ]
            place = sum(one.kind is not one.KEYWORD_ONLY for one in own) if first else len(own)
            parameters = [*own[:place], *added, *own[place:]]
            method.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
            return method

        return decorate

    @classmethod
    def of(cls, method: Callable[..., Any], arguments: Mapping[str, Any]) -> GenerationArguments:
        """The keyword arguments of a method that is ``spelled_out``. Raises TypeError, as a call does, for one that it
        does not have; the message names those that it has.
        """
        names = [field.name for field in fields(cls)]
        for name in arguments:
            if name not in names:
                known = [
                    one.name for one in inspect.signature(method).parameters.values() if one.kind is one.KEYWORD_ONLY
                ]
                meant = _MEANT.get(name) or next(iter(difflib.get_close_matches(name.lower(), known, n=1)), None)
                advice = f"perhaps {meant} is meant; " if meant in known else ""
                raise TypeError(
                    f"{method.__qualname__}() got an unexpected keyword argument {name!r}; {advice}it has "
                    f"{', '.join(known)}"
                )
        return cls(**arguments)

    def warn_of_unused(self) -> None:
        """Warns the caller of a method's caller where options of draws or beams are set and there are none."""
        greedy = {"temperature": (1, 0), "top_k": (0,), "top_p": (1,), "min_p": (0,), "typical_p": (1,)}
        unused = [name for name, off in greedy.items() if getattr(self, name) not in off]
        if unused and not self.do_sample:
            warnings.warn(f"{' and '.join(unused)} without do_sample=True: nothing is drawn", UserWarning, stacklevel=3)
        of_beams = {"length_penalty": 1, "early_stopping": False}
        unused = [name for name, off in of_beams.items() if getattr(self, name) != off]
        if unused and self.num_beams == 1:
            warnings.warn(f"{' and '.join(unused)} without num_beams: there are no beams", UserWarning, stacklevel=3)

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
            no_repeat_ngram_size=integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 0),
            logit_bias=biases("logit_bias", self.logit_bias),
        )

    def num_sequences(self) -> int:
        """num_return_sequences, after a look at what it goes with."""
        num_beams = integer("num_beams", self.num_beams, 1, _MOST_BEAMS)
        count = integer("num_return_sequences", self.num_return_sequences, 1, _MOST_SEQUENCES)
        if num_beams > 1:
            if self.do_sample:
                raise ValueError(f"do_sample is True and num_beams is {num_beams}, expected one of them only")
            if count > num_beams:
                raise ValueError(f"num_return_sequences is {count}, but num_beams is {num_beams}: use as many beams")
        elif count > 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences is {count} with do_sample=False, which would give {count} equal texts: use 1"
            )
        return count

    def beams(self, eos_token_ids: list[int]) -> BeamOptions:
        """Options of a beam search."""
        length_penalty = number("length_penalty", self.length_penalty)
        if not abs(length_penalty) <= _MAX_LENGTH_PENALTY:
            limits = f"-{_MAX_LENGTH_PENALTY} to {_MAX_LENGTH_PENALTY}"
            raise ValueError(f"length_penalty is {length_penalty}, expected {limits}; 0 is off")
        never = isinstance(self.early_stopping, str) and self.early_stopping == "never"
        if not never and not isinstance(self.early_stopping, bool | np.bool_):
            raise ValueError(f"early_stopping is {self.early_stopping!r}, expected True, False or 'never'")
        return BeamOptions(
            num_beams=integer("num_beams", self.num_beams, 1),
            length_penalty=length_penalty,
            early_stopping="never" if never else bool(self.early_stopping),
            max_new_tokens=integer("max_new_tokens", self.max_new_tokens, 0),
            eos_token_ids=frozenset(eos_token_ids),
            logit_bias=biases("logit_bias", self.logit_bias),
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            stop=strings("stop", self.stop),
            num_logprobs=self.num_logprobs(),
        )

    def eos_token_ids(self, default: Sequence[int]) -> list[int]:
        """The ids that end a text; ``default`` are the checkpoint's."""
        given = self.eos_token_id
        if given is None:
            ids = list(default)
        elif isinstance(given, Sequence) and not isinstance(given, str):
            ids = [integer("eos_token_id", id, 0, _INT32_MAX) for id in given]
        else:
            ids = [integer("eos_token_id", given, 0, _INT32_MAX)]
        return [] if boolean("ignore_eos", self.ignore_eos) else ids

    def num_logprobs(self) -> int:
        """How many log-probabilities the core is to give: -1 none, 0 the chosen token's, n the best ones' too."""
        return -1 if self.logprobs is None else integer("logprobs", self.logprobs, 0, _INT32_MAX)

    def check_seed(self, num_prompts: int | None = None) -> None:
        """Refuses what is no seed, or a list of seeds that is not for so many prompts; None: that is not known."""
        if not self.has_seeds():
            self.draw_seed()
            return
        seeds: Any = self.seed
        for i in range(len(seeds)):
            self.draw_seed(i)
        if num_prompts is not None and len(seeds) != num_prompts:
            raise ValueError(f"seed is a list of {len(seeds)}, expected one for each of {num_prompts} prompts")

    def refuse_seeds(self) -> None:
        """Where there is one prompt."""
        if self.has_seeds():
            raise ValueError("seed is a list, which goes with a list of prompts: pass one integer")

    def draw_seed(self, prompt: int = 0) -> int:
        """The seed given for a prompt, by its number, or a random one."""
        if self.seed is None:
            return secrets.randbits(_SEED_BITS)
        if not self.has_seeds():
            return integer("seed", self.seed, 0, _MOST_SEED)
        seeds: Any = self.seed
        if prompt >= len(seeds):
            raise ValueError(f"seed is a list of {len(seeds)}, and there are more prompts: pass one for each")
        return integer(f"seed[{prompt}]", seeds[prompt], 0, _MOST_SEED)

    def has_seeds(self) -> bool:
        """Whether ``seed`` is one for each prompt."""
        return isinstance(self.seed, list | tuple | range) or getattr(self.seed, "ndim", 0) == 1

    def request(self, default_eos: Sequence[int]) -> dict[str, Any]:
        """Arguments of ``_core.Generator.add`` that all texts of a call share."""
        return {
            "sampling": self.sampling(),
            "max_new_tokens": integer("max_new_tokens", self.max_new_tokens, 0),
            "stop": strings("stop", self.stop),
            "eos_token_ids": self.eos_token_ids(default_eos),
        }
