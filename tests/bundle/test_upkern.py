"""UpKern: a training with small kernels and one with larger kernels that starts from it, as one command."""

import json

import pytest
import torch
import torch.nn.functional as F
from bundle_helpers import as_arguments, read_csv, run_monai, run_python
from configured_runs import PREDICT, TRAIN, copy_bundle, run_configured
from verb_helpers import call_verb, refusal

from mednextv2.bundle import upkern
from mednextv2.bundle.run import read_workflow, workflow_files
from mednextv2.bundle.upkern import is_upkern, run_upkern
from mednextv2.errors import InputError, UsageError
from mednextv2.training import GradientClipping
from mednextv2.weights.provenance import read_about


@pytest.fixture
def bundle(tmp_path):
    return copy_bundle(tmp_path)


def quick(small_phantom, **more):
    return {**TRAIN, "dataset_dir": str(small_phantom), "first_epochs": 2, "learning_rate": 1e-9, **more}


def test_the_second_training_starts_from_the_enlarged_kernels_of_the_first(small_phantom, bundle):
    options = as_arguments({**quick(small_phantom), "prepared_dir": bundle / "prepared"})
    code, _, err = call_verb("run", bundle, "upkern", *options)
    assert code == 0, err
    folder = bundle / "models" / "upkern" / "fold_0"
    assert {row["epoch"] for row in read_csv(folder / "kernel_3" / "training_log.csv")} == {"1", "2"}
    assert [row["epoch"] for row in read_csv(folder / "training_log.csv")] == ["1"]
    small, large = (torch.load(file, weights_only=True) for file in (folder / "kernel_3/model.pt", folder / "model.pt"))
    for name, weight in large.items():
        if name.endswith("depthwise.weight"):
            assert weight.shape[2:] == (5, 5, 5)
            expected = F.interpolate(small[name], (5, 5, 5), mode="trilinear")  # the paper's algorithm 1
        else:
            expected = small[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-5)  # with next to no learning rate
    about = read_about(folder / "model.pt")
    assert about["settings"]["kernel_size"] == 5
    assert about["pretrained"]["settings"]["kernel_size"] == 3

    scored = run_configured(bundle, "evaluate", dataset_dir=str(small_phantom), **PREDICT)
    assert scored["predictor"].weights == [str(folder / "model.pt")]  # without another training, they are found
    assert scored["network_def"].bottleneck[0].depthwise.kernel_size == (5, 5, 5)


@pytest.mark.parametrize("kill_in", ["first", pytest.param("second", marks=pytest.mark.slow)])
def test_it_goes_on_in_the_training_in_which_it_was_killed(kill_in, small_phantom, bundle, monkeypatch, capsys):
    class KilledError(Exception):
        pass

    settings = quick(small_phantom, epochs=2, first_epochs=3)
    steps, clip = [], GradientClipping._clip

    def kill(self, engine):
        steps.append((engine.state.max_epochs, engine.state.epoch))
        if steps[-1] == ((3, 2) if kill_in == "first" else (2, 2)):
            raise KilledError
        clip(self, engine)

    with monkeypatch.context() as m:
        m.setattr(GradientClipping, "_clip", kill)
        with pytest.raises(RuntimeError):
            run_upkern(bundle, **settings)
    folder = bundle / "models" / "upkern" / "fold_0"
    assert (folder / "kernel_3" / "finished.json").is_file() == (kill_in == "second")
    assert (folder / "model.pt").is_file() == (kill_in == "second")
    before = list(steps)
    steps.clear()
    with monkeypatch.context() as m:
        m.setattr(
            GradientClipping,
            "_clip",
            lambda self, e: (steps.append((e.state.max_epochs, e.state.epoch)), clip(self, e)),
        )
        assert run_upkern(bundle, **settings) == folder
    whole = [(3, 1), (3, 2), (3, 3), (2, 1), (2, 2)]
    assert before[:-1] + steps == whole
    steps.clear()
    with monkeypatch.context() as m:
        m.setattr(GradientClipping, "_clip", lambda self, e: steps.append(e.state.epoch))
        capsys.readouterr()
        run_upkern(bundle, **settings)  # everything is done
        assert "was trained with other settings" not in capsys.readouterr().out
        run_upkern(bundle, **{**settings, "first_epochs": 5, "first_seed": 3})
    assert steps == []
    assert (
        "was trained with other settings (epochs 3, now 5, seed by default, now 3), and is used"
        in capsys.readouterr().out
    )


