"""The help of the command line."""

import inspect
import re
import shlex

import pytest
from verb_helpers import call

from mednextv2.bundle import find_bundle
from mednextv2.bundle.run import check_overrides, workflow_files
from mednextv2.commands import VERBS
from mednextv2.commands.arguments import read_arguments
from mednextv2.commands.help import format_help
from mednextv2.version import __version__


def examples_of(verb):
    return [shlex.split(line) for line in (verb.__doc__ or "").split("Examples:")[-1].splitlines() if line.strip()]


EXAMPLES = [example for verb in VERBS.values() for example in examples_of(verb)]


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("spelling", [("--help",), ("-h",), ("--", "--help"), ("word", "--help")])
def test_every_verb_has_help_with_an_example(name, spelling, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, name, *spelling)
    assert (code, err) == (0, "")
    text = out[: out.index("\nUsage:\n")]
    assert text[0].isupper()
    assert text.strip().endswith(".")
    examples = out.split("\nExamples:\n")[1].splitlines()
    assert examples
    assert all(line.startswith(f"  mednextv2 {name}") for line in examples)
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize("name", VERBS)
def test_help_describes_every_argument_in_whole_sentences(name, monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, name, "--help")
    described = " ".join(out.split("\nExamples:\n")[0].split())
    for parameter in inspect.signature(VERBS[name]).parameters.values():
        needed = parameter.default is parameter.empty
        shown = parameter.name.upper() if needed else f"--{parameter.name}"
        assert ("--SETTING VALUE" if parameter.kind is parameter.VAR_KEYWORD else shown) in described
    indented = [line for line in out.split("\nExamples:\n")[0].splitlines() if line.startswith("  ")]
    blocks = "\n".join(indented[1:]).replace("\n      ", " ").splitlines()
    assert all(block.endswith(".") for block in blocks)


@pytest.mark.parametrize("example", EXAMPLES, ids=" ".join)
def test_examples_of_the_help_have_arguments_and_options_that_exist(example):
    program, name, *rest = example
    assert program == "mednextv2"
    arguments = read_arguments(VERBS[name], rest)
    inspect.signature(VERBS[name]).bind(**arguments)
    settings = {key: value for key, value in arguments.items() if key not in inspect.signature(VERBS[name]).parameters}
    if name in ("run", "predict"):
        workflow = arguments.get("workflow", "inference")
        if workflow == "upkern":  # whose settings are those of finetune, also with first_ before them
            workflow, settings = "finetune", {key.removeprefix("first_"): value for key, value in settings.items()}
        check_overrides(workflow_files(find_bundle(arguments["bundle"]), workflow), settings)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("--", "--help")])
def test_without_a_verb_all_verbs_are_listed(arguments, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert len(VERBS) >= 14
    listed = [line.split()[0] for line in out.split("Verbs:\n")[1].splitlines() if line[2:3].strip()]
    assert listed[: len(VERBS)] == [*VERBS]


@pytest.mark.parametrize("words", [("--version",), ("help",), ("help", "plan"), ("help", "no")])
def test_other_ways_to_ask(words, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    expected = {"--version": f"mednextv2 {__version__}\n", "plan": "Choose the training settings"}
    assert out.startswith(expected.get(words[-1], "Train, evaluate and use MedNeXt-v2"))


def test_options_are_listed_with_their_letters(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "plan", "--help")
    assert "\n  -o, --output OUTPUT\n" in out
    assert "\n  -m, --memory MEMORY\n" in out
    assert "\n  -b, --batch_size BATCH_SIZE\n" in out


@pytest.mark.parametrize("name", VERBS)
def test_the_help_has_every_word_of_the_docstring(name):
    """Fire takes a line with a colon for another argument, and leaves its beginning out."""
    text = inspect.getdoc(VERBS[name]).partition("\nArgs:\n")[2].partition("\n\n")[0]
    words = [word for line in text.splitlines() for word in re.sub(r"^    \w+: ", "", line).split()]
    assert " ".join(words[:3]) in " ".join(format_help(VERBS[name]).split())
    assert {*words} <= {*format_help(VERBS[name]).split()}


def test_a_colon_in_the_text_of_an_option_begins_no_other_option(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "predict", "--help")
    assert "labelmap (smallest, but new: many viewers cannot read it). By default" in " ".join(out.split())


def test_every_text_of_a_docstring_is_shown_whole(monkeypatch, capsys):
    for name, verb in VERBS.items():
        _, out, _ = call(monkeypatch, capsys, name, "--help")
        listed = (inspect.getdoc(verb) or "").partition("Args:\n")[2].partition("\n\nExamples:")[0]
        shown = " ".join(out.split())
        assert all(" ".join(line.partition(": ")[2].split()) in shown for line in listed.splitlines() if line[4] != " ")
