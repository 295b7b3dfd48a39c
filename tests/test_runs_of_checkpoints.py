"""Loops over the checkpoints of a run: folders that trainers write, tokenizers from elsewhere, models' names."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from checkpoints import write_checkpoint
from pythia_cpu import CheckpointError, find_duplicates, hf, list_cache, load, open_checkpoint, remove_cached, revisions
from pythia_cpu._cli_convert import main

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 4096}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What transformers' Trainer leaves behind without a processing_class: no tokenizer."""
    for step in (500, 1000, 20):
        write_checkpoint(tmp_path / "run" / f"checkpoint-{step}", seed=step, tokenizer=False, **SMALL)
    (tmp_path / "run" / "runs").mkdir()
    return tmp_path / "run"


def test_checkpoints_of_a_trainer(trained: Path, mini_checkpoint: Path, tmp_path: Path) -> None:
    assert revisions(trained) == ["checkpoint-20", "checkpoint-500", "checkpoint-1000"]
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: is missing;.* give another checkpoint's with tokenizer="
    ):
        load(trained, revision=500, cache_dir=tmp_path / "cache")
    options = {"tokenizer": mini_checkpoint, "cache_dir": tmp_path / "cache"}
    models = [load(trained, revision=revision, **options) for revision in (20, "500", *revisions(trained))]
    assert [model.provenance["revision"] for model in models] == [
        f"checkpoint-{step}" for step in (20, 500, 20, 500, 1000)
    ]
    assert len(list_cache(tmp_path / "cache")) == 3
    assert models[0].tokenizer.encode("Once upon a time") == load().tokenizer.encode("Once upon a time")
    (trained / "step500").mkdir()
    with pytest.raises(CheckpointError, match="step500"):
        load(trained, revision=500, **options)


def test_a_tokenizer_from_elsewhere(trained: Path, mini_checkpoint: Path, tmp_path: Path) -> None:
    folder, file = trained / "checkpoint-20", mini_checkpoint / "tokenizer.json"
    cached = load(folder, tokenizer=file, cache_dir=tmp_path / "cache")
    other = tmp_path / "other.json"
    other.write_text(file.read_text().replace("\n", " "))
    again = load(folder, tokenizer=other, cache_dir=tmp_path / "cache")
    assert again.path != cached.path
    assert again.provenance["tokenizer_sha256"] != cached.provenance["tokenizer_sha256"]
    output = tmp_path / "m.pcpu"
    assert main([str(folder), "-o", str(output), "--tokenizer", str(mini_checkpoint), "-q"]) == 0
    assert output.read_bytes() == Path(cached.path).read_bytes()
    model = hf.GPTNeoXForCausalLM.from_pretrained(folder, tokenizer=file, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(model([[1, 2]]).logits[0], cached.logits([1, 2]))

    for arguments, message in (
        ((folder, tmp_path), "tokenizer.json: is missing; tokenizer is a tokenizer.json, or a folder"),
        ((folder, tmp_path / "none"), "none: is missing; tokenizer is a tokenizer.json"),
        ((folder, 5), "tokenizer is 5 of type int, expected a path"),
        ((output, file), "m.pcpu is converted already: leave it out"),
        (("EleutherAI/pythia-14m", file), "pythia-14m is no local folder: leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            load(arguments[0], tokenizer=arguments[1], cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="is a file of the checkpoint, which would be lost"):
        pythia_cpu.convert(folder, other, tokenizer=other)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, **SMALL)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds an adapter .*: merge it into its base with merge_and_unload\(\)"):
        load(tmp_path)


def test_whole_weights_beside_an_adapter(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, **SMALL)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"holds whole weights and adapter_config.json, .* or remove adapter_config"
    ):
        load(tmp_path)


def test_a_snapshot_of_the_hubs_client_keeps_its_name_and_commit(tmp_path: Path) -> None:
    repo_id = "EleutherAI/pythia-14m"
    commit, repo = "0123456789abcdef" * 2 + "01234567", tmp_path / "models--EleutherAI--pythia-14m"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in write_checkpoint(tmp_path / "c", **SMALL).iterdir():
        content = file.read_bytes()
        is_small = file.suffix == ".json"
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content) if is_small else hashlib.sha256(content)
        (repo / "blobs" / blob.hexdigest()).write_bytes(content)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.hexdigest()}")
    (tmp_path / "link").symlink_to(snapshot)
    for path in (snapshot, tmp_path / "link"):
        facts = load(path, cache_dir=tmp_path / "cache").provenance
        assert (facts["source"], facts["revision"], facts["commit"]) == ("EleutherAI/pythia-14m", None, commit)
    assert remove_cached(snapshot, cache_dir=tmp_path / "cache") and not list_cache(tmp_path / "cache")
    assert load(tmp_path / "c", cache_dir=tmp_path / "cache").provenance["commit"] is None
    with open_checkpoint(snapshot) as checkpoint:
        assert load(checkpoint, tokenizer=tmp_path / "c").provenance["commit"] == commit

    for name in ("config.json", "model.safetensors"):
        blob = (snapshot / name).resolve()
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for run in (
            lambda: load(snapshot, cache_dir=tmp_path / "cache"),
            lambda: pythia_cpu.convert(snapshot, tmp_path / "m.pcpu", progress=False),
            lambda: load(open_checkpoint(snapshot).edited({"embed_out.weight": np.copy})),
        ):
            with pytest.raises(CheckpointError, match=rf"{name}: is damaged, its hash is not the one in its name"):
                run()
        blob.write_bytes(whole)
    assert load(snapshot, cache_dir=tmp_path / "cache").provenance["commit"] == commit
    for revision, count in (("main", 0), (commit[:-1] + "8", 0), (commit, 1)):
        assert len(remove_cached(repo_id, revision=revision, cache_dir=tmp_path / "cache")) == count
    (snapshot / "config.json").unlink()
    shutil.copy(tmp_path / "c" / "config.json", snapshot)
    with pytest.raises(
        CheckpointError, match="config.json: is in a snapshot of the hub's client, but none of its files"
    ):
        load(snapshot, cache_dir=tmp_path / "cache")


