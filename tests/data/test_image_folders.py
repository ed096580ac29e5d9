"""Images without labels are found in data sets and in any folders."""

import os

import pytest
from dataset_files import msd, nnunet, touch, write_json
from image_helpers import save_image

from mednextv2.data import describe_sources, read_image_folders
from mednextv2.errors import InputError


def names(*args, **kwargs):
    return [case.name for case in read_image_folders(*args, **kwargs).cases]


def refused(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        read_image_folders(*args, **kwargs)
    return str(caught.value)


def test_training_and_test_images_of_an_msd_folder_are_taken_and_its_labels_are_not(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/._a.nii.gz", "imagesTs/t_0001.nii.gz", "labelsTr/a.nii.gz")
    write_json(tmp_path, msd(["a"]))
    dataset = read_image_folders(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "t_0001"]  # MSD has no numbers of channels
    assert dataset.cases[0].as_item() == {"image": str(tmp_path / "imagesTr" / "a.nii.gz"), "case": "a"}


def test_the_channel_number_of_an_nnunet_folder_is_no_part_of_the_name(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nrrd")
    write_json(tmp_path, nnunet())
    assert names(tmp_path) == ["a", "b"]


def test_a_data_set_needs_no_labels_and_no_description(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTs/b.mha")
    assert names(tmp_path) == ["a_0000", "b"]


def test_a_folder_named_images_is_taken(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "other.nii.gz")
    assert names(tmp_path) == ["a"]


def test_nested_images_are_found_without_label_folders_segmentations_and_hidden_files(tmp_path):
    touch(
        tmp_path, "one/a.nii", "one/labelsTr/a.nii", "two/deep/b.nrrd", "two/labels/b.nrrd", "two/c.seg.nrrd",
        ".hidden/d.nii", "readme.txt",
    )  # fmt: skip
    assert names(tmp_path) == ["a", "b"]


def test_linked_folders_are_entered_once(tmp_path):
    touch(tmp_path, "real/a.nii")
    (tmp_path / "here").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "here" / "link")
    os.symlink(tmp_path / "here", tmp_path / "real" / "circle")
    assert names(tmp_path / "here") == ["a"]


def test_equal_names_get_those_of_their_folders(tmp_path):
    touch(tmp_path, "sub-01/ses-1/T1w.nii.gz", "sub-02/ses-1/T1w.nii.gz", "other.nii.gz")
    folder = tmp_path.name
    assert names(tmp_path) == sorted([f"{folder}_sub-01_ses-1_T1w", f"{folder}_sub-02_ses-1_T1w", "other"])


def test_several_folders_are_joined(tmp_path):
    touch(tmp_path, "first/a.nii", "first/b.nii", "second/a.nii")
    found = read_image_folders([tmp_path / "first", tmp_path / "second"])
    assert [case.name for case in found.cases] == ["b", "first_a", "second_a"]
    assert found.path == tmp_path
    assert describe_sources([tmp_path / "first", str(tmp_path / "second")]) == "first, second"


def test_channels_become_images_of_their_own_if_asked_for(tmp_path):
    save_image(tmp_path / "a.nii.gz", (6, 7, 8, 3))
    save_image(tmp_path / "b.nii.gz", (6, 7, 8))
    cases = read_image_folders(tmp_path, "split").cases
    assert [(case.name, case.channel) for case in cases] == [("a_0000", 0), ("a_0001", 1), ("a_0002", 2), ("b", None)]
    assert cases[1].as_item()["channel"] == 1
    assert "channel" not in cases[3].as_item()


def test_several_channels_of_a_data_set_are_refused_or_files_of_their_own(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz")
    write_json(tmp_path, nnunet(channel_names={"0": "T1", "1": "T2"}))
    message = refused(tmp_path)
    assert f"{tmp_path / 'dataset.json'}: names 2 image channels (T1, T2)" in message
    assert "--several_channels split" in message
    assert names(tmp_path, "split") == ["a_0000", "a_0001"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images"),
        (["labels/a.nii.gz"], "holds no images"),
        (["a.png"], "holds no images"),
        (["a.nii", "a.nii.gz"], "cannot be told apart|same name"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        read_image_folders(tmp_path)


def test_a_collection_of_data_sets_is_no_folder_of_images(tmp_path):
    touch(tmp_path, "sets.yaml")
    message = refused(tmp_path / "sets.yaml")
    assert message.startswith(f"dataset_dir {tmp_path / 'sets.yaml'}: is a collection of data sets with labels")
    assert message.endswith('list them, as in --dataset_dir "[first,second]"')


def test_a_folder_that_does_not_exist_and_a_file_are_named(tmp_path):
    touch(tmp_path, "a.nii")
    assert f"dataset_dir {tmp_path / 'none'}: there is no such folder" in refused(tmp_path / "none")
    assert "give the folder that holds it" in refused(tmp_path / "a.nii")
    assert "names no folder" in refused([])


def test_dicom_is_told_as_what_it_is(tmp_path):
    (tmp_path / "slice.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    assert "holds DICOM files, which are not read here" in refused(tmp_path)


def test_a_folder_that_is_listed_twice_is_refused(tmp_path):
    touch(tmp_path, "inner/a.nii")
    for folders in ([tmp_path, tmp_path], [tmp_path, tmp_path / "inner"]):
        assert "are the same file; list each folder once" in refused(folders)
