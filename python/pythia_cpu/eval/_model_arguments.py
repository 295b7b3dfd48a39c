"""Model arguments of the harness's own HFLM (lm_eval 0.4.13), in the engine's terms."""

from __future__ import annotations

from pythia_cpu.hf._arrays import refuse_unknown

# torch's names; calculations are in float32 always.
_WEIGHTS = {
    "auto": "auto",
    "float": "auto",
    "float32": "auto",
    "half": "f16",
    "float16": "f16",
    "bfloat16": "bf16",
}

# Those that change no number here, with the values each may have; none: any.
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "attn_implementation": (),
    "batch_size": (),
    "device": (),  # the harness passes "cuda:0" where nothing is said
    "device_map": (),
    "logits_cache": (),
    "low_cpu_mem_usage": (),
    "max_batch_size": (),
    "max_cpu_memory": (),
    "max_memory_per_gpu": (),
    "offload_folder": (),
    "parallelize": (),
    "trust_remote_code": (),  # no code of a checkpoint ever runs
    "use_fast_tokenizer": (),  # GPT-NeoX has no other
    "use_safetensors": (),
    "autogptq": (False,),
    "backend": ("default", "causal"),
    "gptqmodel": (False,),
    "load_in_4bit": (False,),
    "load_in_8bit": (False,),
    "softmax_dtype": ("float", "float32"),
    "subfolder": ("",),
    "truncation": (False,),
}


def refuse_unsupported(arguments: dict[str, object], pretrained: object) -> None:
    """Passes arguments of HFLM that change no number here, and those that are None.

    Raises:
        ValueError: any other, such as peft.
    """
    refuse_unknown("model_args", arguments, {**_WITHOUT_EFFECT, "tokenizer": (pretrained,)})


def weights_for(dtype: object, weights: str | None) -> str:
    """``weights`` of ``pythia_cpu.load`` for HFLM's dtype: a torch.dtype, its name, "auto" or None.

    Raises:
        ValueError: another dtype, or both arguments.
    """
    if dtype is None:
        return weights or "auto"
    name = str(dtype).removeprefix("torch.")
    if name not in _WEIGHTS:
        raise ValueError(f"dtype is {name!r}, expected float32, float16, bfloat16 or auto; or use weights=")
    if weights is not None:
        raise ValueError(f"dtype is {name!r} and weights is {weights!r}: give one of them")
    return _WEIGHTS[name]