def test_names_of_models(trained: Path, mini_checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    models = [load(trained, revision=step, tokenizer=mini_checkpoint, cache_dir=cache) for step in (20, 500)]
    assert len({model.key for model in models}) == 2
    copy = tmp_path / "copy.pcpu"
    copy.write_bytes(Path(models[0].path).read_bytes())
    assert load(copy).path == str(copy) and load(copy).key == models[0].key
    models[0].score_to_file(["Once upon a time"], tmp_path / "scores.jsonl")
    assert f'"model": "{models[0].key}"' in (tmp_path / "scores.jsonl").read_text()
    files = list_cache(cache)
    assert find_duplicates(files) == [] and load(files[0]).path == str(files[0].path)
    renamed = models[0]._with_revision("a name")
    assert pickle.loads(pickle.dumps(renamed)).provenance["revision"] == "a name"


def test_the_most_likely_tokens(make_model_file: Callable[..., Path], mini_checkpoint: Path) -> None:
    model = load(make_model_file(mini_checkpoint, "f32"))
    tokens = np.random.default_rng(0).integers(0, 4096, 300)
    score = model.score(tokens)
    assert score.greedy_tokens.dtype == np.int32
    np.testing.assert_array_equal(score.greedy_tokens, model.logits(tokens)[:-1].argmax(-1))
    np.testing.assert_array_equal(score.is_greedy, score.greedy_tokens == tokens[1:])
    assert model.score(tokens[:5], tokens[5:]).greedy_tokens.tolist() == score.greedy_tokens[4:].tolist()


def test_hidden_bars_make_no_lock_between_processes() -> None:
    """Workers of a pool that ends would leave it behind, and say so."""
    script = """
import multiprocessing as mp
made = []
lock = mp.RLock
mp.RLock = lambda *args: made.append(1) or lock(*args)
import pythia_cpu
model = pythia_cpu.load()
model.score([1, 2, 3]); model.generate(["a", "b"], max_new_tokens=2); model.perplexity("It was a dark night")
print(len(made))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "0\n"
