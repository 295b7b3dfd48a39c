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
from pythia_cpu.hf._stepwise import Ends, Functions
from pythia_cpu.hf._texts import Texts

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
    "low_memory": (),
    "prompt_lookup_num_tokens": (),  # proposes tokens, as a draft does
    "max_matching_ngram_size": (),
    "decoder_start_token_id": (),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "begin_suppress_tokens": ([],),
}
# Options that would make other texts, and that pythia_cpu does not have.
_NOT_SUPPORTED = (
    "constraints",
    "dola_layers",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "top_h",
    "watermarking_config",
)


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


_KNOWN = frozenset({*_OWN, *FILTERS, *_SHARED, *_WITHOUT_EFFECT, *_NOT_SUPPORTED})


def stored_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``generate`` in a generation_config.json or config.json, as transformers reads them there: names
    that it does not know have no meaning, negative ids are none, and what a call returns is the call's to say.
    """
    outputs = "output_attentions", "output_hidden_states"
    return {
        name: value
        for name, value in stored.items()
        if name in _KNOWN
        and name not in outputs
        and not (name.endswith("_token_id") and isinstance(value, int) and value < 0)
    }


class GenerationConfig:
    """Options of ``generate`` as attributes. Those that are None or missing are not set."""

    def __init__(self, **options: Any) -> None:
        """The options by name."""
        vars(self).update(options)

    def __getattr__(self, name: str) -> None:
        """None: the option is not set."""
        if name not in _KNOWN:
            raise AttributeError(f"pythia_cpu's GenerationConfig has no {name!r}: it has the options of generate")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name: str | os.PathLike[str], *, revision: str | int | None = None, **options: Any
    ) -> GenerationConfig:
        """Those of a checkpoint's generation_config.json, and others. Raises as the model's ``from_pretrained``."""
        return cls(**{**stored_options(read_generation_config(pretrained_model_name, revision) or {}), **options})

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

    def __hash__(self) -> int:
        """Of the names of the options."""
        return hash(frozenset(vars(self)))

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
        sequences_scores: of beams float32 ``[batch * num_return_sequences]``, by which they are ranked; else None.
    """

    sequences: Any
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None
    sequences_scores: Any = None


