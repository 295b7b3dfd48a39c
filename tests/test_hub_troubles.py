"""The hub on bad days: what is waited for, what is fetched again, and what users are told."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from hub_runs import CONVERT, REPO, Run, checkpoint_files, converted, refused
from hub_server import SILENCE_S, Hub
from pythia_cpu._hub import Revision, optional_file
from pythia_cpu._hub_calls import HTTP_ERRORS, patiently


def http_error(status: int, **headers: str) -> Exception:
    """As the client makes it with any of the HTTP libraries beneath it."""
    error = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "waits_s"),
    [
        (errors.OfflineModeIsEnabled("offline"), []),
        (errors.LocalEntryNotFoundError("not in the cache"), []),
        (http_error(404), []),
        (http_error(401), []),
        (ConnectionError("cut"), [0.5, 1.0]),
        (http_error(500), [0.5, 1.0, 2.0, 4.0, 8.0]),
        (http_error(429), [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]),
        (http_error(429, **{"Retry-After": "100"}), [100.0] * 4),
        (http_error(429, RateLimit='"api";r=0;t=150'), [151.0] * 2),
        (http_error(429, **{"Retry-After": "3600"}), [301.0]),
        (OSError(errno.ENOSPC, "No space left on device"), []),
        (http_error(503, **{"Retry-After": "3600"}), [60.0] * 5),
        (http_error(503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), [0.5, 1.0, 2.0, 4.0, 8.0]),
    ],
    ids=repr,
)
def test_how_long_the_hub_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, error: Exception, waits_s: list[float]
) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(time, "sleep", waited_s.append)

    def call() -> None:
        raise error

    with pytest.raises(type(error)):
        patiently(call)
    assert waited_s == waits_s


@pytest.mark.parametrize("trouble", [503, 429, "cut"])
def test_one_bad_answer_to_any_request_passes(hub: Hub, run: Run, tmp_path: Path, trouble: int | str) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    for request in ("HEAD /config.json", "HEAD /model.safetensors", "/model.safetensors"):
        hub.trouble[request] = [trouble]
    converted(run, tmp_path / "m.pcpu", REPO)
    assert not any(hub.trouble.values())


LOAD = """
import sys, time, warnings, pythia_cpu
warnings.simplefilter("error") if "strict" in sys.argv else None
for revision in sys.argv[2].split(","):
    begin = time.monotonic()
    model = pythia_cpu.load(sys.argv[1], revision=revision, progress=False)
    print(model.provenance["commit"], f"{time.monotonic() - begin:.1f}")
"""


def test_a_silent_hub_holds_nobody_up_for_what_is_here(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    commits = [hub.add(REPO, name, {**files, "README.md": name.encode()}) for name in ("step1", "step2", "step4")]
    hub.add(REPO, "main", files)
    online = run(LOAD, REPO, "step1,step2,step4", "strict")
    assert [line.split()[0] for line in online.stdout.splitlines()] == commits, online.stderr
    hub.trouble = {f"/revision/step{n}": ["silent"] * 9 for n in (1, 2, 4)}
    hub.log.clear()
    silent = run(LOAD, REPO, "step1,step2,step4", HF_HUB_ETAG_TIMEOUT="1")
    assert [line.split()[0] for line in silent.stdout.splitlines()] == commits, silent.stderr
    assert sum(float(line.split()[1]) for line in silent.stdout.splitlines()) < SILENCE_S / 2
    assert len(hub.log) == 1  # one that does not answer is not asked again at once
    assert f"{REPO} at step1: the hub cannot be reached" in silent.stderr
    assert f"using commit {commits[0]}, seen earlier" in silent.stderr
    listed = run("import sys, pythia_cpu; pythia_cpu.revisions(sys.argv[1])", REPO, HF_HUB_ETAG_TIMEOUT="1")
    assert listed.returncode == 0, listed.stderr
    hub.trouble = {"/revision/main": ["silent"] * 9, "/refs": ["silent"] * 9}
    listed = run("import sys, pythia_cpu; pythia_cpu.revisions(sys.argv[1])", REPO, HF_HUB_ETAG_TIMEOUT="1")
    assert "the hub cannot be reached, and only it knows all revisions" in listed.stderr


def test_the_hub_refuses(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    gated = 403, {"X_Error_Code": "GatedRepo"}
    hub.trouble = {"HEAD /config.json": [gated] * 9, "/config.json": [gated] * 9}
    assert f"{REPO}: asks for an agreement; accept it on the hub, and log in" in refused(run, tmp_path, REPO)
    hub.trouble = {"/revision/main": [(401, {"X_Error_Code": "RepoNotFound"})]}
    assert "check its name, and for a private one log in" in refused(run, tmp_path, REPO)
    invalid = 401, {"X_Error_Message": "Invalid credentials in Authorization header"}
    hub.trouble = {"/revision/main": [invalid]}
    assert f"{REPO}: the hub refuses access" in refused(run, tmp_path, REPO)
    hub.trouble.clear()
    converted(run, tmp_path / "m.pcpu", REPO)
    (tmp_path / "m.pcpu").unlink()
    hub.trouble = {"/revision/main": [invalid]}
    assert "the hub refuses access" in refused(run, tmp_path, REPO)  # and not the commit seen before
    assert run(LOAD, REPO, "main").returncode == 0
    hub.trouble = {"/revision/main": [invalid]}
    assert "CheckpointError: EleutherAI/pythia-14m: the hub refuses access" in run(LOAD, REPO, "main").stderr


def test_a_connection_that_always_breaks_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the HTTP library's own error is none."""
    error = HTTP_ERRORS[1].__new__(HTTP_ERRORS[1])

    def broken(*unused: object, **ignored: object) -> None:
        raise error

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(OSError, match=f"{REPO}: config.json cannot be brought to "):
        optional_file(Revision(REPO, None, "a" * 40), "config.json")


