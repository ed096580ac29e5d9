"""The contract of the operators, as the docstring of `mednextv2.ops` has it."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mednextv2 import ops

FOLDER = Path(ops.__file__).parent
IMPLEMENTATIONS = {
    "block": {"in_two_steps", "triton"},
    "depthwise": {"native", "torch", "triton"},
    "folded_mlp": {"native", "torch", "triton"},
}
SINGLE_FILES = {"channel_norm", "gather_rows", "grn", "pointwise", "scatter_rows", "upsample_merge"}


def found_implementations():
    """Return the names of implementations that there are files of, by operator."""
    found = {}
    for file in FOLDER.glob("_*.py"):
        if file.stem.startswith("_trial_"):  # of the trial, whose files may be named after what they compare with
            continue
        if match := re.fullmatch(r"_(\w+?)_(native|triton|torch|in_two_steps)", file.stem):
            found.setdefault(match[1], set()).add(match[2])
    return found


def differences(modules):
    """Return a line for each function that is missing, or has other parameters than in the first module."""
    lines, first = [], None
    for name, module in modules.items():
        signatures = {}
        for function in ("forward", "backward"):
            if not inspect.isfunction(getattr(module, function, None)):
                lines.append(f"{name} has no function {function}")
            else:
                parameters = inspect.signature(getattr(module, function)).parameters.values()
                signatures[function] = [(p.name, p.kind, p.default, p.annotation) for p in parameters]
        first = first or signatures
        lines += [f"{name}: {k} has other parameters" for k, s in signatures.items() if s != first.get(k, s)]
    return lines


def test_every_operator_has_a_file_and_every_file_of_an_implementation_an_operator():
    assert found_implementations() == IMPLEMENTATIONS
    for operator in SINGLE_FILES | set(IMPLEMENTATIONS):
        module = importlib.import_module(f"mednextv2.ops.{operator}")
        assert inspect.isfunction(getattr(module, operator))
        assert getattr(ops, operator) is getattr(module, operator)
        assert hasattr(module, f"{operator}_reference") or operator in ("channel_norm", "grn")
        assert f"`{operator}`" in ops.__doc__
    files = {file.stem for file in FOLDER.glob("[a-z]*.py")}
    operators = {name for name in files if inspect.isfunction(getattr(ops, name, None))}
    assert operators == SINGLE_FILES | set(IMPLEMENTATIONS)


@pytest.mark.parametrize("operator", IMPLEMENTATIONS)
def test_implementations_of_an_operator_have_the_same_two_functions(operator):
    names = [f"_{operator}_{name}" for name in sorted(IMPLEMENTATIONS[operator])]
    if importlib.util.find_spec("triton") is None:
        names = [name for name in names if not name.endswith("_triton")]
    assert differences({name: importlib.import_module(f"mednextv2.ops.{name}") for name in names}) == []


def test_what_is_kept_for_the_backward_pass_is_named_as_its_parts_are():
    block, mlp = (importlib.import_module(f"mednextv2.ops.{name}") for name in ("block", "folded_mlp"))
    assert block._Kept._fields == ("x", "weight", *block.Mlp._fields, *block.Saved._fields)
    assert mlp._Saved._fields == ("y", *mlp.Statistics._fields, *mlp.Mlp._fields, "g")


def test_another_signature_and_a_missing_function_are_found():
    def one(x, y):
        """Take two."""

    def renamed(x, z):
        """Take two, of another name."""

    right = SimpleNamespace(forward=one, backward=one)
    wrong = {"b": SimpleNamespace(forward=one, backward=renamed), "c": SimpleNamespace(forward=one)}
    assert differences({"a": right, **wrong}) == ["b: backward has other parameters", "c has no function backward"]
