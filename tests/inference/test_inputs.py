import json
import os
from pathlib import Path

import pytest
from dicom_helpers import numbers, write_series

from mednextv2.errors import InputError
from mednextv2.inference import find_images

ONE, TWO = ["T1"], ["T1", "T2"]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def datalist(folder, content, name="list.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refused(source, channels=ONE):
    with pytest.raises(InputError) as caught:
        find_images(source, channels)
    return str(caught.value)


# --- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.mhd", "A.NII.GZ"])
def test_image_file_is_one_case(tmp_path, name):
    touch(tmp_path, name, "other.nii.gz")
    assert find_images(tmp_path / name, ONE) == [{"image": str(tmp_path / name), "case": name.split(".")[0]}]


def test_folder_is_listed_sorted_without_hidden_and_other_files(tmp_path):
    touch(tmp_path, "b.nii.gz", "a.mha", "c.nii", "._b.nii.gz", ".d.nii.gz", "notes.txt", "sub/e.nii.gz")
    assert find_images(str(tmp_path), ONE) == [
        {"image": str(tmp_path / name), "case": name[0]} for name in ("a.mha", "b.nii.gz", "c.nii")
    ]


@pytest.mark.parametrize(
    ("folders", "taken"),
    [
        (["imagesTr", "labelsTr", "imagesTs"], "imagesTs"),
        (["imagesTr", "labelsTr"], "imagesTr"),
        (["images", "labels"], "images"),
    ],
)
def test_the_folder_of_a_data_set_stands_for_its_images(tmp_path, caplog, folders, taken):
    touch(tmp_path, *(f"{folder}/a.nii.gz" for folder in folders), "dataset.json", "imagesTs/notes.txt")
    assert find_images(tmp_path, ONE) == [{"image": str(tmp_path / taken / "a.nii.gz"), "case": "a"}]
    assert f"{tmp_path}: is the folder of a data set; the images in {taken} are taken" in caplog.text


def test_images_beside_those_of_a_data_set_come_first(tmp_path, caplog):
    touch(tmp_path, "b.nii.gz", "images/a.nii.gz")
    assert find_images(tmp_path, ONE) == [{"image": str(tmp_path / "b.nii.gz"), "case": "b"}]
    assert not caplog.text


def test_channel_number_of_nnunet_is_no_part_of_the_case(tmp_path):
    touch(tmp_path, "b_0000.nii.gz", "a_0000.nii.gz", "visit_2023.nii.gz")
    assert [(i["case"], Path(i["image"]).name) for i in find_images(tmp_path, ONE)] == [
        ("a", "a_0000.nii.gz"),
        ("b", "b_0000.nii.gz"),
        ("visit_2023", "visit_2023.nii.gz"),
    ]


def test_channel_files_of_a_case_are_put_together_in_order(tmp_path):
    touch(tmp_path, *(f"{case}_000{c}.nii.gz" for c in (1, 0) for case in ("z_7", "a")))
    assert find_images(tmp_path, TWO) == [
        {"image": [str(tmp_path / f"{case}_000{c}.nii.gz") for c in (0, 1)], "case": case} for case in ("a", "z_7")
    ]


def test_one_file_with_several_channels_is_a_case(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    assert [i["image"] for i in find_images(tmp_path, TWO)] == [str(tmp_path / f"{n}.nii.gz") for n in "ab"]


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "a.nii.gz")
    assert find_images("~/a.nii.gz", ONE)[0]["image"] == str(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda e: e,
        lambda e: {"testing": e},
        lambda e: {"test": e},
        lambda e: {"validation": e},
        lambda e: {"training": e},
        lambda e: {"training": [{"image": "no.nii.gz"}], "testing": e},
        lambda e: {"testing": [], "training": e},
    ],
    ids=["list", "testing", "test", "validation", "training", "testing-first", "testing-empty"],
)
def test_datalist_paths_are_relative_to_the_json_file(tmp_path, monkeypatch, wrap):
    monkeypatch.chdir("/")
    touch(tmp_path, "data/b.nii.gz", "data/a.nii.gz")
    entries = [{"image": "data/b.nii.gz", "label": "l"}, {"image": str(tmp_path / "data/a.nii.gz")}]
    assert find_images(datalist(tmp_path, wrap(entries)), ONE) == [
        {"image": str(tmp_path / "data" / f"{name}.nii.gz"), "case": name} for name in "ab"
    ]


