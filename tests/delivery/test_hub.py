import sys

import pytest
from delivery_helpers import NAME, content, refused, small_files

from mednextv2.delivery.hub import HuggingFace

REPOSITORY = f"alice/{NAME}"


@pytest.fixture
def hub(hosts, tmp_path, monkeypatch):
    """A repository with two versions."""
    monkeypatch.setenv("HF_ENDPOINT", hosts.address)
    tags = {}
    for version in ("0.2.0", "0.1.0"):
        for path, text in small_files(version).items():
            file = tmp_path / version / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        (tmp_path / version / ".gitattributes").write_text("*.pt filter=lfs")  # the host adds it
        tags[version] = tmp_path / version
    hosts.repositories[REPOSITORY] = {"latest_version": tags["0.2.0"], **tags}
    return hosts


def test_tags_are_versions(hub):
    assert HuggingFace(REPOSITORY).versions(NAME) == ["0.1.0", "0.2.0"]


def test_the_files_of_a_version_are_downloaded(hub, tmp_path):
    (tmp_path / "new").mkdir()
    assert content(HuggingFace(REPOSITORY).get(NAME, "0.1.0", tmp_path / "new")) == small_files("0.1.0")


def test_a_repository_without_versions_is_named(hub):
    hub.repositories[REPOSITORY] = {"latest_version": hub.repositories[REPOSITORY]["0.1.0"]}
    assert "has no tag for a version" in refused(HuggingFace(REPOSITORY).versions, NAME)


@pytest.mark.parametrize("repository", ["alice/nothing", f"bob/{NAME}"])
def test_a_repository_that_is_not_there_is_named(hub, repository):
    message = refused(HuggingFace(repository).versions, NAME)
    assert message.startswith(f"huggingface:{repository}: cannot be fetched (")
    assert "hf auth login" in message


def test_a_version_that_is_not_there_is_named(hub, tmp_path):
    message = refused(HuggingFace(REPOSITORY).get, NAME, "9.9.9", tmp_path)
    assert message.startswith(f"huggingface:{REPOSITORY}: cannot be fetched (")


def test_a_path_that_leads_out_of_the_folder_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *a, **k: ["configs/a", "../../evil"])
    assert "no plain path" in refused(HuggingFace(REPOSITORY).get, NAME, "0.1.0", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_package_that_is_needed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'mednextv2[hub]'" in refused(HuggingFace(REPOSITORY).versions, NAME)
