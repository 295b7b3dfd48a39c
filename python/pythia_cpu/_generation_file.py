"""Generated texts in a file of JSON lines, written as they come and continued after an interruption."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import iterator, refuse_table
from pythia_cpu._file_inputs import identity_of, members
from pythia_cpu._generating_model import Aids, GeneratingModel
from pythia_cpu._generation import Generation, TopLogprobs
from pythia_cpu._generation_arguments import GenerationArguments
from pythia_cpu._identity import model_key
from pythia_cpu._record_file import Head, add_records, record_head, record_line, shortest

_SECONDS_PER_WRITE = 1.0  # texts that are done are written together, about so often


def generate_to_file(
    model: GeneratingModel,
    prompts: Iterable[object],
    path: str | os.PathLike[str],
    arguments: GenerationArguments,
    aids: Aids,
    *,
    progress: bool,
) -> int:
    """``Model.generate_to_file``."""
    refuse_table("prompts", prompts, ".to_dict('records')")
    coming = iterator("prompts", prompts, "prompts one after the other, e.g. a list")
    key, options = model_key(model.core.file), _options(arguments)
    items = (_input(model, number, item, key, options, arguments) for number, item in enumerate(coming))
    total = len(prompts) if isinstance(prompts, Sized) else None

    def lines(items: Iterator[tuple[list[int], Head]]) -> Iterator[list[bytes]]:
        return _lines(model, items, arguments, aids)

    return add_records(path, items, lines, total=total, unit=" texts", progress=progress)


def _options(arguments: GenerationArguments) -> dict[str, object]:
    """What beside the prompt, its seed and the model decides on a record, as JSON holds it."""
    options = {name: _plain(value) for name, value in asdict(arguments).items() if name != "seed"}
    if arguments.logit_bias is not None:
        options["logit_bias"] = sorted([int(id), float(bias)] for id, bias in arguments.logit_bias.items())
    return options


def _plain(value: Any) -> object:
    """Python's own numbers and lists in place of NumPy's and of tuples."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _input(
    model: GeneratingModel,
    number: int,
    item: object,
    key: str,
    options: Mapping[str, object],
    arguments: GenerationArguments,
) -> tuple[list[int], Head]:
    """A prompt's token ids and the head of its record."""
    place = f"prompts[{number}]"
    fields = members(item, "prompt")
    if "prompt" not in fields:
        raise ValueError(f"{place} has {sorted(map(str, fields))}, expected 'prompt', and perhaps 'id'")
    ids = model.prompt(place, fields["prompt"])
    seed = None if arguments.seed is None else arguments.draw_seed(number)
    return ids, record_head(number, identity_of(fields, place), key, [ids, seed, options])


def _lines(
    model: GeneratingModel, items: Iterator[tuple[list[int], Head]], arguments: GenerationArguments, aids: Aids
) -> Iterator[list[bytes]]:
    """Records in the order of the inputs, those of about a second at once. Where an error or Ctrl-C ends the run,
    those that are done come first.
    """
    first = next(items, None)
    if first is None:
        return
    if arguments.has_seeds():  # one for each prompt: those of prompts that the file has are used up
        arguments = replace(arguments, seed=arguments.seed[first[1]["index"] :])  # type: ignore[index]
    heads: dict[int, Head] = {}

    def prompts() -> Iterator[list[int]]:
        for number, (ids, head) in enumerate(itertools.chain([first], items)):
            heads[number] = head
            yield ids

    done: dict[int, list[Generation]] = {}
    ready: list[bytes] = []
    following, due = 0, time.monotonic() + _SECONDS_PER_WRITE
    try:
        for index, texts in model.generate(prompts(), arguments, aids):
            done[index] = texts
            while following in done:
                ready.append(record_line(heads.pop(following), _fields(done.pop(following))))
                following += 1
            if ready and time.monotonic() >= due:
                yield ready
                ready, due = [], time.monotonic() + _SECONDS_PER_WRITE
    except (Exception, KeyboardInterrupt):
        if ready:
            yield ready
        raise
    if ready:
        yield ready


def _fields(texts: list[Generation]) -> dict[str, object]:
    """What a record says of a prompt's texts: of one its fields, of several a list of them."""
    fields = [_text_fields(text) for text in texts]
    count: dict[str, object] = {"num_prompt_tokens": len(texts[0].prompt_tokens)}
    return {**count, **fields[0]} if len(fields) == 1 else {**count, "texts": fields}


def _text_fields(text: Generation) -> dict[str, object]:
    fields: dict[str, object] = {"text": text.text, "tokens": text.tokens, "finish_reason": text.finish_reason}
    if text.seed is not None:
        fields["seed"] = text.seed
    if text.beam_score is not None:
        fields["beam_score"] = text.beam_score
    if text.logprobs is not None:
        fields["logprobs"] = shortest(text.logprobs)
    if text.top_logprobs is not None:
        fields["top_logprobs"] = [
            [[id, value] for (id, _), value in zip(top, shortest(_values(top)), strict=True)]
            for top in text.top_logprobs
        ]
    return fields


def _values(top: TopLogprobs) -> npt.NDArray[np.float32]:
    return np.array([value for _, value in top], np.float32)
