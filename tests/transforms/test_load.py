"""Loading of one item: files, lists of files, DICOM series and images in memory."""

import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_helpers import numbers, write_series
from monai.data import MetaTensor

from mednextv2.data import choose_series
from mednextv2.errors import InputError
from mednextv2.transforms import LoadVolumed, PickChanneld

AFFINE = np.array([[-0.8, 0, 0, 11], [0, -1.2, 0, 7], [0, 0, 3.0, -5], [0, 0, 0, 1]])


def loader(*keys, **settings):
    return LoadVolumed(keys or "image", ensure_channel_first=True, dtype=np.float32, **settings)


def write(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return str(path)


def test_a_file_and_a_list_of_files_are_loaded_as_channels(tmp_path):
    arrays = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    files = [write(tmp_path / f"{n}.nii.gz", array) for n, array in enumerate(arrays)]
    found = loader("one", "both")({"one": files[1], "both": files, "case": "a"})
    assert found["case"] == "a"
    np.testing.assert_array_equal(found["one"].numpy(), arrays[1:])
    np.testing.assert_array_equal(found["both"].numpy(), arrays)
    for key in ("one", "both"):
        assert found[key].dtype == torch.float32
        np.testing.assert_allclose(found[key].affine, AFFINE)


@pytest.mark.parametrize("how", ["series", "folder", "path"])
def test_a_dicom_series_is_one_channel_of_rescaled_values_in_millimetres(tmp_path, how):
    stored = numbers((7, 5, 6))
    write_series(tmp_path, stored, AFFINE, order=[3, 0, 5, 1, 4, 2], slope=2.0, intercept=-1000.0)
    series = {"series": choose_series(tmp_path)[0], "folder": str(tmp_path), "path": tmp_path}[how]
    image = loader()({"image": series})["image"]
    assert image.shape == (1, 7, 5, 6)
    assert image.dtype == torch.float32
    # each value where it was written, whichever way the axes run in memory
    places = np.indices(stored.shape).reshape(3, -1)
    millimetres = np.vstack([AFFINE[:3, :3] @ places + AFFINE[:3, 3:], np.ones(places.shape[1])])
    voxels = np.rint(np.linalg.inv(image.affine.numpy()) @ millimetres)[:3].astype(int)
    np.testing.assert_array_equal(image.numpy()[0][tuple(voxels)], 2.0 * stored.reshape(-1) - 1000)
    torch.testing.assert_close(image.meta["original_affine"], image.affine)
    assert tuple(image.meta["spatial_shape"]) == (7, 5, 6)
    assert image.meta["filename_or_obj"].startswith(str(tmp_path))


def test_an_image_in_memory_keeps_its_place_and_becomes_float32():
    given = MetaTensor(torch.arange(24, dtype=torch.int16).view(1, 2, 3, 4), affine=torch.from_numpy(AFFINE))
    item = {"image": given}
    image = loader()(item)["image"]
    assert image.dtype == torch.float32
    assert image.flatten().tolist() == list(range(24))
    np.testing.assert_allclose(image.affine, AFFINE)
    assert item["image"] is given  # the item that was given is left alone
    assert given.dtype == torch.int16


@pytest.mark.parametrize("kind", ["file", "series", "memory"])
def test_metadata_under_a_key_of_their_own_as_monai_label_asks(tmp_path, kind):
    """MONAI Label sets `image_only` of the loader to false after it was built."""
    array = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    write_series(tmp_path / "series", numbers((5, 4, 3)), AFFINE)
    given = {
        "file": write(tmp_path / "a.nii.gz", array),
        "series": str(tmp_path / "series"),
        "memory": MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(AFFINE)),
    }[kind]
    plain, both = loader(), loader()
    both._loader.image_only = False
    found = both({"image": given})
    assert torch.equal(found["image"].as_tensor(), plain({"image": given})["image"].as_tensor())
    assert isinstance(found["image"], MetaTensor)
    assert found["image_meta_dict"].keys() == found["image"].meta.keys()
    with pytest.raises(KeyError, match="image_meta_dict: is already in the item"):
        both({"image": given, "image_meta_dict": {}})
    named = loader(meta_keys="header", overwriting=True, image_only=False)({"image": given, "header": 1})
    assert named["header"].keys() == named["image"].meta.keys()


