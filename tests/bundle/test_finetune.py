"""Fine-tuning: a training that starts from other weights, and what is done with its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bundle_helpers import as_arguments, read_csv, run_python
from configured_runs import PREDICT, TRAIN, copy_bundle, run_configured
from cuda_stand_in import StandIn

from mednextv2.bundle.run import configure, read_workflow, workflow_files
from mednextv2.errors import InputError
from mednextv2.predict_files import predict_files
from mednextv2.training import GradientClipping
from mednextv2.weights.provenance import read_about, trained_cases

EVERY_PART = ("stem", "encoder", "down", "bottleneck", "up", "decoder", "heads")
REGIONS = [{"name": "whole", "values": [1, 2], "paint": 1}, {"name": "end", "values": [2], "paint": 2}]


@pytest.fixture
def data(small_phantom):
    return {"dataset_dir": str(small_phantom)}


@pytest.fixture
def bundle(tmp_path):
    return copy_bundle(tmp_path)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, small_phantom):
    """A bundle that was trained."""
    bundle = copy_bundle(tmp_path_factory.mktemp("first"))
    run_configured(bundle, "train", dataset_dir=str(small_phantom), **TRAIN)
    return bundle


@pytest.fixture
def first(bundle, trained_once):
    """Weights of an ordinary training of the bundle."""
    for name in ("models", "output"):
        shutil.copytree(trained_once / name, bundle / name)
    return bundle / "models" / "fold_0" / "model.pt"


def test_fine_tuned_weights_are_evaluated_and_used(first, bundle, data, tmp_path, caplog):
    caplog.set_level("INFO")
    done = run_configured(
        bundle, "finetune", **data, **TRAIN, pretrained=str(first), regions=REGIONS, context=2, learning_rate=1e-9,
        spacing=[2.0, 2.0, 2.5],
    )  # fmt: skip
    lines = [record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage()]
    assert len(lines) == 1
    assert "newly initialised: heads.0.weight" in lines[0]  # two regions instead of three classes
    assert [*done["train::dataset"].patch_size] == [32, 32, 32]
    warned = [r.getMessage() for r in caplog.records if "the pretraining had" in r.getMessage()]
    assert len(warned) == 1  # of the spacing, but not of the larger patch
    assert "a spacing of 1×1×1 mm, the spacing here is 2×2×2.5 mm" in warned[0]
    folder = bundle / "models" / "finetune" / "fold_0"
    old, new = (torch.load(file, weights_only=True) for file in (first, folder / "model.pt"))
    assert new["heads.0.weight"].shape[0] == 2
    rest = [name for name in old if not name.startswith("heads.")]
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in rest)
    about = read_about(folder / "model.pt")
    assert about["settings"] == {
        "variant": "v2_tiny", "kernel_size": 3, "patch_size": [16, 16, 16], "context": 2, "spacing": [2.0, 2.0, 2.5]
    }  # fmt: skip
    assert [entry["scheme"] for entry in about["normalization"]] == ["zscore"]
    assert about["pretrained"]["training"] == about["training"] == read_about(first)["training"]

    scored = run_configured(bundle, "evaluate", **data, **PREDICT, regions=REGIONS, experiment="finetune")
    assert scored["predictor"].weights == [str(folder / "model.pt")]
    assert [*scored["inferer"].roi_size] == [32, 32, 32]  # as in training
    assert scored.parser["spacing"] == [2.0, 2.0, 2.5]
    rows = read_csv(bundle / "output" / "evaluation" / "finetune" / "fold_0" / "cases.csv")
    assert {row["label"] for row in rows} == {"whole", "end"}

    image = next((Path(data["dataset_dir"]) / "imagesTr").glob("*.nii.gz"))
    quick = {key: PREDICT[key] for key in ("overlap", "test_mirror_axes")}
    (mask,) = predict_files(bundle, image, tmp_path / "masks", experiment="finetune", regions=REGIONS, **quick)
    assert Path(mask).is_file()


def test_without_another_training_fine_tuned_weights_are_found_by_themselves(first, bundle, data, tmp_path):
    elsewhere = first.rename(tmp_path / "first.pt")
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(elsewhere))
    scored = run_configured(bundle, "evaluate", **data, **PREDICT)
    assert scored["predictor"].weights == [str(bundle / "models" / "finetune" / "fold_0" / "model.pt")]
    assert (bundle / "output" / "evaluation" / "fold_0" / "cases.csv").is_file()


def test_the_schedule_is_that_of_mednext_v2(bundle):
    """Roy et al. 2025 (arXiv:2512.17774): AdamW, 300 epochs, of which 50 are a warm-up to 1e-3."""
    assert schedule_of(bundle) == [300, 50, "adamw", 1e-3, 1.0, 3e-5]
    parser = read_workflow(workflow_files(bundle, "finetune"))
    assert parser.get_parsed_content("deep_supervision_weights") is None
    assert [parser.config[name] for name in ("warmup_new_layers", "layer_decay", "freeze")] == [0, 1.0, None]


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1), (20, 3), (100, 16), (299, 49), (300, 50), (2000, 50)])
def test_a_short_fine_tuning_has_a_short_warm_up(epochs, warmup, bundle):
    parser = read_workflow(workflow_files(bundle, "finetune"))
    parser["epochs"] = epochs
    assert parser.get_parsed_content("warmup_epochs") == warmup


def schedule_of(bundle, network=None):
    parser = read_workflow(workflow_files(bundle, "finetune", network))
    names = ("epochs", "warmup_epochs", "optimizer_name", "learning_rate", "context", "weight_decay")
    return [parser.get_parsed_content(name) for name in names]


@pytest.mark.parametrize("network", ["resenc_l", "plain_conv_unet"])
def test_the_schedule_of_nnunets_networks_is_that_of_its_pretrained_trainer(network, bundle):
    """nnU-Net 2.8.1, training/nnUNetTrainer/pretraining: SGD, 1e-3, 50 epochs of warm-up, 3e-5, no deep supervision."""
    assert schedule_of(bundle, network) == [1000, 50, "sgd", 1e-3, 1.0, 3e-5]
    weights = read_workflow(workflow_files(bundle, "finetune", network)).get_parsed_content("deep_supervision_weights")
    assert weights[0] == 1
    assert not any(weights[1:])
    assert len(weights) > 6  # of the deepest of these networks


def test_the_schedule_of_a_transformer_is_its_own(bundle):
    assert schedule_of(bundle, "primus_m") == [300, 50, "adamw", 3e-4, 1.0, 5e-2]


def changed(old, new):
    return {name for name, value in torch.load(new, weights_only=True).items() if not torch.equal(value, old[name])}


@pytest.mark.parametrize(("value", "recomputed"), [("auto", False), (True, True), (False, False)])
def test_blocks_are_recomputed_if_asked_for(value, recomputed, first, bundle, data):
    settings = {**TRAIN, "pretrained": str(first), "freeze": "encoder", "checkpointing": value, "context": 2.0}
    done = run_configured(bundle, "finetune", **data, **settings)
    network = done["network"]
    assert network.decoder[0][0].activation_checkpointing is recomputed
    assert [*done["train::dataset"].patch_size] == [32, 32, 32]
    assert not network.stem.weight.requires_grad


@pytest.mark.parametrize("recorded", [False, True], ids=["", "CUDA graphs"])
def test_a_frozen_encoder_stays_as_it_is_in_the_file(recorded, first, bundle, data, monkeypatch, caplog):
    caplog.set_level("INFO")
    cuda = StandIn(monkeypatch) if recorded else None
    settings = {**data, **TRAIN, "pretrained": str(first), "freeze": "encoder", "layer_decay": 0.7}
    settings |= {"iterations_per_epoch": 3, "learning_rate": 1e-2, "warmup_epochs": 0}
    run_configured(bundle, "finetune", **settings)
    done = run_configured(bundle, "finetune", **{**settings, "epochs": 2})  # goes on with the same groups
    assert "Resuming after epoch 1" in caplog.text
    assert "1,433,075" in caplog.text or "parameters are not trained" in caplog.text
    rates = [group["initial_lr"] for group in done["optimizer"].param_groups]
    assert rates == pytest.approx([1e-2, 7e-3, 4.9e-3, 3.43e-3, 2.401e-3])  # heads and four decoder stages
    old = torch.load(first, weights_only=True)
    folder = bundle / "models" / "finetune" / "fold_0"
    assert {name.split(".")[0] for name in changed(old, folder / "model.pt")} == {"up", "decoder", "heads"}
    latest = torch.load(folder / "checkpoint_latest.pt", weights_only=True)
    frozen = ("stem", "encoder", "down", "bottleneck")
    assert all(torch.equal(v, old[k]) for k, v in latest["model"].items() if k.startswith(frozen))
    assert {int(s["step"]) for s in latest["optimizer"]["state"].values()} == {6}
    assert not recorded or cuda.replayed > 3
    with pytest.raises(InputError, match="with another --freeze or --layer_decay"):
        run_configured(bundle, "finetune", **{**settings, "freeze": None, "epochs": 3})


def test_new_layers_are_trained_first_also_after_a_kill(first, bundle, data, monkeypatch, caplog):
    caplog.set_level("INFO")
    settings = {**data, **TRAIN, "pretrained": str(first), "regions": REGIONS, "warmup_new_layers": 3}
    settings |= {"epochs": 6, "warmup_epochs": 1, "learning_rate": 1e-2, "early_stopping": 0}
    old = torch.load(first, weights_only=True)
    folder, begun = bundle / "models" / "finetune" / "fold_0", []

    class KilledError(Exception):
        pass

    clip = GradientClipping._clip

    def kill(self, engine):
        begun.append(engine.state.epoch)
        if len(begun) == 3:
            raise KilledError
        clip(self, engine)

    monkeypatch.setattr(GradientClipping, "_clip", kill)
    with pytest.raises(RuntimeError):
        run_configured(bundle, "finetune", **settings)

    def moved():
        state = torch.load(folder / "checkpoint_latest.pt", weights_only=True)["model"]
        return {name.split(".")[0] for name in state if name in old and not torch.equal(state[name], old[name])}

    assert moved() == {"heads"}
    first.write_bytes(b"")  # the weights are not needed any more
    seen = []
    monkeypatch.setattr(
        GradientClipping, "_clip", lambda self, e: (seen.append((e.state.epoch, moved())), clip(self, e))
    )
    run_configured(bundle, "finetune", **settings)
    assert begun == [1, 2, 3]
    assert seen == [(n, {"heads"}) for n in (3, 4)] + [(n, {*EVERY_PART}) for n in (5, 6)]
    rates = [float(row["learning_rate"]) for row in read_csv(folder / "training_log.csv")]
    third = [1e-2 * ((2 - n) / 2) ** 0.9 for n in range(2)]  # two epochs are left after 3 + 1
    assert rates == pytest.approx([0.25e-2, 0.5e-2, 0.75e-2, 0.5e-2, *third])
    assert "in the first 3 epochs, only the new layers are trained (10 tensors, such as heads.0.weight)" in caplog.text


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("freeze", "decoder", "freeze 'decoder': should be encoder, or None"),
        ("layer_decay", 0, "layer_decay 0: should be a number above 0 and up to 1, such as 0.7"),
        ("layer_decay", 1.5, "layer_decay 1.5: should be"),
        ("warmup_new_layers", -1, "warmup_new_layers -1: should be a whole number from 0"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_written(setting, value, message, first, bundle, data):
    with pytest.raises(InputError) as refused:
        run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(first), **{setting: value})
    assert message in str(refused.value)
    assert not (bundle / "models" / "finetune").exists()


def test_a_network_without_an_encoder_cannot_be_frozen(first, bundle, data):
    settings = {**TRAIN, "network": "segresnet", "network_filters": 8, "pretrained": str(first)}
    with pytest.raises(InputError, match="the network segresnet has no part with the name encoder"):
        run_configured(bundle, "finetune", **data, **settings, freeze="encoder")
    assert not (bundle / "models" / "segresnet_finetune").exists()


def test_weights_of_another_organ_are_told_by_their_labels(first, bundle, data, caplog):
    assert read_about(first)["labels"] == ["background", "anterior", "posterior"]
    caplog.set_level("INFO")
    other = ["background", "liver", "tumour"]
    with pytest.raises(
        InputError, match=r"for the labels \[background, anterior, posterior\], but the labels here are \[b"
    ):
        run_configured(bundle, "evaluate", **data, **PREDICT, labels=other)
    parts = (("whole", 1), ("anterior", 1), ("posterior", 2))
    regions = [{"name": name, "values": [value], "paint": value} for name, value in parts]
    with pytest.raises(InputError, match=r"the labels here are \[background, whole, anterior, posterior\]"):
        run_configured(bundle, "inference", input=data["dataset_dir"], **PREDICT, regions=regions)
    renamed = ["background", "front", "back"]
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(first), labels=renamed, learning_rate=1e-9)
    (line,) = [record.getMessage() for record in caplog.records if "tensors loaded" in record.getMessage()]
    assert "newly initialised: heads.0.weight" in line
    assert "posterior], but the labels here are [background, front, back]" in line
    about = read_about(bundle / "models" / "finetune" / "fold_0" / "model.pt")
    assert about["labels"] == renamed
    assert about["pretrained"]["labels"] == read_about(first)["labels"]


@pytest.mark.parametrize("given", [{}, {"pretrained": None}])
def test_without_weights_it_does_not_start(given, bundle, data):
    with pytest.raises(InputError, match="pretrained None: should be the file of weights to start from"):
        run_configured(bundle, "finetune", **data, **TRAIN, **given)
    assert not (bundle / "models").exists()


def test_weights_that_are_not_there_end_it_before_cases_are_prepared(bundle, data, tmp_path):
    with pytest.raises(InputError, match=r"none\.pt: there is no such checkpoint file"):
        run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(tmp_path / "none.pt"))
    assert not (bundle / "output").exists()


def test_a_fine_tuning_that_is_started_again_does_not_load_the_weights_again(first, bundle, data, tmp_path):
    start = first.rename(tmp_path / "first.pt")
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(start))
    folder = bundle / "models" / "finetune" / "fold_0"
    before = torch.load(folder / "checkpoint_latest.pt", weights_only=True)["model"]
    start.write_bytes(b"")
    more = {**TRAIN, "epochs": 2, "learning_rate": 1e-12}
    run_configured(bundle, "finetune", **data, **more, pretrained=str(start))
    after = torch.load(folder / "checkpoint_latest.pt", weights_only=True)
    assert after["epoch"] == 2
    assert all(torch.allclose(tensor, before[name], atol=1e-5) for name, tensor in after["model"].items())
    assert read_about(folder / "checkpoint_latest.pt")["pretrained"]["file"] == "first.pt"


def test_cases_of_the_pretraining_are_not_scored(first, bundle, data, tmp_path, caplog):
    """The weights come from fold 0, and are fine-tuned in fold 1, whose validation cases they have seen."""
    run_configured(bundle, "finetune", **data, **TRAIN, pretrained=str(first), fold=1)
    assert "validation cases of this fold" in caplog.text or "validation case of this fold" in caplog.text
    file = bundle / "models" / "finetune" / "fold_1" / "model.pt"
    assert len(trained_cases([file])) > len(read_about(file)["training"])
    with pytest.raises(InputError, match=r"finetune/fold_1/model\.pt: trained on 1 of the 1 case to be scored"):
        run_configured(bundle, "evaluate", **data, **PREDICT, experiment="finetune", fold=1)


def test_overlays_of_training_are_joined(bundle):
    def names(*args):
        return [Path(file).name for file in workflow_files(bundle, *args)]

    both = ["train.yaml", "finetune.yaml", "multi_gpu_train.yaml"]
    assert names("finetune+multi_gpu_train") == names("multi_gpu_train+finetune") == both
    assert names("finetune+multi_gpu_train", "unetr") == [*both[:2], "unetr.yaml", both[2]]
    with pytest.raises(InputError, match=r"has no workflow 'finetune\+evaluate'"):
        names("finetune+evaluate")


def test_settings_that_do_not_exist_are_refused(bundle):
    with pytest.raises(InputError, match="--contxt: there is no such setting; did you mean --context"):
        configure(bundle, "finetune", {"contxt": 1.5})


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [None, "encoder"])
def test_two_processes_fine_tune_together(freeze, first, bundle, data, tmp_path):
    settings = {**TRAIN, **data, "pretrained": first, "output_dir": tmp_path / "out", "freeze": freeze}
    settings |= {"layer_decay": 0.9, "learning_rate": 1e-2, "warmup_epochs": 0}
    result = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mednextv2", "run", bundle,
        "finetune+multi_gpu_train", *as_arguments(settings), cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("tensors loaded") == 1
    moved = {
        name.split(".")[0] for name in changed(torch.load(first, weights_only=True), tmp_path / "out" / "model.pt")
    }
    assert moved == ({"up", "decoder", "heads"} if freeze else {*EVERY_PART})
    assert read_about(tmp_path / "out" / "model.pt")["pretrained"]["file"] == "model.pt"
    json.dumps(read_about(tmp_path / "out" / "model.pt"))
