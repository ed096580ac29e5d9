import json
import time

import pytest

from mednextv2.data.dataset import read_dataset
from mednextv2.data.dataset_json import about, channel_names, label_values
from mednextv2.errors import InputError

GOOD = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "vein"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}


def refused(folder, content) -> str:
    """Return the message about a data set, which is one short line that names the file."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'dataset.json'}: ")
    assert "\n" not in message
    assert len(message) < len(str(folder)) + 500
    return message


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (2, '"labels" should map values to names'),
        (None, '"labels" should map values to names'),
        (["background", ["liver"]], "not ['liver']"),
        ({"0": "air", "1": None}, 'name in "labels" should be a text of one line and up to 200 characters, not None'),
        ({"0": "background", "1": {"_target_": "os.getcwd"}}, "not {'_target_': 'os.getcwd'}"),
        ({"0": "background", "1": ["liver"]}, "not ['liver']"),
        ({"0": "background", "1": "li\nver"}, "not 'li\\nver'"),
        ({"0": "background", "1": "x" * 5000}, "should be a text of one line and up to 200"),
        ({"0": "background", "1": " "}, "not ' '"),
        ({"0": "background", "1": "liver", "2": "liver"}, "two values in \"labels\" have the name 'liver'"),
        ({"0": "background", "01": "liver", "1": "vein"}, 'two names in "labels" have the same value'),
        ({"0": "background", "99999": "liver"}, "should be a whole number from 0 to 32767"),
        ({"background": 0, "liver": 1.0}, "the value of 'liver'"),
        ({"background": 0, "liver": True}, "not True"),
        ({"background": 0, "liver": "1"}, "not '1'"),
        ({"background": 0, "liver": -1}, "not -1"),
        ({"background": 0, "liver": []}, "not []"),
        ({"background": 0, "liver": [1, [2]]}, "not [1, [2]]"),
        ({"background": 0, "liver": {"value": 1}}, "not {'value': 1}"),
        ({"background": 0, "liver": 1, "vein": 1}, 'two names in "labels" have the same value'),
        ({"background": 0, "²": 1, "": 2}, "not ''"),
    ],
)  # fmt: skip
def test_labels_of_a_wrong_kind_are_refused(tmp_path, labels, words):
    assert words in refused(tmp_path, GOOD | {"labels": labels})


@pytest.mark.parametrize(
    "channels",
    [None, 3, "CT", [["CT"]], {"²": "CT"}, {"0": None}, {"0": 7}, {"0": ["CT"]}, {"0": {}}, {"0": ""}, {"-1": "CT"},
     {"0": "CT", "00": "PET"}, {"9" * 21: "CT"}],
)  # fmt: skip
def test_channels_of_a_wrong_kind_are_refused(tmp_path, channels):
    assert '"channel_names" (MSD: "modality") should map numbers to names' in refused(
        tmp_path, GOOD | {"modality": channels}
    )


@pytest.mark.parametrize("key", ["name", "description", "reference", "licence", "license"])
@pytest.mark.parametrize("value", [{"_target_": "x"}, [["deep"]], [None]])
def test_texts_of_a_wrong_kind_are_refused(tmp_path, key, value):
    assert f'"{key}" should be a text, not ' in refused(tmp_path, GOOD | {key: value})


def test_texts_of_the_kinds_that_people_write_are_taken(tmp_path):
    given = {"name": "Liver", "description": None, "reference": ["one", "two"], "license": 4.0}
    assert about(given, tmp_path) == {"name": "Liver", "reference": "one, two", "licence": "4.0"}


@pytest.mark.parametrize(
    "training", [[{"image": "..", "label": "b"}], [{"image": "a/..", "label": "b"}], [{"image": "/", "label": "b"}]]
)
def test_cases_without_a_name_are_refused(tmp_path, training):
    assert "cannot be names of cases" in refused(tmp_path, GOOD | {"training": training})


@pytest.mark.parametrize("name", ["../../outside", "a/b", "a\\b", ""])
def test_names_of_cases_that_lead_out_of_the_folder_of_results_are_refused(tmp_path, name):
    listed = {name: {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "dataset": listed}
    assert "cannot be names of cases" in refused(tmp_path, content)


def test_content_without_sense_is_refused_in_no_time(tmp_path):
    start = time.process_time()
    text = json.dumps(GOOD)
    assert "nested more than" in refused(tmp_path, text.replace('"CT"', "[" * 50_000 + "]" * 50_000))
    assert "the key '1' stands twice" in refused(tmp_path, text.replace('"2"', '"1"'))
    assert "is no number that can be used" in refused(tmp_path, text.replace('"liver"', "NaN"))
    assert "is no number that can be used" in refused(tmp_path, text.replace('"liver"', "7" * 10_000))
    assert "should be" in refused(tmp_path, GOOD | {"training": [{"image": list(range(100_000))}]})
    assert time.process_time() - start < 5


def test_what_both_layouts_declare_is_kept(tmp_path):
    assert label_values({"labels": {"1": "b", "0": "a"}}, tmp_path) == {"b": 1, "a": 0}
    regions = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert label_values({"labels": regions}, tmp_path) == regions
    assert label_values({}, tmp_path) == {}
    assert channel_names({"channel_names": {"10": "b", "2": "a"}, "modality": 3}, tmp_path) == ["a", "b"]