def generate(model: Model, input_ids: Any, attention_mask: Any, given: dict[str, Any]) -> Any:
    """``GPTNeoXForCausalLM.generate``; ``given`` has all options that are set anywhere."""
    eos_token_ids = _ids("eos_token_id", given.pop("eos_token_id", None))
    pad_token_ids = _ids("pad_token_id", given.pop("pad_token_id", None))
    fill = [*pad_token_ids, *eos_token_ids, 0][0]
    if attention_mask is None and pad_token_ids and fill not in eos_token_ids:
        attention_mask = _mask_of_padding(input_ids, fill)
    rows, spans = rows_and_spans(input_ids, attention_mask)
    prompts = [rows[i, span] for i, span in enumerate(spans)]
    as_dict, with_scores, with_logits = (
        given.pop(name, None) for name in ("return_dict_in_generate", "output_scores", "output_logits")
    )
    width = rows.shape[1]
    ends = Ends(_max_new_tokens(given, width, model.context_length), _min_new_tokens(given, width), eos_token_ids)
    convert = to_torch if is_torch(input_ids) else np.asarray
    banned = take_banned(given, eos_token_ids)
    streamer = given.pop("streamer", None)
    functions = _functions(given, streamer, convert, len(rows))
    engine = _engine_options(given, banned)
    _refuse_special_tokens(model, engine.get("stop", []))
    if as_dict and (with_scores or with_logits):
        _check_scores(engine, bool(with_scores and (banned or functions.processors)))
    _set_seeds(engine, len(rows), of_torch=is_torch(input_ids))
    if streamer is not None:
        streamer.put(convert(rows))
    writer = Texts(model, rows, prompts, fill=fill, ends=ends, engine=engine, functions=functions)
    texts = writer.write()
    if streamer is not None:
        streamer.end()
    sequences = _sequences(rows, texts, fill)
    if not as_dict:
        return convert(sequences)
    steps: dict[str, Any] = {}
    if writer.beam_scores:
        steps["sequences_scores"] = convert(np.array(writer.beam_scores, np.float32))
    if with_scores or with_logits:
        repeated = [prompt for prompt in prompts for _ in range(len(texts) // len(rows))]
        new_tokens = sequences[:, width:]
        logits = step_logits(model, repeated, new_tokens)
        if with_scores:
            scores = step_scores(logits, repeated, new_tokens, engine, ends.min_new_tokens, eos_token_ids)
            steps["scores"] = tuple(convert(step) for step in scores)
        if with_logits:
            steps["logits"] = tuple(convert(step) for step in logits)
    return GenerateOutput(convert(sequences), **steps)


def _mask_of_padding(input_ids: Any, fill: int) -> Any:
    """Which ids are no padding; None if there is none."""
    if input_ids is None:
        return None
    ids = id_rows("input_ids", input_ids)
    return ids != fill if (ids == fill).any() else None


def _sequences(rows: Rows, texts: list[list[int]], fill: int) -> Rows:
    """Prompts, each as often as it has texts, and their texts, filled up: ``[num_texts, length]``."""
    width = rows.shape[1]
    found = np.full((len(texts), width + max(map(len, texts))), fill, np.int64)
    found[:, :width] = np.repeat(rows, len(texts) // len(rows), axis=0)
    for i, text in enumerate(texts):
        found[i, width : width + len(text)] = text
    return found


def _functions(given: dict[str, Any], streamer: Any, convert: Callable[[Any], Any], num_rows: int) -> Functions:
    """What a script has a say with; ``convert`` is applied to what its functions get."""
    if streamer is not None and num_rows > 1:
        raise ValueError(f"streamer is given with {num_rows} prompts, expected one")
    max_time = given.pop("max_time", None)
    return Functions(
        processors=take_processors(given, convert),
        criteria=[_converting(one, convert) for one in given.pop("stopping_criteria", None) or ()],
        max_time_s=math.inf if max_time is None else number("max_time", max_time),
        put=None if streamer is None else lambda token: streamer.put(convert(np.array([token]))),
    )


def _converting(criterion: Any, convert: Callable[[Any], Any]) -> Callable[[Rows, Floats], Any]:
    return lambda ids, scores: criterion(convert(ids), convert(scores))


def _set_seeds(engine: dict[str, Any], num_rows: int, *, of_torch: bool) -> None:
    """Gives each row a seed where texts are drawn: rows are independent, as transformers' are."""
    if not engine.get("do_sample"):
        return
    if "seed" not in engine and of_torch:
        engine["seed"] = _torch_seed()
    if "seed" in engine:
        first = integer("seed", engine["seed"], 0, 2**64 - 1)
        engine["seed"] = [(first + i) % 2**64 for i in range(num_rows)]


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


def default_options(config: object) -> dict[str, Any]:
    """``set_options`` of a model's own config. Raises ValueError for one that pythia_cpu does not have."""
    options = set_options(config)
    for name in _NOT_SUPPORTED:
        if name in options:
            raise ValueError(
                f"the model's generation_config has {name} {options[name]!r}, as its checkpoint may say, which "
                f"pythia_cpu does not support: to write without it set model.generation_config.{name} = None"
            )
    return options


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


def _engine_options(given: dict[str, Any], banned: dict[int, float]) -> dict[str, Any]:
    """The arguments of ``Model.generate`` beside lengths and ends of texts. Raises ValueError for what is left over."""
    assistant = given.pop("assistant_model", None)
    engine = {
        "do_sample": given.pop("do_sample", None),
        "num_return_sequences": given.pop("num_return_sequences", None),
        "stop": strings("stop_strings", given.pop("stop_strings", None)) or None,
        "draft": getattr(assistant, "model", assistant),
        "logit_bias": banned or None,
    }
    filters = {"top_k": _TOP_K} | {name: given.pop(name) for name in FILTERS if name in given}
    if engine["do_sample"]:  # otherwise they change nothing, whatever they are
        engine |= filters
    engine |= {name: given.pop(name) for name in _SHARED if name in given}
    refuse_unknown("generate", given, _WITHOUT_EFFECT, _KNOWN)
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
