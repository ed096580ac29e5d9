"""Stand-ins on this machine for the hosts of packed bundles: GitHub, Hugging Face and a plain web server.

They answer the requests that MONAI's download command and huggingface_hub send, from folders as `mednextv2 pack` writes
them. `REDIRECT` is a start-up module that leads MONAI's requests to them, since the hosts' names are fixed in MONAI.
"""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: A `sitecustomize.py`: requests to GitHub go to the server that RELEASE_HOSTS names.
REDIRECT = """
import os
import urllib.request

_HOSTS = ("https://github.com/", "https://raw.githubusercontent.com/", "https://api.github.com/")


def _led(address):
    for host in _HOSTS:
        if address.startswith(host):
            return address.replace("https://", os.environ["RELEASE_HOSTS"] + "/", 1)
    return address


_open = urllib.request.OpenerDirector.open


def open(self, fullurl, *rest, **options):
    if isinstance(fullurl, str):
        fullurl = _led(fullurl)
    else:
        fullurl.full_url = _led(fullurl.full_url)
    return _open(self, fullurl, *rest, **options)


urllib.request.OpenerDirector.open = open
try:
    import requests
except ImportError:
    pass
else:
    _request = requests.Session.request
    requests.Session.request = lambda self, method, url, **options: _request(self, method, _led(url), **options)
"""
#: Another part of it: an installation of mednextv2 for development is not found.
LACK = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "mednextv2" not in getattr(finder, "__module__", "")]
"""


@dataclass
class Hosts:
    """What the server has.

    Attributes:
        address: The address of the server.
        files: The file, or the content, of each path, such as `github.com/OWNER/REPO/releases/download/TAG/NAME.zip`.
        repositories: Of each repository at Hugging Face, `OWNER/NAME`, the folder of each tag.
        requests: The paths that were requested.
        cut: The number of bytes after which answers break off, or None.
    """

    address: str = ""
    files: dict[str, Path | bytes] = field(default_factory=dict)
    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut: int | None = None

    def add_release(self, release: str, folder: Path) -> None:
        """Serve a folder of `mednextv2 pack --github` as a release at GitHub.

        Args:
            release: The release, `OWNER/REPO/TAG`.
            folder: The folder, with archives and `models/model_info.json`.
        """
        owner, repository, tag = release.split("/")
        for file in folder.glob("*.*"):
            self.files[f"github.com/{owner}/{repository}/releases/download/{tag}/{file.name}"] = file
        raw = f"raw.githubusercontent.com/{release}/models/model_info.json"
        self.files[raw] = folder / "models" / "model_info.json"

    def find(self, path: str) -> tuple[bytes, str] | None:
        """Return the content at a path and the commit that it belongs to, or None."""
        path = urllib.parse.unquote(path.partition("?")[0]).strip("/")
        if path in self.files:
            found = self.files[path]
            return found if isinstance(found, bytes) else found.read_bytes(), ""
        for repository, tags in self.repositories.items():
            if path.startswith(f"api/models/{repository}/"):
                return self._answer(tags, path.removeprefix(f"api/models/{repository}/"))
            if path.startswith(f"{repository}/resolve/"):
                revision, _, name = path.removeprefix(f"{repository}/resolve/").partition("/")
                folder = _revisions(tags).get(revision)
                if folder is not None and (folder / name).is_file():
                    return (folder / name).read_bytes(), _commit(folder)
        return None

    def _answer(self, tags: dict[str, Path], question: str) -> tuple[bytes, str] | None:
        """Answer a question about a repository."""
        kind, _, revision = question.partition("/")
        if kind == "refs":
            refs = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": _commit(f)} for t, f in tags.items()]
            return json.dumps({"branches": [], "converts": [], "tags": refs}).encode(), ""
        folder = _revisions(tags).get(revision.strip("/"))
        if folder is None:
            return None
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        if kind == "tree":
            sizes = [(name, (folder / name).stat().st_size) for name in names]
            content = [{"type": "file", "path": n, "size": s, "oid": _commit(folder)} for n, s in sizes]
            return json.dumps(content).encode(), _commit(folder)
        siblings = [{"rfilename": name} for name in names]
        return json.dumps({"id": "x", "sha": _commit(folder), "siblings": siblings, "tags": []}).encode(), ""


def _revisions(tags: dict[str, Path]) -> dict[str, Path]:
    return {**tags, **{_commit(folder): folder for folder in tags.values()}}


def _commit(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[Hosts]:
    """Run the server on a free port of this machine while the block runs."""
    hosts = Hosts()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.requests.append(self.path)
            found = hosts.find(self.path)
            body, commit = found or (b"", "")
            self.send_response(404 if found is None else 200)
            if found is None:
                self.send_header("X-Error-Code", "RevisionNotFound" if "/revision/" in self.path else "EntryNotFound")
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Type", "application/json" if body[:1] in b"[{" else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: hosts.cut])

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hosts.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hosts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
