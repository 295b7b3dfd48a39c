"""OpenVINO with NNCF's weight compression (worker.py says how to run it). Variant: int8, per channel, asymmetric.

The graph is traced from a plain GPT-NeoX (Black et al. 2022, arXiv:2204.06745) in torch operations below, and its keys
and values are made the model's state, as OpenVINO's own exporters do it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from peers.worker import Workload, main, rates


def _load_model(checkpoint: Path) -> Any:
    import safetensors.torch
    import torch
    from torch.nn import functional

    config = json.loads((checkpoint / "config.json").read_text())
    files = safetensors.torch.load_file(checkpoint / "model.safetensors")
    heads = config["num_attention_heads"]
    head_dim = config["hidden_size"] // heads
    rotary = int(head_dim * config["rotary_pct"])

    class Neox(torch.nn.Module):
        """Token ids [1, n] and keys and values [1, heads, past, head_dim] -> logits of the last, keys and values."""

        def __init__(self) -> None:
            super().__init__()
            for name, tensor in files.items():
                self.register_buffer(name.replace(".", "_"), tensor.float())
            steps = torch.arange(0, rotary, 2, dtype=torch.float32) / rotary
            self.register_buffer("frequencies", config["rotary_emb_base"] ** -steps)

        def weights(self, name: str) -> tuple[Any, Any]:
            key = name.replace(".", "_")
            return getattr(self, key + "_weight"), getattr(self, key + "_bias", None)

        def linear(self, name: str, x: Any) -> Any:
            return functional.linear(x, *self.weights(name))

        def norm(self, name: str, x: Any) -> Any:
            return functional.layer_norm(x, (config["hidden_size"],), *self.weights(name), config["layer_norm_eps"])

        def rotate(self, x: Any, cos: Any, sin: Any) -> Any:
            first, second = x[..., : rotary // 2], x[..., rotary // 2 : rotary]
            turned = (first * cos - second * sin, second * cos + first * sin, x[..., rotary:])
            return torch.cat(turned, dim=-1)

        def forward(self, ids: Any, *past: Any) -> tuple[Any, ...]:
            length = past[0].shape[2]
            total = length + ids.shape[1]
            positions = torch.arange(length, total)
            mask = torch.arange(total)[None, :] <= positions[:, None]
            angles = positions[:, None].float() * self.frequencies[None, :]
            cos, sin = angles.cos(), angles.sin()
            x = functional.embedding(ids, self.gpt_neox_embed_in_weight)
            states = []
            for i in range(config["num_hidden_layers"]):
                layer = f"gpt_neox.layers.{i}."
                qkv = self.linear(layer + "attention.query_key_value", self.norm(layer + "input_layernorm", x))
                split = qkv.view(1, -1, heads, 3 * head_dim).transpose(1, 2).split(head_dim, dim=-1)
                keys = torch.cat((past[2 * i], self.rotate(split[1], cos, sin)), dim=2)
                values = torch.cat((past[2 * i + 1], split[2]), dim=2)
                states += [keys, values]
                query = self.rotate(split[0], cos, sin)
                mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
                mixed = mixed.transpose(1, 2).reshape(1, -1, config["hidden_size"])
                inner = self.linear(layer + "mlp.dense_h_to_4h", self.norm(layer + "post_attention_layernorm", x))
                mlp = self.linear(layer + "mlp.dense_4h_to_h", functional.gelu(inner))
                x = x + self.linear(layer + "attention.dense", mixed) + mlp
            last = self.norm("gpt_neox.final_layer_norm", x[:, -1:])
            return (self.linear("embed_out", last), *states)

    example = (torch.randint(0, 100, (1, 4)), *[torch.zeros(1, heads, 3, head_dim)] * (2 * config["num_hidden_layers"]))
    with torch.inference_mode():
        traced = torch.jit.trace(Neox().eval(), example, check_trace=False)
    state_shape = openvino.PartialShape([1, heads, -1, head_dim])
    shapes = [openvino.PartialShape([1, -1]), *[state_shape] * (len(example) - 1)]
    return openvino.convert_model(traced, example_input=example, input=shapes)


def _keep_state(model: Any) -> None:
    """Makes the keys and values variables of the model, empty at first."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    # Which sequence each row continues, here always its own: OpenVINO fuses states with attention around this Gather.
    beams = ops.parameter([1], np.int32, name="beams")
    beams.output(0).set_names({"beams"})
    pairs = {}
    model.inputs[0].set_names({"ids"})
    model.outputs[0].set_names({"logits"})
    for i, (past, present) in enumerate(zip(model.inputs[1:], model.outputs[1:], strict=True)):
        past.set_names({f"past.{i}"})
        present.set_names({f"present.{i}"})
        pairs[f"past.{i}"] = f"present.{i}"
        readers = past.get_target_inputs()
        chosen = ops.gather(past.node, beams, ops.constant(0, np.int64))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.add_parameters([beams])
    apply_make_stateful_transformation(model, pairs)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            shape = [
                dimension.get_length() if dimension.is_static else 0 for dimension in node.get_output_partial_shape(0)
            ]
            node.set_arguments([ops.constant(np.zeros(shape, np.float32))])
    model.validate_nodes_and_infer_types()


def prepare(checkpoint: Path, output: Path, options: argparse.Namespace) -> None:
    """An OpenVINO IR file, .xml with its weights in a .bin beside it."""
    import nncf

    model = _load_model(checkpoint)
    _keep_state(model)
    model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(model, output, compress_to_fp16=False)


def measure(path: Path, variant: str, workload: Workload) -> dict[str, Any]:
    """Rates with the latency hint, its state cleared before each run."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": workload.threads}
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    prompt = np.array([workload.prompt()], np.int64)

    def run(ids: np.ndarray) -> np.ndarray:
        request.infer({"ids": ids, "beams": np.zeros(1, np.int32)}, share_inputs=True)
        return request.get_output_tensor(0).data

    def prefill() -> None:
        request.reset_state()
        run(prompt)

    def decode() -> None:
        request.reset_state()
        token = prompt[:, :1]
        for _ in range(workload.decode_tokens):
            token = run(token)[:, -1].argmax(-1, keepdims=True)

    return {
        "version": f"OpenVINO {openvino.__version__.split('-')[0]}",
        "prefill": rates(prefill, workload.prompt_tokens, workload.repetitions),
        "decode": rates(decode, workload.decode_tokens, workload.repetitions),
    }


if __name__ == "__main__":
    main(prepare, measure)