def test_each_training_has_settings_of_its_own(small_phantom, bundle, tmp_path, monkeypatch):
    asked = []

    def note(root, workflow, output_dir, **settings):
        asked.append((workflow, {**settings, "output_dir": output_dir}))
        output_dir.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr("mednextv2.bundle.upkern.run_bundle", note)
    start = tmp_path / "start.pt"
    more = {"epochs": 7, "warmup_epochs": 3, "first_warmup_epochs": 1, "layer_decay": 0.7, "context": 1.5, "fold": 2}
    more |= {"first_kernel_size": 5, "kernel_size": 7, "pretrained": str(start), "output_dir": str(tmp_path / "out")}
    run_upkern(bundle, "upkern+multi_gpu_train", **quick(small_phantom, **more))
    (one, first), (two, second) = asked
    assert (one, two) == ("finetune+multi_gpu_train", "finetune+multi_gpu_train")
    names = ("epochs", "warmup_epochs", "kernel_size", "pretrained", "layer_decay", "context", "fold", "output_dir")
    out = tmp_path / "out"
    assert [first.get(name) for name in names] == [2, 1, 5, start, None, None, 2, out / "kernel_5"]
    assert [second.get(name) for name in names] == [7, 3, 7, out / "kernel_5" / "model.pt", 0.7, 1.5, 2, out]
    assert not any(name.startswith("first_") for name in {*first, *second})
    assert json.loads((out / "kernel_5" / "finished.json").read_text())["kernel_size"] == 5

    asked.clear()
    run_upkern(bundle, network="mednext_v2_small", dataset_dir=str(small_phantom), experiment="mine")
    (one, first), (two, second) = asked
    assert (one, two) == ("train", "finetune")
    assert second["output_dir"] == bundle / "models" / "mine" / "fold_0"
    assert first["network"] == second["network"] == "mednext_v2_small"
    asked.clear()
    (out / "kernel_5" / "model.pt").write_bytes(b"")
    run_upkern(bundle, **quick(small_phantom, **more, resume=False))
    assert len(asked) == 2  # anew, although the first is done


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_kernel_size": 5}, "--first_kernel_size 5: should be smaller than --kernel_size 5"),
        ({"kernel_size": 4}, "kernel_size 4: should be an odd whole number"),
        ({"first_epohcs": 3}, "--first_epohcs: there is no such setting; did you mean --first_epochs"),
        ({"epohcs": 3}, "--epohcs: there is no such setting; did you mean --epochs"),
        ({"first_epochs": 0}, "first_epochs 0: should be a whole number from 1"),
        ({"first_layer_decay": 0.7}, "--first_layer_decay: there is no such setting"),  # of a training from scratch
        ({"warmup_new_layers": 2, "epochs": 2}, "warmup_new_layers 2: the training has 2 epochs"),
        ({"warmup_new_layers": 300}, "warmup_new_layers 300: the training has 300 epochs"),
        ({"first_fold": 1}, "--first_fold: both trainings have the same fold; give --fold"),
        ({"first_output_dir": "x"}, "--first_output_dir: both trainings have the same output_dir"),
        ({"epochs": 0, "batch_size": -1}, "epochs 0: should be"),
        ({"network": "resenc_l"}, "--network resenc_l: UpKern enlarges the depthwise kernels of MedNeXt"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_training(settings, message, small_phantom, bundle):
    with pytest.raises(InputError) as refused:
        run_upkern(bundle, **{"dataset_dir": str(small_phantom), **settings})
    assert message in str(refused.value)
    assert not (bundle / "models").exists()


def test_the_length_of_the_second_training_is_that_of_the_recipe(bundle):
    assert read_workflow(workflow_files(bundle, "finetune")).get_parsed_content("epochs") == upkern._EPOCHS


def test_it_is_joined_with_several_processes_only(bundle):
    assert is_upkern("upkern+multi_gpu_train")
    assert not is_upkern("finetune")
    with pytest.raises(UsageError, match="upkern can only be joined with multi_gpu_train"):
        run_upkern(bundle, "upkern+evaluate")


def test_weights_to_start_from_that_are_missing_end_it_at_once(small_phantom, bundle, tmp_path):
    options = as_arguments(quick(small_phantom, pretrained=tmp_path / "none.pt"))
    assert "none.pt: there is no such checkpoint file" in refusal("run", bundle, "upkern", *options)


def test_the_help_lists_the_settings(bundle):
    code, out, err = call_verb("run", bundle, "upkern", "--help")
    assert (code, err) == (0, "")
    assert "With first_ before its name" in " ".join(out.split())
    assert "--layer_decay 1.0" in out


@pytest.mark.slow
def test_two_processes_train_both_networks(small_phantom, bundle, tmp_path):
    settings = {**quick(small_phantom), "output_dir": tmp_path / "out"}
    result = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mednextv2", "run", bundle,
        "upkern+multi_gpu_train", *as_arguments(settings), cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert read_about(tmp_path / "out" / "model.pt")["settings"]["kernel_size"] == 5
    assert (tmp_path / "out" / "kernel_3" / "finished.json").is_file()


@pytest.mark.slow
def test_monais_command_line_does_the_same_with_two_commands(small_phantom, bundle, tmp_path):
    """The pair of commands in docs/finetuning.md."""
    shared = {k: v for k, v in quick(small_phantom).items() if not k.startswith("first_")}
    first = {**shared, "kernel_size": 3, "output_dir": tmp_path / "out" / "kernel_3"}
    assert run_monai("train", first, bundle=bundle).returncode == 0
    second = {
        **shared,
        "kernel_size": 5,
        "output_dir": tmp_path / "out",
        "pretrained": first["output_dir"] / "model.pt",
    }
    configs = [str(bundle / "configs" / f"{name}.yaml") for name in ("train", "finetune")]
    result = run_python(
        "-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", bundle, *as_arguments(second)
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert read_about(tmp_path / "out" / "model.pt")["settings"]["kernel_size"] == 5
