import sys

import pytest
import torch
from checkpoint_helpers import Run
from ignite.engine import Engine
from pretrained_helpers import nnssl_checkpoint, our_unet, their_unet
from torch import nn

from mednextv2.errors import InputError
from mednextv2.nets import create_mednext
from mednextv2.training import TrainingCheckpoint, check_start, create_optimizer, warmup_poly
from mednextv2.weights.files import digest_file, save_file
from mednextv2.weights.provenance import read_about


def small(**settings):
    return create_mednext("v2_tiny", 2, deep_supervision=True, **settings)


def test_what_is_loaded_is_told_once_and_heads_of_other_classes_are_new(tmp_path, caplog):
    caplog.set_level("INFO")
    save_file(small().state_dict(), tmp_path / "model.pt")
    network = small(out_channels=4, in_channels=2)
    check_start(tmp_path, network, [], pretrained=tmp_path / "model.pt", in_channels=2, out_channels=4)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"pretrained {tmp_path / 'model.pt'}: ")
    assert "adapted: stem.weight (from 1 input channel to 2)" in line
    assert "newly initialised: heads.0.weight" in line
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    settings = {"pretrained": tmp_path / "model.pt", "in_channels": 2, "out_channels": 4}
    checkpoint = TrainingCheckpoint(tmp_path, network, optimizer, warmup_poly(optimizer, 1), **settings)
    checkpoint._start(Engine(lambda engine, batch: None))
    assert len(caplog.records) == 1 + 1  # and that model.pt was moved
    settings["pretrained"] = tmp_path / "model.previous-1.pt"
    for other in ({"in_channels": 3}, {"in_channels": 2, "kernel_size": 1}):
        with pytest.raises(InputError, match="the weights are of another network"):
            check_start(tmp_path, small(out_channels=4, **other), [], **settings)


def test_validation_cases_that_the_pretrained_weights_have_seen_are_told_early(tmp_path, caplog):
    seen = {"dataset": "D", "training": ["a", "b", "c"]}
    save_file(small().state_dict(), tmp_path / "model.pt", seen)
    about = {"dataset": "D", "training": ["a"], "validation": ["b", "d", "c"]}
    check_start(tmp_path, small(), [], pretrained=tmp_path / "model.pt", about=about)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "was trained on 2 of the 3 validation cases of this fold (b, ...)" in warning
    caplog.clear()
    for other in ({"validation": ["d"]}, {"dataset": "E"}, {"validation": []}):
        check_start(tmp_path, small(), [], pretrained=tmp_path / "model.pt", about={**about, **other})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_what_a_training_cannot_start_from_is_refused_early(tmp_path):
    cases = [{"case": "a"}]
    (tmp_path / "old").mkdir()
    run = Run(tmp_path / "old", cases=cases)
    run.run()
    check_start(tmp_path / "old", run.network, cases)
    check_start(tmp_path / "new", run.network, cases, pretrained=tmp_path / "old" / "model.pt")
    other = Run(tmp_path / "other", features=6).network
    with pytest.raises(InputError, match="a training of another network is there"):
        check_start(tmp_path / "old", other, cases)
    check_start(tmp_path / "old", other, cases, resume=False)
    with pytest.raises(InputError, match="a training on other cases is there"):
        check_start(tmp_path / "old", run.network, [{"case": "b"}])
    with pytest.raises(InputError, match="the weights are of another network"):
        check_start(tmp_path / "new", other, cases, pretrained=tmp_path / "old" / "model.pt")
    # what is resumed does not start from pretrained weights
    check_start(tmp_path / "old", run.network, cases, pretrained=tmp_path / "none.pt")


@pytest.mark.parametrize(("before", "now"), [("adamw", "sgd"), ("sgd", "adamw")])
def test_a_training_is_not_resumed_with_another_optimizer(tmp_path, before, now):
    network = nn.Linear(3, 1)

    def checkpoint(name):
        optimizer = create_optimizer(name, network.parameters(), 0.1)
        return TrainingCheckpoint(tmp_path, network, optimizer, warmup_poly(optimizer, 2), cases=[])

    engine = Engine(lambda *_: None)
    first = checkpoint(before)
    first.attach(engine)
    engine.run([0], max_epochs=1)
    words = f"a training with optimizer_name {before} is there, not {now}"
    with pytest.raises(InputError, match=words):
        check_start(tmp_path, network, [], optimizer_name=now)
    check_start(tmp_path, network, [], optimizer_name=before)
    second = Engine(lambda *_: None)
    checkpoint(now).attach(second)
    with pytest.raises(InputError, match=words):
        second.run([0], max_epochs=2)


