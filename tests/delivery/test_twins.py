import json
import sys

import pytest
import yaml
from delivery_helpers import ROOT, refused
from monai.bundle import ConfigParser

from mednextv2.bundle import build_bundle
from mednextv2.delivery.twins import as_json, self_contained, workflow_files

# one with classes and one with regions: the workflows of all bundles have the same recipes
TASKS = [ROOT / "bundles" / name / "task.yaml" for name in ("mednextv2_hippocampus", "mednextv2_brats21")]


@pytest.fixture(scope="module")
def built():
    return {task.parent.name: build_bundle(task) for task in TASKS}


def test_every_workflow_has_an_equal_twin(built):
    for files in built.values():
        packed = workflow_files(files)
        yamls = [path for path in packed if path.endswith(".yaml")]
        assert len(yamls) == 5
        for path in yamls:
            twin = json.loads(packed[path.replace(".yaml", ".json")])
            assert twin == yaml.safe_load(packed[path])
        assert {path for path in packed if path not in files} == {path.replace(".yaml", ".json") for path in yamls}
        assert all(packed[path] == files[path] for path in files if not path.endswith(".yaml"))


def test_no_workflow_imports_the_package_and_everything_of_it_requires_it(built):
    for files in built.values():
        for path, text in workflow_files(files).items():
            if not path.endswith(".yaml"):
                continue
            content = yaml.safe_load(text)
            assert not any("mednextv2" in statement for statement in content.get("imports", []))
            for part in dictionaries(content):
                if str(part.get("_target_")).startswith("mednextv2."):
                    assert part["_requires_"] == "@package"
            if "initialize" in content:
                assert content["initialize"][0] == "$@package"


def test_nothing_else_of_a_workflow_changes(built):
    for files in built.values():
        for path, text in files.items():
            if path.endswith(".yaml"):
                before, after = yaml.safe_load(text), yaml.safe_load(self_contained(text))
                for key in ("package_places", "package", "functions", "imports"):
                    before.pop(key, None), after.pop(key, None)
                assert plain(after) == plain(before)


def dictionaries(content):
    if isinstance(content, dict):
        yield content
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from dictionaries(part)


def plain(content):
    """Take away what makes a workflow self-contained."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items() if (key, value) != ("_requires_", "@package")}
    if isinstance(content, list):
        return [plain(part) for part in content if part != "$@package"]
    return content.replace("@functions::", "") if isinstance(content, str) else content


TEXT = """\
imports: ["$import os", "$from mednextv2.machine import usable_cpus"]
bundle_root: "."
usable_cpus: "$usable_cpus() + 0"          # as flat_axis, an item with the name of a function
folder: "$os.path.basename('a/b')"
initialize:
- "$@folder"
"""


def test_functions_are_called_as_before():
    parser = ConfigParser(yaml.safe_load(self_contained(TEXT)))
    assert parser.get_parsed_content("usable_cpus") >= 1
    assert parser.get_parsed_content("folder") == "b"
    assert parser.get_parsed_content("package") == "installed"


def test_the_folder_of_the_bundle_is_searched_where_the_package_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "mednextv2").mkdir()
    (tmp_path / "mednextv2" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    parser = ConfigParser(yaml.safe_load(self_contained(TEXT)))
    parser["bundle_root"] = str(tmp_path)
    assert parser.get_parsed_content("package") == "in the bundle"
    assert sys.path[-1] == str(tmp_path)


def test_a_text_that_is_no_yaml_is_refused_with_its_name():
    assert refused(as_json, "a: [", "configs/x.yaml").startswith("configs/x.yaml: is not valid YAML")
