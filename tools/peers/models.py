"""Random models in Pythia's shapes, and the engines with the file each of them reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS.parent / "tests"))  # for checkpoints.py

SHAPES = {  # hidden size, layers, heads, vocabulary (EleutherAI/pythia, models/)
    "14m": (128, 6, 4, 50304),
    "31m": (256, 6, 8, 50304),
    "70m": (512, 6, 8, 50304),
    "160m": (768, 12, 12, 50304),
    "410m": (1024, 24, 16, 50304),
    "1b": (2048, 16, 8, 50304),
    "1.4b": (2048, 24, 16, 50304),
    "2.8b": (2560, 32, 32, 50304),
    "6.9b": (4096, 32, 32, 50432),
    "12b": (5120, 36, 40, 50688),
}


@dataclass(frozen=True)
class Peer:
    """An engine with one format of weights."""

    name: str
    weights: str  # the format of ours it is compared with
    module: str
    variant: str
    suffix: str = ""  # of its file or folder after "pythia-410m"; "": it reads the checkpoint

    def model(self, folder: Path, shape: str) -> Path:
        """Where its weights of a shape ("410m") lie in a folder."""
        return folder / f"pythia-{shape}{self.suffix}"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("llama.cpp-q8_0", "q8", "llama_cpp_worker", "q8_0", "-q8_0.gguf"),
        Peer("llama.cpp-q4_0", "q4", "llama_cpp_worker", "q4_0", "-q4_0.gguf"),
        Peer("ik_llama.cpp-q8_0", "q8", "ik_llama_cpp_worker", "q8_0", "-q8_0.gguf"),
        Peer("ik_llama.cpp-q4_0", "q4", "ik_llama_cpp_worker", "q4_0", "-q4_0.gguf"),
        Peer("ctranslate2-int8", "q8", "ctranslate2_worker", "int8", "-ct2-int8"),
        Peer("openvino-int8", "q8", "openvino_worker", "int8", "-openvino-int8.xml"),
        Peer("torch-float32", "f32", "torch_worker", "float32"),
        Peer("torch-bfloat16", "f16", "torch_worker", "bfloat16"),
    )
}


def run_worker(python: str, peer: Peer, arguments: Sequence[str | Path]) -> str:
    """Standard output of a worker's command."""
    command = [python, "-m", f"peers.{peer.module}", *map(str, arguments), "--variant", peer.variant]
    paths = os.pathsep.join(filter(None, [str(TOOLS), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{peer.name} ended with status {result.returncode}: {' '.join(command)}")
    return result.stdout


def checkpoint(folder: Path, shape: str, tokenizer: Path) -> Path:
    """The shape's random checkpoint, float16, made if it is missing, with the tokenizer files of a folder."""
    from checkpoints import write_checkpoint

    path = folder / f"pythia-{shape}"
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        hidden, layers, heads, vocabulary = SHAPES[shape]
        scratch = folder / f"pythia-{shape}.partial"
        write_checkpoint(
            scratch,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            vocab_size=vocabulary,
            tokenizer=False,
        )
        for file in tokenizer.iterdir():
            shutil.copyfile(file, scratch / file.name)
        scratch.rename(path)
    return path


def ours(folder: Path, shape: str, weights: str) -> Path:
    """Our file of the shape's checkpoint, made if it is missing."""
    path = folder / f"pythia-{shape}-{weights}.pcpu"
    if not path.exists():
        import pythia_cpu

        print(f"making {path}", file=sys.stderr)
        pythia_cpu.convert(folder / f"pythia-{shape}", path, weights=weights, progress=False)
    return path


def theirs(folder: Path, shape: str, peer: Peer, python: str, gguf_converter: Path | None) -> Path:
    """The peer's model of the shape's checkpoint, made if it is missing."""
    path = peer.model(folder, shape)
    if path.exists():
        return path
    maker = PEERS["llama.cpp-" + peer.variant] if path.suffix == ".gguf" else peer
    extra: list[str | Path] = []
    if path.suffix == ".gguf":
        if gguf_converter is None:
            raise SystemExit(f"{path} is missing; make it, or name llama.cpp's convert_hf_to_gguf.py: --gguf-converter")
        extra = ["--gguf-converter", gguf_converter]
    print(f"making {path}", file=sys.stderr)
    run_worker(python, maker, ["prepare", folder / f"pythia-{shape}", path, *extra])
    return path


def available(peer: Peer, python: str) -> bool:
    """True if the worker's imports succeed in that Python (and, for ik_llama.cpp, its binary is named)."""
    if peer.module == "ik_llama_cpp_worker":
        return bool(shutil.which(os.environ.get("IK_LLAMA_BENCH", "")))
    environment = {**os.environ, "PYTHONPATH": str(TOOLS)}
    command = [python, "-c", f"import peers.{peer.module}"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
