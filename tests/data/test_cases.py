"""What is known of a data set without opening an image."""

import pytest
from dataset_files import msd, nnunet, touch, write_json

from mednextv2.data import Case, DatasetFolder, read_dataset
from mednextv2.errors import InputError


def test_scheme_of_an_msd_folder_has_its_labels(tmp_path):
    scheme = read_dataset(write_json(tmp_path, msd())).scheme()
    assert (scheme.labels, scheme.regions, scheme.ignore_label) == (["background", "liver"], [], None)


def test_scheme_of_an_nnunet_folder_has_its_regions_and_ignore_label(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    write_json(tmp_path, nnunet(labels=labels, regions_class_order=[1, 2]))
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    data = read_dataset(tmp_path)
    assert data.highest_label == 3
    assert data.regions_order == (1, 2)
    assert data.scheme().foreground == ["whole", "core"]
    assert data.scheme().ignore_label == 3


def test_unusable_labels_are_named_with_their_file(tmp_path):
    data = read_dataset(write_json(tmp_path, msd(labels={"0": "background", "2": "liver"})))
    with pytest.raises(InputError, match="the label values are 0, 2") as caught:
        data.scheme()
    assert str(caught.value).startswith(str(tmp_path / "dataset.json"))


def test_items_are_what_monai_takes():
    assert Case("a", ("a.nii.gz",)).as_item() == {"image": "a.nii.gz", "case": "a"}
    assert Case("a", ("x", "y"), "l").as_item() == {"image": ["x", "y"], "case": "a", "label": "l"}


@pytest.mark.parametrize(
    ("labels", "highest"), [({}, 0), ({"background": 0, "b": 7}, 7), ({"background": 0, "whole": [1, 2], "c": 3}, 3)]
)
def test_the_highest_label_counts_regions_and_classes(tmp_path, labels, highest):
    assert DatasetFolder(tmp_path, (), labels, ()).highest_label == highest
