"""A model, ready to run: logits and text from a ``.pcpu`` file."""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import Prompt, Prompts, TokenIds, integer, is_batch, token_ids
from pythia_cpu._config import ACTIVATIONS
from pythia_cpu._convert import provenance
from pythia_cpu._generation import (
    Generation,
    GenerationArguments,
    TokenStream,
    generate,
    generate_with_beams,
    generate_with_draft,
)
from pythia_cpu._memorization import Memorization, MemorizationScorer
from pythia_cpu._scoring import ScoresTexts, ScoringModel
from pythia_cpu._session import Session, append_in_chunks
from pythia_cpu._tokenizer import Tokenizer

_MAX_THREADS = 4096


class Config(dict[str, Any]):
    """Hyperparameters under their transformers names, as items and as attributes: ``config["hidden_size"]`` and
    ``config.hidden_size``.
    """

    def __getattr__(self, name: str) -> Any:
        """The hyperparameter called ``name``."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model's config has no {name!r}; it has {', '.join(sorted(self))}") from None


class Model(ScoresTexts):
    """A GPT-NeoX model over an open ``.pcpu`` file; ``pythia_cpu.load`` makes these. Safe to use from several threads.

    The bits of every result depend on the file and on the tokens before it in its own sequence: not on threads,
    instruction set, batch, or the way a sequence is cut into calls.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        """Opens a ``.pcpu`` file.

        Args:
            path: the file.
            threads: threads of a forward pass; None means the physical cores this process may use.

        Raises:
            FormatError: the file is damaged, of another version, or no ``.pcpu`` file.
            OSError: the file cannot be read.
            ValueError: ``threads`` is below 1, or PYTHIA_CPU_ISA names an instruction set that this machine lacks.
        """
        count = 0 if threads is None else integer("threads", threads, 1, _MAX_THREADS)
        self._core = _core.Model.open(os.fspath(path), count)
        self._file = self._core.file

    @functools.cached_property
    def config(self) -> Config:
        """The checkpoint's hyperparameters under their transformers names: what its config.json says, and beside it
        ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``, ``intermediate_size``, ``vocab_size``,
        ``max_position_embeddings``, ``hidden_act``, ``use_parallel_residual``, ``tie_word_embeddings``,
        ``attention_bias``, ``rotary_pct``, ``rotary_emb_base``, ``rotary_ndims``, ``layer_norm_eps``, ``bos_token_id``
        and ``eos_token_id`` (None where there is none) as the engine runs them.
        """
        settings = dict(self._file.config)
        canonical = {number: name for name, number in reversed(ACTIVATIONS.items())}
        settings["hidden_act"] = canonical[settings["hidden_act"]]
        head_dim = settings["hidden_size"] // settings["num_attention_heads"]
        settings["rotary_pct"] = settings["rotary_ndims"] / head_dim
        for name in ("bos_token_id", "eos_token_id"):
            settings[name] = None if settings[name] < 0 else settings[name]
        stored = json.loads(self._file.metadata.get("config", "{}"))
        return Config({**stored, **settings})

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return Tokenizer(self._file.tokenizer, self.config.eos_token_id)

    @functools.cached_property
    def provenance(self) -> dict[str, object]:
        """Where the weights came from: ``source``, ``revision``, ``commit``, ``weights`` (the format they are stored
        in), ``tensors`` (name -> sha256 of the checkpoint's tensor) and ``converter_version``; None where it is not
        known.
        """
        return provenance(self._file)

    @functools.cached_property
    def _engine(self) -> _core.GenerationEngine:
        return _core.GenerationEngine(self._core)

    @property
    def threads(self) -> int:
        """Threads of a forward pass; may be set. Results do not depend on it."""
        return self._core.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self._core.threads = integer("threads", threads, 1, _MAX_THREADS)

    @property
    def isa(self) -> str:
        """The instruction set of the kernels in use."""
        return self._core.isa

    @property
    def context_length(self) -> int:
        """The most tokens a sequence may have."""
        length: int = self._file.config["max_position_embeddings"]
        return length

    def verify(self) -> bool:
        """Whether this machine computes the bits that the converter did: runs the file's fixed prompt of 32 tokens and
        compares the hash of its logits with the one stored in the file.

        Raises:
            ValueError: the file stores none.
        """
        if self._file.fingerprint == 0:
            raise ValueError(f"{self._file.path} has no fingerprint to compare with: convert the checkpoint again")
        return self._core.fingerprint() == self._file.fingerprint

    @overload
    def logits(self, tokens: TokenIds) -> npt.NDArray[np.float32]: ...
    @overload
    def logits(self, tokens: Sequence[TokenIds]) -> list[npt.NDArray[np.float32]]: ...
    def logits(self, tokens: TokenIds | Sequence[TokenIds]) -> npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]:
        """Logits of every position.

        Args:
            tokens: token ids ``[num_tokens]``, or a list of such sequences (or an integer array ``[batch,
                num_tokens]``).

        Returns:
            float32 ``[num_tokens, vocab_size]``; row i is the prediction after tokens 0 to i. A list for a list.

        Raises:
            ValueError: no tokens, more than ``context_length``, or an id that is not one of the model's.
        """
        if not is_batch("tokens", tokens):
            return self._logits(self._sequence("tokens", tokens))
        sequences = [self._sequence(f"tokens[{i}]", sequence) for i, sequence in enumerate(tokens)]
        return [self._logits(sequence) for sequence in sequences]

    def _logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        cache = _core.KvCache(self._core, len(ids))
        return append_in_chunks(self._core, cache, ids, self._file.config["vocab_size"])

    def session(self) -> Session:
        """An empty sequence that grows token by token, can be cut and copied, and never computes a token twice."""
        return Session(self._core)

    def _scoring(self) -> ScoringModel:
        return ScoringModel(self._core, self.tokenizer, self.config.eos_token_id)

    def _sequence(self, name: str, tokens: object) -> npt.NDArray[np.int32]:
        """One sequence of ids that the model can read whole."""
        ids = token_ids(name, tokens, self._file.config["vocab_size"])
        if len(ids) == 0:
            raise ValueError(f"{name} has no tokens, expected at least one, e.g. [model.tokenizer.eos_token_id]")
        if len(ids) > self.context_length:
            raise ValueError(
                f"{name} has {len(ids)} tokens, the model's context holds {self.context_length}: shorten it"
            )
        return ids

    def _prompt(self, name: str, prompt: object) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        sequence: list[int] = self._sequence(name, ids).tolist()
        return sequence

    @overload
    def generate(self, prompt: Prompt, *, num_return_sequences: Literal[1] = 1, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: Prompt, *, num_return_sequences: int, **options: Any) -> list[Generation]: ...
    @overload
    def generate(
        self, prompt: Prompts, *, num_return_sequences: Literal[1] = 1, **options: Any
    ) -> list[Generation]: ...
    @overload
    def generate(self, prompt: Prompts, *, num_return_sequences: int, **options: Any) -> list[list[Generation]]: ...
    def generate(  # type: ignore[misc]  # the overloads name only what the type of the result depends on
        self,
        prompt: Prompt | Prompts,
        *,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        num_return_sequences: int = 1,
        stop: str | Sequence[str] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        ignore_eos: bool = False,
        seed: int | None = None,
        logprobs: int | None = None,
        draft: Model | None = None,
    ) -> Any:
        """Writes on from a prompt. Ctrl-C ends it within a token.

        Args:
            prompt: a str, a sequence of token ids (a flat list of ints is one prompt), or a list of prompts, which run
                together.
            max_new_tokens: the most tokens to write.
            do_sample: draw tokens; otherwise the most likely one is taken (the lowest id of equals), and
                ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``typical_p`` and ``seed`` are checked but have no
                effect, as in transformers.
            temperature: scores are divided by it; above 0.
            top_k: keep the k most likely tokens and all that tie with the last of them; 0: off.
            top_p: keep the fewest most likely tokens that have this probability together; above 0 to 1; 1: off.
            min_p: keep tokens at least this many times as likely as the most likely one; 0 to 1; 0: off.
            typical_p: locally typical sampling, the mass to keep; above 0 to 1; 1: off.
            repetition_penalty: scores of tokens in the prompt or the text are divided (if negative, multiplied) by it;
                1: off.
            presence_penalty: subtracted from the scores of tokens in the new text.
            frequency_penalty: subtracted once for each time the token is in the new text.
            logit_bias: token id -> number added to its score; ``-inf`` bans a token.
            num_beams: beams of a beam search with transformers' rules; 1: none. Not with ``do_sample``, ``stop`` or
                ``logprobs``.
            length_penalty: finished beams are ranked by log-probability / length ** length_penalty.
            early_stopping: True: end a search with ``num_beams`` finished texts; False: when better ones are unlikely;
                "never": when there can be no better ones.
            num_return_sequences: texts for each prompt: different draws, or the best of ``num_beams``, best first.
            stop: strings that end the text, wherever tokens begin and end; the text ends before them.
            eos_token_id: the id, or ids, that end the text; None: the checkpoint's.
            ignore_eos: do not end at ``eos_token_id``.
            seed: 0 to 2**64 - 1. The same seed gives the same text for a prompt, alone or in any batch; so equal
                prompts in a list get equal texts. None: a random one for each prompt, reported in ``Generation.seed``.
            logprobs: None: none. 0: log-probabilities of the new tokens. n: those of the n most likely tokens too.

            draft: a smaller model with the same tokenizer, whose proposals are checked several at a time (speculative
                decoding). The tokens stay the same. Not with ``num_beams``, ``stop`` or ``logprobs``.

        The steps run in transformers' order: logit_bias, repetition_penalty, presence_penalty and frequency_penalty,
        temperature, top_k, top_p, min_p, typical_p.

        Returns:
            a Generation; for a list of prompts a list of them in the same order. With ``num_return_sequences`` above 1
            there is a list of Generations in place of each. Every one is, bit for bit, what it would be alone.

        Raises:
            ValueError: an argument out of its range, or a prompt that is empty, too long or has ids that are not the
                model's.
        """
        options = dict(locals())
        del options["self"], options["prompt"], options["draft"]
        arguments = GenerationArguments(**options)
        batch = is_batch("prompt", prompt)
        prompts = (
            [self._prompt(f"prompt[{i}]", p) for i, p in enumerate(prompt)]
            if batch
            else [self._prompt("prompt", prompt)]
        )
        if draft is not None:
            if not isinstance(draft, Model):
                raise ValueError(f"draft is of type {type(draft).__name__}, expected a Model, as pythia_cpu.load gives")
            parts = self._core, draft._core, self._engine, self.tokenizer
            texts = generate_with_draft(*parts, prompts, arguments)
        elif integer("num_beams", num_beams, 1) > 1:
            texts = generate_with_beams(self._core, self._engine, self.tokenizer, prompts, arguments)
        else:
            texts = generate(self._engine, prompts, arguments, self.config.eos_token_id)
        results = [one[0] for one in texts] if num_return_sequences == 1 else texts
        return results if batch else results[0]

    def stream(self, prompt: Prompt, **arguments: Any) -> TokenStream:
        """Writes on from one prompt, token by token.

        Args:
            prompt: a str or a sequence of token ids.
            **arguments: those of ``generate``, except ``num_return_sequences``, ``num_beams`` and ``draft``.

        Returns:
            an iterator over Token, whose texts join to what ``generate`` gives as ``.text``. Tokens always have their
            ``logprob``.

        Raises:
            ValueError: as ``generate``, at once and not with the first token.
        """
        if is_batch("prompt", prompt):
            raise ValueError(
                "prompt is a list of prompts, but a stream writes one text: pass one prompt, or use generate"
            )
        options = GenerationArguments(**arguments)
        return TokenStream(self._engine, self._prompt("prompt", prompt), options, self.config.eos_token_id)

    def memorization(
        self,
        rows: Sequence[TokenIds] | npt.NDArray[np.integer[Any]],
        *,
        prefix_length: int = 32,
        continuation_length: int = 32,
        suppress_eos: bool = False,
    ) -> Memorization:
        """How much of each row greedy decoding writes, given the row's beginning. Ctrl-C ends it between passes.

        Rows are read with teacher forcing first; only rows that differ are decoded, from their first difference. The
        result is that of ``generate`` with ``ignore_eos``, token by token.

        Args:
            rows: token ids ``[num_rows, length]``, e.g. a ``np.memmap`` of training data, or a list of rows. The first
                ``prefix_length + continuation_length`` of each count.
            prefix_length: tokens that are given.
            continuation_length: tokens after them, which are compared.
            suppress_eos: never write the end-of-text token. The Pythia paper's own script does that, through
                ``min_length``; it matters for rows that hold the end of a document.

        Raises:
            ValueError: a row that is too short or has ids that are not the model's; lengths beyond the context.
        """
        if isinstance(rows, str) or not hasattr(rows, "__len__") or (len(rows) and not is_batch("rows", rows)):
            raise ValueError("rows is not a list of rows, expected token ids [num_rows, length]")
        return MemorizationScorer(self._core, prefix_length, continuation_length, suppress_eos).score(rows)

    def __repr__(self) -> str:
        """The file, its weights' format and how it runs."""
        return f"Model({self._file.path!r}, weights={self._file.weights!r}, threads={self.threads}, isa={self.isa!r})"


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    revision: str | int | None = None,
    weights: str = "auto",
    threads: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Model:
    """Opens a model; a checkpoint is converted once and kept in the cache.

    Args:
        source: a ``.pcpu`` file, a local checkpoint folder, a hub id ("EleutherAI/pythia-14m") or its short form
            ("pythia-14m"), or None for the small model that ships inside the package.
        revision: revision of a checkpoint; an int is a training step (3000 is "step3000").
        weights: format to convert a checkpoint's weights to: "f32", "f16", "bf16", "q8", "q4", or "auto", the smallest
            of f16, bf16 and f32 that holds every stored value exactly.
        threads: threads of a forward pass; None means the physical cores this process may use.
        cache_dir: where converted checkpoints are kept.
        progress: show a bar on standard error, if that is a terminal, while a checkpoint is converted.

    Raises:
        FormatError: a damaged or foreign ``.pcpu`` file.
        CheckpointError: a checkpoint that cannot be read or is not supported.
        ValueError: a bad argument; also ``revision`` or another ``weights`` for a file that is converted already.
        OSError: a file cannot be read or written.
    """
    path = _shipped_model() if source is None else Path(source)
    if source is not None and path.suffix != ".pcpu" and not path.is_file():
        from pythia_cpu._cache import cached_conversion

        return Model(cached_conversion(source, revision, weights, cache_dir, progress), threads=threads)
    if revision is not None:
        raise ValueError(
            f"revision is {revision!r}, but {path.name} is converted already and has one revision: leave it out"
        )
    model = Model(path, threads=threads)
    stored = model.provenance["weights"]
    if weights not in ("auto", stored):
        raise ValueError(
            f"weights is {weights!r}, but {path.name} holds {stored!r} weights: convert the checkpoint again"
        )
    return model


def _shipped_model() -> Path:
    return Path(str(importlib.resources.files("pythia_cpu") / "data" / "mini-pythia.pcpu"))
