import numpy as np
import pytest
from dataset_files import msd, nnunet, refused, touch, write_json
from nibabel import Nifti1Image, save

from mednextv2.data import check_dataset, read_dataset
from mednextv2.errors import InputError

# --- what is read ----------------------------------------------------------------------------------------------------


def test_msd_folder_gives_channels_labels_and_cases(tmp_path):
    folder = write_json(tmp_path, msd(["b", "a"], modality={"1": "T2", "0": "T1"}))
    data = read_dataset(folder)
    assert data.path == folder
    assert data.channels == ("T1", "T2")
    assert data.labels == {"background": 0, "liver": 1}
    assert [c.name for c in data.cases] == ["a", "b"]
    assert data.cases[0].images == (str(tmp_path / "imagesTr" / "a.nii.gz"),)
    assert data.cases[0].label == str(tmp_path / "labelsTr" / "a.nii.gz")


def test_channels_are_ordered_by_number_not_by_text(tmp_path):
    write_json(tmp_path, msd(modality={str(i): f"c{i}" for i in (10, 2, 0, 1)}))
    assert read_dataset(tmp_path).channels == ("c0", "c1", "c2", "c10")


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_json(tmp_path / "task", msd())
    assert len(read_dataset("~/task").cases) == 2


def test_phantom_folder_is_read(phantom):
    data = read_dataset(phantom)
    assert len(data.cases) == 6
    assert data.labels == {"background": 0, "anterior": 1, "posterior": 2}


def test_nnunet_folder_with_two_channels_is_read_in_order(tmp_path):
    write_json(tmp_path, nnunet(channel_names={"0": "T1", "1": "T2"}, file_ending=".mha"))
    for case in ("case_b", "case_a", "case_c"):
        touch(tmp_path, f"imagesTr/{case}_0000.mha", f"imagesTr/{case}_0001.mha", f"labelsTr/{case}.mha")
    data = read_dataset(tmp_path)
    assert data.channels == ("T1", "T2")
    assert data.labels == {"background": 0, "liver": 1}
    assert [c.name for c in data.cases] == ["case_a", "case_b", "case_c"]
    assert data.cases[1].images == tuple(str(tmp_path / "imagesTr" / f"case_b_000{c}.mha") for c in (0, 1))
    assert data.cases[1].label == str(tmp_path / "labelsTr" / "case_b.mha")


def test_nnunet_file_ending_selects_the_files(tmp_path):
    write_json(tmp_path, nnunet(file_ending=".nrrd"))
    touch(tmp_path, "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd", "labelsTr/readme.txt", "labelsTr/.a.nrrd")
    assert [c.name for c in read_dataset(tmp_path).cases] == ["a"]


def test_hidden_files_are_no_cases(tmp_path):
    write_json(tmp_path, nnunet())
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/._b_0000.nii.gz", "labelsTr/._b.nii.gz")
    assert [c.name for c in read_dataset(tmp_path).cases] == ["a"]


def test_region_labels_keep_their_values(tmp_path):
    write_json(tmp_path, nnunet(labels={"background": 0, "whole": [1, 2], "core": [2]}))
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert read_dataset(tmp_path).labels == {"background": 0, "whole": [1, 2], "core": [2]}


def test_explicit_nnunet_form_is_read_and_sorted(tmp_path):
    listed = {
        "z": {"images": ["x/z1.nii.gz", "/elsewhere/z2.nii.gz"], "label": "y/z.nii.gz"},
        "b": {"images": ["x/b1.nii.gz", "x/b2.nii.gz"], "label": "y/b.nii.gz"},
    }
    write_json(tmp_path, nnunet(channel_names={"0": "T1", "1": "T2"}, dataset=listed))
    cases = read_dataset(tmp_path).cases
    assert [c.name for c in cases] == ["b", "z"]
    assert cases[1].images == (str(tmp_path / "x/z1.nii.gz"), "/elsewhere/z2.nii.gz")
    assert cases[1].label == str(tmp_path / "y/z.nii.gz")


def test_items_hold_one_path_for_one_image_and_a_list_for_several(tmp_path):
    write_json(tmp_path, nnunet(channel_names={"0": "T1", "1": "T2"}))
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    item = read_dataset(tmp_path).cases[0].as_item()
    assert item["image"] == [str(tmp_path / f"imagesTr/a_000{c}.nii.gz") for c in (0, 1)]
    assert (item["case"], item["label"]) == ("a", str(tmp_path / "labelsTr/a.nii.gz"))
    item = read_dataset(write_json(tmp_path / "other", msd())).cases[0].as_item()
    assert item["image"] == str(tmp_path / "other/imagesTr/a.nii.gz")


