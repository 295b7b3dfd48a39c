"""Checkpoints of the hub, from a server on this machine, each read by a process of its own as a user's would be."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from checkpoints import neox_config, random_tensors, write_checkpoint, write_safetensors
from hub_runs import CONVERT, REPO, SMALL, Run, checkpoint_files, converted, refused
from hub_server import Hub
from pythia_cpu import CheckpointError, convert
from pythia_cpu._convert import CONVERTER_VERSION
from pythia_cpu._hub import Revision, _progress_bars, _remember, nearest_revisions, repo_id_of
from pythia_cpu._provenance import provenance


def test_a_revision_is_read_at_its_commit(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "main", seed=1))
    commit = hub.add(REPO, "step3000", checkpoint_files(tmp_path / "step", seed=2))
    file = converted(run, tmp_path / "m.pcpu", "pythia-14m", "--revision", "step3000")
    facts = provenance(file)
    assert (facts["source"], facts["revision"], facts["commit"]) == (REPO, "step3000", commit)
    local = converted(run, tmp_path / "local.pcpu", str(tmp_path / "step"))
    assert provenance(local)["tensors"] == facts["tensors"]
    files = [path for _, path, _ in hub.log if "/resolve/" in path]
    assert files and all(f"/resolve/{commit}/" in path for path in files)


def test_one_layout_is_downloaded(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    hub.add(REPO, "main", {**files, "pytorch_model.bin": b"not this", "README.md": b"nor this"})
    converted(run, tmp_path / "m.pcpu", REPO)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors", "tokenizer.json"]
    hub.log.clear()
    converted(run, tmp_path / "again.pcpu", REPO)
    assert not hub.downloads()
    assert (tmp_path / "m.pcpu").read_bytes() == (tmp_path / "again.pcpu").read_bytes()


def test_shards_and_torch_files(hub: Hub, run: Run, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    files = checkpoint_files(tmp_path / "c")
    tensors = random_tensors(neox_config(**SMALL))
    weights = files.pop("model.safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, tmp_path / "w.bin")
    names = list(tensors)
    shards, weight_map = {}, {}
    for i, part in enumerate((names[:9], names[9:])):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(tmp_path / shard, {name: tensors[name] for name in part})
        shards[shard] = (tmp_path / shard).read_bytes()
        weight_map |= dict.fromkeys(part, shard)
    shards["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    layouts = {
        "single": {"model.safetensors": weights},
        "sharded": shards,
        "torch": {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes()},
    }
    hashes = []
    for revision, layout in layouts.items():
        hub.add(REPO, revision, {**files, **layout})
        file = converted(run, tmp_path / f"{revision}.pcpu", REPO, "--revision", revision)
        hashes.append((provenance(file)["tensors"], [tensor["checksum"] for tensor in file.tensors]))
    assert hashes[0] == hashes[1] == hashes[2]


def test_the_tokenizer_comes_from_main_where_a_revision_has_none(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    hub.add(REPO, "main", files)
    hub.add(REPO, "step1", {name: data for name, data in files.items() if name != "tokenizer.json"})
    file = converted(run, tmp_path / "m.pcpu", REPO, "--revision", "step1", "--report", str(tmp_path / "r.json"))
    assert provenance(file)["tokenizer_revision"] == "main"
    said = run(CONVERT, REPO, "--revision", "step1", "-o", str(tmp_path / "m.pcpu")).stdout
    assert "at step1 (tokenizer.json from main)" in said
    assert json.loads((tmp_path / "r.json").read_text())["tokenizer_revision"] == "main"


def test_too_many_requests_and_outages_pass(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    hub.trouble = {"/revision/main": [429, 503, 502], "/blob": [], "model.safetensors": [503, 429]}
    converted(run, tmp_path / "m.pcpu", REPO)
    assert not any(hub.trouble.values())


def test_a_cut_connection_is_resumed(hub: Hub, run: Run, tmp_path: Path) -> None:
    # The client writes chunks of 10 MB: the cut comes after the first of them.
    write_checkpoint(tmp_path / "c", **{**SMALL, "hidden_size": 128, "vocab_size": 50000})
    files = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    commit = hub.add(REPO, "main", files)
    hub.trouble = {f"/blob/{commit}/model.safetensors": ["cut"]}
    file = converted(run, tmp_path / "m.pcpu", REPO)
    assert (
        provenance(file)["tensors"] == provenance(converted(run, tmp_path / "l.pcpu", str(tmp_path / "c")))["tensors"]
    )
    assert 206 in {status for _, path, status in hub.log if path.endswith("model.safetensors")}, hub.log


def test_what_the_hub_does_not_have(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    for step in (0, 1, 512, 1000, 2000, 3000, 143000):
        hub.add(REPO, f"step{step}", files)
    hub.add(REPO, "main", files)
    message = refused(run, tmp_path, REPO, "--revision", "step1500")
    assert "has no revision 'step1500'; the nearest are step1, step512, step1000, step2000" in message
    assert "; a commit has 40 digits, in lower case" in refused(run, tmp_path, REPO, "--revision", "A" * 40)
    assert "the nearest are main" in refused(run, tmp_path, REPO, "--revision", "mian")
    assert "neither a folder nor a model on the hub" in refused(run, tmp_path, "EleutherAI/pythia-15m")
    assert "is not a folder, and not a hub id such as" in refused(run, tmp_path, "no/such/folder")
    assert f"{REPO}: has no commit {'0' * 40}" in refused(run, tmp_path, REPO, "--revision", "0" * 40)
    hub.add(REPO, "empty", {"config.json": files["config.json"], "tokenizer.json": files["tokenizer.json"]})
    assert f"{REPO} at empty: has no weights" in refused(run, tmp_path, REPO, "--revision", "empty")
    hub.add(REPO, "nothing", {"README.md": b""})
    assert f"{REPO} at nothing: has no config.json" in refused(run, tmp_path, REPO, "--revision", "nothing")


REVISIONS = "import sys, pythia_cpu; print(*pythia_cpu.revisions(sys.argv[1]))"


def test_revisions(hub: Hub, run: Run, tmp_path: Path) -> None:
    for name in ("step1000", "main", "step143000", "step2", "step512", "step0", "step1000-old"):
        hub.add(REPO, name, {"config.json": b"{}"})
    hub.trouble = {"/refs": [503]}
    assert run(REVISIONS, "pythia-14m").stdout == "step0 step2 step512 step1000 step143000\n"
    hub.add("a/b", "main", {})
    assert run(REVISIONS, "a/b").stdout == "\n"
    assert "a/c: is neither a folder nor a model on the hub" in run(REVISIONS, "a/c").stderr
    assert "OSError: a/b: the hub cannot be reached, and only it" in run(REVISIONS, "a/b", HF_HUB_OFFLINE="1").stderr
    local = REVISIONS.replace(")))", "), local_files_only=True))").replace(
        "argv[1])", "argv[1], local_files_only=True)"
    )
    assert run(local, "pythia-14m").stdout == "\n"
    for name in ("step20", "step3", "other"):
        (tmp_path / "run" / name).mkdir(parents=True)
    assert run(REVISIONS, str(tmp_path / "run")).stdout == "step3 step20\n"


def test_offline(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    offline = {"HF_HUB_OFFLINE": "1"}
    assert "cannot be reached" in refused(run, tmp_path, REPO, **offline)
    first = converted(run, tmp_path / "online.pcpu", REPO)
    hub.log.clear()
    assert converted(run, tmp_path / "offline.pcpu", REPO, **offline).metadata == first.metadata
    assert not hub.log


TOKENIZER = """
import sys; from pythia_cpu.hf import AutoTokenizer
print(AutoTokenizer.from_pretrained(sys.argv[1], revision=sys.argv[2]).encode("It was"))
"""


@pytest.mark.parametrize("revision", ["step1", "step2"])
def test_a_tokenizer_alone_is_there_offline(hub: Hub, run: Run, tmp_path: Path, revision: str) -> None:
    files = checkpoint_files(tmp_path / "c")
    hub.add(REPO, "main", files)
    hub.add(REPO, "step1", {**files, "README.md": b""})
    hub.add(REPO, "step2", {name: data for name, data in files.items() if name != "tokenizer.json"})
    online = run(TOKENIZER, REPO, revision)
    assert online.returncode == 0, online.stderr
    assert "model.safetensors" not in hub.downloads()
    hub.log.clear()
    offline = run(TOKENIZER, REPO, revision, HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout, offline.stderr
    assert not hub.log


def test_a_tokenizer_of_main_is_there_offline(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    hub.add(REPO, "main", files)
    hub.add(REPO, "step1", {name: data for name, data in files.items() if name != "tokenizer.json"})
    online = converted(run, tmp_path / "online.pcpu", REPO, "--revision", "step1")
    offline = converted(run, tmp_path / "offline.pcpu", REPO, "--revision", "step1", HF_HUB_OFFLINE="1")
    assert offline.metadata == online.metadata


def test_the_hub_is_down(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    down = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "cannot be reached" in refused(run, tmp_path, REPO, **down)
    converted(run, tmp_path / "up.pcpu", REPO)
    converted(run, tmp_path / "down.pcpu", REPO, **down)
    assert (tmp_path / "up.pcpu").read_bytes() == (tmp_path / "down.pcpu").read_bytes()


def test_another_server_answers_for_the_hub(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    hub.trouble = {"/revision/main": ["page"] * 99}
    assert f"{REPO} at main: is no folder here, the hub cannot be reached" in refused(run, tmp_path, REPO)
    hub.trouble.clear()
    converted(run, tmp_path / "up.pcpu", REPO)
    hub.trouble = {"/revision/main": ["page"] * 99}
    converted(run, tmp_path / "page.pcpu", REPO)


CACHED = "import sys; from pythia_cpu._cache import cached_conversion as c; print(c(sys.argv[1], sys.argv[2], 'f16'))"


def test_a_converted_checkpoint_is_not_downloaded_again(hub: Hub, run: Run, tmp_path: Path) -> None:
    commit = hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    first = run(CACHED, REPO, "main")
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.strip())
    assert path == tmp_path / "cache" / "EleutherAI--pythia-14m" / f"{commit}-v{CONVERTER_VERSION}-f16.pcpu"
    hub.log.clear()
    again = run(CACHED, "pythia-14m", "main", HF_HOME=str(tmp_path / "other"))
    assert again.stdout == first.stdout
    assert not hub.downloads()
    assert run(CACHED, REPO, commit, HF_ENDPOINT="http://127.0.0.1:9").stdout == first.stdout
    # By its name without a hub, when nothing is left of the download.
    lost = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "lost")}
    assert run(CACHED, REPO, "main", **lost).stdout == first.stdout
    assert "the hub cannot be reached" in run(CACHED, REPO, "step1", **lost).stderr
    # Removed by its name, without a hub.
    remove = (
        "import sys, pythia_cpu; print(*(f.path for f in pythia_cpu.remove_cached('pythia-14m', revision=sys.argv[1])))"
    )
    assert run(remove, "step1", HF_ENDPOINT="http://127.0.0.1:9").stdout == "\n"
    assert run(remove, "main", HF_ENDPOINT="http://127.0.0.1:9").stdout == first.stdout
    assert not path.parent.exists()


def test_two_names_of_one_commit(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    assert hub.add(REPO, "step1", files) == hub.add(REPO, "step2", files)
    script = """