def test_datalist_may_list_bare_paths_as_msd_does(tmp_path):
    touch(tmp_path, "imagesTs/a.nii.gz")
    path = datalist(tmp_path, {"test": ["./imagesTs/a.nii.gz"]}, "dataset.json")
    assert find_images(path, ONE) == [{"image": str(tmp_path / "imagesTs/a.nii.gz"), "case": "a"}]


def test_datalist_may_list_several_files_a_case(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")
    path = datalist(tmp_path, [{"image": ["a_0000.nii.gz", "a_0001.nii.gz"]}])
    assert find_images(path, TWO) == [{"image": [str(tmp_path / f"a_000{c}.nii.gz") for c in (0, 1)], "case": "a"}]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no.nii.gz", "folder", "no.json"])
def test_source_that_does_not_exist_is_named(tmp_path, name):
    message = refused(tmp_path / name)
    assert f"{tmp_path / name}: there is no such image" in message
    assert "there is no such image" in message


def test_empty_source_is_not_the_current_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert "there is no such image" in refused("")


@pytest.mark.parametrize("content", [[], ["notes.txt", ".hidden.nii.gz", "sub/a.nii.gz"]])
def test_folder_without_images_is_named(tmp_path, content):
    touch(tmp_path, *content)
    assert f"{tmp_path}: holds no images (.nii.gz, .nii, " in refused(tmp_path)


@pytest.mark.parametrize("name", ["a.svg", "a.gz", "nii.gz.txt", ".a.nii.gz"])
def test_file_of_another_kind_is_named(tmp_path, name):
    touch(tmp_path, name)
    assert f"{tmp_path / name}: is not an image (.nii.gz" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "b.TIFF", "c.jpg"])
def test_a_picture_is_refused_with_a_way_to_convert_it(tmp_path, name):
    touch(tmp_path, name)
    for given in (tmp_path / name, tmp_path):
        assert f"{tmp_path / name}: is a picture, which does not say how large its pixels are; save" in refused(given)


def test_one_file_of_a_series_names_its_folder(tmp_path):
    touch(tmp_path, "a.dcm")
    assert refused(tmp_path / "a.dcm").endswith(f"give the folder of its series, {tmp_path}")


def test_a_series_is_one_channel(tmp_path):
    write_series(tmp_path, numbers())
    assert [i["case"] for i in find_images(tmp_path, ONE)] == [tmp_path.name]
    assert "the bundle expects 2 channels" in refused(tmp_path, TWO)


@pytest.mark.parametrize("text", ["", "{", "[}", "a: b"])
def test_datalist_that_does_not_parse_is_named(tmp_path, text):
    assert f"{tmp_path / 'list.json'}: is not valid JSON" in refused(datalist(tmp_path, text))


def test_datalist_in_another_encoding_is_named(tmp_path):
    (tmp_path / "list.json").write_bytes(b'["\xe9.nii.gz"]')
    assert f"{tmp_path / 'list.json'}: is not UTF-8 (line 1" in refused(tmp_path / "list.json")


@pytest.mark.parametrize("content", [[], {}, {"testing": []}, {"images": ["a"]}, 3, {"testing": "a.nii.gz"}])
def test_datalist_without_a_list_is_named(tmp_path, content):
    assert f"{tmp_path / 'list.json'}: should hold a list of" in refused(datalist(tmp_path, content))


@pytest.mark.parametrize("entry", [{}, {"label": "a"}, {"image": []}, {"image": 1}, {"image": ["a", 1]}, None, 7])
def test_malformed_datalist_entry_is_named_by_its_number(tmp_path, entry):
    touch(tmp_path, "a.nii.gz")
    message = refused(datalist(tmp_path, [{"image": "a.nii.gz"}, entry]))
    assert f"{tmp_path / 'list.json'}: entry 1 should be" in message
    assert repr(entry) in message


