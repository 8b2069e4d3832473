"""A small HTTP server with the part of the hub's interface that downloads need; it remembers what was asked of it."""

import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


class StandInHub:
    """Serves repositories while the context is open.

    Parameters
    ----------
    repositories
        For each repository its files by commit.
    branches
        Commit of each branch or tag, of any repository.
    cut_short
        Paths of which only half is sent.
    """

    def __init__(
        self,
        repositories: Mapping[str, Mapping[str, Files]],
        branches: Mapping[str, str],
        cut_short: frozenset[str] = frozenset(),
    ) -> None:
        self.repositories, self.branches, self.cut_short = repositories, branches, cut_short
        self.requests: list[str] = []

    def __enter__(self) -> "StandInHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Answer nothing any more."""
        self._server.shutdown()
        self._server.server_close()

    def downloads(self, start: str, stop: str) -> list[str]:
        """Files sent between two marks."""
        between = self.requests[self.requests.index(f"GET /mark/{start}") : self.requests.index(f"GET /mark/{stop}")]
        return sorted(line.removeprefix("GET ") for line in between if line.startswith("GET") and "/resolve/" in line)


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        match path.strip("/").split("/"):
            case ["mark", *_]:
                self._send(200, b"")
            case ["stop"]:
                self._send(200, b"")
                Thread(target=self.hub.stop, daemon=True).start()
            case ["api", "models", owner, name, *rest]:
                self._describe(f"{owner}/{name}", rest)
            case [owner, name, "resolve", revision, *parts]:
                self._serve(f"{owner}/{name}", revision, "/".join(parts))
            case _:
                self._refuse("EntryNotFound")

    def _find(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """Commit and files of a revision; refuses unknown ones."""
        commits = self.hub.repositories.get(repository)
        if commits is None:
            self._refuse("RepoNotFound")
            return None
        commit = self.hub.branches.get(revision, revision)
        if commit not in commits:
            self._refuse("RevisionNotFound")
            return None
        return commit, commits[commit]

    def _describe(self, repository: str, rest: list[str]) -> None:
        found = self._find(repository, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return
        commit, files = found
        if rest[:1] == ["tree"]:
            answer: object = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
        else:
            answer = {"id": repository, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _serve(self, repository: str, revision: str, path: str) -> None:
        found = self._find(repository, revision)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._refuse("EntryNotFound")
            return
        content = files[path]
        etag = hashlib.sha256(content).hexdigest()
        if path in self.hub.cut_short and self.command == "GET":
            content = content[: len(content) // 2]
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _refuse(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
