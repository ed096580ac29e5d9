import logging
import shutil

import pytest

from mednextv2.data import DatasetFolder, read_dataset
from mednextv2.data.splits import split_cases
from mednextv2.errors import InputError
from mednextv2.inference import prepare_evaluation, prepare_inference
from mednextv2.training import prepare_training
from mednextv2.training.preparation import check_description, check_patch_size, keep_previous

LABELS = ["background", "anterior", "posterior"]


def settings(phantom, output, **changes):
    good = {
        "dataset": read_dataset(phantom),
        "labels": LABELS,
        "channels": ["T1w"],
        "patch_size": [16, 32, 48],
        "output_dir": output,
        "epochs": 1,
    }
    return good | changes


def refused(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def description(tmp_path, channels=("T1w",), labels=None):
    labels = {"background": 0, "anterior": 1, "posterior": 2} if labels is None else labels
    return DatasetFolder(tmp_path, tuple(channels), labels, ())


# --- patch size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [[48, 64, 48], (16, 16, 16), [128, 96], [16, 1024, 32]])
def test_multiples_of_sixteen_are_legal_patch_sizes(patch_size):
    check_patch_size(patch_size)


@pytest.mark.parametrize(
    ("patch_size", "nearest"),
    [
        ([50, 64, 48], [48, 64, 48]),
        ([57, 64, 48], [64, 64, 48]),
        ([1, 7, 8], [16, 16, 16]),
        ((47, 47), [48, 48]),
    ],
)
def test_other_patch_sizes_are_refused_with_the_nearest_legal_one(patch_size, nearest):
    message = refused(check_patch_size, patch_size)
    assert message.startswith(f"patch_size {list(patch_size)}: ")
    assert f"multiple of 16; the nearest is {nearest}" in message


@pytest.mark.parametrize("patch_size", [[48], [48, 48, 48, 48], []])
def test_other_numbers_of_axes_are_refused(patch_size):
    assert "two or three axes" in refused(check_patch_size, patch_size)


@pytest.mark.parametrize("patch_size", [48, "48,64,48", [48.0, 64.0, 48.0], ["48", "64", "48"], [0, 16, 16], [-16] * 3])
def test_patch_sizes_that_are_no_whole_numbers_are_refused_with_an_example(patch_size):
    message = refused(check_patch_size, patch_size)
    assert message.startswith(f"patch_size {patch_size!r}: ")
    assert '"[48,64,48]"' in message


# --- training --------------------------------------------------------------------------------------------------------


def test_good_settings_pass_and_make_the_output_folder(phantom, tmp_path):
    prepare_training(**settings(phantom, tmp_path / "new" / "folder"))
    assert (tmp_path / "new" / "folder").is_dir()
    assert list((tmp_path / "new" / "folder").iterdir()) == []


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "10", None])
def test_epochs_that_are_no_count_are_refused(phantom, tmp_path, epochs):
    message = refused(prepare_training, **settings(phantom, tmp_path, epochs=epochs))
    assert message.startswith(f"epochs {epochs!r}: should be a whole number")


def test_patch_size_is_checked_before_the_output_folder_is_made(phantom, tmp_path):
    assert "patch_size" in refused(prepare_training, **settings(phantom, tmp_path / "new", patch_size=[17, 16, 16]))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_output_folder_that_cannot_be_written_is_named_with_its_setting(phantom, tmp_path, name):
    (tmp_path / "file").touch()
    message = refused(prepare_training, **settings(phantom, tmp_path / name))
    assert message.startswith(f"output_dir {tmp_path / name}: cannot be written (")
    assert "--output_dir" in message


