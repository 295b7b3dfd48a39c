"""One ``generate_until`` request of the harness, in the engine's terms."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

import pythia_cpu
from pythia_cpu._arguments import integer, strings

# Arguments of Model.generate that a task may set under the same name.
_SAMPLING = {"top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size"}

# Arguments of transformers' generate that change nothing here.
_IGNORED = {"use_cache", "pad_token_id", "num_beams", "num_return_sequences"}

_DEFAULT_TOP_K = 50  # of transformers, where a text is sampled


class _Owner(Protocol):
    """What a request needs of the model that it was made for."""

    max_length: int
    max_gen_toks: int
    model: pythia_cpu.Model

    @property
    def eot_token_id(self) -> int: ...
    @property
    def prefix_token_id(self) -> int: ...
    def encode_context(self, context: str, room: int) -> list[int]: ...


@dataclass(frozen=True)
class GenerationRequest:
    """A context and how to write on from it.

    Attributes:
        context: token ids, cut from the left to leave room for the new text.
        options: arguments of ``Model.generate``.
        until: the strings that end the text, in the task's order.
    """

    context: list[int]
    options: dict[str, Any]
    until: list[str]

    @classmethod
    def prepare(cls, owner: _Owner, context: str, arguments: dict[str, Any]) -> GenerationRequest:
        """Reads a request's arguments as the harness's HFLM does.

        Raises:
            ValueError: an argument that is not supported, or no room for a context.
        """
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(arguments, owner.max_gen_toks))
        eos = owner.model.tokenizer.decode([owner.eot_token_id], skip_special_tokens=False)
        until = strings("a task's until", handle_stop_sequences(kwargs.pop("until", None), eos=eos))
        max_new_tokens = int(kwargs.pop("max_gen_toks"))
        room = owner.max_length - max_new_tokens
        if room < 1:
            raise ValueError(
                f"a task asks for {max_new_tokens} new tokens, the window holds {owner.max_length}: lower max_gen_toks"
            )
        ids = owner.encode_context(context, room) or [owner.prefix_token_id]
        if (max_length := kwargs.pop("max_length", None)) is not None:  # of context and new text together
            max_new_tokens = integer("a task's max_length", max_length, 1) - len(ids)
            if max_new_tokens < 1:
                raise ValueError(
                    f"a task's max_length is {max_length}, but a context has {len(ids)} tokens: set max_gen_toks, "
                    "which counts new tokens only"
                )
        if "" in until:  # which HFLM finds in the first token
            max_new_tokens = min(max_new_tokens, 1)
        if any(kwargs.get(name, 1) != 1 for name in ("num_beams", "num_return_sequences")):
            raise ValueError("a task asks for num_beams or num_return_sequences, expected 1 of each")
        do_sample, temperature = bool(kwargs.pop("do_sample")), float(kwargs.pop("temperature", 0.0))
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": do_sample}
        options["stop"] = [string for string in until if string]
        ends = owner.model._eos_token_ids
        if owner.eot_token_id not in ends:  # its text is one of until's, but texts here have no special tokens
            options["eos_token_id"] = [*ends, owner.eot_token_id]
        for name in _SAMPLING & kwargs.keys():
            if kwargs[name] is not None:
                options[name] = kwargs[name]
        if do_sample:
            options = {"top_k": _DEFAULT_TOP_K, **options, "temperature": temperature}
        if unknown := kwargs.keys() - _SAMPLING - _IGNORED:
            raise ValueError(
                f"a task's generation_kwargs hold {', '.join(sorted(unknown))}, which pythia-cpu does not have; it has "
                f"until, max_gen_toks, do_sample, temperature, {', '.join(sorted(_SAMPLING))}"
            )
        return cls(ids, options, until)

    @property
    def key(self) -> str:
        """Equal for equal requests."""
        return json.dumps([self.context, self.options, self.until], sort_keys=True)

    def with_seed(self, seed: int, repeat: int) -> GenerationRequest:
        """The request with the seed of its draws; ``repeat`` counts equal requests before it."""
        if not self.options["do_sample"]:
            return self
        return replace(self, options={**self.options, "seed": seed + repeat})

    def finish(self, owner: _Owner, generation: pythia_cpu.Generation) -> str:
        """The harness's result: without special tokens, and ending before the first of the stop strings."""
        text = owner.model.tokenizer.decode(generation.tokens)
        result: str = postprocess_generated_text(text, self.until, think_end_token=None)
        return result
