"""Bundles in repositories at Hugging Face, read with the package huggingface_hub, an optional extra."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mednextv2.delivery.archive import check_path
from mednextv2.delivery.names import sort_key
from mednextv2.errors import InputError, find_full_disk

_OWN = (".gitattributes", ".gitignore")  # files that the host adds


class HuggingFace:
    """A repository with one bundle, and a tag for each version; `HF_ENDPOINT` names another server.

    Args:
        repository: Its name, `OWNER/NAME`.
    """

    def __init__(self, repository: str) -> None:
        self.repository = repository

    def versions(self, name: str) -> list[str]:
        """Return the tags that are versions, the oldest first."""
        hub = _hub()
        with self._plain_errors():
            tags = [tag.name for tag in hub.list_repo_refs(self.repository).tags]
        found = sorted((tag for tag in tags if tag[:1].isdigit()), key=sort_key)
        if not found:
            raise InputError(
                f"huggingface:{self.repository}: has no tag for a version, such as 0.1.0; its owner makes one with hf "
                "repos tag create"
            )
        return found

    def get(self, name: str, version: str, folder: Path) -> Path:
        """Download the files of a version."""
        hub = _hub()
        target = folder / name
        with self._plain_errors():
            for path in hub.list_repo_files(self.repository, revision=version):
                check_path(path, f"huggingface:{self.repository}")
            hub.snapshot_download(self.repository, revision=version, local_dir=target, ignore_patterns=list(_OWN))
        shutil.rmtree(target / ".cache", ignore_errors=True)
        return target

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as e:  # those of huggingface_hub, and of its HTTP client
            if find_full_disk(e):
                raise
            detail = " ".join(str(e).split())[:200]
            raise InputError(
                f"huggingface:{self.repository}: cannot be fetched ({type(e).__name__}: {detail}); check the name, the "
                "version and the connection. A private repository needs a login: hf auth login"
            ) from e


def _hub() -> Any:
    """Return the interface of the server that `HF_ENDPOINT` names now, not only when the package was imported."""
    try:
        from huggingface_hub import HfApi
    except ImportError as e:
        raise InputError(
            "huggingface_hub: this package is needed for bundles at Hugging Face, and is not installed; install it "
            "with pip install 'mednextv2[hub]'"
        ) from e
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