def test_defects_of_the_data_stop_the_training_unless_the_check_is_off(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    (tmp_path / "data" / "labelsTr" / "phantom_003.nii.gz").unlink()
    good = settings(tmp_path / "data", tmp_path / "out")
    assert "phantom_003.nii.gz: there is no such file" in refused(prepare_training, **good)
    prepare_training(**good, check_data=False)


def test_dimensions_of_the_data_must_be_those_of_the_patch(phantom, tmp_path):
    message = refused(prepare_training, **settings(phantom, tmp_path, patch_size=[16, 16]))
    assert "expected 2D" in message


# --- channels and labels of dataset.json -----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("T1w", "T2w"), ("a", "b", "c")])
def test_other_number_of_channels_is_refused(tmp_path, names):
    message = refused(check_description, description(tmp_path, names), LABELS, ["MRI"])
    assert message.startswith(f"{tmp_path / 'dataset.json'}: names {len(names)} image channels ({', '.join(names)})")
    assert "the bundle 1 (MRI)" in message


def test_other_names_of_channels_and_labels_pass(tmp_path):
    check_description(description(tmp_path, ["MRI"], {"bg": 0, "front": 1, "back": 2}), LABELS, ["T1w"])


def test_description_without_channels_or_labels_passes(tmp_path):
    check_description(description(tmp_path, [], {}), LABELS, ["T1w"])


def test_more_labels_than_the_bundle_has_are_refused(tmp_path):
    labels = {"background": 0, "liver": 1, "tumour": 3}
    message = refused(check_description, description(tmp_path, labels=labels), LABELS, ["T1w"])
    assert message.startswith(f"{tmp_path / 'dataset.json'}: declares labels up to 3 (background, liver, tumour)")
    assert "the bundle 0 to 2 (background, anterior, posterior)" in message


@pytest.mark.parametrize("regions", [{"whole": [1, 2]}, {"whole": [1, 2], "core": [2]}, {"whole": (1, 2), "one": 1}])
def test_regions_of_nnunet_pass_when_their_values_are_labels(tmp_path, regions):
    check_description(description(tmp_path, labels={"background": 0} | regions), LABELS, ["T1w"])


def test_regions_with_values_beyond_the_labels_are_refused(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3]}
    assert "labels up to 3" in refused(check_description, description(tmp_path, labels=labels), LABELS, ["T1w"])


def test_training_checks_channels_and_labels(phantom, tmp_path):
    assert "image channels" in refused(prepare_training, **settings(phantom, tmp_path, channels=["T1w", "T2w"]))
    assert "declares labels up to 2" in refused(prepare_training, **settings(phantom, tmp_path, labels=LABELS[:2]))


# --- evaluation and inference ----------------------------------------------------------------------------------------


def test_evaluation_checks_only_the_cases_that_it_scores(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    dataset = read_dataset(tmp_path / "data")
    folds = [split_cases(dataset.cases, fold) for fold in range(5)]
    (tmp_path / "data" / "imagesTr" / f"{folds[0][1][0]['case']}.nii.gz").unlink()
    good = {
        "dataset": dataset,
        "labels": LABELS,
        "channels": ["T1w"],
        "patch_size": [16, 16, 16],
        "output_dir": tmp_path / "out",
    }
    prepare_evaluation(cases=folds[1], **good)
    assert "has 1 defects" in refused(prepare_evaluation, cases=folds[0], **good)
    prepare_evaluation(cases=folds[0], check_data=False, **good)


def test_evaluation_and_inference_check_patch_size_and_output_folder(phantom, tmp_path):
    (tmp_path / "file").touch()
    dataset = read_dataset(phantom)
    for patch_size, output, word in (([17] * 3, tmp_path, "patch_size"), ([16] * 3, tmp_path / "file", "output_dir")):
        cases = split_cases(dataset.cases, 0)
        assert word in refused(prepare_evaluation, dataset, cases, LABELS, ["T1w"], patch_size, output)
        assert word in refused(prepare_inference, patch_size, output)
    prepare_inference([16, 16, 16], tmp_path / "new")
    assert (tmp_path / "new").is_dir()


# --- files of an older training --------------------------------------------------------------------------------------


def test_file_is_moved_to_the_next_free_name(tmp_path, caplog):
    path = tmp_path / "model.pt"
    with caplog.at_level(logging.INFO, "mednextv2"):
        for number in (1, 2, 3):
            path.write_text(str(number))
            assert keep_previous(path) == tmp_path / f"model.previous-{number}.pt"
            assert not path.exists()
    assert [(tmp_path / f"model.previous-{n}.pt").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]
    assert "it is now model.previous-3.pt" in caplog.text


def test_missing_file_is_no_matter(tmp_path):
    assert keep_previous(tmp_path / "model.pt") is None
