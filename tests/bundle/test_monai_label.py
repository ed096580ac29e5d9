"""What MONAI Label does with a bundle's files, without it; scripts/check_monai_label.sh asks Label itself.

The steps are those of `monailabel.tasks.train.bundle` and `monailabel.tasks.infer.bundle` in version 0.8.5.
"""

import csv
import shutil

import monai
import pytest
import torch
from bundle_helpers import HIPPOCAMPUS
from monai.bundle import ConfigParser

from mednextv2.data import read_dataset
from mednextv2.errors import InputError, find_input_error
from mednextv2.inference import find_weights
from mednextv2.weights import read_about

OPTIONS = {"batch_size": 2, "iterations_per_epoch": 2, "val_iterations": 2, "learning_rate": 1e-3}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle of small patches whose data set is not there."""
    folder = tmp_path / "mednextv2_copy"
    shutil.copytree(HIPPOCAMPUS, folder, ignore=shutil.ignore_patterns("output", "fold_*"))
    file = folder / "configs" / "train.yaml"
    text = file.read_text(encoding="utf-8").replace("\npatch_size: [48, 64, 48]", "\npatch_size: [16, 16, 16]")
    file.write_text(text.replace('\nnum_workers: "$', '\nnum_workers: 0 # "$'), encoding="utf-8")
    monkeypatch.setenv("MEDNEXTV2_DATA", str(tmp_path / "nowhere"))
    return folder


@pytest.fixture
def items(small_phantom):
    """Cases as MONAI Label lists them: images and submitted labels."""
    return [{"image": case.images[0], "label": case.label} for case in read_dataset(small_phantom).cases]


class Trainer:
    """Label's trainer of a bundle, which reads the configuration once and keeps the handlers that it changed."""

    def __init__(self, bundle):
        self.bundle, self.file = bundle, bundle / "configs" / "train.yaml"
        self.parser = ConfigParser()
        self.parser.read_config(self.file)
        self.parser.config["bundle_root"] = str(bundle)

    def options(self):
        return self.parser.get_parsed_content("displayable_configs", instantiate=True)

    def train(self, training, validation, max_epochs, **options):
        handlers, weights = self.parser.get("train#handlers", []), self.bundle / "models" / "model.pt"
        if weights.exists() and not [h for h in handlers if h["_target_"] == "CheckpointLoader"]:
            loader = {"_target_": "CheckpointLoader", "load_path": str(weights), "load_dict": {"model": "$@network"}}
            handlers.insert(0, {**loader, "strict": False})
        request = {**OPTIONS, **options}
        overrides = {
            "bundle_root": str(self.bundle), "train#trainer#max_epochs": max_epochs, "train#dataset#data": training,
            "device": "cpu", "train#handlers": handlers, "displayable_configs": {c: request[c] for c in self.options()},
        }  # fmt: skip
        if validation is not None:
            overrides["validate#dataset#data"] = validation
        try:
            monai.bundle.run(
                run_id="run", init_id=None, final_id=None, meta_file=str(self.bundle / "configs" / "metadata.json"),
                config_file=str(self.file), logging_file=False, **overrides,
            )  # fmt: skip
        except Exception as e:
            raise find_input_error(e) or e from None

    @property
    def log(self):
        with (self.bundle / "output" / "given_cases" / "training_log.csv").open(encoding="utf-8") as f:
            return list(csv.DictReader(f))


def weaken(bundle):
    """Change the weights so much that any training betters them."""
    file = bundle / "models" / "model.pt"
    state = torch.load(file, weights_only=True)
    torch.save({k: -v if k.startswith("heads") else v for k, v in state.items()}, file)
    return file.read_bytes()


