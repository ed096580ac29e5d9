import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.inference.fold_ensemble import FoldEnsemble
from mednextv2.nets import MedNeXt
from mednextv2.weights.files import save_file


def tiny():
    return MedNeXt(3, 1, 2, init_filters=4, blocks_down=1, blocks_bottleneck=1, blocks_up=1).eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def test_an_ensemble_is_the_mean_of_the_logits_of_its_members(tmp_path):
    members, x = [tiny() for _ in range(3)], torch.randn(1, 1, 16, 16, 16)
    files = [tmp_path / f"{n}.pt" for n in range(3)]
    for member, file in zip(members, files, strict=True):
        torch.save(member.state_dict(), file)
    ensemble = FoldEnsemble(tiny(), files).eval()
    ensemble.load()
    expected = torch.stack([member(x) for member in members]).mean(0)
    torch.testing.assert_close(ensemble(x), expected, rtol=1e-4, atol=1e-5)
    assert (members[0](x) - expected).abs().max() > 1e-3
    ensemble.load()  # again: as many as before
    assert len(ensemble.networks) == 3
    torch.testing.assert_close(ensemble(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_list", [False, True])
def test_one_file_is_one_network(tmp_path, as_list):
    member, own, x = tiny(), tiny(), torch.randn(1, 1, 16, 16, 16)
    file = tmp_path / "model.pt"
    torch.save(member.state_dict(), file)
    ensemble = FoldEnsemble(own, [str(file)] if as_list else file).eval()
    ensemble.load()
    assert list(ensemble.networks) == [own]  # the very network, no copy
    torch.testing.assert_close(ensemble(x), member(x), rtol=0, atol=0)


def test_members_in_half_precision_are_averaged_in_float32():
    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            return torch.full_like(x, self.value, dtype=torch.bfloat16)

    ensemble = FoldEnsemble(Constant(256.0), ["a", "b"])
    ensemble.networks.append(Constant(1.0))
    assert ensemble(torch.zeros(1, 1, 2, 2, 2)).unique().tolist() == [128.5]


def test_members_run_as_they_are_told(tmp_path):
    files = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for file in files:
        torch.save(tiny().state_dict(), file)
    ensemble = FoldEnsemble(tiny().train(), files)
    ensemble.load()
    ensemble.eval()
    assert not any(network.training for network in ensemble.networks)


@pytest.mark.parametrize("kind", ["missing", "damaged", "of another network", "not finite"])
def test_weights_that_do_not_fit_are_refused_with_their_file(tmp_path, kind):
    files = [tmp_path / "first.pt", tmp_path / "second.pt"]
    torch.save(tiny().state_dict(), files[0])
    if kind == "damaged":
        files[1].write_bytes(files[0].read_bytes()[:500])
    elif kind == "of another network":
        torch.save(MedNeXt(3, 2, 2, init_filters=4, blocks_down=1, blocks_up=1).state_dict(), files[1])
    elif kind == "not finite":
        torch.save({k: v * torch.nan for k, v in tiny().state_dict().items()}, files[1])
    with pytest.raises(InputError) as error:
        FoldEnsemble(tiny(), files).load()
    assert str(error.value).startswith(f"{files[1]}: ")


def test_ensembles_keep_channels_last():
    class Last(nn.Module):
        def forward(self, x):
            return torch.cat([x, 2 * x], 1).contiguous(memory_format=torch.channels_last_3d)

    networks = FoldEnsemble(Last(), [])
    networks.networks.append(Last())
    x = torch.randn(1, 1, 4, 5, 6)
    found = networks(x)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, torch.cat([x, 2 * x], 1))


def test_weights_for_other_labels_are_refused(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "model.pt", {"labels": ["background", "liver"]})
    FoldEnsemble(tiny(), tmp_path / "model.pt", labels=["background", "liver"]).load()
    FoldEnsemble(tiny(), tmp_path / "model.pt").load()
    with pytest.raises(
        InputError, match=r"for the labels \[background, liver\], but the labels here are \[background, s"
    ):
        FoldEnsemble(tiny(), tmp_path / "model.pt", labels=["background", "spleen"]).load()


def test_a_single_network_keeps_the_names_of_its_tensors(tmp_path):
    own, other = tiny(), tiny()
    ensemble = FoldEnsemble(own, [tmp_path / "a.pt"])
    assert list(ensemble.state_dict()) == list(own.state_dict())
    ensemble.load_state_dict(other.state_dict())
    for key, value in own.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=0, atol=0)
    several = FoldEnsemble(tiny(), [])
    several.networks.append(tiny())
    assert {key.split(".")[1] for key in several.state_dict()} == {"0", "1"}
    several.load_state_dict(several.state_dict())
