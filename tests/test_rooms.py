"""Rooms of the package import in one direction: the order is the table in docs/design.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "mednextv2"


def read_order(text):
    """Return the rooms of each row of the design's table, from the bottom of the house up."""
    table = text[text.index(f"| room of `{PACKAGE}` |") :].split("\n\n")[0]
    return [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]


def find_modules(root):
    """Return the files of the package by the names of their modules."""
    found = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(text, modules):
    """Yield each module of the package that some code imports, anywhere in it, with its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of what is imported"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inside]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == PACKAGE)


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None  # the package itself


def wrong_imports(root, order):
    """Return a line for each import that does not go to a room below, and for each room without a place."""
    floor = {room: i for i, rooms in enumerate(order) for room in rooms}
    modules, lines = find_modules(root), []
    for room in sorted({room_of(m) for m in modules} - {None, "recipes", *floor}):
        lines.append(f"{PACKAGE}/{room}: has no place in the table of docs/design.md; give it one")
    for module, file in modules.items():
        own = room_of(module)
        for target, line in imports_of(file.read_text(encoding="utf-8"), modules):
            there = room_of(target)
            if own is None or there is None or own == there or not {own, there} <= set(floor):
                continue
            if floor[there] >= floor[own]:
                where = f"{file.relative_to(root)}:{line}"
                lines.append(f"{where}: {own} imports {target}, which is not below it: see the table in docs/design.md")
    return lines


ORDER = read_order((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))


def test_the_design_has_an_order():
    rooms = [room for row in ORDER for room in row]
    assert len(rooms) == len(set(rooms)) > 15
    assert rooms[0] == "errors"
    assert rooms[-1] == "__main__"
    there = {room_of(module) for module in find_modules(ROOT)} - {None, "recipes"}
    assert set(rooms) == there


def test_rooms_import_from_below():
    assert wrong_imports(ROOT, ORDER) == []


def test_the_package_itself_imports_little():
    """`import mednextv2` takes no time: what needs PyTorch is imported when it is asked for."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_once = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert at_once == ["importlib", "typing", "mednextv2.version"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ops/a.py", "from mednextv2.nets import explain", "mednextv2/ops/a.py:1: ops imports mednextv2.nets"),
        ("ops/a.py", "def f():\n    import mednextv2.nets.b", "mednextv2/ops/a.py:2: ops imports mednextv2.nets.b"),
        ("errors.py", "from mednextv2 import nets", "mednextv2/errors.py:1: errors imports mednextv2.nets"),
        ("inference/a.py", "from mednextv2.training import b", "inference imports mednextv2.training, which is not"),
        ("attic/a.py", "", "mednextv2/attic: has no place in the table of docs/design.md; give it one"),
        ("nets/c.py", "from mednextv2.ops import d\nfrom mednextv2.nets import b\nimport torch", None),
    ],
)
def test_an_import_that_climbs_is_one_line(file, text, message, tmp_path):
    for name in ("__init__.py", "nets/__init__.py", "nets/b.py", "ops/__init__.py", "training/__init__.py", file):
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if name == file else "")
    lines = wrong_imports(tmp_path, ORDER)
    assert len(lines) == (message is not None)
    if message:
        assert message in lines[0]


def find_circle(graph):
    """Return modules that import each other in a circle, or None."""
    done, way = set(), []

    def visit(module):
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return None
        way.append(module)
        circle = next((c for c in map(visit, sorted(graph.get(module, ()))) if c), None)
        way.pop()
        done.add(module)
        return circle

    return next((c for c in map(visit, sorted(graph)) if c), None)


def test_modules_of_a_room_import_in_no_circle():
    modules = find_modules(ROOT)
    graph = {}
    for module, file in modules.items():
        if file.name != "__init__.py":  # which gathers what its modules have
            found = {name for name, _ in imports_of(file.read_text(encoding="utf-8"), modules)}
            graph[module] = {name for name in found if modules[name].name != "__init__.py"}
    assert find_circle(graph) is None


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) is None
