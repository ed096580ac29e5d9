"""What weights tell about their training."""

import json
import subprocess
import zipfile

import pytest
import torch

from mednextv2.errors import InputError
from mednextv2.weights.files import load_file, save_file
from mednextv2.weights.provenance import (
    ENTRY,
    add_about,
    check_labels,
    describe_network,
    describe_weights,
    namesakes,
    origin,
    other_labels,
    overlapping,
    pretraining_cases,
    read_about,
    recorded_labels,
    trained_cases,
    unlabelled_cases,
)

ABOUT = {
    "fold": 1,
    "training": ["a", "ä b"],
    "validation": ["c"],
    "epoch": 3,
    "epochs": 10,
    "dataset": "D",
    "date": "2026",
}


def test_it_stays_beside_the_tensors_and_other_readers_skip_it(tmp_path):
    state = {"x": torch.arange(1000.0), "y": torch.ones(3, dtype=torch.bfloat16)}
    save_file(state, tmp_path / "a.pt", ABOUT)
    copy = tmp_path / "b.pt"
    copy.write_bytes((tmp_path / "a.pt").read_bytes())
    assert read_about(copy) == ABOUT
    for loaded in (load_file(copy), torch.load(copy, weights_only=True), torch.load(copy, mmap=True)):
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert zipfile.ZipFile(copy).testzip() is None