def test_two_trainings_in_a_row_go_on_from_each_other(bundle, items):
    label, weights = Trainer(bundle), bundle / "models" / "model.pt"
    assert label.options() == {**OPTIONS, "batch_size": 9, "iterations_per_epoch": 250, "val_iterations": 50}
    before = weaken(bundle)
    label.train(items[:4], items[4:], max_epochs=3)
    # the schedule has the requested length, without a warm-up that would fill it: 1 - t ** 0.9
    rates = [float(row["learning_rate"]) for row in label.log]
    assert rates == pytest.approx([1e-3 * (1 - epoch / 3) ** 0.9 for epoch in range(3)], rel=1e-3)
    first = weights.read_bytes()
    assert first != before
    assert [file.read_bytes() for file in bundle.glob("models/replaced_*/model.pt")] == [before]
    about = read_about(weights)
    assert about["training"] == [f"phantom_00{i}" for i in range(4)]
    assert about["validation"] == ["phantom_004", "phantom_005"]
    assert "fold" not in about
    assert about["epochs"] == 3
    assert about["pretrained"] == {"file": "model.pt"}
    label.train(items[:4], items[4:], max_epochs=1, learning_rate=1e-9)
    assert label.log[-1]["epoch"] == "1"
    trained = weights.read_bytes() if weights.read_bytes() != first else None
    newest = bundle / "output" / "given_cases" / "model.pt" if trained is None else weights
    state, start = (torch.load(file, weights_only=True) for file in (newest, weights))
    assert all(
        torch.allclose(state[name], start[name], atol=1e-5) for name in state
    )  # it started where the first ended
    assert find_weights(bundle) == [str(weights)]
    assert not [*bundle.glob("models/fold_*")]


@pytest.mark.parametrize(("max_epochs", "warmup"), [(3, 0), (20, 2), (49, 4), (50, 5), (1000, 5)])
def test_the_schedule_has_the_length_of_the_request(bundle, items, max_epochs, warmup):
    label = Trainer(bundle).parser
    for name, value in (("train::trainer::max_epochs", max_epochs), ("train::dataset::data", items[:4])):
        label.set(value, name)
    label.set(items[4:], "validate::dataset::data")
    assert (label.get_parsed_content("length"), label.get_parsed_content("warmup")) == (max_epochs, warmup)


def test_without_validation_cases_the_training_cases_are_scored(bundle, items):
    (bundle / "models" / "model.pt").unlink()
    Trainer(bundle).train(items[:1], [], max_epochs=1)
    about = read_about(bundle / "models" / "model.pt")  # there were no weights, so these are used
    assert about["training"] == about["validation"] == ["phantom_000"]
    assert "pretrained" not in about


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": []}, "train::dataset::data: lists no case to train on"),
        ({"validation": None}, "dataset_dir"),  # Label's val_split -1: the bundle's own validation cases
        ({"max_epochs": 0}, "epochs 0: should be a whole number from 1"),
        ({"batch_size": 0}, "batch_size 0: should be a whole number from 1"),
        ({"learning_rate": "fast"}, "learning_rate 'fast': should be a number above 0"),
        ({"iterations_per_epoch": 1.5}, "iterations_per_epoch 1.5: should be a whole number from 1"),
        ({"val_iterations": -1}, "val_iterations -1: should be a whole number from 1"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(bundle, items, change, words):
    before = (bundle / "models" / "model.pt").read_bytes()
    with pytest.raises(InputError, match=words):
        Trainer(bundle).train(**{"training": items[:4], "validation": items[4:], "max_epochs": 1, **change})
    assert (bundle / "models" / "model.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.nn.Conv3d(1, 1, 1), "refused, since reading it would run code"),
        (torch.nn.Conv3d(1, 1, 1).state_dict(), "the weights are of another network"),
    ],
)
def test_weights_that_label_would_load_in_part_are_refused(bundle, items, content, words):
    torch.save(content, bundle / "models" / "model.pt")
    with pytest.raises(InputError, match=words):
        Trainer(bundle).train(items[:4], items[4:], max_epochs=1)


def test_options_of_an_inference_are_taken(bundle):
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    parser.config["bundle_root"] = str(bundle)
    assert parser.get_parsed_content("displayable_configs", instantiate=True) == {"overlap": 0.5, "mirroring": True}
    assert list(parser.get_parsed_content("inferer").mirror_axes) == [0]
    for asked, axes in (({"overlap": 0.25, "mirroring": False}, []), ({"overlap": 0.0, "mirroring": True}, [0])):
        parser["displayable_configs"].update(asked)
        parser.parse()
        inferer = parser.get_parsed_content("inferer")
        assert list(inferer.mirror_axes) == axes
        assert inferer.overlap == asked["overlap"]