def test_all_missing_files_of_a_datalist_are_named(tmp_path):
    touch(tmp_path, "b.nii.gz")
    message = refused(datalist(tmp_path, [{"image": f"{n}.nii.gz"} for n in "abc"]))
    assert message.splitlines() == [f"{tmp_path / name}: there is no such file" for name in ("a.nii.gz", "c.nii.gz")]


def test_duplicate_case_names_of_a_datalist_are_refused(tmp_path):
    touch(tmp_path, "x/a.nii.gz", "y/a.nii.gz")
    message = refused(datalist(tmp_path, [{"image": "x/a.nii.gz"}, {"image": "y/a.nii.gz"}]))
    assert f"{tmp_path / 'list.json'}: several entries are named a" in message
    assert "overwrite" in message


def test_duplicate_case_names_of_a_folder_are_refused(tmp_path):
    touch(tmp_path, "a.nii.gz", "a.mha")
    message = refused(tmp_path)
    assert "case a: has 2 files (a.mha, a.nii.gz)" in message


def test_all_cases_with_another_number_of_channels_are_named(tmp_path):
    touch(tmp_path, *(f"a_000{c}.nii.gz" for c in range(3)), *(f"b_000{c}.nii.gz" for c in range(2)))
    (line,) = refused(tmp_path, ["T1", "T2", "FLAIR"]).splitlines()
    assert "case b: has 2 files (b_0000.nii.gz, b_0001.nii.gz)" in line
    assert "one for each channel (T1, T2, FLAIR)" in line
    touch(tmp_path, "c_0000.nii.gz", "c_0001.nii.gz")
    assert len(refused(tmp_path, ["T1", "T2", "FLAIR"]).splitlines()) == 2


def test_channel_files_with_wrong_numbers_are_refused(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0002.nii.gz")  # 0001 was lost, 0002 is something else
    assert "a_0002" in refused(tmp_path, TWO)


def test_two_cases_of_one_name_are_not_taken_for_two_channels(tmp_path):
    touch(tmp_path, "a.nii.gz", "a.mha")
    assert "case a" in refused(tmp_path, TWO)


def test_channel_file_given_alone_is_not_a_case_of_its_own(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    message = refused(datalist(tmp_path, [{"image": ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"]}]), TWO)
    assert "case a: has 3 files" in message


# --- CheckImaged -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["a_0000", "a_0001"], True),
        (["a_0000", "a_0003", "b_0000"], True),
        (["scan_0001", "scan_0002"], False),  # numbers of patients
        (["a_0000", "b_0000"], False),
        (["a_0000", "b_0001"], False),
    ],
)
def test_channels_of_a_case_are_no_patients_of_their_own(tmp_path, names, refused):
    for name in names:
        (tmp_path / f"{name}.nii.gz").touch()
    if refused:
        with pytest.raises(
            InputError, match=r"case a: has 2 channels \(a_0000.nii.gz, .*\), but the bundle expects one"
        ):
            find_images(tmp_path, ["CT"])
    else:
        assert len(find_images(tmp_path, ["CT"])) == len(names)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    for name in ("a.nii.gz", "a.json", "a"):
        os.mkfifo(tmp_path / name)
        assert "is a pipe or a device" in refused(tmp_path / name)


def test_a_series_of_a_folder_of_other_images_is_refused(tmp_path):
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(InputError, match=r"--series 3: is for a folder of DICOM files, but .* holds none"):
        find_images(tmp_path, ONE, "3")


def test_pictures_beside_images_are_left_out_with_a_warning(tmp_path, caplog):
    touch(tmp_path, "a.nii.gz", "b.png", "c.JPG")
    assert [item["case"] for item in find_images(tmp_path, ONE)] == ["a"]
    assert f"{tmp_path}: 2 pictures are left out, such as b.png, since" in caplog.text
