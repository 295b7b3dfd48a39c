"""A model, ready to run: logits and text from a ``.pcpu`` file."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import SEQUENCES, TokenIds, integer, is_batch, sequence_ids
from pythia_cpu._divergence import ComparesModels
from pythia_cpu._errors import FormatError
from pythia_cpu._generating import GeneratesTexts
from pythia_cpu._generating_model import GeneratingModel
from pythia_cpu._identity import model_key
from pythia_cpu._inspection import InspectsActivations
from pythia_cpu._json import read_json
from pythia_cpu._lazy import lazy_property
from pythia_cpu._memorization import MeasuresMemorization
from pythia_cpu._passes import last_logits
from pythia_cpu._provenance import provenance
from pythia_cpu._scoring import ScoresTexts
from pythia_cpu._scoring_model import ScoringModel
from pythia_cpu._session import Session
from pythia_cpu._surprisal import MeasuresSurprisal
from pythia_cpu._tensors import Tensors
from pythia_cpu._tokenizer import Tokenizer


class Config(dict[str, Any]):
    """Hyperparameters under their transformers names, as items and as attributes: ``config["hidden_size"]`` and
    ``config.hidden_size``.
    """

    def __getattr__(self, name: str) -> Any:
        """The hyperparameter called ``name``."""
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets the hyperparameter called ``name``, here only: the model stays as it is."""
        self[name] = value

    def __dir__(self) -> list[str]:
        """The hyperparameters too."""
        return [*super().__dir__(), *self]

    def copy(self) -> Config:
        """Another one with the same items."""
        return Config(self)

    def to_dict(self) -> dict[str, Any]:
        """A dict of its own."""
        return dict(self)

    def __missing__(self, name: object) -> Any:
        """Raises KeyError, which names those that there are."""
        raise KeyError(f"the model's config has no {name!r}; it has {', '.join(sorted(self))}")