@pytest.mark.parametrize("left_out", ["image", "label"])
def test_image_without_label_and_label_without_image_are_found_by_the_check(tmp_path, left_out):
    write_json(tmp_path, nnunet())
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 2, (4, 4, 4)).astype(np.uint8)
    for name in ("imagesTr/whole_0000", "labelsTr/whole", "imagesTr/half_0000", "labelsTr/half"):
        if not (name.startswith(left_out) and "half" in name):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            save(Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    data = read_dataset(tmp_path)
    assert [c.name for c in data.cases] == ["half", "whole"]
    missing = {"image": "imagesTr/half_0000.nii.gz", "label": "labelsTr/half.nii.gz"}[left_out]
    with pytest.raises(InputError, match="1 defect:") as caught:
        check_dataset(data.cases, ["background", "liver"], data.channels)
    assert f"{tmp_path / missing}: there is no such file" in str(caught.value)


# --- files as others write them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_lists_of_nnunet_name_cases_without_the_number_of_a_channel(tmp_path, channels):
    names = [f"imagesTr/a_{c:04d}.nii.gz" for c in range(channels)]
    touch(tmp_path, *names, "labelsTr/a.nii.gz")
    write_json(tmp_path, msd(["a"], modality={str(c): f"c{c}" for c in range(channels)}))
    (case,) = read_dataset(tmp_path).cases
    assert (case.name, case.images) == ("a", tuple(str(tmp_path / name) for name in names))


def test_a_listed_file_that_is_there_counts_more(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a.nii.gz")
    write_json(tmp_path, msd(["a"]))
    assert read_dataset(tmp_path).cases[0].images == (str(tmp_path / "imagesTr" / "a.nii.gz"),)


def test_backslashes_separate_folders_where_no_file_has_them_in_its_name(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "odd\\folder/b.nii.gz", "labelsTr/b.nii.gz")
    entries = [
        {"image": ".\\imagesTr\\a.nii.gz", "label": "labelsTr\\a.nii.gz"},
        {"image": "odd\\folder/b.nii.gz", "label": "labelsTr/b.nii.gz"},
    ]
    write_json(tmp_path, msd(training=entries))
    first, second = read_dataset(tmp_path).cases
    assert first.images == (str(tmp_path / "imagesTr" / "a.nii.gz"),)
    assert first.label == str(tmp_path / "labelsTr" / "a.nii.gz")
    assert second.images == (str(tmp_path / "odd\\folder" / "b.nii.gz"),)


def test_lists_of_channels_and_labels_are_in_their_order(tmp_path):
    write_json(tmp_path, msd(modality=["T1", "T2"], labels=["background", "liver", "tumour"]))
    data = read_dataset(tmp_path)
    assert (data.channels, data.labels) == (("T1", "T2"), {"background": 0, "liver": 1, "tumour": 2})


@pytest.mark.parametrize(("number", "expected"), [(7, 7), (None, None), ("7", None), (True, None)])
def test_the_declared_number_of_cases_is_kept(tmp_path, number, expected):
    write_json(tmp_path, msd(numTraining=number))
    assert read_dataset(tmp_path).declared_cases == expected


def test_folds_of_a_datalist_are_kept(tmp_path):
    entries = [{"image": f"imagesTr/{n}.nii.gz", "label": "l.nii.gz", "fold": i} for i, n in enumerate("abc")]
    write_json(tmp_path, msd(training=[*entries, {"image": "imagesTr/d.nii.gz", "label": "l.nii.gz"}]))
    assert read_dataset(tmp_path).folds == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("order", [3, "1, 2", {"1": 2}])
def test_order_of_regions_that_is_no_list_is_refused(tmp_path, order):
    message = refused(write_json(tmp_path, msd(regions_class_order=order)))
    assert f'{tmp_path / "dataset.json"}: "regions_class_order" should be a list, not {order!r}' in message


def test_texts_of_dataset_json_are_kept(tmp_path):
    write_json(tmp_path, msd(name="Liver", description="CT", reference="x", license="CC-BY"))
    about = {"name": "Liver", "description": "CT", "reference": "x", "licence": "CC-BY"}
    assert read_dataset(tmp_path).about == about
    write_json(tmp_path, msd(licence="CC0", license="other"))
    assert read_dataset(tmp_path).about == {"licence": "CC0"}


@pytest.mark.parametrize("labels", ["x/c.nii.gz", "y/c.nii.gz"])
def test_equal_names_in_subfolders_are_refused_in_an_msd_folder(tmp_path, labels):
    description = msd()
    for site in ("site_a", "site_b"):
        description["training"].append({"image": f"./imagesTr/{site}/c.nii.gz", "label": labels})
    message = refused(write_json(tmp_path, description))
    assert f"{tmp_path / 'dataset.json'}: several cases have the same name: c;" in message
    assert "rename" in message


# --- what is refused, with the file's name and the remedy ------------------------------------------------------------


def test_missing_folder_is_named_with_the_setting(tmp_path):
    message = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "no such folder" in message
    assert "--dataset_dir" in message


def test_empty_folder_is_named_with_what_belongs_there(tmp_path):
    message = refused(tmp_path)
    assert f"{tmp_path}: has no dataset.json (it holds nothing)" in message
    assert "imagesTr" in message


def test_folder_without_dataset_json_says_what_it_holds_instead(tmp_path):
    (tmp_path / "Task04_Hippocampus").mkdir()
    assert "it holds Task04_Hippocampus" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"training": [}', "training: []"])
def test_dataset_json_that_does_not_parse_is_named(tmp_path, text):
    message = refused(write_json(tmp_path, text))
    assert f"{tmp_path / 'dataset.json'}: is not valid JSON" in message


def test_dataset_json_in_another_encoding_is_named(tmp_path):
    (tmp_path / "dataset.json").write_bytes(b'{"name": "\xe9t\xe9"}')
    assert f"{tmp_path / 'dataset.json'}: is not UTF-8 (line 1" in refused(tmp_path)


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("3", "int"), ('"a"', "str"), ("null", "NoneType")])
def test_dataset_json_that_is_no_object_is_named(tmp_path, text, kind):
    message = refused(write_json(tmp_path, text))
    assert f"{tmp_path / 'dataset.json'}: should hold one JSON object, but holds a {kind}" in message


