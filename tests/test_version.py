"""The version, which is written in one place."""

import re
from pathlib import Path

from packaging.version import Version
from setuptools.config.setupcfg import read_configuration

import mednextv2
from mednextv2.version import __version__

ROOT = Path(__file__).parents[1]


def test_the_package_that_is_built_has_it():
    assert read_configuration(ROOT / "setup.cfg")["metadata"]["version"] == __version__
    assert mednextv2.__version__ == __version__


def test_it_is_written_as_package_indexes_write_it():
    assert str(Version(__version__)) == __version__


def test_the_changelog_begins_with_it():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert versions[0] == __version__
    assert versions == sorted(versions, key=Version, reverse=True)
