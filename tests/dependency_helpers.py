"""The tested versions of dependencies."""

from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def read_tested(python):
    """Return the versions that constraints.txt has for a Python, by the packages' names in lower case."""
    lines = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    chosen = [r for r in requirements if not r.marker or r.marker.evaluate({"python_version": python})]
    assert len({r.name for r in chosen}) == len(chosen), "a package has two versions for one Python"
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in chosen}
