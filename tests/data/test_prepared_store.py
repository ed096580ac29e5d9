"""What is stored of prepared cases, and when it is prepared anew."""

import json
import os
import threading

import nibabel as nib
import numpy as np
import pytest
import torch
from forked_processes import in_two_processes, joined
from monai.data import MetaTensor
from prepared_helpers import SCHEME, SHAPE, Loading, all_positions, files, item, make_store, store_label

from mednextv2.data import CaseStore, LabelScheme
from mednextv2.errors import InputError
from mednextv2.images.volume import VirtualVolume

# --- what is stored --------------------------------------------------------------------------------------------------


def test_prepared_cases_have_the_transform_s_arrays_in_the_order_of_the_items(tmp_path):
    items = [item(tmp_path, name, seed=i) for i, name in enumerate("cab")]
    cases = make_store(tmp_path).prepare(items)
    assert [case.name for case in cases] == ["c", "a", "b"]
    for case, source in zip(cases, items, strict=True):
        assert (case.image.dtype, case.label.dtype) == (np.float16, np.int16)
        assert np.array_equal(case.image, np.load(source["image"]).astype(np.float16))
        assert np.array_equal(case.label, np.load(source["label"]))
        assert isinstance(case.image, np.memmap)
        assert isinstance(case.label, np.memmap)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_number_of_threads_does_not_change_the_files(tmp_path, workers):
    items = [item(tmp_path, name, seed=i) for i, name in enumerate("abcde")]
    cases = make_store(tmp_path, workers=workers).prepare(items)
    for case, source in zip(cases, items, strict=True):
        assert np.array_equal(case.label, np.load(source["label"]))
        assert sum(case.counts) == np.count_nonzero(case.label)


def test_intensities_beyond_half_precision_become_its_limits(tmp_path):
    image = torch.tensor([1e30, -1e30, 65504, 7e4, -7e4, 1.5]).view(1, 6, 1, 1)
    case = store_label(tmp_path, np.ones((6, 1, 1), np.uint8), image=image)
    assert case.image.ravel().tolist() == [65504, -65504, 65504, 65504, -65504, 1.5]


def test_tensors_with_metadata_and_of_other_types_are_stored(tmp_path):
    label = np.random.default_rng(0).integers(-1, 3, SHAPE)
    image = MetaTensor(torch.arange(120).view(1, *SHAPE).flip(1), affine=torch.eye(4))
    source = item(tmp_path, "a")

    def transform(data):
        return {"image": image, "label": MetaTensor(torch.from_numpy(label[None].astype(np.float32)))}

    (case,) = make_store(tmp_path, transform).prepare([source])
    assert np.array_equal(case.image, image.numpy())
    assert np.array_equal(case.label[0], label)
    assert sorted(all_positions(case, 1)) == [tuple(i) for i in np.argwhere(label == 2).tolist()]


def test_image_and_label_of_other_shapes_are_refused_with_the_case_s_name(tmp_path):
    def transform(data):
        return {"image": torch.zeros(1, 2, 3, 4), "label": torch.zeros(1, 2, 3, 5)}

    with pytest.raises(InputError, match=r"case a: image and label map have the shapes .*\(2, 3, 4\) and \(2, 3, 5\)"):
        make_store(tmp_path, transform).prepare([item(tmp_path, "a")])
    assert files(tmp_path) == []


def test_item_without_a_name_is_named_after_its_first_file(tmp_path):
    image, label = tmp_path / "scan7.nii.gz", tmp_path / "mask.nii.gz"
    for file in (image, label):
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)), file)

    def transform(data):
        return {"image": torch.zeros(1, *SHAPE), "label": torch.zeros(1, *SHAPE)}

    for images in (str(image), [str(image), str(label)], image):
        (case,) = make_store(tmp_path, transform, LabelScheme(["background", "a"])).prepare(
            [{"image": images, "label": str(label)}]
        )
        assert case.name == "scan7"
    assert sorted({*files(tmp_path)}) == [
        f"scan7.{end}" for end in ("case.json", "image.npy", "label.npy", "positions.npy")
    ]


