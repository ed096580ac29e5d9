import json
import logging
import shutil

import pytest
import torch

from mednextv2.data import DatasetFolder, LabelScheme, read_dataset
from mednextv2.data.dataset import check_description
from mednextv2.data.splits import split_dataset
from mednextv2.errors import InputError
from mednextv2.inference import find_images, prepare_evaluation, prepare_inference
from mednextv2.training import prepare_training
from mednextv2.training.preflight import check_shared_memory, keep_previous
from mednextv2.weights.files import save_file

SCHEME = LabelScheme(["background", "anterior", "posterior"])


def settings(phantom, output, **changes):
    good = {
        "dataset": read_dataset(phantom),
        "scheme": SCHEME,
        "channels": ["T1w"],
        "spatial_dims": 3,
        "output_dir": output,
    }
    return good | changes


def refused(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def description(tmp_path, channels=("T1w",), labels=None):
    labels = {"background": 0, "anterior": 1, "posterior": 2} if labels is None else labels
    return DatasetFolder(tmp_path, tuple(channels), labels, ())


# --- shared memory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def little(monkeypatch):
    """Let /dev/shm have 10 MiB left."""
    free = shutil._ntuple_diskusage(64 << 20, 54 << 20, 10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)


def test_shared_memory_for_what_workers_make_ahead_is_known_beforehand(little):
    check_shared_memory((2, 64, 64, 64), channels=1, ahead=3)  # 3 * 2 * 64^3 voxels * 6 bytes: 9 MiB
    message = refused(check_shared_memory, (2, 64, 64, 64), channels=1, ahead=4)
    assert "/dev/shm: has 10 MiB of shared memory left" in message
    assert "need 12 MiB; give fewer --num_workers (0 needs no shared memory)" in message
    assert "--shm-size=8g" in message


def test_each_channel_counts(little):
    refused(check_shared_memory, (2, 64, 64, 64), channels=4, ahead=3)


def test_no_workers_need_no_shared_memory(little, phantom, tmp_path):
    check_shared_memory((64, 512, 512, 512), channels=9, ahead=0)
    prepare_training(**settings(phantom, tmp_path, batch=(99, 128, 128, 128), num_workers=0, prefetch_factor=None))


def test_processes_of_one_machine_share_it(little, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert "need 24 MiB" in refused(check_shared_memory, (2, 64, 64, 64), channels=1, ahead=1)


def test_a_system_without_such_a_folder_is_not_refused(tmp_path):
    check_shared_memory((64, 512, 512, 512), 9, 12, folder=tmp_path / "none")


def test_a_training_is_refused_before_it_makes_anything(little, phantom, tmp_path):
    message = refused(
        prepare_training,
        **settings(phantom, tmp_path / "new", batch=(8, 48, 64, 48), num_workers=3, prefetch_factor=4),
    )
    assert "need 81 MiB" in message
    assert not (tmp_path / "new").exists()


def test_batches_that_are_pinned_at_once_need_less(little, phantom, tmp_path):
    given = {"batch": (2, 48, 64, 48), "num_workers": 3, "prefetch_factor": 4}  # 1.7 MiB a batch
    prepare_training(**settings(phantom, tmp_path, pin_memory=True, **given))
    assert "need 20 MiB" in refused(prepare_training, **settings(phantom, tmp_path, **given))


# --- training --------------------------------------------------------------------------------------------------------


def test_good_settings_pass_and_make_the_output_folder(phantom, tmp_path):
    prepare_training(**settings(phantom, tmp_path / "new" / "folder"))
    assert (tmp_path / "new" / "folder").is_dir()
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == [".in-use"]  # until the process ends


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
    assert not (tmp_path / "out").exists()  # nor is anything left that keeps others away from the folder
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "there is no such file" in refused(prepare_training, **good)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]
    prepare_training(**good, check_data=False)


def test_dimensions_of_the_data_must_be_those_of_the_patch(phantom, tmp_path):
    message = refused(prepare_training, **settings(phantom, tmp_path, spatial_dims=2))
    assert "expected 2D" in message


# --- channels and labels of dataset.json -----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("T1w", "T2w"), ("a", "b", "c")])
def test_other_number_of_channels_is_refused(tmp_path, names):
    message = refused(check_description, description(tmp_path, names), SCHEME, ["MRI"])
    assert message.startswith(f"{tmp_path / 'dataset.json'}: names {len(names)} image channels ({', '.join(names)})")
    assert "the bundle 1 (MRI)" in message


def test_other_names_of_channels_and_labels_pass(tmp_path):
    check_description(description(tmp_path, ["MRI"], {"bg": 0, "front": 1, "back": 2}), SCHEME, ["T1w"])


def test_other_names_of_labels_are_told(tmp_path, caplog):
    check_description(description(tmp_path, ["MRI"], {"bg": 0, "front": 1, "Posterior": 2}), SCHEME, ["T1w"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path / 'dataset.json'}: names its labels otherwise than the bundle: 1 is front there")
    assert "and anterior in the bundle. Make sure that they mean the same" in line
    assert "Posterior" not in line


@pytest.mark.parametrize(
    "labels", [{"background": 0, "POSTERIOR": 1, "anterior": 2}, {"background": 0, "Posterior": 1}]
)
def test_a_structure_with_another_value_than_in_the_bundle_is_refused(labels, tmp_path):
    message = refused(check_description, description(tmp_path, ["MRI"], labels), SCHEME, ["T1w"])
    assert "its labels have other values than the bundle's: " in message
    assert "is 1 there and 2 in the bundle" in message


def test_words_of_a_name_may_have_another_order(tmp_path, caplog):
    scheme = LabelScheme(["background", "kidney_left", "Lung Upper-Lobe"])
    labels = {"background": 0, "Left Kidney": 1, "lung_upper_lobe": 2}
    check_description(description(tmp_path, ["CT"], labels), scheme, ["CT"])
    assert not caplog.records


def test_description_without_channels_or_labels_passes(tmp_path):
    check_description(description(tmp_path, [], {}), SCHEME, ["T1w"])


def test_more_labels_than_the_bundle_has_are_refused(tmp_path):
    labels = {"background": 0, "liver": 1, "tumour": 3}
    message = refused(check_description, description(tmp_path, labels=labels), SCHEME, ["T1w"])
    assert message.startswith(f"{tmp_path / 'dataset.json'}: declares labels up to 3 (background, liver, tumour)")
    assert "the bundle 0 to 2 (background, anterior, posterior)" in message


@pytest.mark.parametrize("regions", [{"whole": [1, 2]}, {"whole": [1, 2], "core": [2]}, {"whole": (1, 2), "one": 1}])
def test_regions_of_nnunet_pass_when_their_values_are_labels(tmp_path, regions):
    check_description(description(tmp_path, labels={"background": 0} | regions), SCHEME, ["T1w"])


def test_regions_with_values_beyond_the_labels_are_refused(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3]}
    assert "labels up to 3" in refused(check_description, description(tmp_path, labels=labels), SCHEME, ["T1w"])


def test_training_checks_channels_and_labels(phantom, tmp_path):
    assert "names 1 image channel (" in refused(
        prepare_training, **settings(phantom, tmp_path, channels=["T1w", "T2w"])
    )
    assert "declares labels up to 2" in refused(
        prepare_training, **settings(phantom, tmp_path, scheme=LabelScheme(SCHEME.labels[:2]))
    )


# --- left and right, and classes without a voxel ----------------------------------------------------------------------


def sided(folder, left="kidney_left", right="kidney_right"):
    """The phantom's two labels under other names."""
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"] = {"0": "background", "1": left, "2": right}
    (folder / "dataset.json").write_text(json.dumps(content))
    return {"dataset": read_dataset(folder), "scheme": LabelScheme(["background", left, right])}


def test_mirroring_left_and_right_of_sided_labels_warns_with_the_setting(phantom, tmp_path, caplog):
    shutil.copytree(phantom, tmp_path / "data")
    good = settings(phantom, tmp_path / "out", **sided(tmp_path / "data"), check_data=False)
    prepare_training(**good, mirror_axes=[0, 1, 2])
    assert "kidney_left and kidney_right" in caplog.text
    assert '--mirror_axes "[1, 2]"' in caplog.text


def test_no_warning_without_the_axis_or_without_sides(phantom, tmp_path, caplog):
    shutil.copytree(phantom, tmp_path / "data")
    good = settings(phantom, tmp_path / "out", **sided(tmp_path / "data"), check_data=False)
    prepare_training(**good, mirror_axes=[1, 2])
    prepare_training(**settings(phantom, tmp_path / "out", check_data=False), mirror_axes=[0, 1, 2])
    assert caplog.text == ""


def test_class_without_a_voxel_is_a_warning(phantom, tmp_path, caplog):
    scheme = LabelScheme([*SCHEME.labels, "tumour"])
    prepare_training(**settings(phantom, tmp_path / "out", scheme=scheme))
    assert "no label map has a voxel of tumour" in caplog.text


# --- evaluation and inference ----------------------------------------------------------------------------------------


def test_evaluation_checks_only_the_cases_that_it_scores(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    dataset = read_dataset(tmp_path / "data")
    folds = [split_dataset(dataset, fold).validation for fold in range(5)]
    (tmp_path / "data" / "imagesTr" / f"{folds[0][0]['case']}.nii.gz").unlink()
    good = {
        "dataset": dataset,
        "scheme": SCHEME,
        "channels": ["T1w"],
        "spatial_dims": 3,
        "output_dir": tmp_path / "out",
    }
    prepare_evaluation(cases=folds[1], **good)
    assert "has 1 defect:" in refused(prepare_evaluation, cases=folds[0], **good)
    prepare_evaluation(cases=folds[0], check_data=False, **good)


def test_cases_that_were_trained_on_are_not_scored(phantom, tmp_path, caplog):
    caplog.set_level("WARNING")  # whatever level others set in this process
    split = split_dataset(read_dataset(phantom), 0)
    file = tmp_path / "model.pt"
    save_file({"x": torch.zeros(1)}, file, split.about())
    good = {"dataset": read_dataset(phantom), "scheme": SCHEME, "channels": ["T1w"], "spatial_dims": 3}
    good |= {"output_dir": tmp_path / "out", "check_data": False, "weights": str(file)}
    prepare_evaluation(cases=split.validation, **good)
    message = refused(prepare_evaluation, cases=[*split.validation, split.training[0]], **good)
    assert (
        f"trained on 1 of the {len(split.validation) + 1} cases to be scored ({split.training[0]['case']})" in message
    )
    assert "--score_trained_cases true" in message
    assert not caplog.text
    prepare_evaluation(cases=split.training, score_trained_cases=True, **good)
    assert "whose scores would be too high" in caplog.text


def test_cases_that_the_weights_were_pretrained_on_are_not_scored_either(phantom, tmp_path, caplog):
    caplog.set_level("WARNING")  # whatever level others set in this process
    split = split_dataset(read_dataset(phantom), 0)
    good = {"dataset": read_dataset(phantom), "scheme": SCHEME, "channels": ["T1w"], "spatial_dims": 3}
    good |= {"output_dir": tmp_path / "out", "check_data": False, "weights": str(tmp_path / "model.pt")}
    first = split.validation[0]["case"]
    before = {"file": "pretrained.pt", "dataset": "D", "training": [first]}
    save_file({"x": torch.zeros(1)}, tmp_path / "model.pt", {**split.about(), "dataset": "D", "pretrained": before})
    message = refused(prepare_evaluation, cases=split.validation, **good)
    assert f"trained on 1 of the {len(split.validation)} cases to be scored ({first})" in message
    assert not caplog.text
    # a case of the same name in another data set may be another image
    before["dataset"] = "E"
    save_file({"x": torch.zeros(1)}, tmp_path / "model.pt", {**split.about(), "dataset": "D", "pretrained": before})
    prepare_evaluation(cases=split.validation, **good)
    assert f"pretrained on another data set with 1 case of the same names ({first})" in caplog.text


def test_evaluation_and_inference_check_the_output_folder(phantom, tmp_path):
    (tmp_path / "file").touch()
    dataset = read_dataset(phantom)
    cases = split_dataset(dataset, 0).validation
    assert "output_dir" in refused(prepare_evaluation, dataset, cases, SCHEME, ["T1w"], 3, tmp_path / "file")
    assert "output_dir" in refused(prepare_inference, [], tmp_path / "file")
    prepare_inference([], tmp_path / "new")  # it is made when there is something to write
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_mask_never_takes_the_place_of_an_image(tmp_path):
    images = [{"image": str(tmp_path / "p.nii.gz")}, {"image": [str(tmp_path / "p_seg.nii.gz")]}]
    message = refused(prepare_inference, images, tmp_path)
    assert f"would replace {tmp_path / 'p_seg.nii.gz'}" in message
    prepare_inference(images, tmp_path / "masks", check_data=False)
    prepare_inference(images[:1], tmp_path)


def test_inference_reports_all_images_that_cannot_be_segmented(phantom, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(phantom / "imagesTr", folder)
    good, empty, short = sorted(folder.glob("*.nii.gz"))[:3]
    empty.write_bytes(b"")
    short.write_bytes(short.read_bytes()[:200])
    images = find_images(folder, ["T1w"])
    message = refused(prepare_inference, images, tmp_path / "masks")
    assert f"2 of {len(images)} images cannot be segmented" in message
    assert str(empty) in message
    assert str(short) in message
    assert str(good) not in message
    prepare_inference(images, tmp_path / "masks", check_data=False)


def test_inference_says_how_channels_are_given(phantom, tmp_path):
    images = find_images(phantom / "imagesTr", ["T1w", "T2w"])
    message = refused(prepare_inference, images, tmp_path / "masks", channels=2)
    assert "expected 3D with 2 channels; give a file for each channel: NAME_0000, NAME_0001" in message


def test_each_workflow_keeps_freed_memory(phantom, tmp_path, monkeypatch):
    kept = []
    for module in ("training", "inference"):
        monkeypatch.setattr(f"mednextv2.{module}.preflight.keep_freed_memory", lambda: kept.append(1))
    prepare_training(**settings(phantom, tmp_path), check_data=False)
    dataset = read_dataset(phantom)
    prepare_evaluation(dataset, split_dataset(dataset, 0).validation, SCHEME, ["T1w"], 3, tmp_path, check_data=False)
    prepare_inference([], tmp_path)
    assert len(kept) == 3


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
