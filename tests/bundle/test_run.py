"""`mednextv2 run`: finding bundles and workflows, refusing settings that do not exist."""

import logging
import subprocess
import sys

import pytest
from bundle_helpers import HIPPOCAMPUS
from monai.bundle import ConfigParser

from mednextv2.bundle.run import check_overrides, find_bundle, read_workflow, run_bundle, workflow_files
from mednextv2.errors import InputError, UsageError

TRAIN = [str(HIPPOCAMPUS / "configs" / "train.yaml")]


def test_a_bundle_is_found_by_path_and_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundle(HIPPOCAMPUS) == HIPPOCAMPUS.resolve()
    assert find_bundle("mednextv2_hippocampus") == HIPPOCAMPUS.resolve()
    own = tmp_path / "bundles" / "mednextv2_hippocampus" / "configs"
    own.mkdir(parents=True)
    assert find_bundle("mednextv2_hippocampus") == own.parent.resolve()  # the nearest wins
    with pytest.raises(InputError, match="mednextv2_liver"):
        find_bundle("mednextv2_liver")


def test_an_overlay_is_merged_over_train():
    names = [f.rsplit("/", 1)[1] for f in workflow_files(HIPPOCAMPUS, "multi_gpu_train")]
    assert names == ["train.yaml", "multi_gpu_train.yaml"]


@pytest.mark.parametrize("workflow", ["trian", "metadata", "../train"])
def test_an_unknown_workflow_is_refused_with_the_known_ones(workflow):
    with pytest.raises(InputError, match="evaluate, finetune, inference, multi_gpu_train, train"):
        workflow_files(HIPPOCAMPUS, workflow)


@pytest.mark.parametrize(
    "key", ["epochs", "train::trainer::max_epochs", "train#trainer#max_epochs", "train::augment::2::prob", "run_id"]
)
def test_settings_that_exist_are_accepted(key):
    check_overrides(TRAIN, {key: 1})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("epochss", "--epochs"),
        ("pach_size", "--patch_size"),
        ("train::trainer::max_epoch", "did you mean --train::trainer::max_epochs?"),
        ("train::augmnt::1::prob", "--train::augment::1::prob"),
        ("train::augment::99::prob", "no such setting"),
        ("train::nothing::x", "no such setting"),
    ],
)
def test_mistyped_settings_are_refused_with_a_hint(key, hint):
    with pytest.raises(InputError, match="no such setting") as error:
        check_overrides(TRAIN, {"epochs": 1, key: 1})
    assert hint in str(error.value)
    assert f"--{key}:" in str(error.value)


def test_all_mistyped_settings_are_named_at_once():
    with pytest.raises(InputError) as error:
        run_bundle(HIPPOCAMPUS, "train", epoch=1, batchsize=2)
    assert "--epoch:" in str(error.value)
    assert "--batchsize:" in str(error.value)


def test_an_error_that_ends_with_a_message_is_logged_without_its_traceback():
    code = f"""
import logging, logging.config
logging.config.fileConfig({str(HIPPOCAMPUS / "configs" / "logging.conf")!r}, disable_existing_loggers=False)
logging.getLogger("ignite.engine.engine.SupervisedEvaluator").error("Engine run is terminating: Traceback")
logging.getLogger("dev_collate").critical("> collate dict key image out of 5 keys")
logging.getLogger("mednextv2.data").info("4 cases")
logging.getLogger("monai.apps").error("of MONAI")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert [line.split("  ", 1)[1] for line in done.stdout.splitlines()] == ["4 cases", "of MONAI"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("labels", "[background]", "should be a list"),
        ("channels", [], "should be a list"),
        ("initialize", [], "should be a list"),
        ("run", "x", "should be a list"),
        ("train", 5, "is a section"),
        ("::", 3, "no such setting"),
    ],
)
def test_a_value_of_another_kind_than_the_setting_is_refused(key, value, words):
    with pytest.raises(InputError, match=words):
        check_overrides(TRAIN, {key: value})
    check_overrides(TRAIN, {"labels": ["background", "a"], "spacing": "x"})  # which has a rule of its own


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "should hold settings by name"),
        ("- a", "should hold settings by name"),
        ("x: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("a: &a [x, x, x, x]\n" + "b: [" + "*a, " * 2000 + "]", "aliases"),
        ("a: 1\na: 2", "twice"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_workflow_that_is_none_is_refused_by_its_file(tmp_path, text, words):
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        check_overrides([str(tmp_path / "train.yaml")], {})
    assert str(error.value).startswith(f"{tmp_path / 'train.yaml'}: ")


@pytest.mark.parametrize("workflow", ["train", "evaluate", "inference", "multi_gpu_train"])
def test_the_workflows_of_a_bundle_are_read_as_monai_reads_them(workflow):
    parser = ConfigParser()
    parser.read_config(workflow_files(HIPPOCAMPUS, workflow))
    assert read_workflow(workflow_files(HIPPOCAMPUS, workflow)).config == parser.config


def test_metadata_that_are_none_are_refused_by_their_file(tmp_path):
    for text, words in (("[]", "should hold settings by name"), ("", "is not valid JSON")):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(InputError, match=f"m.json: {words}"):
            run_bundle(HIPPOCAMPUS, "inference", meta_file=tmp_path / "m.json")


@pytest.mark.parametrize(("word", "ours"), [("predict", "inference"), ("val", "evaluate"), ("trian", "train")])
def test_the_workflow_that_was_meant_is_named(word, ours):
    with pytest.raises(UsageError, match=f"did you mean {ours}"):
        workflow_files(HIPPOCAMPUS, word)


def test_configurations_are_ascii_so_that_monai_reads_them_in_every_locale():
    files = [*(HIPPOCAMPUS / "configs").iterdir()]
    assert len(files) > 4
    assert all(file.read_bytes().isascii() for file in files)


def test_monais_hint_about_files_of_other_folders_is_left_out_for_a_network_of_the_package(caplog):
    """The files that the hint is about, of metadata and of logging, are always given."""
    with pytest.raises(RuntimeError, match="predictor"):  # there are no such weights
        run_bundle(HIPPOCAMPUS, "inference", network="mednext_v2_small", input="/missing")
    assert "Not all config files" not in caplog.text
    logging.getLogger("monai.bundle.workflows").warning("Not all config files are in x")
    assert "Not all config files" in caplog.text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("patch", "--patch: is computed from other settings (--patch_size and --context); see"),
        ("length", "--length: is computed from other settings (--epochs)"),
        ("epoch", "--epoch: there is no such setting; did you mean --epochs?"),
    ],
)
def test_what_is_computed_is_neither_taken_nor_suggested(key, words):
    with pytest.raises(UsageError) as caught:
        check_overrides(workflow_files(HIPPOCAMPUS, "train"), {key: 1})
    assert words in str(caught.value)
