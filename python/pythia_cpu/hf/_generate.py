"""Generation with transformers' options."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pythia_cpu._arguments import integer, number, strings
from pythia_cpu._model import Model
from pythia_cpu._options import refuse_unknown
from pythia_cpu.hf._arrays import id_rows, is_torch, to_lists, to_torch
from pythia_cpu.hf._forward import Floats, ModelOutput, Rows, rows_and_spans
from pythia_cpu.hf._generation_file import read_generation_config
from pythia_cpu.hf._processors import take_banned, take_processors
from pythia_cpu.hf._scores import FILTERS, step_logits, step_scores
from pythia_cpu.hf._stepwise import Functions, Stepwise

_NEW_TOKENS = 20  # where no length is given, as in transformers
_TOP_K = 50  # likewise
_MAX_LENGTH_4 = 20  # of transformers 4's GenerationConfig where it is not set, which means _NEW_TOKENS

# Options of transformers that pythia_cpu.Model.generate has under the same name, beside FILTERS.
_SHARED = "repetition_penalty", "no_repeat_ngram_size", "seed", "num_beams", "length_penalty", "early_stopping"
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "use_cache": (),
    "cache_implementation": (),
    "disable_compile": (),
    "tokenizer": (),  # for stop_strings; the model has its own
    "bos_token_id": (),
    "transformers_version": (),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "remove_invalid_values": (),  # there are none
    "renormalize_logits": (False,),
    "token_healing": (False,),
    "is_assistant": (False,),
    # How many tokens a draft proposes is ours to say; which ones does not change the text.
    "num_assistant_tokens": (),
    "num_assistant_tokens_schedule": (),
    "assistant_confidence_threshold": (),
    "assistant_lookbehind": (),
    "target_lookbehind": (),
    "generation_kwargs": ({},),
    # Nothing to do for them.
    "synced_gpus": (False,),
}


_OWN = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "do_sample",
    "num_return_sequences",
    "stop_strings",
    "eos_token_id",
    "pad_token_id",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "suppress_tokens",
    "bad_words_ids",
)


class GenerationConfig:
    """Options of ``generate`` as attributes. Those that are None or missing are not set."""

    def __init__(self, **options: Any) -> None:
        """The options by name."""
        vars(self).update(options)

    def __getattr__(self, name: str) -> None:
        """None: the option is not set."""
        if name not in {*_OWN, *FILTERS, *_SHARED, *_WITHOUT_EFFECT}:
            raise AttributeError(f"pythia_cpu's GenerationConfig has no {name!r}: it has the options of generate")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name: str | os.PathLike[str], *, revision: str | int | None = None, **options: Any
    ) -> GenerationConfig:
        """Those of a checkpoint's generation_config.json, and others. Raises as the model's ``from_pretrained``."""
        return cls(**{**read_generation_config(pretrained_model_name, revision), **options})

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> GenerationConfig:
        """The options of a dict, and others."""
        return cls(**{**config_dict, **options})

    def to_dict(self) -> dict[str, Any]:
        """The options that are set."""
        return dict(vars(self))

    def update(self, **options: Any) -> None:
        """Sets options."""
        vars(self).update(options)

    def __eq__(self, other: object) -> bool:
        """Whether the same options are set to the same values."""
        return isinstance(other, GenerationConfig) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it may be changed

    def __repr__(self) -> str:
        """The options."""
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@dataclass(frozen=True, eq=False)
class GenerateOutput(ModelOutput):
    """What ``generate`` gives with ``return_dict_in_generate``.

    Attributes:
        sequences: int64 ``[batch * num_return_sequences, length]``.
        scores: of ``output_scores``: for each new token float32 ``[batch * num_return_sequences, vocab_size]``, as it
            was chosen from: with penalties, and of drawn tokens with temperature and filters; else None.
        logits: of ``output_logits``: likewise, the model's own.
    """

    sequences: Any
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None


def generate(model: Model, input_ids: Any, attention_mask: Any, given: dict[str, Any]) -> Any:
    """``GPTNeoXForCausalLM.generate``; ``given`` has all options that are set anywhere."""
    eos_token_ids = _ids("eos_token_id", given.pop("eos_token_id", None))
    pad_token_ids = _ids("pad_token_id", given.pop("pad_token_id", None))
    fill = [*pad_token_ids, *eos_token_ids, 0][0]
    if attention_mask is None and input_ids is not None and pad_token_ids and fill not in eos_token_ids:
        ids = id_rows("input_ids", input_ids)
        attention_mask = ids != fill if (ids == fill).any() else None
    rows, spans = rows_and_spans(input_ids, attention_mask)
    prompts = [rows[i, span] for i, span in enumerate(spans)]
    width = rows.shape[1]
    as_dict, with_scores, with_logits = (
        given.pop(name, None) for name in ("return_dict_in_generate", "output_scores", "output_logits")
    )
    max_new_tokens = _max_new_tokens(given, width, model.context_length)
    min_new_tokens = _min_new_tokens(given, width)
    streamer, max_time = given.pop("streamer", None), given.pop("max_time", None)
    criteria = list(given.pop("stopping_criteria", None) or ())
    convert = to_torch if is_torch(input_ids) else np.asarray
    banned = take_banned(given, eos_token_ids)
    processors = take_processors(given, convert)
    assistant = given.pop("assistant_model", None)
    engine = _engine_options(given)
    if assistant is not None:
        engine["draft"] = getattr(assistant, "model", assistant)
    if banned:
        engine["logit_bias"] = banned
    _refuse_special_tokens(model, engine.get("stop", []))
    if as_dict and (with_scores or with_logits):
        _check_scores(engine, bool(with_scores and (banned or processors)))
    if engine.get("do_sample") and "seed" not in engine and is_torch(input_ids):
        engine["seed"] = _torch_seed()
    if engine.get("do_sample") and "seed" in engine:  # rows are independent, as transformers' are
        first = integer("seed", engine["seed"], 0, 2**64 - 1)
        engine["seed"] = [(first + i) % 2**64 for i in range(len(rows))]

    put = None
    if streamer is not None:
        if len(rows) > 1:
            raise ValueError(f"streamer is given with {len(rows)} prompts, expected one")
        streamer.put(convert(rows))

        def put(token: int) -> None:
            streamer.put(convert(np.array([token])))

    functions = Functions(
        processors=processors,
        criteria=[_converting(criterion, convert) for criterion in criteria],
        max_time_s=math.inf if max_time is None else number("max_time", max_time),
        put=put,
    )
    texts = _texts(model, rows, prompts, max_new_tokens, min_new_tokens, eos_token_ids, engine, functions, fill)
    if streamer is not None:
        streamer.end()
    count = len(texts) // len(rows)
    output = np.full((len(texts), width + max(map(len, texts))), fill, np.int64)
    output[:, :width] = np.repeat(rows, count, axis=0)
    for i, text in enumerate(texts):
        output[i, width : width + len(text)] = text
    if not as_dict:
        return convert(output)
    of_scores = of_logits = None
    if with_scores or with_logits:
        repeated = [prompt for prompt in prompts for _ in range(count)]
        new_tokens = output[:, width:]
        logits = step_logits(model, repeated, new_tokens)
        if with_scores:
            scores = step_scores(logits, repeated, new_tokens, engine, min_new_tokens, eos_token_ids)
            of_scores = tuple(convert(step) for step in scores)
        of_logits = tuple(convert(step) for step in logits) if with_logits else None
    return GenerateOutput(convert(output), of_scores, of_logits)


def _converting(criterion: Any, convert: Callable[[Any], Any]) -> Callable[[Rows, Floats], Any]:
    return lambda ids, scores: criterion(convert(ids), convert(scores))


def _torch_seed() -> int:
    """Drawn from torch's generator, so that ``torch.manual_seed`` makes texts repeatable."""
    torch = sys.modules["torch"]
    return int(torch.randint(2**63 - 1, ()))


