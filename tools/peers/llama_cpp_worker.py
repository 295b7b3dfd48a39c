"""llama.cpp through llama-cpp-python's low-level functions (worker.py says how to run it). Variants: q8_0, q4_0."""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp

from peers.worker import Workload, main, rates


def prepare(checkpoint: Path, output: Path, options: argparse.Namespace) -> None:
    """A GGUF file, with llama.cpp's convert_hf_to_gguf.py (``--gguf-converter``) and its own quantizer."""

    def convert(path: Path, outtype: str) -> None:
        command = [sys.executable, options.gguf_converter, checkpoint, "--outfile", path, "--outtype", outtype]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)

    if options.variant == "q8_0":
        convert(output, "q8_0")
        return
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        whole = Path(scratch) / "f16.gguf"
        convert(whole, "f16")
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        status = llama_cpp.llama_model_quantize(str(whole).encode(), str(output).encode(), ctypes.byref(params))
        if status != 0:
            raise SystemExit(f"llama_model_quantize of {checkpoint} returned {status}")


@llama_cpp.llama_log_callback
def _ignore(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    pass


def measure(path: Path, variant: str, workload: Workload) -> dict[str, Any]:
    """Rates of one context, its key-value cache cleared before each run."""
    llama_cpp.llama_log_set(_ignore, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = max(1024, workload.prompt_tokens, workload.decode_tokens + 1)
    params.n_batch = params.n_ubatch = workload.prompt_tokens
    params.n_threads = params.n_threads_batch = workload.threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit(f"llama.cpp cannot load {path}")
    memory = llama_cpp.llama_get_memory(context)
    prompt = (llama_cpp.llama_token * workload.prompt_tokens)(*workload.prompt())
    token = (llama_cpp.llama_token * 1)()
    greedy = llama_cpp.llama_sampler_init_greedy()

    def prefill() -> None:
        llama_cpp.llama_memory_clear(memory, True)
        llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(prompt, len(prompt)))
        llama_cpp.llama_synchronize(context)

    def decode() -> None:
        llama_cpp.llama_memory_clear(memory, True)
        token[0] = prompt[0]
        for _ in range(workload.decode_tokens):
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1))
            token[0] = llama_cpp.llama_sampler_sample(greedy, context, -1)

    return {
        "version": f"llama-cpp-python {llama_cpp.__version__}",
        "prefill": rates(prefill, workload.prompt_tokens, workload.repetitions),
        "decode": rates(decode, workload.decode_tokens, workload.repetitions),
    }


if __name__ == "__main__":
    main(prepare, measure)