def test_files_that_tell_nothing(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("no archive")
    save_file({"x": torch.zeros(1)}, tmp_path / "list.pt")
    with zipfile.ZipFile(tmp_path / "list.pt", "a") as archive:
        archive.writestr(f"archive/{ENTRY}", "[1]")
    save_file({"x": torch.zeros(1)}, tmp_path / "broken.pt")
    with zipfile.ZipFile(tmp_path / "broken.pt", "a") as archive:
        archive.writestr(f"archive/{ENTRY}", "{")
    for name in ("plain", "text", "list", "broken", "none"):
        assert read_about(tmp_path / f"{name}.pt") == {}
    assert describe_weights(tmp_path / "plain.pt") == str(tmp_path / "plain.pt")


def test_trained_cases_are_those_of_all_files(tmp_path):
    for name, cases in (("a", ["x", "y"]), ("b", ["y", "z"]), ("c", "xyz")):
        save_file({}, tmp_path / f"{name}.pt", {"training": cases})
    assert trained_cases([tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt", "none.pt"]) == {"x", "y", "z"}


def test_the_description_names_what_is_known(tmp_path):
    save_file({}, tmp_path / "a.pt", ABOUT)
    expected = f"{tmp_path / 'a.pt'} (trained on 2 cases, of D, fold 1, epoch 3 of 10, 2026)"
    assert describe_weights(tmp_path / "a.pt") == expected


def test_the_entry_is_readable_text(tmp_path):
    torch.save({}, tmp_path / "a.pt")
    add_about(tmp_path / "a.pt", ABOUT)
    code = f"import zipfile, sys; sys.stdout.buffer.write(zipfile.ZipFile(r'{tmp_path / 'a.pt'}').read('a/{ENTRY}'))"
    done = subprocess.run(["python3", "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == ABOUT


@pytest.mark.parametrize("size", [60 * 2**20])
def test_an_entry_that_swells_is_not_read(tmp_path, size):
    torch.save({}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"a/{ENTRY}", '{"x": "' + "a" * size + '"}')
    assert read_about(tmp_path / "a.pt") == {}


def test_fine_tuned_weights_have_seen_the_cases_of_their_pretraining(tmp_path):
    start = {"dataset": "D", "training": ["old"], "network": "mednext", "settings": {"variant": "v2_tiny"}, "fold": 1}
    save_file({"x": torch.zeros(1)}, tmp_path / "first.pt", start)
    second = {"dataset": "D", "training": ["new"], "pretrained": origin(tmp_path / "first.pt")}
    save_file({"x": torch.zeros(1)}, tmp_path / "second.pt", second)
    third = {"dataset": "E", "training": ["third"], "pretrained": origin(tmp_path / "second.pt")}
    save_file({"x": torch.zeros(1)}, tmp_path / "third.pt", third)
    assert trained_cases([tmp_path / "second.pt"]) == {"old", "new"}
    assert namesakes([tmp_path / "second.pt"]) == set()
    assert trained_cases([tmp_path / "third.pt"]) == {"third"}  # the others may be other images of the same names
    assert namesakes([tmp_path / "third.pt"]) == {"old", "new"}
    assert read_about(tmp_path / "third.pt")["pretrained"]["pretrained"]["file"] == "first.pt"
    line = describe_weights(tmp_path / "third.pt")
    assert line.endswith("(trained on 1 case, of E, pretrained with second.pt (trained on 1 case))")
    assert origin(tmp_path / "none.pt") == {"file": "none.pt"}


def test_a_record_of_pretraining_that_is_none_does_no_harm(tmp_path):
    for i, wrong in enumerate((3, [1], {"training": "abc"}, {"dataset": "D", "training": [{}], "pretrained": "x"})):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{i}.pt", {"dataset": "D", "training": ["a"], "pretrained": wrong})
        assert trained_cases([tmp_path / f"{i}.pt"]) == {"a"}
        assert namesakes([tmp_path / f"{i}.pt"]) == set()
        assert describe_weights(tmp_path / f"{i}.pt").startswith(str(tmp_path))


def test_the_network_is_told_as_options(tmp_path):
    settings = {"network_filters": 4, "patch_size": [16, 16], "x": {"_target_": "os.system"}}
    save_file({"x": torch.zeros(1)}, tmp_path / "a.pt", {"network": "resenc_l", "settings": settings})
    told = describe_network(tmp_path / "a.pt")
    assert told == "trained with --network resenc_l --network_filters 4 --patch_size [16, 16]"
    save_file({"x": torch.zeros(1)}, tmp_path / "b.pt", {"network": "mednext", "settings": {"variant": "v1_s"}})
    assert describe_network(tmp_path / "b.pt") == "trained with --variant v1_s"
    save_file({"x": torch.zeros(1)}, tmp_path / "c.pt", {"network": "mednext", "settings": 3})
    assert describe_network(tmp_path / "c.pt") == describe_network(tmp_path / "none.pt") == ""


LIVER, SPLEEN = ["background", "liver", "tumour"], ["background", "spleen", "tumour"]


@pytest.mark.parametrize("recorded", [None, [], "liver", [1, 2], {"a": 1}])
def test_weights_without_a_record_of_labels_fit_all(recorded, tmp_path):
    save_file(
        {"x": torch.zeros(1)}, tmp_path / "a.pt", {"fold": 0, **({} if recorded is None else {"labels": recorded})}
    )
    assert recorded_labels(tmp_path / "a.pt") is None
    assert other_labels(tmp_path / "a.pt", LIVER) == ""
    check_labels([tmp_path / "a.pt", tmp_path / "none.pt"], LIVER)


def test_other_labels_are_told_with_both_lists(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "a.pt", {"labels": LIVER})
    assert recorded_labels(tmp_path / "a.pt") == LIVER
    for same in (LIVER, ["Background", "Liver ", "tumour"], None):
        assert other_labels(tmp_path / "a.pt", same) == ""
    for other in (SPLEEN, LIVER[:2], [*LIVER, "vein"], [LIVER[0], LIVER[2], LIVER[1]]):
        with pytest.raises(InputError) as caught:
            check_labels([tmp_path / "a.pt"], other)
        told = str(caught.value)
        assert told.startswith(f"{tmp_path / 'a.pt'}: the weights are for the labels [background, liver, tumour], but")
        assert f"the labels here are [{', '.join(other)}]; give weights of a training with these labels" in told


def test_of_many_labels_the_first_that_differs_is_told(tmp_path):
    many = [f"part {n}" for n in range(40)]
    save_file({"x": torch.zeros(1)}, tmp_path / "a.pt", {"labels": many})
    told = other_labels(tmp_path / "a.pt", [*many[:30], "vein", *many[31:]])
    assert told.endswith("part 9 and 30 others]; number 30 is part 30 there and vein here")


COLLECTION = {
    "dataset": "c.yaml", "training": ["A.x", "A.y", "B.x"], "datasets": {"A": ["x", "y"], "B": ["x"]},
    "overlaps": {"B": ["D"]}, "fold": 0,
}  # fmt: skip


def test_cases_of_a_collection_are_known_under_the_names_of_their_data_sets(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "collection.pt", COLLECTION)
    before = origin(tmp_path / "collection.pt")
    assert before["datasets"] == COLLECTION["datasets"]
    assert trained_cases([tmp_path / "collection.pt"]) == {"A.x", "A.y", "B.x"}
    assert describe_weights(tmp_path / "collection.pt").endswith("(trained on 3 cases, of 2 data sets, fold 0)")
    for dataset, seen, other in (("A", {"x", "y"}, {"x"}), ("B", {"x"}, {"x", "y"}), ("D", set(), {"x", "y"})):
        about = {"dataset": dataset, "training": ["z"], "pretrained": before}
        save_file({"x": torch.zeros(1)}, tmp_path / "tuned.pt", about)
        assert pretraining_cases(about) == seen
        assert trained_cases([tmp_path / "tuned.pt"]) == seen | {"z"}
        assert namesakes([tmp_path / "tuned.pt"]) == other
        assert overlapping(about) == (["B"] if dataset == "D" else [])


def test_a_collection_knows_the_cases_of_the_data_sets_that_its_weights_began_with():
    before = {"dataset": "A", "training": ["x"], "pretrained": COLLECTION}
    about = {"dataset": "c.yaml", "datasets": {"A": ["y"]}, "training": ["A.y"], "pretrained": before}
    assert pretraining_cases(about) == {"A.x", "A.y", "B.x"}


def test_records_of_data_sets_that_are_broken_count_as_none():
    for broken in ({"A": "x"}, {"A": [1]}, ["A"], 3):
        about = {"dataset": "A", "pretrained": {"dataset": "other", "datasets": broken, "overlaps": broken}}
        assert pretraining_cases(about) == set()
        assert overlapping(about) == []


def test_images_that_were_seen_without_labels_are_no_trained_cases(tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    save_file({"w": torch.zeros(1)}, first, {"dataset": "d", "objective": "masked autoencoding", "images": ["a", "b"]})
    record = {"dataset": "d", "training": ["c"], "pretrained": origin(first)}
    save_file({"w": torch.zeros(1)}, second, record)
    assert trained_cases([first]) == set()
    assert trained_cases([second]) == {"c"}
    assert unlabelled_cases([first]) == unlabelled_cases([second]) == {"a", "b"}
    assert unlabelled_cases([tmp_path / "none.pt"]) == set()
    assert describe_weights(first).endswith("(trained on 2 images without labels, of d)")
    assert "pretrained with first.pt (trained on 2 images without labels)" in describe_weights(second)
