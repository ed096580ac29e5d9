"""`mednextv2 run`: finding bundles and workflows, refusing settings that do not exist."""

import subprocess
import sys

import pytest
from bundle_helpers import HIPPOCAMPUS

from mednextv2.bundle.run import check_overrides, find_bundle, run_bundle, workflow_files
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
    with pytest.raises(InputError, match="evaluate, inference, multi_gpu_train, train"):
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


@pytest.mark.parametrize(("word", "ours"), [("predict", "inference"), ("val", "evaluate"), ("trian", "train")])
def test_the_workflow_that_was_meant_is_named(word, ours):
    with pytest.raises(UsageError, match=f"did you mean {ours}"):
        workflow_files(HIPPOCAMPUS, word)


def test_configurations_are_ascii_so_that_monai_reads_them_in_every_locale():
    files = [*(HIPPOCAMPUS / "configs").iterdir()]
    assert len(files) > 4
    assert all(file.read_bytes().isascii() for file in files)
