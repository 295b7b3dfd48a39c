"""Weights move to huge pages while a model writes: the same bytes at the same addresses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from checkpoints import write_checkpoint

MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PASSES = 64  # csrc/model/weight_pages.cc


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 40 MB of weights behind its embeddings, in an odd place of the file."""
    folder = tmp_path_factory.mktemp("huge")
    write_checkpoint(
        folder / "checkpoint", hidden_size=256, num_hidden_layers=3, num_attention_heads=4, vocab_size=30011
    )
    pythia_cpu.convert(folder / "checkpoint", folder / "model.pcpu", weights="f32", progress=False)
    return folder / "model.pcpu"


def mapping_sizes(path: Path) -> Iterator[int]:
    """The bytes of each mapping of a file in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            yield end - begin


def anonymous_huge_bytes() -> int:
    found = re.search(r"^AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def test_logits_stay_the_same_while_weights_move(model_path: Path) -> None:
    model = pythia_cpu.load(model_path)
    tokens = list(range(100, 120))
    expected = model.logits(tokens)
    session = model.session()
    session.append(tokens[:1])
    for token in tokens[1:] * 4:
        session.append([token])
    assert_same_bits(model.logits(tokens), expected)
    assert model.verify()


@pytest.mark.skipif(not MODE.exists() or "[never]" in MODE.read_text(), reason="the system has no huge pages")
def test_weights_leave_the_files_pages(model_path: Path) -> None:
    """The file stays mapped where its embeddings are; memory does not hold the weights twice."""
    model = pythia_cpu.load(model_path)
    weights_bytes = model_path.stat().st_size - 30011 * 256 * 2  # behind the embeddings, which keep their float16
    before, huge_before = sum(mapping_sizes(model_path)), anonymous_huge_bytes()
    session = model.session()
    session.append([5])
    assert sum(mapping_sizes(model_path)) > before - weights_bytes / 8  # a pass moves a small part
    for token in range(PASSES):
        session.append([token])
    moved = before - sum(mapping_sizes(model_path))
    assert weights_bytes - 8 * 2**20 < moved <= weights_bytes
    if anonymous_huge_bytes() == huge_before:
        pytest.skip("the system has no free huge pages")
    assert anonymous_huge_bytes() - huge_before <= moved


def test_small_models_stay_in_the_files_pages(shipped_model: Path) -> None:
    model = pythia_cpu.load(shipped_model)
    before = sum(mapping_sizes(shipped_model))
    model.generate("It was", max_new_tokens=80)
    assert before > 0
    assert sum(mapping_sizes(shipped_model)) == before


def test_prompts_alone_move_nothing(model_path: Path) -> None:
    model = pythia_cpu.load(model_path)
    before = sum(mapping_sizes(model_path))
    for _ in range(3):
        model.score(list(np.arange(200)))
    assert sum(mapping_sizes(model_path)) == before


@pytest.mark.skipif(not MODE.exists() or "[never]" in MODE.read_text(), reason="the system has no huge pages")
def test_a_process_moves_only_so_many() -> None:
    """Each moved piece is a mapping of its own, and a process may have only so many."""
    script = (
        "import numpy as np\n"
        "from pythia_cpu._core import HugePageMover\n"
        "weights = np.empty(32 << 20, np.uint8)\n"  # 15 or 16 pieces of 2 MiB
        "free = HugePageMover(weights, 1 << 20).num_pieces\n"
        "first, second = HugePageMover(weights, 20), HugePageMover(weights, 20)\n"
        "third = HugePageMover(weights, 20)\n"
        "print(free, first.num_pieces, second.num_pieces, third.num_pieces)\n"
        "del first\n"
        "print(HugePageMover(weights, 20).num_pieces)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    free, first, second, third, after = map(int, done.stdout.split())
    assert (first, second, third, after) == (free, 20 - free, 0, free)
    assert free in (15, 16)
