import json
from types import SimpleNamespace

import pytest
from delivery_helpers import refused
from monai.bundle.scripts import _get_all_bundles_info

from mednextv2.delivery.model_info import Entry, add_entry, read_entries

SUM = "0" * 64


def test_entries_are_added_and_sorted(tmp_path):
    file = tmp_path / "models" / "model_info.json"
    for name, version in (("b", "0.2.0"), ("a", "0.1.0"), ("b", "0.1.0")):
        add_entry(file, name, version, Entry(f"https://host/{name}_v{version}.zip", SUM))
    content = json.loads(file.read_text())
    assert [*content] == ["a_v0.1.0", "b_v0.1.0", "b_v0.2.0"]
    assert content["a_v0.1.0"] == {"checksum": SUM, "source": "https://host/a_v0.1.0.zip"}
    assert [*read_entries(content, "b", "here")] == ["0.1.0", "0.2.0"]


def test_monai_reads_it(tmp_path, monkeypatch):
    file = tmp_path / "model_info.json"
    add_entry(file, "mednextv2_liver", "0.1.0", Entry("https://host/x.zip", SUM))
    answer = SimpleNamespace(text=file.read_text(), raise_for_status=lambda: None)
    monkeypatch.setattr("monai.bundle.scripts.has_requests", True)
    monkeypatch.setattr("monai.bundle.scripts.requests", SimpleNamespace(get=lambda url: answer))
    assert _get_all_bundles_info("o/r", "t")["mednextv2_liver"]["0.1.0"]["browser_download_url"] == "https://host/x.zip"


def test_a_version_is_never_replaced_by_another_content(tmp_path):
    file = tmp_path / "model_info.json"
    add_entry(file, "a", "0.1.0", Entry("https://host/1", SUM))
    before = file.read_bytes()
    message = refused(add_entry, file, "a", "0.1.0", Entry("https://host/1", "1" * 64))
    assert "has a_v0.1.0 with another content already" in message
    assert "a new version in its task.yaml" in message
    assert file.read_bytes() == before
    add_entry(file, "a", "0.1.0", Entry("https://elsewhere/1", SUM))  # the same content at another place
    assert json.loads(file.read_text())["a_v0.1.0"]["source"] == "https://elsewhere/1"


def test_numbers_of_other_projects_sort_as_numbers():
    content = {f"a_v{v}": {"source": "x", "checksum": "0" * 40} for v in ("0.10.0", "0.9.0", "0.2.0")}
    assert [*read_entries(content, "a", "here")] == ["0.2.0", "0.9.0", "0.10.0"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "should hold versions of bundles by name"),
        ({}, "has no bundle a; it has none"),
        ({"b_v0.1.0": {}}, "has no bundle a; it has b"),
        ({"a_v0.1.0": {"source": "x"}}, "a_v0.1.0 should have"),
        ({"a_v0.1.0": {"source": "x", "checksum": "?"}}, "a_v0.1.0 should have"),
        ({"a_v0.1.0": "x"}, "a_v0.1.0 should have"),
    ],
)
def test_what_is_no_index_is_refused(content, words):
    message = refused(read_entries, content, "a", "https://host/model_info.json")
    assert message.startswith("https://host/model_info.json: ")
    assert words in message


def test_a_file_that_is_no_index_is_left_alone(tmp_path):
    (tmp_path / "model_info.json").write_text("[1]")
    assert "should hold" in refused(add_entry, tmp_path / "model_info.json", "a", "0.1.0", Entry("x", SUM))
    assert (tmp_path / "model_info.json").read_text() == "[1]"