def test_msd_folder_without_training_cases_is_refused(tmp_path):
    message = refused(write_json(tmp_path, msd([])))
    assert f"{tmp_path / 'dataset.json'}: names no training cases" in message
    assert '"training"' in message


def test_nnunet_folder_without_training_cases_is_refused(tmp_path):
    write_json(tmp_path, nnunet())
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    assert f"{tmp_path / 'dataset.json'}: names no training cases" in refused(tmp_path)


@pytest.mark.parametrize("missing", ["imagesTr", "labelsTr"])
def test_nnunet_folder_without_a_subfolder_is_refused(tmp_path, missing):
    write_json(tmp_path, nnunet())
    (tmp_path / ({"imagesTr", "labelsTr"} - {missing}).pop()).mkdir()
    assert f"{tmp_path / missing}: there is no such folder" in refused(tmp_path)


@pytest.mark.parametrize(
    "entry", ["./imagesTr/a.nii.gz", {"image": "./imagesTr/a.nii.gz"}, {"label": "a"}, {"image": 1, "label": "a"}, None]
)
def test_malformed_msd_entry_is_named_by_its_number(tmp_path, entry):
    description = msd()
    description["training"].insert(1, entry)
    message = refused(write_json(tmp_path, description))
    assert f'{tmp_path / "dataset.json"}: entry 1 of "training" should be' in message
    assert repr(entry) in message


@pytest.mark.parametrize(
    "entry", [{"images": ["a.nii.gz"]}, {"label": "a.nii.gz"}, {"images": "a.nii.gz", "label": "b.nii.gz"}, "a.nii.gz"]
)
def test_malformed_entry_of_the_explicit_form_is_named(tmp_path, entry):
    message = refused(write_json(tmp_path, nnunet(dataset={"case_7": entry})))
    assert str(tmp_path / "dataset.json") in message
    assert "case_7" in message


def test_duplicate_case_names_are_refused(tmp_path):
    description = msd()
    description["training"].append({"image": "./more/b.nii.gz", "label": "./more/b_label.nii.gz"})
    message = refused(write_json(tmp_path, description))
    assert f"{tmp_path / 'dataset.json'}: several cases have the same name: b" in message


@pytest.mark.parametrize("ending", [".tif", "", "nii.gzip", None, 3])
def test_unknown_file_ending_is_refused(tmp_path, ending):
    message = refused(write_json(tmp_path, nnunet(file_ending=ending)))
    assert f"{tmp_path / 'dataset.json'}: file_ending {ending!r} is not one of .nii.gz, .nii" in message
    assert "convert" in message


@pytest.mark.parametrize("channels", ["T1", 3, {"first": "T1"}])
def test_channels_that_are_no_numbered_names_are_refused(tmp_path, channels):
    message = refused(write_json(tmp_path, msd(modality=channels)))
    assert f'{tmp_path / "dataset.json"}: "channel_names" (MSD: "modality") should map numbers to names' in message
    assert '{"0": "T1"}' in message


@pytest.mark.parametrize("channels", [1, None])
def test_channels_of_nnunet_that_are_no_numbered_names_are_refused(tmp_path, channels):
    write_json(tmp_path, nnunet(channel_names=channels))
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    message = refused(tmp_path)
    assert f'{tmp_path / "dataset.json"}: "channel_names" (MSD: "modality") should map numbers to names' in message


@pytest.mark.parametrize("name", ["../../../notes", "/etc/x", "a\\b", "..", " ", "a\nb", "x" * 151, "a/../b"])
def test_names_of_cases_are_never_parts_of_paths(tmp_path, name):
    entry = {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}
    write_json(tmp_path, nnunet(dataset={name: entry, "good": entry}))
    assert "cannot be names of cases" in refused(tmp_path)
