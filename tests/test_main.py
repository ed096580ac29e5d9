"""The command line's verbs, in this process."""

import inspect
import shlex
import shutil

import nibabel as nib
import numpy as np
import pytest
from verb_helpers import call

from mednextv2.bundle import find_bundle
from mednextv2.bundle.run import as_setting, check_overrides, workflow_files
from mednextv2.commands import VERBS
from mednextv2.commands.help import check_options
from mednextv2.errors import InputError


def test_check_says_what_is_there(phantom, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "check", phantom)
    assert code == 0
    assert "6 cases, no defects" in out
    assert "background, anterior, posterior" in out


def test_check_of_a_missing_folder_ends_with_one_message(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "check", tmp_path / "no")
    assert code == 1
    assert err.strip().startswith(f"error: dataset_dir {tmp_path / 'no'}")


def test_phantom_never_writes_into_a_data_set(tmp_path, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--cases", 2)
    assert (code, out.strip()) == (0, str(tmp_path / "p"))
    before = (tmp_path / "p" / "dataset.json").read_bytes()
    code, _, err = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--cases", 1)
    assert code == 1
    assert "holds a data set already" in err
    assert (tmp_path / "p" / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("cases", [0, -2, "abc"])
def test_phantom_of_no_cases_is_refused(tmp_path, monkeypatch, capsys, cases):
    code, _, err = call(monkeypatch, capsys, "phantom", tmp_path / "p", "--cases", cases)
    assert code == 1
    assert "cases" in err
    assert not (tmp_path / "p").exists()


def test_picture_names_the_file(tmp_path, monkeypatch, capsys):
    nib.save(nib.Nifti1Image(np.arange(512, dtype=np.float32).reshape(8, 8, 8), np.eye(4)), tmp_path / "a.nii.gz")
    code, out, _ = call(monkeypatch, capsys, "picture", tmp_path / "a.nii.gz", tmp_path / "a.png")
    assert (code, out.strip()) == (0, str(tmp_path / "a.png"))


def test_predict_keeps_freed_memory_for_its_process(monkeypatch, capsys):
    order = []
    monkeypatch.setattr("mednextv2.allocator.keep_freed_memory", lambda: order.append("keep"))
    monkeypatch.setattr("mednextv2.predict_files.predict_files", lambda *_, **__: order.append("predict") or ["a"])
    assert call(monkeypatch, capsys, "predict", "bundle", "a.nii.gz", "a_seg.nii.gz")[:2] == (0, "written: a\n")
    assert order == ["keep", "predict"]


def test_settings_without_a_name_are_refused(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "run", "mednextv2_hippocampus", "train", "DATA")
    assert code == 1
    assert "DATA: give settings by name" in err


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("resume", "false", False), ("amp", "True", True), ("resume", False, False), ("epochs", 3, 3),
        ("output_dir", 2024, "2024"), ("pretrained", None, "$None"), ("variant", "v1_s", "v1_s"),
    ],
)  # fmt: skip
def test_values_of_the_command_line_are_understood(key, value, expected):
    assert as_setting(key, value) == expected


@pytest.mark.parametrize("value", [True, ""])
def test_paths_without_a_value_are_refused(value):
    with pytest.raises(InputError, match="--output_dir: needs a path"):
        as_setting("output_dir", value)


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
        if parameter.kind is parameter.VAR_POSITIONAL:
            assert parameter.name not in described.lower().split()  # is refused, and no argument to speak of
            continue
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
    parameters = inspect.signature(VERBS[name]).parameters
    check_options(VERBS[name], rest)
    words, options = [], {}
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--"):
            option = argument[2:].replace("-", "_")
            switch = option in parameters and isinstance(parameters[option].default, bool)
            options[option] = True if switch else rest.pop(0)
        else:
            words.append(argument)
    bound = inspect.signature(VERBS[name]).bind(*words, **options).arguments
    assert "extra" not in bound
    if "settings" in parameters:
        workflow = bound.get("workflow", "inference")
        check_overrides(workflow_files(find_bundle(bound["bundle"]), workflow), bound.get("settings", {}))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("--", "--help")])
def test_without_a_verb_all_verbs_are_listed(arguments, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert len(VERBS) == 11
    assert [line.split()[0] for line in out.split("Verbs:\n")[1].splitlines() if line[2:3].strip()][:11] == [*VERBS]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bundle", "task.yaml", "--chek"), "--chek: bundle has no such option; did you mean --check?"),
        (("plan", "data", "--patchsize", "[32,32,32]"), "did you mean --patch_size"),
        (("plan", "data", "--patchsize=[32,32,32]", "--varient=v2_tiny"), "did you mean --variant?"),
        (("ensemble", "b", "d", "--label-dir", "x"), "did you mean --labels_dir"),
        (("check", "data", "--zzz"), "there are --dataset_dir, --labels_dir"),
        (("doctor", "-x"), "-x: doctor has no such option; there are --network, --kernel_size, --dtype, --repeat"),
        (("doctor", "v2_small"), "v2_small: give options by name, such as --network v2_small"),
    ],
)
def test_misspelt_options_are_refused_before_the_verb_starts(monkeypatch, capsys, arguments, words):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out) == (1, "")
    assert words in err


def test_options_of_every_spelling_that_fire_knows_pass(tmp_path):
    check_options(VERBS["plan"], ["data", "--patch-size=[32,32,32]", "--batch_size", "2", "--", "--help"])
    check_options(VERBS["bundle"], ["task.yaml", "--nocheck"])
    check_options(VERBS["bundle"], ["task.yaml", "--help"])
    check_options(VERBS["bundle"], ["-t", "task.yaml", "-c", "-h"])
    check_options(VERBS["phantom"], ["folder", "--seed", "-1"])
    check_options(VERBS["run"], ["bundle", "train", "--anything", "1"])  # looks at its settings itself


def test_check_finds_what_plan_would_refuse_or_warn_of(tmp_path, monkeypatch, capsys):
    def two_folders(name, *values):
        for folder in ("images", "labels"):
            (tmp_path / name / folder).mkdir(parents=True)
        for case, value in enumerate(values):
            image = np.random.default_rng(case).normal(size=(8, 8, 8)).astype(np.float32)
            label = np.zeros((8, 8, 8), np.uint8)
            label[:4] = value
            nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / name / "images" / f"{case}.nii.gz")
            nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / name / "labels" / f"{case}.nii.gz")
        return tmp_path / name

    code, _, err = call(monkeypatch, capsys, "check", two_folders("gaps", 1, 5))
    assert code == 1
    assert "have the values 0, 1, 5, with gaps (2, 3, 4)" in err
    code, _, err = call(monkeypatch, capsys, "check", two_folders("empty", 0, 0))
    assert code == 1
    assert "none of the 2 cases has a voxel above 0" in err
    code, out, _ = call(monkeypatch, capsys, "check", two_folders("single", 1))
    assert code == 0
    assert "warning: 1 case cannot be split into five folds" in out


def test_files_of_no_case_are_named(phantom, tmp_path, monkeypatch, capsys):
    shutil.copytree(phantom, tmp_path / "data")
    image = next((tmp_path / "data" / "imagesTr").glob("*.nii.gz"))
    shutil.copy(image, image.with_name("other.nii.gz"))
    code, out, _ = call(monkeypatch, capsys, "check", tmp_path / "data")
    assert code == 0
    assert "warning: no case uses 1 image file: other.nii.gz" in out
