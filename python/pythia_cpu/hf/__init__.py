"""The classes of the Pythia model card under their transformers names: scripts change their import line and run.

from pythia_cpu.hf import AutoTokenizer, GPTNeoXForCausalLM

model = GPTNeoXForCausalLM.from_pretrained("EleutherAI/pythia-70m-deduped", revision="step3000")
tokenizer = AutoTokenizer.from_pretrained("EleutherAI/pythia-70m-deduped", revision="step3000")
tokens = model.generate(**tokenizer("Hello, I am", return_tensors="pt"))
print(tokenizer.decode(tokens[0]))

Arrays are numpy's, int64 ids and float32 logits; who passes torch tensors gets torch tensors, and torch is imported
only then. An argument of transformers that this engine does not have raises ValueError: nothing is left out silently.
"""

from pythia_cpu.hf._forward import CausalLMOutput
from pythia_cpu.hf._generate import GenerateOutput, GenerationConfig
from pythia_cpu.hf._model import AutoModelForCausalLM, GPTNeoXForCausalLM
from pythia_cpu.hf._tokenizer import AutoTokenizer, BatchEncoding, GPTNeoXTokenizer, GPTNeoXTokenizerFast

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
]