# --- once, and again when something changed --------------------------------------------------------------------------


def test_cases_are_prepared_once(tmp_path):
    items, transform = [item(tmp_path, name) for name in "ab"], Loading()
    first = make_store(tmp_path, transform).prepare(items)
    again = make_store(tmp_path, transform).prepare(items[::-1])
    assert transform.calls == ["a", "b"]
    assert [case.image.filename for case in again] == [case.image.filename for case in first[::-1]]
    make_store(tmp_path, transform).prepare([*items, item(tmp_path, "c")])
    assert transform.calls == ["a", "b", "c"]


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_exchanged_source_file_is_prepared_anew(tmp_path, which, change):
    items, transform = [item(tmp_path, name) for name in "ab"], Loading()
    make_store(tmp_path, transform).prepare(items)
    path, status = items[0][which], os.stat(items[0][which])
    if change == "size":
        array = np.load(path)
        np.save(path, array[:, :, :, :1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        other = items[0]["label" if which == "image" else "image"]
        times = os.stat(other)
        np.save(other, np.load(other)[:, :, :, :1])
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        os.rename(path, f"{path}.npy")
        items[0][which] = f"{path}.npy"
    (case, _) = make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a", "b", "a"]
    assert np.array_equal(case.label, np.load(items[0]["label"]))
    make_store(tmp_path, transform).prepare(items)
    assert transform.calls == ["a", "b", "a"]


@pytest.mark.parametrize("which", [0, 1])
def test_each_channel_s_file_counts(tmp_path, which):
    source, transform = item(tmp_path, "a"), lambda data: {k: torch.zeros(1, *SHAPE) for k in ("image", "label")}
    channels = [tmp_path / "a_0000.npy", tmp_path / "a_0001.npy"]
    for file in channels:
        file.touch()
    source["image"] = [str(file) for file in channels]
    (case,) = make_store(tmp_path, transform).prepare([source])
    before = case.file("image.npy").stat().st_ino, case.file("image.npy").stat().st_mtime_ns
    os.utime(channels[which], ns=(0, 0))
    make_store(tmp_path, transform).prepare([source])
    assert (case.file("image.npy").stat().st_ino, case.file("image.npy").stat().st_mtime_ns) != before


def test_other_settings_have_files_of_their_own(tmp_path):
    items, transform = [item(tmp_path, "a")], Loading()
    one, other = {"spacing": [1, 1], "order": 3}, {"spacing": [1, 2], "order": 3}
    cases = [make_store(tmp_path, transform, settings=s).prepare(items)[0] for s in (one, other, one, other)]
    assert transform.calls == ["a", "a"]
    assert cases[0].folder == cases[2].folder != cases[1].folder == cases[3].folder
    same = make_store(tmp_path, transform, settings={"order": 3, "spacing": (1, 1)})
    assert same.folder == cases[0].folder


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CaseStore(Loading(), SCHEME, "~/prepared", {}).folder.parent == tmp_path / "prepared"


# --- several processes -----------------------------------------------------------------------------------------------


def test_training_that_shares_the_folder_does_not_prepare_again_what_the_other_has_done(tmp_path):
    items = [item(tmp_path, name) for name in "ab"]
    fast, slow, started, go_on = Loading(), Loading(), threading.Event(), threading.Event()

    def waits(data):
        if data["case"] == "a":
            started.set()
            assert go_on.wait(30)

    slow.before = waits
    thread = threading.Thread(target=make_store(tmp_path, slow).prepare, args=(items,))
    thread.start()
    assert started.wait(30)
    cases = make_store(tmp_path, fast).prepare(items)
    inodes = [case.file("case.json").stat().st_ino for case in cases]
    go_on.set()
    thread.join(30)
    assert slow.calls == ["a"]
    assert cases[1].file("case.json").stat().st_ino == inodes[1]
    assert np.array_equal(cases[0].label, np.load(items[0]["label"]))


def one_process_of_two(rank, folder, items):
    transform = Loading()
    with joined(rank, folder):
        cases = make_store(folder, transform).prepare(items)
        return [transform.calls, [c.counts for c in cases], [case.label[0, 0, 0].tolist() for case in cases]]


def test_first_process_prepares_and_the_other_waits_for_the_same_cases(tmp_path):
    items = [item(tmp_path, name, seed=i) for i, name in enumerate("abc")]
    (calls, *first), (none, *second) = in_two_processes(one_process_of_two, tmp_path, items)
    assert (sorted(calls), none) == (["a", "b", "c"], [])
    assert first == second
    assert first[1] == [np.load(i["label"])[0, 0, 0].tolist() for i in items]


# --- cases of a collection, and cases that are prepared when they are drawn -------------------------------------------


class _Joined(VirtualVolume):
    """A label map of two files; `rule` is how they are joined."""

    def __init__(self, files, rule):
        self._files, self.identity = files, rule

    @property
    def files(self):
        return self._files

    def read(self):
        return np.load(self._files[0])[0], np.eye(4)


def test_a_label_map_of_several_files_is_prepared_anew_if_a_file_or_the_rule_changes(tmp_path):
    given, other = item(tmp_path, "a"), item(tmp_path, "b", seed=1)

    def load(data):
        return {
            "image": torch.from_numpy(np.load(data["image"])),
            "label": torch.from_numpy(data["label"].read()[0])[None],
        }

    def prepare(rule="one"):
        store = make_store(tmp_path, load)
        joined = _Joined((given["label"], other["label"]), rule)
        (case,) = store.prepare([{**given, "label": joined}])
        return case.file("case.json")

    first = prepare()
    assert len(json.loads(first.read_text())["source"]) == 3
    time = first.stat().st_mtime_ns
    assert prepare().stat().st_mtime_ns == time
    os.utime(other["label"], (1, 1))
    assert prepare().stat().st_mtime_ns != time
    assert prepare("another").name != first.name


def test_a_case_may_be_prepared_when_it_is_needed(tmp_path):
    items = [item(tmp_path, name, seed=i) for i, name in enumerate("ab")]
    loading = Loading()
    store = make_store(tmp_path, loading)
    cases = store.locate(items)
    assert loading.calls == []
    store.prepare_case(cases[1], items[1])
    store.prepare_case(cases[1], items[1])
    assert loading.calls == ["b"]
    assert cases[1].image.shape == (2, *SHAPE)
    ahead = make_store(tmp_path, loading).prepare(items)
    assert loading.calls == ["b", "a"]
    np.testing.assert_array_equal(ahead[1].image, cases[1].image)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_with_nan_are_refused(tmp_path, value):
    given = item(tmp_path, "a")
    voxels = np.load(given["image"])
    voxels[0, 1, 2, 3] = value
    np.save(given["image"], voxels)
    with pytest.raises(InputError, match=r"a_i\.npy: has NaN or infinite voxels"):
        make_store(tmp_path).prepare([given])


def test_images_without_labels_are_prepared_and_checked_alike(tmp_path):
    loading = Loading()
    source = item(tmp_path, "a")
    del source["label"]
    store = CaseStore(
        lambda data: {"image": loading({**data, "label": data["image"]})["image"]}, None, tmp_path / "s", {}
    )
    (case,) = store.prepare([source])
    np.testing.assert_array_equal(case.image, np.load(source["image"]).astype(np.float16))
    assert sorted(file.name.rpartition("a.")[2] for file in store.folder.iterdir()) == ["case.json", "image.npy"]
    store.prepare([source])
    assert loading.calls == ["a"]
    with case.file("image.npy").open("r+b") as f:
        f.truncate(200)
    store.prepare([source])
    assert loading.calls == ["a", "a"]
