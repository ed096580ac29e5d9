"""Reading of the command line: words are text, unless a verb asks for something else."""

import math
from typing import Any

import pytest
from verb_helpers import call

from mednextv2.commands import VERBS
from mednextv2.commands.arguments import find_verb, read_arguments, read_literal, read_setting, read_value, short_names
from mednextv2.errors import UsageError

ODD = [
    "2024_01", "1e5", "0x10", "1,2", "(1)", "[a,b]", "{a:1}", "None", "True", "scan#3", "$1+1", "@a", "%b", "a b", "ä",
    "-1",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_names_of_files_and_folders_are_what_was_typed(name):
    assert read_arguments(VERBS["check"], [name]) == {"dataset_dir": name}
    assert read_arguments(VERBS["predict"], [name, name, name]) == {"bundle": name, "input": name, "output": name}
    assert read_arguments(VERBS["report"], [name, "--output", name]) == {"folder": name, "output": name}
    assert read_arguments(VERBS["plan"], [name, f"--labels-dir={name}"]) == {"dataset_dir": name, "labels_dir": name}
    for setting in ("dataset_dir", "output_dir", "input", "prepared_dir", "meta_file"):
        several = setting == "dataset_dir" and name == "[a,b]"  # a workflow may take the images of several folders
        wanted = ["a", "b"] if several else name
        assert read_arguments(VERBS["run"], ["b", "train", f"--{setting}", name])[setting] == wanted


def test_a_folder_that_is_called_like_several_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["b", "train", "--dataset_dir", "[a,b]"]
    assert read_arguments(VERBS["run"], words)["dataset_dir"] == ["a", "b"]
    (tmp_path / "[a,b]").mkdir()
    assert read_arguments(VERBS["run"], words)["dataset_dir"] == "[a,b]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["d", "--patch-size=[32,32,32]", "--batch_size", "2"], {"patch_size": [32, 32, 32], "batch_size": 2}),
        (["d", "--spacing", "isotropic", "--memory", "12"], {"spacing": "isotropic", "memory": 12.0}),
        (["d", "--spacing", "1.5"], {"spacing": 1.5}),
        (["-o", "2024", "-v", "v1_s", "d"], {"output": "2024", "variant": "v1_s"}),
        (["--", "d"], {}),
        (["--dataset_dir", "d", "-b", "3"], {"batch_size": 3}),
    ],
)
def test_options_have_the_types_of_the_verb(words, expected):
    assert read_arguments(VERBS["plan"], words) == {"dataset_dir": "d", **expected}


def test_switches_take_no_value_or_a_truth_value():
    base = {"task": ["t"]}
    assert read_arguments(VERBS["bundle"], ["t", "--check"]) == {**base, "check": True}
    assert read_arguments(VERBS["bundle"], ["--check", "t"]) == {**base, "check": True}
    assert read_arguments(VERBS["bundle"], ["t", "--check", "FALSE"]) == {**base, "check": False}
    assert read_arguments(VERBS["bundle"], ["t", "--nocheck"]) == {**base, "check": False}
    assert read_arguments(VERBS["bundle"], ["t", "-c"]) == {**base, "check": True}