def blob_of(tmp_path: Path, commit: str, name: str) -> Path:
    """Where the client keeps the bytes of a file."""
    return (tmp_path / "hf/hub/models--EleutherAI--pythia-14m/snapshots" / commit / name).resolve()


def test_damaged_downloads_are_fetched_again(hub: Hub, run: Run, tmp_path: Path) -> None:
    commit = hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    converted(run, tmp_path / "first.pcpu", REPO)
    names = ["config.json", "tokenizer.json", "model.safetensors"]
    for damage in (lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[: len(data) // 2]):
        for name in names:
            blob = blob_of(tmp_path, commit, name)
            blob.write_bytes(damage(blob.read_bytes()))
        hub.log.clear()
        converted(run, tmp_path / "again.pcpu", REPO)
        assert hub.downloads() == names
        assert (tmp_path / "again.pcpu").read_bytes() == (tmp_path / "first.pcpu").read_bytes()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_stay_damaged(hub: Hub, run: Run, tmp_path: Path, name: str) -> None:
    commit = hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    hub.etags[name] = "0" * 64
    assert "is not what the hub says it is, also when it is downloaded again" in refused(run, tmp_path, REPO)
    assert hub.downloads().count(name) == 2
    offline = refused(run, tmp_path, REPO, "--revision", commit, HF_HUB_OFFLINE="1")
    assert "is damaged, and offline it cannot be downloaded again" in offline
    assert blob_of(tmp_path, commit, name).name == "0" * 64


def test_what_a_commit_lacks_is_asked_once(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    hub.add(REPO, "main", files)
    hub.add(REPO, "step1", {name: data for name, data in files.items() if name != "tokenizer.json"})
    converted(run, tmp_path / "m.pcpu", REPO, "--revision", "step1")
    hub.log.clear()
    converted(run, tmp_path / "m.pcpu", REPO, "--revision", "step1", "--weights", "q8")
    assert not [path for _, path, _ in hub.log if "/api/" not in path]


def test_a_damaged_conversion_is_made_again(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    assert run(LOAD, REPO, "main").returncode == 0
    (path,) = (path for path in (tmp_path / "cache").glob("*/*.pcpu") if not path.is_symlink())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no model" * 99):
        path.write_bytes(damaged)
        done = run(LOAD, REPO, "main")
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_known_before_the_download(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add(REPO, "main", checkpoint_files(tmp_path / "c"))
    done = run(LOAD, REPO, "main", PYTHIA_CPU_CACHE="/proc/nowhere")
    assert "to a folder for conversions that can be written to" in done.stderr
    assert not hub.downloads()


def test_a_revision_that_was_not_brought_whole_is_not_known_here(hub: Hub, run: Run, tmp_path: Path) -> None:
    files = checkpoint_files(tmp_path / "c")
    hub.add(REPO, "step1", files)
    hub.add(REPO, "step2", {**files, "README.md": b""})
    converted(run, tmp_path / "m.pcpu", REPO, "--revision", "step1")
    hub.trouble = {"HEAD /model.safetensors": [403] * 9}
    assert run(CONVERT, REPO, "--revision", "step2", "-o", str(tmp_path / "n.pcpu")).returncode == 1
    here = "import json, sys, pythia_cpu; print(json.dumps(pythia_cpu.revisions(sys.argv[1], local_files_only=True)))"
    assert json.loads(run(here, REPO).stdout) == ["step1"]
