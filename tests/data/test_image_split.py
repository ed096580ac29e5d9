"""Few images are for validation, and no patient is on both sides."""

import json

import pytest

from mednextv2.data import DatasetFolder, held_out, split_images
from mednextv2.data.image_folders import ImageCase
from mednextv2.data.image_split import validation_count
from mednextv2.errors import InputError


def dataset(tmp_path, names):
    return DatasetFolder(tmp_path, (), {}, tuple(ImageCase(name, (f"/{name}.nii.gz",)) for name in names))


def sides(split):
    return [item["case"] for item in split.training], [item["case"] for item in split.validation]


@pytest.mark.parametrize("count", [*range(2, 30), 499, 600, 1234, 99_999, 100_000, 123_456])
def test_number_of_validation_images(count):
    """nnssl takes min(1000, max(n / 100, 5)), which would be all of few images."""
    number = validation_count(count)
    assert number == (int(min(1000, max(count / 100, 5))) if count >= 10 else max(1, count // 2))
    assert 0 < number < count


@pytest.mark.parametrize("count", [2, 3, 7, 40, 612])
def test_images_are_divided_always_in_the_same_way(tmp_path, count):
    names = [f"case{n:03d}" for n in range(count)]
    training, validation = sides(split_images(dataset(tmp_path, names)))
    assert sorted(training + validation) == names
    assert len(validation) == validation_count(count)
    assert sides(split_images(dataset(tmp_path, names[::-1]))) == (training, validation)


def test_patients_stay_on_one_side(tmp_path):
    names = [f"patient{n:03d}_frame{f:02d}" for n in range(20) for f in (1, 12)]
    training, validation = sides(split_images(dataset(tmp_path, names)))
    assert len(validation) == 6  # 5 images are wanted, and patients have two
    assert not {name[:10] for name in training} & {name[:10] for name in validation}


def test_a_pattern_tells_patients_apart(tmp_path):
    names = [f"{site}x{n}" for site in "ab" for n in range(8)]
    training, validation = sides(split_images(dataset(tmp_path, names), group="([ab])"))
    assert {len({name[0] for name in side}) for side in (training, validation)} == {1}


@pytest.mark.parametrize("names", [["a"], ["sub-01_ses-1", "sub-01_ses-2"]])
def test_images_of_one_patient_cannot_be_split(tmp_path, names):
    group = "(sub-01|a)"
    with pytest.raises(InputError, match="of one patient, but training and validation need images of two"):
        split_images(dataset(tmp_path, names), group=group)


def test_the_split_is_written_and_can_be_given(tmp_path):
    data = dataset(tmp_path, [f"c{n}" for n in range(30)])
    split = split_images(data, output_dir=tmp_path)
    (fold,) = json.loads((tmp_path / "splits_final.json").read_text())
    assert (fold["train"], fold["val"]) == sides(split)
    fold["train"], fold["val"] = fold["val"], fold["train"]
    (tmp_path / "other.json").write_text(json.dumps([fold]))
    again = split_images(data, splits=tmp_path / "other.json")
    assert sides(again) == sides(split)[::-1]
    assert again.source == f"the split is the first of {tmp_path / 'other.json'}"


def test_weights_record_images_and_not_cases_that_they_were_trained_on(tmp_path):
    about = split_images(dataset(tmp_path, "abcd")).about()
    assert about["objective"] == "masked autoencoding"
    assert "training" not in about
    assert len(about["images"]) == len(about["validation"]) == 2


def test_an_evaluation_takes_the_validation_images(tmp_path):
    data = dataset(tmp_path, "abcdef")
    about = {"images": ["a", "b"], "validation": ["c"]}
    assert sides(held_out(data, about)) == ([], ["c"])
    assert sides(held_out(data, {})) == ([], list("abcdef"))
    assert sides(held_out(dataset(tmp_path, "abxy"), about)) == ([], ["x", "y"])
    assert sides(held_out(data, about, score_trained_cases=True)) == ([], list("abcdef"))


def test_an_evaluation_of_nothing_but_trained_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"trained on all of its 2 images.*--score_trained_cases true"):
        held_out(dataset(tmp_path, "ab"), {"images": ["a", "b", "c"]})
