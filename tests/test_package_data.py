"""What is installed: files beside the modules that a wheel takes only if `setup.cfg` names them."""

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "mednextv2"


def read_patterns(root):
    """Return the patterns of `package_data` by package."""
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg", encoding="utf-8")
    found = settings["options.package_data"].items()
    return {package: [part for part in re.split(r"[,\s]+", text) if part] for package, text in found}


def left_out(root, patterns):
    """Return the files of the package that no pattern takes."""
    missing = []
    for file in sorted((root / PACKAGE).rglob("*")):
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        folder = next(folder for folder in file.parents if (folder / "__init__.py").is_file())
        name, inside = ".".join(folder.relative_to(root).parts), file.relative_to(folder).as_posix()
        if file.parent == folder and file.suffix == ".py":
            continue
        # a star of setuptools does not reach into folders
        taken = [p for p in patterns.get(name, []) if p.count("/") == inside.count("/") and fnmatch(inside, p)]
        if not taken:
            missing.append(file.relative_to(root).as_posix())
    return missing


def test_every_file_is_installed():
    assert left_out(ROOT, read_patterns(ROOT)) == []


def test_patterns_take_files():
    for package, patterns in read_patterns(ROOT).items():
        for pattern in patterns:
            assert list(ROOT.joinpath(*package.split(".")).glob(pattern)), f"{package}: {pattern} takes no file"


@pytest.mark.parametrize("pattern", ["*.j2", "templates/*.css", "*"])
def test_a_file_that_no_pattern_takes_is_named(pattern, tmp_path):
    room = tmp_path / PACKAGE / "report"
    (room / "templates").mkdir(parents=True)
    for name in ("__init__.py", "page.py", "templates/a.j2"):
        (room / name).touch()
    assert left_out(tmp_path, {f"{PACKAGE}.report": [pattern]}) == [f"{PACKAGE}/report/templates/a.j2"]
    assert left_out(tmp_path, {f"{PACKAGE}.report": ["templates/*.j2"]}) == []