import sys, pythia_cpu
models = [pythia_cpu.load(sys.argv[1], revision=step) for step in (2, 1, "2")]
print(len({model.path for model in models}), [model.provenance["revision"] for model in models])
print(pythia_cpu.revisions(sys.argv[1], local_files_only=True))
"""
    for _ in range(2):
        found = run(script, REPO)
        assert found.stdout == "1 ['step2', 'step1', 'step2']\n['step1', 'step2']\n", found.stderr
    script = """
import sys, pythia_cpu
print(*(pythia_cpu.revisions(sys.argv[1], local_files_only=True, cache_dir=cache) for cache in (None, sys.argv[2])))
"""
    lost = {"HF_HOME": str(tmp_path / "lost"), "PYTHIA_CPU_CACHE": str(tmp_path / "none")}
    assert run(script, REPO, str(tmp_path / "cache"), **lost).stdout == "[] ['step1', 'step2']\n"


# Names


def test_names_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert repo_id_of("pythia-70m-deduped") == "EleutherAI/pythia-70m-deduped"
    assert repo_id_of("EleutherAI/gpt-neox-20b") == "EleutherAI/gpt-neox-20b"
    for name in ("", "gpt2", "a/b/c", "/a/b", "../b c", "pythia-14m/", "./a", "../a", "~/a"):
        with pytest.raises(CheckpointError, match="is not a folder, and not a hub id"):
            repo_id_of(name)
    with pytest.raises(CheckpointError, match="is not a folder"):
        repo_id_of(Path("pythia-14m"))


def test_a_file_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_checkpoint(tmp_path / "c", **SMALL).parent)
    with pytest.raises(CheckpointError, match="c/model.safetensors: is a file, expected a checkpoint folder"):
        convert("c/model.safetensors", "m.pcpu")


def test_nothing_is_downloaded_for_a_bad_call(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    convert = "import pythia_cpu; pythia_cpu.convert('pythia-14m', *{!r}, weights={!r})"
    assert "expected one of auto, f32" in run(convert.format(["m.pcpu"], "int8")).stderr
    assert "its folder does not exist" in run(convert.format([str(tmp_path / "none" / "m.pcpu")], "q8")).stderr
    assert not hub.log


def test_nearest_revisions() -> None:
    names = ["main", *(f"step{n}" for n in (0, 1, 2, 4, 1000, 2000, 3000))]
    assert nearest_revisions("step2100", names) == ["step4", "step1000", "step2000", "step3000"]
    assert nearest_revisions("step9", ["main"]) == ["main"]
    assert nearest_revisions("step9", []) == []


def test_what_a_revision_was_is_noted_in_its_place_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("../../../x", "a" * 40):
        _remember(Revision(REPO, name, "a" * 40))
    assert list(tmp_path.iterdir()) == []
    _remember(Revision(REPO, None, "a" * 40))
    assert (tmp_path / "hub/models--EleutherAI--pythia-14m/refs/main").read_text() == "a" * 40


@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_the_clients_bars_are_as_before(disabled: bool, enabled: bool) -> None:
    """Off for a download without them; never on where a user has set them off."""
    before = are_progress_bars_disabled()
    set_to = {True: disable_progress_bars, False: enable_progress_bars}
    try:
        set_to[disabled]()
        with contextlib.suppress(KeyboardInterrupt), _progress_bars(enabled):
            assert are_progress_bars_disabled() == (disabled or not enabled)
            raise KeyboardInterrupt
        assert are_progress_bars_disabled() == disabled
    finally:
        set_to[before]()