@pytest.mark.parametrize(
    ("words", "tasks"),
    [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["a", "--check", "b"], ["a", "b"]),
        (["--", "-a", "b"], ["-a", "b"]),
        (["--task", "a"], ["a"]),
    ],
)
def test_an_argument_that_may_be_several_takes_all_words(words, tasks):
    assert read_arguments(VERBS["bundle"], words)["task"] == tasks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "bundle: TASK is missing"),
        (["a", ""], "task: is empty"),
        (["b", "--task", "a"], "b: bundle takes no more words"),
    ],
)
def test_an_argument_that_may_be_several_is_checked(words, message):
    with pytest.raises(UsageError, match=message):
        read_arguments(VERBS["bundle"], words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bundle", "task.yaml", "--chek"), "--chek: bundle has no such option; did you mean --check?"),
        (("plan", "data", "--patchsize", "[32,32,32]"), "did you mean --patch_size"),
        (("plan", "data", "--patchsize=[32,32,32]", "--varient=v2_tiny"), "did you mean --variant?"),
        (("ensemble", "b", "d", "--label-dir", "x"), "did you mean --labels_dir"),
        (("check", "data", "--zzz"), "there are --dataset_dir, --labels_dir"),
        (("doctor", "-x"), "-x: doctor has no such option; there are --network, --kernel_size, --dtype, --repeat"),
        (("doctor", "v2_small"), "v2_small: doctor takes no more words (mednextv2 doctor [options])"),
        (("run", "b", "train", "DATA"), "DATA: run takes no more words (mednextv2 run BUNDLE WORKFLOW [options])"),
        (("run", "b"), "run: WORKFLOW is missing; usage: mednextv2 run BUNDLE WORKFLOW [options]"),
        (("predict", "b"), "predict: INPUT and OUTPUT are missing"),
        (("predict", "b", "i", "o", "--report=x"), "--report x: is a switch"),
        (("predict", "b", "i", "o", "x", "--report"), "x: predict takes no more words"),
        (("phantom", "p", "--cases", "abc"), "--cases abc: should be a whole number"),
        (("phantom", "p", "--cases", "1.5"), "--cases 1.5: should be a whole number"),
        (("plan", "d", "--memory", "much"), "--memory much: should be a number"),
        (("report", "f", "--output"), "--output: needs a value"),
        (("report", "f", "--output", ""), "output: is empty; give a value"),
        (("predict", "b", "", "o"), "input: is empty"),
        (("run", "b", "train", "--dataset_dir="), "--dataset_dir: is empty"),
        (("run", "b", "train", "--device", ""), "--device: is empty"),
        (("run", "hip", "train", "-b", "2"), "give options by name; 2 was given as --bundle"),
        (("report", "f", "--output", "--images", "i"), "--output: needs a value"),
        (("run", "b", "train", "--output_dir"), "--output_dir: needs a path"),
        (("run", "b", "train", "--variant", "--amp"), "--variant: needs a value"),
        (("check", "a", "--labels_dir", "b", "--labels_dir", "c"), "--labels_dir: is given twice"),
        (("predcit", "b"), "predcit: mednextv2 has no such verb; did you mean predict?"),
        (("qqq",), "qqq: mednextv2 has no such verb; there are run, predict"),
    ],
)
def test_mistakes_are_refused_before_the_verb_starts(monkeypatch, capsys, words, message):
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("epochs", "3", 3), ("learning_rate", "1e-3", 0.001), ("amp", "TRUE", True), ("resume", "false", False),
        ("test_mirror_axes", "[0,1]", [0, 1]), ("air", "None", None), ("fold", "all", "all"), ("fold", "2", 2),
        ("pretrained", "null", None), ("pretrained", "./null", "./null"), ("output_dir", "null", "null"),
        ("series", "4", "4"), ("series", "None", None), ("device", "cuda:1", "cuda:1"), ("compile", True, True),
        ("weights", "['a.pt', 'b.pt']", ["a.pt", "b.pt"]), ("weights", "[a.pt,b.pt]", ["a.pt", "b.pt"]),
        ("weights", "a.pt,b.pt", ["a.pt", "b.pt"]), ("weights", "a,b/model.pt", "a,b/model.pt"),
        ("train::trainer::max_epochs", "2", 2), ("train::mirror", "$[]", "$[]"), ("epochs", "1e400", math.inf),
    ],
)  # fmt: skip
def test_settings_become_what_the_workflow_needs(name, text, expected):
    assert read_setting(name, text) == expected
    assert type(read_setting(name, text)) is type(expected)


def test_of_a_setting_that_is_given_twice_the_last_one_counts():
    words = ["b", "train", "--epochs", "1", "--fold=2", "--epochs", "7", "--fold", "all"]
    assert read_arguments(VERBS["run"], words) == {"bundle": "b", "workflow": "train", "epochs": 7, "fold": "all"}


def test_weights_of_an_odd_name_come_before_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a,b]").touch()
    assert read_setting("weights", "[a,b]") == "[a,b]"
    assert read_setting("weights", "[a,c]") == ["a", "c"]


def test_deep_nesting_stays_text():
    text = "[" * 100_000
    assert read_literal(text) == text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("7", int | None, 7),
        ("none", int | None, None),
        ("none", str | None, "none"),
        ("[1]", Any, [1]),
        ("2", float, 2.0),
    ],
)  # fmt: skip
def test_values_follow_their_annotation(value, kind, expected):
    assert read_value("x", value, kind) == expected


def test_letters_are_the_first_parameter_that_begins_so():
    letters = short_names(VERBS["predict"])
    assert {letters[letter] for letter in "bios"} == {"bundle", "input", "output", "series"}
    words = ["b", "-i", "1e5", "-o", "out", "-r"]
    assert read_arguments(VERBS["predict"], words) == {"bundle": "b", "input": "1e5", "output": "out", "report": True}


def test_a_verb_is_found_by_its_name():
    assert find_verb(VERBS, "plan") is VERBS["plan"]
    with pytest.raises(UsageError, match="did you mean"):
        find_verb(VERBS, "plam")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.pt", "a.pt"), ("a.pt,b.pt", ["a.pt", "b.pt"]), ("[a.pt, b.onnx]", ["a.pt", "b.onnx"]), ("a,b", "a,b"),
        ('["a.pt", "b.pt"]', ["a.pt", "b.pt"]),
    ],
)  # fmt: skip
def test_several_files_of_weights_are_a_list_for_every_verb(word, expected):
    from mednextv2.commands import VERBS

    assert read_arguments(VERBS["promote"], ["bundle", "--weights", word])["weights"] == expected
    assert read_arguments(VERBS["predict"], ["bundle", "in", "out", "--weights", word])["weights"] == expected


@pytest.mark.parametrize(("word", "expected"), [("0", 0), ("0,1", (0, 1)), ("[0,1]", [0, 1]), ("all", "all")])
def test_folds_are_promoted_as_they_are_predicted_with(word, expected):
    from mednextv2.commands import VERBS

    assert read_arguments(VERBS["promote"], ["bundle", "--folds", word])["folds"] == expected
