import pytest
from delivery_helpers import NAME, content, refused, release, small_files

from mednextv2.delivery.hub import HuggingFace
from mednextv2.delivery.sources import Archive, Index, find_source


def test_github_is_read_where_monai_reads_it():
    source = find_source("github:alice/bundles/v1.0")
    assert isinstance(source, Index)
    # the address of monai/bundle/scripts.py, _get_all_bundles_info
    assert source.address == "https://raw.githubusercontent.com/alice/bundles/v1.0/models/model_info.json"


def test_other_forms():
    assert find_source("huggingface:alice/mednextv2_liver").repository == "alice/mednextv2_liver"
    assert isinstance(find_source("huggingface:alice/x"), HuggingFace)
    assert isinstance(find_source("https://host/models/model_info.json?x=1"), Index)
    assert isinstance(find_source("file:///disk/model_info.json"), Index)
    assert find_source("https://host/mednextv2_liver_v0.1.0.zip").version == "0.1.0"


@pytest.mark.parametrize("text", ["alice/bundles/v1", "github:alice/bundles", "huggingface:x", "", "ftp://host/x.zip"])
def test_another_text_is_refused_with_the_forms(text):
    message = refused(find_source, text)
    assert message.startswith(f"--source {text}: should be github:OWNER/REPO/TAG, huggingface:OWNER/NAME")


@pytest.mark.parametrize("address", ["https://host/liver.zip", "https://host/liver_v0.1.0.tar.gz", "http://host"])
def test_an_archive_without_its_version_is_refused(address):
    assert "NAME_vVERSION.zip" in refused(find_source, address)


def test_an_index_leads_to_archives(hosts, tmp_path):
    source = find_source(release(hosts, tmp_path / "release", "0.1.0", "0.2.0"))
    assert source.versions(NAME) == ["0.1.0", "0.2.0"]
    (tmp_path / "new").mkdir()
    assert content(source.get(NAME, "0.2.0", tmp_path / "new")) == small_files("0.2.0")
    assert hosts.requests.count("/index.json") == 1


def test_an_archive_alone(hosts, tmp_path):
    release(hosts, tmp_path / "release", "0.1.0")
    source = find_source(f"{hosts.address}/{NAME}_v0.1.0.zip")
    assert isinstance(source, Archive)
    assert source.versions(NAME) == ["0.1.0"]
    (tmp_path / "new").mkdir()
    assert content(source.get(NAME, "0.1.0", tmp_path / "new")) == small_files("0.1.0")
    assert f"is an archive of the bundle {NAME}, not of spleen" in refused(source.versions, "spleen")
