"""Where each module is tested: in the test file of its name, or in the one that is written here."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules without a test file of their name, and the file that tests them. The list only gets shorter: a new module gets
# its own test file.
ELSEWHERE: dict[str, str] = {}


def own_test(module: str) -> str:
    path = Path(module)
    return path.with_name(f"test_{path.name}").as_posix()


def faults(modules: list[str], tests: set[str], elsewhere: dict[str, str]) -> list[str]:
    """Say what is wrong, one line a module, and what to do."""
    found = []
    for module in modules:
        if own_test(module) in tests:
            if module in elsewhere:
                found.append(f"take {module} off the list ELSEWHERE: it has tests/{own_test(module)}")
        elif module not in elsewhere:
            found.append(f"add tests/{own_test(module)} for mednextv2/{module}")
        elif elsewhere[module] not in tests:
            found.append(f"add tests/{own_test(module)}: tests/{elsewhere[module]}, which tested {module}, is gone")
    gone = [module for module in elsewhere if module not in modules]
    return found + [f"take {module} off the list ELSEWHERE: there is no such module" for module in gone]


def test_every_module_has_a_test_file():
    # a module that begins with an underscore is a part of the one whose name it bears; packages only import
    paths = [path.relative_to(ROOT / "mednextv2") for path in (ROOT / "mednextv2").rglob("*.py")]
    modules = sorted(path.as_posix() for path in paths if not path.name.startswith("_"))
    tests = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(modules) > 90
    assert len(tests) > 70
    wrong = faults(modules, tests, ELSEWHERE)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("modules", "tests", "elsewhere", "expected"),
    [
        (["a/b.py"], {"a/test_b.py"}, {}, None),
        (["a/b.py"], {"a/test_c.py"}, {"a/b.py": "a/test_c.py"}, None),
        (["a/b.py"], {"test_b.py"}, {}, "add tests/a/test_b.py for mednextv2/a/b.py"),
        (["b.py"], set(), {"b.py": "test_c.py"}, "tests/test_c.py, which tested b.py, is gone"),
        (["b.py"], {"test_b.py", "test_c.py"}, {"b.py": "test_c.py"}, "take b.py off the list"),
        ([], {"test_c.py"}, {"b.py": "test_c.py"}, "there is no such module"),
    ],
)
def test_a_missing_test_file_is_told_with_its_name(modules, tests, elsewhere, expected):
    found = faults(modules, tests, elsewhere)
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