def test_without_the_package_safetensors_nothing_is_trained_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"save_safetensors: needs the package safetensors"):
        check_start(tmp_path, nn.Linear(1, 1), [], save_safetensors=True)
    check_start(tmp_path, nn.Linear(1, 1), [])


def test_what_differs_from_the_pretraining_is_told(tmp_path, caplog):
    torch.save(nnssl_checkpoint(their_unet()), tmp_path / "nnssl.pth")
    facts = {"patch_size": (160, 160, 160), "spacing": (1.0, 1.0, 1.0), "normalization": [{"scheme": "zscore"}]}
    settings = {"pretrained": tmp_path / "nnssl.pth", "in_channels": 1, "out_channels": 3}
    check_start(tmp_path, our_unet(), [], **settings, facts=facts)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    facts |= {"spacing": (0.5, 0.5, 0.5), "normalization": [{"scheme": "ct"}]}
    check_start(tmp_path, our_unet(), [], **settings, facts=facts)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert all(line.startswith(f"{tmp_path / 'nnssl.pth'}: the pretraining had ") for line in warnings)


def test_a_training_does_not_go_on_with_other_images(tmp_path, caplog):
    about = {"settings": {"spacing": [1.0, 1.0, 1.0], "patch_size": [16, 16, 16]}, "normalization": [{"scheme": "ct"}]}
    run = Run(tmp_path, about=about)
    run.run()
    caplog.clear()
    check_start(tmp_path, run.network, [], about=about)
    check_start(tmp_path, run.network, [], about={})  # an older bundle records nothing
    assert not caplog.records
    settings = {"spacing": [2.0, 2.0, 2.0], "patch_size": (16, 16, 16)}
    with pytest.raises(InputError) as caught:
        check_start(tmp_path, run.network, [], about={"settings": settings, "normalization": [{"scheme": "zscore"}]})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'checkpoint_latest.pt'}: the training was begun with ")
    assert "spacing [1.0, 1.0, 1.0] (now [2.0, 2.0, 2.0]) and normalization [{'scheme': 'ct'}] (now " in message
    assert "patch_size" not in message
    assert "Choose another --experiment" in message


@pytest.mark.parametrize("spacings", [(None, [1.0, 1.0, 1.0]), ([1.0, 1.0, 1.0], None)])
def test_images_that_were_not_resampled_are_others_than_those_that_are(spacings, tmp_path):
    begun, now = ({"settings": {"spacing": spacing, "variant": None}} for spacing in spacings)
    run = Run(tmp_path, about=begun)
    run.run()
    check_start(tmp_path, run.network, [], about=begun)
    with pytest.raises(InputError, match="the training was begun with spacing"):
        check_start(tmp_path, run.network, [], about=now)


def test_a_training_that_goes_on_with_other_patches_says_so(tmp_path, caplog):
    run = Run(tmp_path, about={"settings": {"patch_size": [16, 16, 16], "context": 1.0}})
    run.run()
    caplog.clear()
    check_start(tmp_path, run.network, [], about={"settings": {"patch_size": [32, 32, 32], "context": 1.0}})
    (line,) = [record.getMessage() for record in caplog.records]
    assert "begun with patch_size [16, 16, 16] (now [32, 32, 32]), and goes on with the new values" in line


def test_a_training_does_not_go_on_from_other_weights(tmp_path, caplog):
    first, other = tmp_path / "first.pt", tmp_path / "other.pt"
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    save_file(run.network.state_dict(), first)
    save_file({k: v + 1 if v.is_floating_point() else v for k, v in run.network.state_dict().items()}, other)
    run = Run(tmp_path / "run", pretrained=first, about={"dataset": "D"})
    run.run()
    for name in ("checkpoint_latest.pt", "model.pt"):
        assert read_about(tmp_path / "run" / name)["pretrained"]["sha256"] == digest_file(first)
    caplog.clear()
    check_start(tmp_path / "run", run.network, [], pretrained=first)
    check_start(tmp_path / "run", run.network, [])
    assert not caplog.records
    with pytest.raises(InputError, match=r"other\.pt: are other weights than those from which .* begun \(first\.pt\)"):
        check_start(tmp_path / "run", run.network, [], pretrained=other)
    check_start(tmp_path / "run", run.network, [], pretrained=tmp_path / "missing.pt")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path / 'missing.pt'}: there is no such file any more; the training in ")
