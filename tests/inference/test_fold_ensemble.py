import pytest
import torch
from torch import nn

from mednextv2.errors import InputError
from mednextv2.inference.fold_ensemble import FoldEnsemble, describe_choice, find_weights
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


# ------------------------------------------------------------------------------------------- find_weights


def make(root, *names):
    for name in names:
        file = root / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return [str(root / "models" / name) for name in names]


def test_weights_of_folds_come_before_published_ones(tmp_path):
    expected = make(tmp_path, "fold_0/model.pt", "fold_2/model.pt", "fold_4/model.pt")
    make(tmp_path, "model.pt", "fold_1/checkpoint_latest.pt", "fold_3/other.pt")
    assert find_weights(tmp_path) == expected
    assert find_weights(str(tmp_path)) == expected


@pytest.mark.parametrize("fold", [1, "1", "all"])
def test_a_fold_has_its_own_weights(tmp_path, fold):
    make(tmp_path, "model.pt", "fold_0/model.pt", "fold_1/model.pt", "fold_10/model.pt", "fold_all/model.pt")
    assert find_weights(tmp_path, fold) == [str(tmp_path / "models" / f"fold_{fold}" / "model.pt")]


@pytest.mark.parametrize(
    ("folds", "expected"), [(1, [1]), ("all", ["all"]), ([1, 0], [1, 0]), ((0, "all"), [0, "all"])]
)
def test_folds_are_chosen(tmp_path, folds, expected):
    make(tmp_path, "model.pt", "fold_0/model.pt", "fold_1/model.pt", "fold_all/model.pt")
    files = [str(tmp_path / "models" / f"fold_{fold}" / "model.pt") for fold in expected]
    assert find_weights(tmp_path, folds=folds) == files
    lines = describe_choice(files)
    assert [line.startswith("weights: ") for line in lines] == [*[True] * len(files), False]
    assert str(tmp_path / "models" / "model.pt") in lines[-1]


def test_folds_that_were_not_trained_are_named(tmp_path):
    make(tmp_path, "fold_0/model.pt")
    with pytest.raises(InputError, match=r"folds 1, 2: not trained in .*; trained are 0"):
        find_weights(tmp_path, folds=[0, 1, 2])


@pytest.mark.parametrize("fold", [None, 3])
def test_without_weights_of_the_fold_it_is_the_published_ones(tmp_path, fold):
    if fold is not None:
        make(tmp_path, "fold_0/model.pt")
    assert find_weights(tmp_path, fold) == [str(tmp_path / "models" / "model.pt")]  # whether they exist is for loading


def test_a_bundle_without_weights_says_how_to_get_some(tmp_path):
    (tmp_path / "configs").mkdir()
    ensemble = FoldEnsemble(tiny(), find_weights(tmp_path, fold=0))
    with pytest.raises(
        InputError, match=r"no trained weights yet\. Train it: mednextv2 run .* train --dataset_dir DATA"
    ):
        ensemble.load()


@pytest.mark.parametrize("folder", ["fold_2", "finetune/fold_2"])
def test_a_bundle_without_weights_of_a_fold_names_those_that_were_trained(tmp_path, folder):
    (tmp_path / "configs").mkdir()
    (tmp_path / "models" / folder).mkdir(parents=True)
    torch.save(tiny().state_dict(), tmp_path / "models" / folder / "model.pt")
    with pytest.raises(InputError, match="this fold has not been trained; trained are 2"):
        FoldEnsemble(tiny(), find_weights(tmp_path, fold=0)).load()
    FoldEnsemble(tiny(), find_weights(tmp_path, fold=2)).load()


def test_a_file_that_is_not_a_bundles_own_is_named_as_missing(tmp_path):
    with pytest.raises(InputError, match=r"model\.pt: there is no such checkpoint file"):
        FoldEnsemble(tiny(), tmp_path / "models" / "model.pt").load()


def test_an_experiment_has_weights_of_its_own(tmp_path):
    expected = make(tmp_path, "wide/fold_0/model.pt", "wide/fold_1/model.pt")
    make(tmp_path, "model.pt", "fold_0/model.pt")
    assert find_weights(tmp_path, experiment="wide") == expected
    assert find_weights(tmp_path, 1, experiment="wide") == expected[1:]
    assert find_weights(tmp_path, folds=[1], experiment="wide") == expected[1:]
    for experiment, fold, which in (("wide", 2, "no fold 2 of"), ("deep", None, "no fold of the experiment deep")):
        with pytest.raises(InputError, match=which):
            find_weights(tmp_path, fold, experiment=experiment)


def test_fine_tuned_weights_are_used_where_nothing_else_was_trained(tmp_path):
    expected = make(tmp_path, "finetune/fold_0/model.pt")
    make(tmp_path, "model.pt")
    assert find_weights(tmp_path) == find_weights(tmp_path, 0) == expected
    assert find_weights(tmp_path, 1) == [str(tmp_path / "models" / "model.pt")]
    assert "the bundle's own weights" in describe_choice(expected)[-1]
    trained = make(tmp_path, "fold_0/model.pt")
    assert find_weights(tmp_path) == trained
    assert find_weights(tmp_path, experiment="finetune") == expected
    assert describe_choice(trained)[-1].endswith("since folds were also trained (--experiment finetune)")


def test_weights_for_other_labels_are_refused(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "model.pt", {"labels": ["background", "liver"]})
    FoldEnsemble(tiny(), tmp_path / "model.pt", labels=["background", "liver"]).load()
    FoldEnsemble(tiny(), tmp_path / "model.pt").load()
    with pytest.raises(
        InputError, match=r"for the labels \[background, liver\], but the labels here are \[background, s"
    ):
        FoldEnsemble(tiny(), tmp_path / "model.pt", labels=["background", "spleen"]).load()
