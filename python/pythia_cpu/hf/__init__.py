"""The classes of the Pythia model card under their transformers names: scripts change their import line and run.

from pythia_cpu.hf import AutoTokenizer, GPTNeoXForCausalLM

model = GPTNeoXForCausalLM.from_pretrained("EleutherAI/pythia-70m-deduped", revision="step3000")
tokenizer = AutoTokenizer.from_pretrained("EleutherAI/pythia-70m-deduped", revision="step3000")
tokens = model.generate(**tokenizer("Hello, I am", return_tensors="pt"))
print(tokenizer.decode(tokens[0]))

Arrays are numpy's, int64 ids and float32 logits; who passes torch tensors gets torch tensors, and torch is imported
only then. An argument of transformers that this engine does not have raises ValueError: nothing is left out silently.
Where versions of transformers differ, this is version 5.

Names of transformers that work with these classes as they are, such as TextStreamer and set_seed, can be imported from
here too: they are transformers' own.
"""

import importlib
from typing import Any

from pythia_cpu.hf._encoding import BatchEncoding
from pythia_cpu.hf._forward import CausalLMOutput
from pythia_cpu.hf._generate import GenerateOutput, GenerationConfig
from pythia_cpu.hf._model import AutoModelForCausalLM, GPTNeoXForCausalLM
from pythia_cpu.hf._pipeline import TextGenerationPipeline, pipeline
from pythia_cpu.hf._tokenizer import AutoTokenizer, GPTNeoXTokenizer, GPTNeoXTokenizerFast

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BatchEncoding",
    "CausalLMOutput",
    "GPTNeoXForCausalLM",
    "GPTNeoXTokenizer",
    "GPTNeoXTokenizerFast",
    "GenerateOutput",
    "GenerationConfig",
    "TextGenerationPipeline",
    "pipeline",
]

_FROM_TRANSFORMERS = (
    "AutoConfig",
    "DataCollatorForLanguageModeling",
    "DataCollatorWithPadding",
    "GPTNeoXConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
    "set_seed",
)


def __getattr__(name: str) -> Any:
    """Names that are transformers' own.

    Raises:
        AttributeError: others.
        ImportError: transformers is not installed.
    """
    if name not in _FROM_TRANSFORMERS:
        raise AttributeError(f"pythia_cpu.hf has no {name!r}: import from transformers what needs no model")
    try:
        return getattr(importlib.import_module("transformers"), name)
    except ModuleNotFoundError:
        raise ImportError(f"{name} is transformers' own, which is not installed: install it, or do without") from None
