"""CPU inference for Pythia and other GPT-NeoX checkpoints: fast, and the same bits everywhere.

import pythia_cpu

model = pythia_cpu.load()
print(model.generate("Once upon a time", max_new_tokens=64).text)
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

from pythia_cpu._cache import CachedFile, list_cache, remove_cached
from pythia_cpu._checkpoint import Checkpoint, open_checkpoint
from pythia_cpu._convert import ConversionReport, convert
from pythia_cpu._divergence import Divergence, kl_divergence
from pythia_cpu._duplicates import SharedTensors, find_duplicates
from pythia_cpu._errors import CheckpointError, FormatError
from pythia_cpu._generation import Generation, Token
from pythia_cpu._inspection import Run
from pythia_cpu._load import load
from pythia_cpu._memorization import Memorization
from pythia_cpu._model import Config, Model
from pythia_cpu._prefix_cache import PrefixCache
from pythia_cpu._revisions import revisions
from pythia_cpu._score import Perplexity, Score
from pythia_cpu._session import Session
from pythia_cpu._surprisal import WordSurprisal
from pythia_cpu._tensors import Tensors
from pythia_cpu._token_stream import TokenStream
from pythia_cpu._tokenizer import Tokenizer

_SUBMODULES = ("eval", "hf")  # imported when they are first named: they need more than the rest


if _TYPE_CHECKING:
    from pythia_cpu import eval as eval
    from pythia_cpu import hf as hf
else:

    def __getattr__(name: str) -> _ModuleType:
        """Imports a submodule that is first named now."""
        if name in _SUBMODULES:
            return _import_module(f"pythia_cpu.{name}")
        raise AttributeError(f"module 'pythia_cpu' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names, also of submodules that are not imported yet."""
    return [*globals(), *_SUBMODULES]


__version__ = _version("pythia-cpu")

__all__ = [
    "CachedFile",
    "Checkpoint",
    "CheckpointError",
    "Config",
    "ConversionReport",
    "Divergence",
    "FormatError",
    "Generation",
    "Memorization",
    "Model",
    "Perplexity",
    "PrefixCache",
    "Run",
    "Score",
    "Session",
    "SharedTensors",
    "Tensors",
    "Token",
    "TokenStream",
    "Tokenizer",
    "WordSurprisal",
    "convert",
    "find_duplicates",
    "kl_divergence",
    "list_cache",
    "load",
    "open_checkpoint",
    "remove_cached",
    "revisions",
]
