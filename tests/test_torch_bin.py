"""PyTorch .bin files are read without torch, tensor for tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import neox_config, random_tensors, write_checkpoint
from pythia_cpu import CheckpointError, convert, open_checkpoint
from pythia_cpu._torch_bin import TorchFile

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}


# Files that torch and transformers write


def bin_folder(folder: Path, state: dict[str, Any], **options: Any) -> Path:
    """A checkpoint folder whose weights are torch.save(state)."""
    torch = pytest.importorskip("torch")
    write_checkpoint(folder, **SMALL)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", **options)
    return folder


def torch_state(dtype: str) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    arrays = random_tensors(neox_config(**SMALL), dtype="float32")
    return {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in arrays.items()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_files_saved_by_torch(tmp_path: Path, dtype: str, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    state = torch_state(dtype)
    folder = bin_folder(tmp_path / "bin", state, _use_new_zipfile_serialization=not legacy)
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint) == list(state)
        for name, tensor in state.items():
            info = checkpoint.info(name)
            assert (info.dtype, info.shape) == (dtype, tuple(tensor.shape))
            expected = tensor.float() if dtype == "bfloat16" else tensor
            np.testing.assert_array_equal(checkpoint[name], expected.numpy())
            assert checkpoint.read(name, 0, info.num_elements) == tensor.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_pickle(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    state = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    state["c"] = state["b"].T
    torch.save(state, tmp_path / "t.bin", pickle_protocol=protocol)
    file = TorchFile(tmp_path / "t.bin")
    for name, tensor in state.items():
        assert file.read(name, 0, 6) == tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_layout_gives_the_same_model(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    arrays = random_tensors(neox_config(**SMALL), dtype=dtype)
    convert(write_checkpoint(tmp_path / "s" / "c", tensors=arrays, **SMALL), tmp_path / "s.pcpu")
    expected = (tmp_path / "s.pcpu").read_bytes()

    def to_torch(array: np.ndarray) -> Any:
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else array
        return tensor if dtype == "bfloat16" else torch.from_numpy(array)

    state = {name: to_torch(array) for name, array in arrays.items()}
    for i, legacy in enumerate((False, True)):
        folder = bin_folder(tmp_path / str(i) / "c", state, _use_new_zipfile_serialization=not legacy)
        convert(folder, tmp_path / "b.pcpu")
        assert (tmp_path / "b.pcpu").read_bytes() == expected

    folder = bin_folder(tmp_path / "sharded" / "c", {})
    (folder / "pytorch_model.bin").unlink()
    names, weight_map = list(state), {}
    for i, part in enumerate((names[:5], names[5:])):
        shard = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {weight_map}}}'.replace("'", '"'))
    convert(folder, tmp_path / "b.pcpu")
    assert (tmp_path / "b.pcpu").read_bytes() == expected


def test_a_state_dict_of_transformers_with_its_buffers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write_checkpoint(tmp_path / "a" / "c", **SMALL)
    convert(folder, tmp_path / "a.pcpu")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    state = model.state_dict()  # an OrderedDict with _metadata, the head under lm_head
    assert "lm_head.weight" in state and hasattr(state, "_metadata")
    for i in range(SMALL["num_hidden_layers"]):
        attention = f"gpt_neox.layers.{i}.attention."
        state[attention + "bias"] = torch.tril(torch.ones(64, 64, dtype=torch.uint8)).view(1, 1, 64, 64)
        state[attention + "masked_bias"] = torch.tensor(-1e9)
        state[attention + "rotary_emb.inv_freq"] = torch.ones(4, dtype=torch.float16)
        state[attention + "mask"] = torch.ones(2, dtype=torch.bool)
        del state[attention + "mask"]
    convert(bin_folder(tmp_path / "b" / "c", state), tmp_path / "b.pcpu")
    assert (tmp_path / "a.pcpu").read_bytes() == (tmp_path / "b.pcpu").read_bytes()


def test_views_of_every_kind(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(120, dtype=torch.float32).reshape(10, 12)
    state = {
        "base": base,
        "rows": base[3:7],
        "transposed": base.T,
        "columns": base[:, 2:11:3],
        "permuted": base.reshape(2, 5, 12).permute(2, 0, 1),
        "element": base[4, 5],
        "empty": base[:0],
        "empty columns": base[:, :0],
        "unsqueezed": base[:, None, 3],
        "shared": base,
    }
    torch.save(state, tmp_path / "t.bin")
    file = TorchFile(tmp_path / "t.bin")
    for name, tensor in state.items():
        data = tensor.contiguous().numpy().tobytes()
        count = tensor.numel()
        assert file.tensors[name].shape == tuple(tensor.shape)
        for begin in range(0, count + 1, max(count // 7, 1)):
            for end in range(begin, count + 1, max(count // 5, 1)):
                assert file.read(name, begin, end) == data[4 * begin : 4 * end], (name, begin, end)
    file.close()


def test_parameters_and_every_dtype(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with_state = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    with_state.tag = {"layer": [1, "x"]}
    state = {"parameter": torch.nn.Parameter(torch.ones(2)), "with state": with_state}
    for dtype in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[dtype] = torch.tensor([1, 0, 3]).to(getattr(torch, dtype))
    for legacy in (False, True):
        torch.save(state, tmp_path / "t.bin", _use_new_zipfile_serialization=not legacy)
        file = TorchFile(tmp_path / "t.bin")
        assert set(file.tensors) == set(state)
        for name, tensor in state.items():
            expected = tensor.detach().view(torch.uint8 if tensor.dtype != torch.bool else torch.bool).numpy().tobytes()
            assert file.tensors[name].dtype == str(tensor.dtype).removeprefix("torch.")
            assert file.read(name, 0, tensor.numel()) == expected
        file.close()


def test_tensors_that_a_checkpoint_does_not_have(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for state, pattern in (
        ({"a": torch.ones(2, dtype=torch.complex64)}, r"imports torch\.ComplexFloatStorage"),
        ({"a": torch.ones(2).to_sparse()}, r"imports torch"),
        ({"a": torch._neg_view(torch.ones(2))}, "a tensor is a negative or conjugate view of its numbers"),
        ({"a": 3}, "its entry 'a' is not a tensor"),
        ({3: torch.ones(2)}, "its entry 3 is not a tensor"),
        ([torch.ones(2)], "holds a list, expected a dict of tensors"),
        (torch.nn.Linear(2, 2), "imports torch.nn.modules.linear.Linear"),
    ):
        torch.save(state, tmp_path / "t.bin")
        with pytest.raises(CheckpointError, match=pattern) as caught:
            TorchFile(tmp_path / "t.bin")
        assert str(caught.value).startswith(f"{tmp_path / 't.bin'}: ")
