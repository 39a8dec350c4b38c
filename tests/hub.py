"""A Hugging Face hub on loopback: the few routes that snapshots and data sets are fetched through.

It serves folders of this machine as repositories with one commit each, in the hub's own words (tree listings, ETags,
commits in headers, ranges), and notes what it was asked. Nothing leaves the machine.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by kind and id, `models/owner/name` or `datasets/owner/name`: the folder of each one's files."""

    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.asked = dict(repositories), []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if (asked := API.fullmatch(path)) and (folder := self._folder(asked[1], asked[2], asked[4])):
            self._describe(folder, asked[2], asked[3], asked[5] or "", body)
        elif (asked := FILE.fullmatch(path)) and (
            folder := self._folder("datasets" if asked[1] else "models", asked[2], asked[3])
        ):
            self._file(folder / asked[4])
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _folder(self, kind: str, name: str, revision: str | None) -> Path | None:
        return self.server.repositories.get(f"{kind}/{name}") if revision in (None, COMMIT) else None

    def _describe(self, folder: Path, name: str, what: str | None, inside: str, body: bytes) -> None:
        if what in (None, "revision"):
            self._json({"id": name, "sha": COMMIT, "private": False, "siblings": [], "tags": [], "downloads": 0})
        elif what == "tree":
            below = [entry for entry in _entries(folder) if entry["path"].startswith(inside)]
            self._json(below) if below else self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            wanted = re.findall(r"[\w./-]+", unquote(body.decode()))
            self._json([entry for entry in _entries(folder) if entry["path"] in wanted])

    def _file(self, path: Path) -> None:
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not path.is_file():
            self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        headers |= {"ETag": f'"{_etag(path)}"', "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self._send(206 if asked else 200, content, headers)

    def _json(self, value) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


def _entries(folder: Path) -> list[dict]:
    """The tree listing: large weights as LFS files, with their SHA-256, all else by git's own hash."""
    found = []
    for path in sorted(folder.rglob("*")):
        entry = {"path": path.relative_to(folder).as_posix(), "oid": "0" * 40, "size": 0, "type": "directory"}
        if path.is_file():
            entry |= {"type": "file", "size": path.stat().st_size, "oid": _git(path.read_bytes())}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"oid": _etag(path), "size": entry["size"], "pointerSize": 132}
        found.append(entry)
    return found


def _etag(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else _git(content)


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