def set_options(config: object) -> dict[str, Any]:
    """The options that a GenerationConfig, this one's or transformers', or a dict has set."""
    if config is None:
        return {}
    if not isinstance(config, Mapping) and (hasattr(config, "__array__") or not hasattr(config, "__dict__")):
        kind = type(config).__name__
        raise ValueError(
            f"generation_config is of type {kind}, expected a GenerationConfig or a dict; give attention_mask by name"
        )
    values = config if isinstance(config, Mapping) else vars(config)
    if str(values.get("transformers_version")).startswith("4.") and values.get("max_length") == _MAX_LENGTH_4:
        values = {**values, "max_length": None}
    return {name: value for name, value in values.items() if value is not None and not name.startswith("_")}


def _max_new_tokens(given: dict[str, Any], width: int, context_length: int) -> int:
    max_new_tokens, max_length = given.pop("max_new_tokens", None), given.pop("max_length", None)
    if max_new_tokens is not None:
        return integer("max_new_tokens", max_new_tokens, 1)
    if max_length is None:
        return max(1, min(_NEW_TOKENS, context_length - width))
    if integer("max_length", max_length, 1) <= width:
        raise ValueError(
            f"max_length is {max_length}, but the prompts have {width} ids already: use max_new_tokens, or more"
        )
    return int(max_length) - width


