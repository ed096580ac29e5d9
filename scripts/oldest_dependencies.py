"""Print the oldest dependencies that setup.cfg allows, as constraints for pip.

    python scripts/oldest_dependencies.py > oldest.txt
    pip install -c oldest.txt ".[test]"

Each requirement `name>=version`, those of the extras included, becomes `name==version`. Needs the package `packaging`.
"""

import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

SETTINGS = Path(__file__).resolve().parents[1] / "setup.cfg"


def read_requirements(settings: Path) -> Iterator[Requirement]:
    """Yield the requirements of a package and of its extras, without those that name the package itself.

    Args:
        settings: The package's `setup.cfg`.
    """
    parser = configparser.ConfigParser()
    parser.read(settings, encoding="utf-8")
    for text in (parser["options"]["install_requires"], *parser["options.extras_require"].values()):
        for line in text.splitlines():
            if line.strip():
                requirement = Requirement(line)
                if requirement.name != parser["metadata"]["name"]:
                    yield requirement


def lower_bound(requirement: Requirement) -> str:
    """Return the oldest version that a requirement allows.

    Raises:
        ValueError: If it has no lower bound, or several.
    """
    bounds = [part.version for part in requirement.specifier if part.operator in (">=", "==", "~=")]
    if len(bounds) != 1:
        raise ValueError(f"{requirement}: should have one lower bound, such as {requirement.name}>=1.0")
    return bounds[0]


def oldest_constraints(settings: Path) -> list[str]:
    """Return a constraint `name==version` for each requirement of a package and of its extras, sorted by name.

    Raises:
        ValueError: If a requirement has no lower bound, or is written twice with different ones.
    """
    constraints: dict[str, str] = {}
    for requirement in read_requirements(settings):
        marker = f"; {requirement.marker}" if requirement.marker else ""
        constraint = f"{requirement.name}=={lower_bound(requirement)}{marker}"
        if constraints.setdefault(requirement.name, constraint) != constraint:
            raise ValueError(f"{requirement}: is written with another bound elsewhere, {constraints[requirement.name]}")
    return [constraints[name] for name in sorted(constraints)]


if __name__ == "__main__":
    try:
        print("\n".join(oldest_constraints(SETTINGS)))
    except ValueError as e:
        sys.exit(f"error: {SETTINGS}: {e}")
