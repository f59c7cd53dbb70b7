"""A hub on loopback, for tests: the few requests that huggingface_hub makes to list and fetch a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class Hub:
    """Serves `files` as the repository `name`; counts bytes sent and can cut a file short or change its bytes."""

    def __init__(self, name: str, files: dict[str, bytes], *, large: int = 1000) -> None:
        self.name, self.files, self.large = name, files, large
        self.sent: dict[str, int] = {}
        self.requests: list[str] = []
        self.cut: dict[str, int] = {}  # file -> bytes after which the next connection breaks
        self.wrong: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.command} {request.path}")
        if path.startswith(f"/api/models/{self.name}"):
            self._send(request, 200, {"Content-Type": "application/json"}, json.dumps(self._info()).encode())
            return
        prefix = f"/{self.name}/resolve/"
        file = path[len(prefix) :].partition("/")[2] if path.startswith(prefix) else None
        if file not in self.files:
            code = "EntryNotFound" if file else "RepoNotFound"
            self._send(request, 404, {"X-Error-Code": code}, b"{}" if body else b"")
            return
        self._file(request, file, body)

    def _file(self, request: BaseHTTPRequestHandler, file: str, body: bool) -> None:
        data = self.files[file]
        headers = {"ETag": f'"{self._etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not body:
            self._send(request, 200, {**headers, "Content-Length": str(len(data))}, b"")
            return
        if file in self.wrong:
            data = bytes([data[0] ^ 1]) + data[1:]
        start, status = 0, 200
        given = request.headers.get("Range", "")
        if given.startswith("bytes="):
            start, status = int(given[6:].partition("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers["Content-Length"] = str(len(data) - start)
        stop = min(len(data), self.cut.pop(file, len(data)))
        self.sent[file] = self.sent.get(file, 0) + max(0, stop - start)
        self._send(request, status, headers, data[start:stop], broken=stop < len(data))

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict, data: bytes, broken: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
        if broken:
            request.wfile.flush()
            request.close_connection = True

    def _info(self) -> dict:
        siblings = []
        for name, data in self.files.items():
            row = {"rfilename": name, "size": len(data), "blobId": self._git(data)}
            if len(data) >= self.large:
                row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(row)
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }

    def _etag(self, file: str) -> str:
        data = self.files[file]
        return hashlib.sha256(data).hexdigest() if len(data) >= self.large else self._git(data)

    @staticmethod
    def _git(data: bytes) -> str:
        return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