def _min_new_tokens(given: dict[str, Any], width: int) -> int:
    min_new_tokens, min_length = given.pop("min_new_tokens", None), given.pop("min_length", None)
    if min_new_tokens is not None:
        return integer("min_new_tokens", min_new_tokens, 0)
    return 0 if min_length is None else max(0, integer("min_length", min_length, 0) - width)


def _ids(name: str, value: Any) -> list[int]:
    """None, an id, or several, in any form, as a list."""
    ids = to_lists(value)
    return [] if ids is None else [integer(name, id, 0) for id in (ids if isinstance(ids, list) else [ids])]


def _engine_options(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``Model.generate`` beside lengths and ends of texts. Raises ValueError for what is left over."""
    engine = {
        "do_sample": given.pop("do_sample", None),
        "num_return_sequences": given.pop("num_return_sequences", None),
        "stop": strings("stop_strings", given.pop("stop_strings", None)) or None,
    }
    filters = {"top_k": _TOP_K} | {name: given.pop(name) for name in FILTERS if name in given}
    if engine["do_sample"]:  # otherwise they change nothing, whatever they are
        engine |= filters
    engine |= {name: given.pop(name) for name in _SHARED if name in given}
    refuse_unknown("generate", given, _WITHOUT_EFFECT)
    return {name: value for name, value in engine.items() if value is not None}


def _refuse_special_tokens(model: Model, stop: list[str]) -> None:
    """Stop strings are looked for in texts, which special tokens are no part of."""
    for string in stop:
        for id in model.tokenizer.encode(string):
            if model.tokenizer.decode([id], skip_special_tokens=False) and not model.tokenizer.decode([id]):
                raise ValueError(
                    f"stop_strings holds {string!r}, in which token {id} is a special one, but pythia_cpu looks for "
                    f"them in text without special tokens: use eos_token_id={id}"
                )


def _check_scores(engine: Mapping[str, Any], has_changes: bool) -> None:
    if has_changes:
        raise ValueError(
            "output_scores is not supported by pythia_cpu with logits_processor, prefix_allowed_tokens_fn, "
            "bad_words_ids or suppress_tokens: use output_logits"
        )
    if engine.get("num_beams", 1) != 1:
        raise ValueError(
            "output_scores and output_logits are not supported by pythia_cpu with num_beams: leave them out"
        )


def _texts(
    model: Model,
    rows: Rows,
    prompts: list[Rows],
    max_new_tokens: int,
    min_new_tokens: int,
    eos_token_ids: list[int],
    engine: dict[str, Any],
    functions: Functions,
    fill: int,
) -> list[list[int]]:
    """New tokens of all texts, those of a prompt one after the other."""
    stop: list[str] = engine.get("stop", [])
    completions = [_completions(model, prompt, stop) for prompt in prompts]
    count = engine.get("num_return_sequences", 1)

    def ends(number: int, tokens: list[int]) -> bool:
        if not stop:
            return False
        text = model.tokenizer.decode(tokens, skip_special_tokens=False)
        return any(s in text for s in stop) or _end(model, tokens, completions[number // count]) is not None

    has_beams = engine.get("num_beams", 1) != 1
    has_later_end = 0 < min_new_tokens < max_new_tokens and bool(eos_token_ids)
    is_seen = bool(functions.processors or functions.criteria or functions.max_time_s < math.inf)
    if is_seen or (has_later_end and (engine.get("do_sample") or stop)):
        if has_beams:
            raise ValueError(
                "stopping_criteria, logits_processor, max_time and min_new_tokens below max_new_tokens are not "
                "supported by pythia_cpu with num_beams: leave them out"
            )
        return Stepwise(model, rows, prompts, fill=fill, engine=engine).run(
            functions,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            eos_token_ids=eos_token_ids,
            ends=ends,
        )

    def stream(prompt: Rows, arguments: dict[str, Any], put: Callable[[int], None]) -> list[int]:
        if isinstance(seeds := arguments.get("seed"), list):
            arguments = {**arguments, "seed": seeds[0]}
        tokens: list[int] = []
        for token in model.stream(prompt, **arguments):
            tokens.append(token.id)
            put(token.id)
            if _end(model, tokens, completions[0]) is not None:
                break
        return tokens

    def run(prompts: list[Rows], count: int, bias: dict[int, float] | None = None) -> list[list[int]]:
        ends = {"eos_token_id": eos_token_ids, "ignore_eos": not eos_token_ids}
        arguments: dict[str, Any] = {"max_new_tokens": count, **ends, **engine}
        if bias or "logit_bias" in engine:
            arguments["logit_bias"] = {**engine.get("logit_bias", {}), **(bias or {})}
        if functions.put is not None:
            return [stream(prompts[0], arguments, functions.put)]
        results: Any = model.generate(prompts, **arguments)
        several = [result if isinstance(result, list) else [result] for result in results]
        return [t.tokens[: _end(model, t.tokens, completions[i])] for i, row in enumerate(several) for t in row]

    if min_new_tokens == 0 or not eos_token_ids:
        return run(prompts, max_new_tokens)
    no_end = dict.fromkeys(eos_token_ids, -math.inf)
    if min_new_tokens >= max_new_tokens:
        return run(prompts, max_new_tokens, no_end)
    if has_beams:
        raise ValueError(
            f"min_new_tokens is {min_new_tokens}, but pythia_cpu supports less than max_new_tokens ({max_new_tokens}) "
            "only without num_beams: leave it out, or use max_new_tokens' value"
        )
    texts = run(prompts, min_new_tokens, no_end)
    beginnings = [np.array([*prompt, *text]) for prompt, text in zip(prompts, texts, strict=True)]
    going_on = [i for i, ids in enumerate(beginnings) if len(ids) <= model.context_length]
    rests = run([beginnings[i] for i in going_on], max_new_tokens - min_new_tokens) if going_on else []
    for i, rest in zip(going_on, rests, strict=True):
        texts[i] = texts[i] + rest
    return texts


def _completions(model: Model, prompt: Rows, stop: list[str]) -> tuple[str, ...]:
    """Beginnings of a new text that complete a stop string begun at the prompt's end, which ends it in transformers."""
    if not stop:
        return ()
    most_tokens = 4 * max(map(len, stop))  # a character has at most four
    text = model.tokenizer.decode(prompt[-most_tokens:].tolist(), skip_special_tokens=False)
    return tuple(string[i:] for string in stop for i in range(1, len(string)) if text.endswith(string[:i]))


def _end(model: Model, tokens: list[int], completions: tuple[str, ...]) -> int | None:
    """How many of a text's tokens it takes until it begins with one of ``completions``; None: it does not."""
    for n in range(1, 1 + min(len(tokens), 4 * max(map(len, completions), default=0))):
        if model.tokenizer.decode(tokens[:n], skip_special_tokens=False).startswith(completions):
            return n
    return None
