"""The oldest and newest dependencies: the bounds of setup.cfg, the script that tests with them, and the workflow."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dependency_helpers import read_tested
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from setuptools.config.setupcfg import read_configuration

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from oldest_dependencies import oldest_constraints, read_requirements

ROOT = Path(__file__).parents[1]
SETTINGS = """[metadata]
name = house
[options]
install_requires =
    # read what is below
    torch>=2.8
    monai>=1.6,<2
[options.extras_require]
plot = matplotlib>=3.7
test =
    house[plot]
    triton>=3.4; platform_system == "Linux"
"""
# Writes down how it was called. With `-m venv`, it makes an environment whose Python is itself.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >> "{log}"
case "$*" in
  "-m venv"*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
  *oldest_dependencies.py) exec "{python}" "$@" ;;
esac
"""


def settings(folder, text):
    (folder / "setup.cfg").write_text(text)
    return folder / "setup.cfg"


def test_bounds_of_all_extras_become_exact_versions(tmp_path):
    expected = ["matplotlib==3.7", "monai==1.6", "torch==2.8", 'triton==3.4; platform_system == "Linux"']
    assert oldest_constraints(settings(tmp_path, SETTINGS)) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("torch", "torch: should have one lower bound"),
        ("torch<3", "torch<3: should have one lower bound"),
        ("torch>2.8", "torch>2.8: should have one lower bound"),
        ("torch>=2.8\n    torch>=2.9", "written with another bound elsewhere, torch==2.8"),
    ],
)
def test_requirements_without_one_lower_bound_are_named(changed, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        oldest_constraints(settings(tmp_path, SETTINGS.replace("torch>=2.8", changed)))


def test_bounds_are_read_as_setuptools_reads_them():
    options = read_configuration(ROOT / "setup.cfg")["options"]
    lines = [*options["install_requires"], *(line for lines in options["extras_require"].values() for line in lines)]
    requirements = {r.name: r for r in map(Requirement, lines) if r.name != "mednextv2"}
    oldest = {r.name: r for r in map(Requirement, oldest_constraints(ROOT / "setup.cfg"))}
    assert oldest.keys() == requirements.keys()
    for name, requirement in requirements.items():
        (exact,) = oldest[name].specifier
        assert str(SpecifierSet(f">={exact.version}")) in str(requirement.specifier).split(","), name
        assert oldest[name].marker == requirement.marker


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_each_requirement_has_a_tested_version_that_it_allows(python):
    tested = read_tested(python)
    for requirement in read_requirements(ROOT / "setup.cfg"):
        if requirement.name != "triton":  # the version that PyTorch brings
            assert tested[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def run_script(tmp_path, *arguments):
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(STAND_IN.format(log=log, python=sys.executable))
    python.chmod(0o755)
    command = ["bash", "scripts/test_dependencies.sh", *(part.replace("PYTHON", str(python)) for part in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done, log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("age", ["oldest", "newest"])
def test_the_script_tests_with_the_versions_it_says(age, tmp_path):
    made, chosen = tmp_path / "made", tmp_path / "made" / "dependencies.txt"
    options = (age, "--python", "PYTHON", "--venv", str(made))
    for _ in range(2):  # what it made it makes anew
        done, calls = run_script(tmp_path, *options, "-m", "slow")
        assert done.returncode == 0, done.stderr
        assert chosen.read_text().splitlines() == (oldest_constraints(ROOT / "setup.cfg") if age == "oldest" else [])
    assert f"-m venv --clear {made}" in calls
    installs = [call for call in calls if "pip install" in call and not call.endswith("packaging")]
    assert [call.split()[-1] for call in installs[:2]] == ["torch", f"{ROOT}[test]"]
    assert all(f"-c {chosen} " in call for call in installs)
    assert calls[-1] == "-m pytest --numprocesses 2 --dist loadfile -m slow"
    assert not [call for call in calls if "ruff" in call or "mypy" in call]  # what they say depends on their version


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "should be oldest or newest, not ''"),
        (("middle",), "should be oldest or newest, not 'middle'"),
        (("oldest", "--python"), "--python needs a path"),
        (("newest", "--python", "no-such-python"), "there is no Python no-such-python"),
        (("newest", "--python", "PYTHON", "--venv", "docs"), "docs was not made by this script"),
    ],
)
def test_wrong_arguments_end_before_anything_is_made(arguments, message, tmp_path):
    done, calls = run_script(tmp_path, *arguments)
    assert (done.returncode, calls) == (2, [])
    assert message in done.stderr
    assert (ROOT / "docs" / "howto.md").exists()


@pytest.mark.parametrize("arguments", [("--help",), ("oldest", "--help")])
def test_help_names_every_argument(arguments, tmp_path):
    done, _ = run_script(tmp_path, *arguments)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("oldest|newest", "--python", "--venv", "pytest"))


def test_the_workflow_runs_scripts_that_exist_with_pythons_that_are_supported():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    supported = SpecifierSet(str(read_configuration(ROOT / "setup.cfg")["options"]["python_requires"]))
    commands, versions = set(), []
    for job in jobs.values():
        matrix = job["strategy"]["matrix"]
        choices = matrix.get("include") or [{"python": version} for version in matrix["python"]]
        versions += [choice["python"] for choice in choices]
        commands |= {
            re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda name, choice=choice: choice[name[1]], step["run"])
            for choice in choices
            for step in job["steps"]
            if "run" in step
        }
    assert commands == {
        "bash scripts/test.sh",
        "bash scripts/test_dependencies.sh oldest --python python",
        "bash scripts/test_dependencies.sh newest --python python",
    }
    assert all((ROOT / command.split()[1]).is_file() for command in commands)
    assert "bash scripts/test.sh " in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(isinstance(version, str) and version in supported for version in versions)  # 3.10 unquoted is 3.1
    assert set(versions) == {"3.10", "3.11", "3.12", "3.13"}
