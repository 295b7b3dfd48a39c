"""``pipeline("text-generation")``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pythia_cpu._options import refuse_unknown
from pythia_cpu.hf._generate import set_options
from pythia_cpu.hf._model import GPTNeoXForCausalLM
from pythia_cpu.hf._tokenizer import GPTNeoXTokenizer

_TASK = "text-generation"
# transformers.TextGenerationPipeline's own, where neither the call nor the pipeline says otherwise.
_OPTIONS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "device": ("cpu", -1),
    "framework": (),
    "batch_size": (),  # rows that run together have the texts that they have alone
    "num_workers": (),
    "use_fast": (),
}


class TextGenerationPipeline:
    """Texts in, texts out; ``pipeline`` makes these.

    Attributes:
        model: the GPTNeoXForCausalLM.
        tokenizer: the GPTNeoXTokenizer.
    """

    task = _TASK

    def __init__(self, model: GPTNeoXForCausalLM, tokenizer: GPTNeoXTokenizer, **options: Any) -> None:
        """``options`` are those of calls, which each call may change."""
        self.model: GPTNeoXForCausalLM = model
        self.tokenizer: GPTNeoXTokenizer = tokenizer
        self._options = options

    def __call__(self, text_inputs: str | Sequence[str], **options: Any) -> list[Any]:
        """Goes on with a text or several, drawing tokens at a temperature of 0.7 unless ``do_sample=False``.

        Args:
            text_inputs: a str or a list of str.
            **options: ``return_full_text`` (True: with the prompt), ``return_tensors`` (True: ids instead of text,
                filled up where texts of one call have ended sooner), ``skip_special_tokens`` (True), ``stop_sequence``
                (as ``stop_strings``), ``prefix`` (before each prompt), ``truncation`` (of prompts, by the tokenizer),
                and those of ``generate``; what neither the call nor a generation_config sets is as in transformers'
                pipeline: 256 new tokens, drawn at a temperature of 0.7.

        Returns:
            of a text a list of its ``num_return_sequences`` results, each a dict with ``generated_text`` or
            ``generated_token_ids``; of several texts a list of such lists.

        Raises:
            ValueError: as ``generate``; an empty text.
        """
        given = {name: v for name, v in {**self._options, **options}.items() if name not in _WITHOUT_EFFECT}
        refuse_unknown("pipeline", {name: v for name, v in options.items() if name in _WITHOUT_EFFECT}, _WITHOUT_EFFECT)
        truncation = given.pop("truncation", None)
        return_full_text, return_tensors = given.pop("return_full_text", None), given.pop("return_tensors", None)
        skip_special_tokens = given.pop("skip_special_tokens", None) is not False
        prefix, stop = given.pop("prefix", None) or "", given.pop("stop_sequence", None)
        if stop is not None:
            given["stop_strings"] = stop
        given.pop("clean_up_tokenization_spaces", None)  # as in decode, without effect
        set_before = set_options(self.model.generation_config)
        defaults = {name: value for name, value in _OPTIONS.items() if name not in set_before}
        if given.get("generation_config") is not None:
            defaults = {}
        if given.get("max_length") is not None:
            defaults.pop("max_new_tokens", None)

        single = isinstance(text_inputs, str)
        texts: list[str] = [text_inputs] if isinstance(text_inputs, str) else list(text_inputs)
        if not texts:
            return []
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                "text_inputs holds what is no text, expected a str or a list of str: pythia_cpu has no chat templates, "
                "so make a text of a chat first, with apply_chat_template of transformers' own tokenizer"
            )
        if "" in texts and not prefix:
            raise ValueError(
                "text_inputs holds an empty text, expected at least one token: use the tokenizer's eos_token"
            )
        encoded = self.tokenizer(
            [prefix + text for text in texts],
            padding=True,
            padding_side="left",
            truncation=bool(truncation),
            return_tensors="pt" if "torch" in sys.modules else "np",
        )
        rows = self.model.generate(**encoded, **{**defaults, **given})
        width, count = encoded.input_ids.shape[1], len(rows) // len(texts)

        def result(i: int) -> dict[str, Any]:
            if return_tensors:
                num_padding = width - int(encoded.attention_mask[i // count].sum())
                return {"generated_token_ids": rows[i][num_padding:].tolist()}
            new = self.tokenizer.decode(rows[i][width:], skip_special_tokens=skip_special_tokens)
            return {"generated_text": new if return_full_text is False else texts[i // count] + new}

        results = [[result(i) for i in range(n * count, (n + 1) * count)] for n in range(len(texts))]
        return results[0] if single else results

    def __repr__(self) -> str:
        """What is inside."""
        return f"TextGenerationPipeline({self.model!r})"


def pipeline(
    task: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    *,
    revision: str | int | None = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    token: str | bool | None = None,
    trust_remote_code: bool | None = None,
    device_map: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> TextGenerationPipeline:
    """A pipeline that writes texts.

    Args:
        task: "text-generation", or None.
        model: a GPTNeoXForCausalLM, or what its ``from_pretrained`` takes.
        tokenizer: a GPTNeoXTokenizer, or what its ``from_pretrained`` takes; None: the model's.
        revision: as in ``from_pretrained``, for both, as those below.
        dtype: of the model's weights.
        torch_dtype: the old name of dtype.
        token: a user's token for the hub.
        trust_remote_code: has no effect.
        device_map: the CPU.
        model_kwargs: more of the model's ``from_pretrained``, e.g. ``{"weights": "q8"}``.
        **options: of each call.

    Raises:
        ValueError: another task, or options that are not supported.
        CheckpointError, FormatError, OSError: as ``from_pretrained``.
    """
    if task not in (None, _TASK):
        raise ValueError(f"task is {task!r}, but pythia_cpu supports only {_TASK!r}")
    known = {name: options.pop(name) for name in _WITHOUT_EFFECT if name in options}
    refuse_unknown("pipeline", known, _WITHOUT_EFFECT)
    if model is None:
        raise ValueError("model is None, expected a model or its name, e.g. 'EleutherAI/pythia-70m'")
    if isinstance(model, GPTNeoXForCausalLM):
        if tokenizer is None:
            tokenizer = GPTNeoXTokenizer(model.model._file.tokenizer)
    else:
        tokenizer = model if tokenizer is None else tokenizer
        loading = {"dtype": dtype, "torch_dtype": torch_dtype, "device_map": device_map, **(model_kwargs or {})}
        model = GPTNeoXForCausalLM.from_pretrained(model, revision=revision, token=token, **loading)
    if not isinstance(tokenizer, GPTNeoXTokenizer) and not callable(tokenizer):
        tokenizer = GPTNeoXTokenizer.from_pretrained(tokenizer, revision=revision, token=token)
    return TextGenerationPipeline(model, tokenizer, **options)