class Model(GeneratesTexts, ScoresTexts, MeasuresSurprisal, ComparesModels, InspectsActivations, MeasuresMemorization):
    """A GPT-NeoX model over an open ``.pcpu`` file; ``pythia_cpu.load`` makes these. Safe to use from several threads.
    Pickled, e.g. for another process, it is the file's path and the number of threads: the file is opened again, and
    another model there is refused.

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
            ValueError: ``threads`` is below 1 or above 1024, or PYTHIA_CPU_ISA names an instruction set that this
                machine lacks.
        """
        count = 0 if threads is None else integer("threads", threads, 1, _core.MAX_THREADS)
        self._core = _core.Model.open(os.fspath(path), count)
        self._file = self._core.file
        self._path = os.path.abspath(path)
        self._asked_for: tuple[str | None] | None = None

    def _with_revision(self, revision: str | None) -> Model:
        """Itself, with the revision that it was asked for by: several may be one commit, which is converted once."""
        self._asked_for = (revision,)
        return self

    @lazy_property
    def config(self) -> Config:
        """The checkpoint's hyperparameters under their transformers names: what its config.json says, and beside it
        ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``, ``intermediate_size``, ``vocab_size``,
        ``max_position_embeddings``, ``hidden_act``, ``use_parallel_residual``, ``tie_word_embeddings``,
        ``attention_bias``, ``rotary_pct``, ``rotary_emb_base``, ``rotary_ndims``, ``layer_norm_eps``, ``bos_token_id``
        and ``eos_token_id`` (None where there is none; a list where there are several) as the engine runs them, and
        ``pad_token_id``, if only None.

        Raises:
            FormatError: the file's copy of config.json is damaged.
        """
        stored, settings = self._stored_config, dict(self._file.config)
        settings["hidden_act"] = _core.ACTIVATIONS[settings["hidden_act"]]
        head_dim = settings["hidden_size"] // settings["num_attention_heads"]
        settings["rotary_pct"] = settings["rotary_ndims"] / head_dim
        for name in ("bos_token_id", "eos_token_id"):
            settings[name] = None if settings[name] < 0 else settings[name]
        if len(several := self._eos_token_ids) > 1:
            settings["eos_token_id"] = several
        return Config({"pad_token_id": None, **stored, **settings})

    @lazy_property
    def _stored_config(self) -> dict[str, Any]:
        """What the checkpoint's config.json says. Raises FormatError: the file's copy is damaged."""
        try:
            stored = read_json(self._file.metadata.get("config", "{}"))
            if not isinstance(stored, dict):
                raise ValueError(f"it is a {type(stored).__name__}, expected an object")
        except ValueError as error:
            problem = f"metadata config is not the text of a config.json ({error})"
            raise FormatError(f"{self._file.path}: {problem}; convert the checkpoint again") from None
        return stored

    @property
    def _eos_token_id(self) -> int | None:
        eos: int = self._file.config["eos_token_id"]
        return None if eos < 0 else eos

    @property
    def _eos_token_ids(self) -> list[int]:
        """What ends a text: of several ids in config.json the file's header has the first."""
        several = self._stored_config.get("eos_token_id")
        if isinstance(several, list) and several:
            return list(several)
        return [] if self._eos_token_id is None else [self._eos_token_id]

    @lazy_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. Raises FormatError: the file's copy is damaged."""
        try:
            return Tokenizer(self._file.tokenizer, self._eos_token_id)
        except FormatError as error:
            problem = str(error).removeprefix("[tokenizer] ")
            raise FormatError(f"{self._file.path}: its tokenizer: {problem}") from None

    @property
    def provenance(self) -> dict[str, object]:
        """Where the weights came from: ``source``, ``revision``, ``commit``, ``weights`` (the format they are stored
        in), ``tensors`` (name -> sha256 of the checkpoint's tensor), ``converter_version``, ``tokenizer_sha256``,
        ``tokenizer_revision`` (the one that the tokenizer came from, where it is another) and ``edited`` (what was done
        to the weights since, by ``Checkpoint.edited``); None where it is not known. ``revision`` is what ``load`` was
        given, "main" being None.
        """
        facts = provenance(self._file)
        return facts if self._asked_for is None else {**facts, "revision": self._asked_for[0]}

    @lazy_property
    def tensors(self) -> Tensors:
        """The weights, read when asked for: a mapping from names as in the checkpoint, such as
        ``"gpt_neox.layers.0.attention.query_key_value.weight"``, to float32 arrays of the shapes there, ``[num_outputs,
        num_inputs]`` for matrices. They are the values that the model computes with: of q8 and q4 weights the
        dequantized ones. Rows of ``query_key_value`` are ordered by head, then query, key and value, then ``head_dim``.
        A tied head is there as ``embed_out.weight``.
        """
        return Tensors(self._file)

    @lazy_property
    def _generation(self) -> GeneratingModel:
        return GeneratingModel(self._core, self.tokenizer, self._eos_token_ids)

    @property
    def path(self) -> str:
        """The ``.pcpu`` file, absolute."""
        return self._path

    @lazy_property
    def key(self) -> str:
        """32 hexadecimal digits that name the model's numbers, for records of results: files that this version of the
        package gives equal keys give equal bits. ``score_to_file`` writes it as ``model``. It depends on tensors,
        config, tokenizer and weight format, not on where these came from.
        """
        return model_key(self._file)

    @property
    def threads(self) -> int:
        """Threads of a forward pass; may be set (ValueError: a bad number; OSError: the system has no more). Results
        do not depend on it.
        """
        return self._core.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self._core.threads = integer("threads", threads, 1, _core.MAX_THREADS)

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
                num_tokens]``). Short sequences of a list run together, which is faster than one by one.

        Returns:
            float32 ``[num_tokens, vocab_size]``; row i is the prediction after tokens 0 to i. A list for a list: of
            arrays that share memory, so keep a ``copy()`` of a few rows of many.

        Raises:
            ValueError: no tokens, more than ``context_length``, or an id that is not one of the model's.
        """
        sizes = self._file.config["vocab_size"], self.context_length
        if not is_batch("tokens", tokens, what=SEQUENCES):
            return self._logits([sequence_ids("tokens", tokens, *sizes)])[0]
        return self._logits([sequence_ids(f"tokens[{i}]", sequence, *sizes) for i, sequence in enumerate(tokens)])

    def _logits(self, sequences: list[npt.NDArray[np.int32]]) -> list[npt.NDArray[np.float32]]:
        return list(last_logits(self._core, sequences, [len(ids) for ids in sequences]))

    def session(self) -> Session:
        """An empty sequence that grows token by token, can be cut and copied, and never computes a token twice."""
        return Session(self._core)

    def _generating(self) -> GeneratingModel:
        return self._generation

    def _core_model(self) -> _core.Model:
        return self._core

    def _scoring(self) -> ScoringModel:
        return ScoringModel(self._core, self.tokenizer, self._eos_token_id)

    def __reduce__(self) -> tuple[object, ...]:
        """How ``pickle`` and ``copy`` make it again: from its file.

        Raises:
            TypeError: the file is gone: that of an open checkpoint goes when it is loaded.
        """
        if not os.path.exists(self._path):
            raise TypeError(
                f"a model whose file is gone ({self._path}) cannot be pickled or copied: convert() the checkpoint to a "
                "file, and load that"
            )
        reopen = functools.partial(_reopen, type(self), threads=self.threads, key=self.key)
        return reopen, (self._path,), {"_asked_for": self._asked_for}

    def __repr__(self) -> str:
        """The file, its weights' format and how it runs."""
        return f"Model({self._file.path!r}, weights={self._file.weights!r}, threads={self.threads}, isa={self.isa!r})"


def _reopen(kind: type[Model], path: str, *, threads: int, key: str) -> Model:
    model = kind(path, threads=threads)
    if model.key != key:
        raise ValueError(f"{path}: holds another model than the one that was pickled or copied: load it again")
    return model


# Errors of Python about arguments name a function as its users do.
for _base in Model.__bases__:
    for _name, _member in vars(_base).items():
        if inspect.isfunction(_member) and not _name.startswith("_"):
            _member.__qualname__ = f"Model.{_name}"