def test_a_series_with_a_missing_slice_is_refused_where_monais_readers_take_it(tmp_path):
    write_series(tmp_path, numbers((7, 5, 6)), change=lambda dataset, k: k != 3)
    with pytest.raises(InputError, match=str(tmp_path)):
        loader()({"image": tmp_path})


def test_a_folder_of_two_series_is_refused_with_both(tmp_path):
    for number in (3, 4):
        write_series(tmp_path / str(number), numbers((7, 5, 6)), SeriesNumber=number)
    with pytest.raises(InputError, match=r"(?s)3.*4"):
        loader()({"image": tmp_path})


def test_keys_that_are_missing_are_left_out_only_when_allowed(tmp_path):
    item = {"image": write(tmp_path / "a.nii.gz", np.ones((4, 4, 4), np.float32))}
    with pytest.raises(KeyError, match="label"):
        loader("image", "label")(item)
    assert set(loader("image", "label", allow_missing_keys=True)(item)) == {"image"}


def test_nothing_is_said_about_decoders_that_are_not_installed(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader()
    assert caplog.records == []


def as_itk_writes(path, change):
    """Write an image with ITK and change the text of its header."""
    import itk

    itk.imwrite(itk.image_from_array(np.arange(120, dtype=np.uint8).reshape(4, 5, 6)), str(path), compression=True)
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a.nrrd", lambda raw: raw.replace(b"(1,0,0)", b"(1,0,0,0)")),
        ("b.nrrd", lambda raw: raw.replace(b"encoding: gzip", b"encoding: zipped")),
        ("c.seg.nrrd", lambda raw: raw.replace(b"space origin: (0,0,0)", b"space origin: (0,0)")),
        (
            "d.mha",
            lambda raw: raw.replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 0 0 0 0 0 0 0 0 0"),
        ),
        ("e.mha", lambda raw: raw[:-9]),
        ("f.nrrd", lambda raw: raw[: raw.index(b"\n\n") + 12]),
    ],
)
def test_a_file_that_itk_cannot_read_is_named_without_a_check_before(tmp_path, name, change):
    as_itk_writes(tmp_path / name, lambda raw: raw)
    assert loader()({"image": str(tmp_path / name)})["image"].shape == (1, 6, 5, 4)
    as_itk_writes(tmp_path / name, change)
    with pytest.raises(InputError) as error:
        loader()({"image": str(tmp_path / name)})
    assert str(tmp_path / name) in str(error.value)
    assert "again" in str(error.value)


def test_the_damaged_one_of_several_channels_is_named(tmp_path):
    files = [str(tmp_path / f"{n}.nrrd") for n in range(3)]
    for number, file in enumerate(files):
        as_itk_writes(
            tmp_path / f"{number}.nrrd", lambda raw, n=number: raw.replace(b"(1,0,0)", b"(0,0)") if n == 1 else raw
        )
        assert (tmp_path / file).is_file()
    with pytest.raises(InputError, match=r"/1\.nrrd: cannot be read"):
        loader()({"image": files})


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(Exception, match=r"notes\.txt") as error:
        loader()({"image": str(tmp_path / "notes.txt")})
    assert not isinstance(error.value, InputError)


def test_one_channel_is_picked_if_the_item_names_one():
    image = MetaTensor(torch.arange(24.0).reshape(2, 3, 4, 1))
    pick = PickChanneld("image")
    picked = pick({"image": image, "channel": 1})["image"]
    assert isinstance(picked, MetaTensor)
    assert torch.equal(picked.as_tensor(), image.as_tensor()[1:])
    assert pick({"image": image})["image"] is image
