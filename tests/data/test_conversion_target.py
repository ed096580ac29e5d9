"""The target of a conversion: what someone else added or changed is neither taken for converted nor lost."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest
from converter_runs import content, run
from source_builders import KITS_AFFINE, image, kits19, labels, save, totalsegmentator

from mednextv2.data.conversion_records import RECORDS
from mednextv2.data.conversion_target import opened_target
from mednextv2.errors import InputError


@pytest.fixture
def source(tmp_path):
    return kits19(tmp_path / "source")


@pytest.fixture
def target(tmp_path, source):
    assert run("kits19", source, tmp_path / "target")[0] == 0
    return tmp_path / "target"


def refused(source, target, *words):
    """Convert again; returns the message, after which the target is as it was."""
    before = content(target)
    status, said = run("kits19", source, target, *words)
    assert status == 1, said
    assert content(target) == before
    return said[said.index("error: ") :]


def test_cases_of_another_data_set_and_other_files_are_named(source, target):
    for file in ("imagesTr/mine_0000.nii.gz", "labelsTr/mine.nii.gz", "imagesTs/more.nii.gz", "notes.txt"):
        save(target / file, image()) if file.endswith("gz") else (target / file).write_text("precious")
    assert refused(source, target) == (
        f"error: {target}: holds files that this conversion did not write (notes.txt, imagesTr/mine_0000.nii.gz, "
        "labelsTr/mine.nii.gz, imagesTs/more.nii.gz). Nothing was written. Move these files to another folder and give "
        "the same command again, or give another folder as TARGET\n"
    )


def test_a_file_by_hand_at_the_place_of_a_case_to_come_is_not_replaced(source, target):
    shutil.copytree(source / "data/case_00000", source / "data/case_00007")
    save(target / "labelsTr/case_00007.nii.gz", labels((1,)))
    assert "did not write (labelsTr/case_00007.nii.gz)" in refused(source, target)
    (target / "labelsTr/case_00007.nii.gz").unlink()
    status, said = run("kits19", source, target)
    assert status == 0
    assert " 1 written" in said


@pytest.mark.parametrize("name", ["dataset.json", "conversion.json"])
def test_a_description_that_was_edited_is_not_replaced(name, source, target, tmp_path):
    first = (target / name).read_bytes()
    edited = json.loads(first) | {"note": "by hand"}
    (target / name).write_text(json.dumps(edited))
    assert f"holds files that were changed since it wrote them ({name}). Nothing was written" in refused(source, target)
    (target / name).rename(tmp_path / name)  # as the message says
    assert run("kits19", source, target)[0] == 0
    assert (target / name).read_bytes() == first


def test_a_label_map_that_was_corrected_by_hand_is_not_replaced(source, target, tmp_path):
    corrected = target / "labelsTr/case_00001.nii.gz"
    first = corrected.read_bytes()
    save(corrected, labels((1,), (6, 8, 7)), KITS_AFFINE)
    assert "changed since it wrote them (labelsTr/case_00001.nii.gz)" in refused(source, target)
    corrected.rename(tmp_path / "corrected.nii.gz")
    assert run("kits19", source, target)[0] == 0
    assert corrected.read_bytes() == first


def test_a_split_by_hand_is_not_taken_for_one_of_the_data_set(source, target):
    (target / "splits_final.json").write_text("[]")
    assert "did not write (splits_final.json)" in refused(source, target)


def test_a_target_with_files_alone_is_refused_and_hidden_files_do_not_count(source, tmp_path):
    folder = tmp_path / "mine"
    save(folder / "imagesTr/mine_0000.nii.gz", image())
    assert "holds imagesTr and no conversion; give a new folder as TARGET" in refused(source, folder)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.DS_Store").touch()
    assert run("kits19", source, tmp_path / "new")[0] == 0
    (tmp_path / "new/imagesTr/._case.nii.gz").touch()
    (tmp_path / "new/Thumbs.db").touch()
    assert run("kits19", source, tmp_path / "new")[0] == 0


def test_options_that_differ_are_told_in_words(source, target):
    file = target / RECORDS / "settings.json"
    settings = json.loads(file.read_text())
    for dataset, earlier, words in [
        ("amos22_all", {"modality": "all"}, "another data set (amos22_all, not kits19)"),
        ("kits19", {"spacing": [0.94, 0.94, 1.0]}, "other options (--spacing was 0.94,0.94,1.0 and is now not given)"),
        ("kits19", {"keep": True}, "other options (--keep was given and is now not given)"),
    ]:
        file.write_text(json.dumps(settings | {"options": earlier, "dataset": dataset}))
        message = refused(source, target)
        assert words in message
        assert "{" not in message
    file.write_text(json.dumps(settings | {"form": 0}))
    assert "by another version of the converters" in refused(source, target)
    file.write_text(json.dumps([1]))
    assert "settings.json: is no record of a conversion; give another folder as TARGET" in refused(source, target)


def test_a_target_that_is_a_file_is_named_as_the_argument(source, tmp_path):
    (tmp_path / "file").write_text("precious")
    for words, given in {
        "file: is a file; give as TARGET a folder that is new or of an earlier run": tmp_path / "file",
        f"{tmp_path / 'file'} is a file, which cannot hold a folder; give": tmp_path / "file/new",
    }.items():
        status, said = run("kits19", source, given)
        assert status == 1
        assert said.startswith(f"error: TARGET {given}: ")
        assert words in said
        assert "--target" not in said.lower()
    assert (tmp_path / "file").read_text() == "precious"


def test_a_target_that_cannot_be_used_is_named_as_the_argument(tmp_path):
    with (tmp_path / ".in-use").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process holds it
        with pytest.raises(InputError, match=r"writes there; .*, or give another TARGET$"), opened_target(tmp_path):
            pass
    message = r"TARGET /proc/no: cannot be written \(.*\); choose another folder as TARGET$"
    with pytest.raises(InputError, match=message), opened_target(Path("/proc/no")):
        pass


def test_a_kill_while_descriptions_are_written_is_no_change_by_hand(source, target, monkeypatch):
    (source / "data/new.txt").touch()  # conversion.json will be another one, which lists the file
    replace = type(target).replace

    def killed(path, other):
        if other.name == "conversion.json":
            raise KeyboardInterrupt
        return replace(path, other)

    with monkeypatch.context() as patch:
        patch.setattr(type(target), "replace", killed)
        assert run("kits19", source, target)[0] == 130
    status, said = run("kits19", source, target)
    assert status == 0, said
    assert "new.txt" in (target / "conversion.json").read_text()


def test_a_split_that_is_no_longer_true_is_removed(tmp_path):
    source = totalsegmentator(tmp_path / "source")
    assert run("totalsegmentator", source, tmp_path / "t")[0] == 0
    assert (tmp_path / "t/splits_final.json").exists()
    text = (source / "meta.csv").read_text(encoding="utf-8-sig")
    (source / "meta.csv").write_text(text.replace("val", "train"))
    for _ in range(2):
        assert run("totalsegmentator", source, tmp_path / "t")[0] == 0
        assert not (tmp_path / "t/splits_final.json").exists()
