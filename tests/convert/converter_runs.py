"""How tests run the converters of scripts/convert, and look at what they wrote."""

import importlib
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from source_builders import BUILDERS
from source_files import read

from mednextv2.data import check_dataset, read_dataset
from mednextv2.data.conversion_command import main

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "convert"


def load(name):
    """Return the module of a converter."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module(name)


def run(name, source, target, *words):
    """Run a converter in this process; returns its exit status and all that it printed."""
    script, said = load(name), StringIO()
    facts = getattr(script, "FACTS", None) or script.facts
    arguments = [str(source), str(target), "--workers=1", *words]
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main(facts, script.find, script.convert, script.__doc__, getattr(script, "add_options", None), arguments)
        except SystemExit as e:
            return e.code, said.getvalue()
    return 0, said.getvalue()


def converted(name, tmp_path, *words, change=None):
    """Build a source, convert it, and return the target; `change(source)` may alter the source before."""
    source = BUILDERS[name](tmp_path / "source")
    if change:
        change(source)
    status, said = run(name, source, tmp_path / "target", *words)
    assert status == 0, said
    return tmp_path / "target"


def refused(name, tmp_path, *words, change=None, source=None):
    """Convert what cannot be converted; returns the message, of one error, after which there is no data set."""
    built = BUILDERS[name](tmp_path / "source")
    if change:
        change(built)
    status, said = run(name, source or built, tmp_path / "target", *words)
    assert status == 1, said
    assert "error: " in said
    assert "Traceback" not in said
    assert not (tmp_path / "target" / "dataset.json").exists()
    return said[said.index("error: ") :]


def excluded(name, tmp_path, *words, change=None):
    """Convert with --defective exclude; returns the target, and the reasons for exclusions."""
    target = converted(name, tmp_path, "--defective=exclude", *words, change=change)
    return target, record(target)["excluded"]


def record(target):
    return json.loads((target / "conversion.json").read_text(encoding="utf-8"))


def description(target):
    return json.loads((target / "dataset.json").read_text(encoding="utf-8"))


def passes_check(target):
    """Check a data set as `mednextv2 check` does; returns the names of its cases."""
    dataset = read_dataset(target)
    scheme = dataset.scheme()
    check_dataset(dataset.cases, scheme.declared, dataset.channels, workers=1)
    assert dataset.declared_cases == len(dataset.cases)
    return [case.name for case in dataset.cases]


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def content(folder):
    """Return the bytes of every file below a folder by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def same_values(path, array):
    np.testing.assert_array_equal(read(path), array)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def move(path, other):
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, other)
