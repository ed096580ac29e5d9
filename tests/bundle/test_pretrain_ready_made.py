"""The collections that come with the bundle for supervised pretraining, and the settings of its overlay."""

import nibabel as nib
import numpy as np
import pytest
import yaml
from benchmark_helpers import task_of
from bundle_helpers import BUNDLES, ROOT
from collection_runs import COLLECTIONS, NAME, configured

from mednextv2.data import read_dataset
from mednextv2.images import volume


def test_the_overlay_has_the_papers_settings(tmp_path, parts):
    made = configured("pretrain+multi_gpu_train", dataset_dir=parts, output_dir=tmp_path)
    config = yaml.safe_load((BUNDLES / NAME / "configs" / "pretrain.yaml").read_text())
    assert config == {"epochs": 1500, "warmup_epochs": 50}
    facts = task_of(NAME).workflow
    assert (facts["patch_size"], facts["variant"], len(facts["labels"])) == ([128] * 3, "v2_base", 41)
    assert "DistributedDataParallel" in made.parser["network"]["_target_"]


@pytest.mark.parametrize("name", ["cads", "totalsegmentator"])
def test_a_ready_made_collection_annotates_all_structures_of_the_bundle(name, tmp_path, monkeypatch):
    facts = yaml.safe_load((ROOT / "tests" / "facts" / "datasets.yaml").read_text(encoding="utf-8"))["datasets"]
    known = {entry["id"]: entry for entry in facts}
    given = yaml.safe_load((COLLECTIONS / f"{name}.yaml").read_text())["datasets"][0]["labels"]
    if name == "cads":
        theirs = {"iliac_artery": "common iliac artery", "iliac_vena": "common iliac vein", "clavicula": "clavicle",
                  "small_bowel": "small intestine", "adrenal_gland": "adrenal gland"}  # fmt: skip
        for part, values in given.items():
            for value, structure in values.items():
                expected = known["cads"]["label_groups"][f"part_{part}"][value].lower()
                side = {"_left": " l", "_right": " r"}.get(structure[structure.rfind("_") :], "")
                stem = structure[: structure.rfind("_")] if side else structure
                words = theirs.get(stem, stem.replace("_", " "))
                assert expected in (words + side, words + side.replace(" l", " of lung l"), _lobe(structure))
    else:
        assert {*given} <= {*known["totalsegmentator_v2"]["labels"].values()}
    scheme = task_of(NAME).scheme()
    monkeypatch.setenv("MEDNEXTV2_DATA", str(tmp_path))
    write_ready_made(name, tmp_path, given)
    found = read_dataset(COLLECTIONS / f"{name}.yaml", scheme=scheme)
    assert all(case.structures == (True,) * 40 for case in found.cases)
    values = {int(v) for case in found.cases for v in np.unique(volume.read_volume(case.label)[0])}
    assert values == {*range(41)}
    overlaps = {other for others in found.overlaps.values() for other in others}
    folders = {
        yaml.safe_load(task.read_text().split("\n---")[0])["dataset_name"] for task in BUNDLES.glob("*/task.yaml")
    }
    assert overlaps <= folders


def _lobe(structure):
    """CADS's name of a lobe: Upper lobe of lung L."""
    words = structure.split("_")
    return f"{words[1]} lobe of lung {words[-1][0]}" if words[0] == "lung" else ""


def write_ready_made(name, folder, labels):
    """Two cases of a data set in its published layout, with all structures."""

    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1])), path)

    random = np.random.default_rng(0)
    shape, offset = (8, 9, 10), 0
    for case in ("s0001", "s0002"):
        if name == "cads":
            root = folder / "CADS" / "0001_visceral_gc"
            save(root / "images" / f"{case}_0000.nii.gz", random.normal(size=shape).astype(np.float32))
            offset = 0
            for part, values in labels.items():
                label = np.zeros(np.prod(shape), np.uint8)
                label[offset : offset + len(values)] = [*values]
                label[-1] = 99  # a structure that the bundle does not have
                offset += len(values)
                save(root / "segmentations" / case / f"{case}_part_{part}.nii.gz", label.reshape(shape))
        else:
            root = folder / "Totalsegmentator_dataset_v201"
            save(root / case / "ct.nii.gz", random.normal(size=shape).astype(np.float32))
            for number, mask in enumerate(labels):
                label = np.zeros(np.prod(shape), np.uint8)
                label[number] = 1
                save(root / case / "segmentations" / f"{mask}.nii.gz", label.reshape(shape))
