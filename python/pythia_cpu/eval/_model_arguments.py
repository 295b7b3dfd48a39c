"""Model arguments of the harness's own HFLM (lm_eval 0.4.13), in the engine's terms."""

from __future__ import annotations

from pythia_cpu._options import refuse_unknown

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
