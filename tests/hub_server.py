"""Servers on this machine that speak as much of the hub's API as its client uses, with its redirects and bad days."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

Trouble: TypeAlias = int | str | tuple[int, dict[str, str]]
SILENCE_S = 20.0


@dataclass
class Hub:
    """Repositories of the server: id -> revision name -> commit, and commit -> file name -> bytes.

    ``trouble`` maps a path's end, perhaps after a method other than GET and a space, to what its next requests meet:
    status codes, "cut" for a connection that closes half-way, "page" for what a network shows that asks to log in,
    "silent" for no answer, or a status with headers. ``log`` has every request as (method, path, status).
    """

    url: str = ""
    storage_url: str = ""  # where large files are: another host than the hub's
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    trouble: dict[str, list[Trouble]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)  # file name -> what the hub says instead of its hash
    log: list[tuple[str, str, int]] = field(default_factory=list)

    def add(self, repo_id: str, revision: str, files: dict[str, bytes]) -> str:
        """A revision with these files; returns its commit."""
        content = repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()))
        commit = hashlib.sha1(f"{repo_id} {content}".encode()).hexdigest()
        self.revisions.setdefault(repo_id, {})[revision] = commit
        self.commits[commit] = files
        return commit

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were sent, in order."""
        return [
            path.rsplit("/", 1)[1]
            for method, path, status in self.log
            if method == "GET" and "/blob/" in path and status < 300
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *unused: object) -> None:
        """No lines on standard error."""

    def _send(self, status: int, body: bytes = b"", *, cut: bool = False, **headers: str) -> None:
        self.hub.log.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(2)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        cut = False
        for key, troubles in self.hub.trouble.items():
            method, _, end = key.rpartition(" ")
            if path.endswith(end) and troubles and self.command == (method or "GET"):
                trouble = troubles.pop(0)
                if trouble == "silent":
                    self.hub.log.append((self.command, self.path, 0))
                    time.sleep(SILENCE_S)
                    self.close_connection = True
                    return None
                if isinstance(trouble, tuple):
                    return self._send(trouble[0], **trouble[1])
                if trouble == "page":
                    return self._send(200, b"<html>Log in</html>", Content_Type="text/html")
                if trouble != "cut":
                    return self._send(int(trouble), Retry_After="0")
                cut = True
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._answer_api("/".join(parts[2:4]), parts[4:])
        if parts[0] == "blob":
            return self._answer_blob(parts[1], parts[2], cut)
        repo_id, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit = self._commit(repo_id, revision)
        if commit is None:
            return None
        files = self.hub.commits[commit]
        if name not in files:
            return self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        # As the hub does for large files: a redirect to another place, which knows nothing of commits.
        headers = {
            "X_Repo_Commit": commit,
            "X_Linked_Etag": f'"{self.hub.etags.get(name) or hashlib.sha256(files[name]).hexdigest()}"',
            "X_Linked_Size": str(len(files[name])),
            "Location": f"{self.hub.storage_url}/blob/{commit}/{name}",
        }
        return self._send(302, **headers)

    def _answer_blob(self, commit: str, name: str, cut: bool) -> None:
        data = self.hub.commits[commit][name]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and wanted.endswith("-"):
            start = int(wanted[6:-1])
            content_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[start:], cut=cut, ETag=etag, Content_Range=content_range)
        else:
            self._send(200, data, cut=cut, ETag=etag)

    def _commit(self, repo_id: str, revision: str) -> str | None:
        """The commit of a revision; answers 404 itself if there is none."""
        revisions = self.hub.revisions.get(repo_id)
        if revisions is None:
            self._send(404, X_Error_Code="RepoNotFound")
            return None
        commit = revision if revision in revisions.values() else revisions.get(revision)
        if commit is None:
            self._send(404, X_Error_Code="RevisionNotFound")
        return commit

    def _answer_api(self, repo_id: str, rest: list[str]) -> None:
        commit = self._commit(repo_id, rest[1] if rest[:1] == ["revision"] else "main")
        if commit is None:
            return
        if rest == ["refs"]:
            refs = self.hub.revisions[repo_id].items()
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in refs]
            return self._send_json({"branches": branches, "tags": [], "converts": []})
        siblings = [{"rfilename": name} for name in self.hub.commits[commit]]
        self._send_json({"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "tags": []})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub and its storage, on free ports of two loopback addresses."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    # huggingface_hub 1.33 and 2.0 take two ports of one host for one host.
    servers = [ThreadingHTTPServer((host, 0), handler) for host in ("127.0.0.1", "127.0.0.2")]
    hub.url, hub.storage_url = ("http://{}:{}".format(*server.server_address[:2]) for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
