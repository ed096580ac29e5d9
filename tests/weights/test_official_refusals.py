"""Files and networks that are not taken for weights of the authors' code."""

import os
import pickle

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from official_helpers import as_the_authors_save_it, tiny

from mednextv2.errors import InputError
from mednextv2.weights import import_official, load_file


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth: there is no such"):
        import_official(tmp_path / "nowhere.pth")
    (tmp_path / "model_final.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"is a folder; give the file of weights in it, such as .*/model_final\.pth"):
        import_official(tmp_path)


TEXTS = {
    "sentence": "These are not the weights.\n",
    "json": '{"epoch": 1}',
    "html": "<html>",
    "zip": "PK\x03\x04",
    "": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_no_checkpoint_is_refused(text, tmp_path):
    (tmp_path / "notes.pth").write_text(text)
    with pytest.raises(InputError, match=r"notes\.pth: not a PyTorch checkpoint"):
        import_official(tmp_path / "notes.pth")


@pytest.mark.parametrize("text", ["epoch,loss\n1,0.5\n", "results", "GET"])
def test_a_text_that_starts_like_a_pickle_is_refused(text, tmp_path):
    (tmp_path / "notes.pth").write_text(text)
    with pytest.raises(InputError, match=r"notes\.pth: not a PyTorch checkpoint"):
        import_official(tmp_path / "notes.pth")


def test_a_truncated_checkpoint_is_refused_wherever_it_ends(tmp_path):
    torch.save(as_the_authors_save_it(tiny(spatial_dims=2)), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for share in np.linspace(0, 1, 20, endpoint=False):
        (tmp_path / "part.pth").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"part\.pth: not a PyTorch checkpoint, or a damaged one"):
            import_official(tmp_path / "part.pth")


def test_a_truncated_checkpoint_of_the_old_format_is_refused_wherever_it_ends(tmp_path):
    torch.save({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pth").read_bytes()
    for end in range(0, len(whole), 3):
        (tmp_path / "part.pth").write_bytes(whole[:end])
        # cut inside the name of a class, it names a class that is not allowed
        with pytest.raises(InputError, match=r"part\.pth: (not a PyTorch checkpoint, or a damaged one|refused)"):
            load_file(tmp_path / "part.pth")


class Trainer:
    """Some class of another project."""

    def __init__(self):
        self.epoch = 3


class Attack:
    """Run a command when unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_an_object_of_another_project_is_refused_with_the_remedy(wrapped, zipped, tmp_path):
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    content = {"state_dict": state, "trainer": Trainer()} if wrapped else Trainer()
    torch.save(content, tmp_path / "objects.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"objects\.pth: refused.*Trainer.*torch\.save\(network\.state_dict"):
        import_official(tmp_path / "objects.pth")


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("function", ["system", "eval", "exec", "open"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(how, function, tmp_path):
    sentinel, file = tmp_path / "sentinel", tmp_path / "evil.pth"
    code = f"open({str(sentinel)!r}, 'w').close()"
    attack = {
        "system": Attack(os.system, f"touch '{sentinel}'"),
        "eval": Attack(eval, code),
        "exec": Attack(exec, code),
        "open": Attack(open, str(sentinel), "w"),
    }[function]
    content = {"state_dict": {"stem.weight": torch.ones(1)}, "logging": attack} if how != "pickle" else attack
    with open(file, "wb") as f:
        if how == "pickle":
            pickle.dump(content, f, protocol=2)
        else:
            torch.save(content, f, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match=r"evil\.pth: "):
        import_official(file)
    assert not sentinel.exists()
    if how == "torch":  # the attack works where it is not kept out
        torch.load(file, weights_only=False)
        assert sentinel.exists()


def test_a_network_of_another_kind_is_refused_with_its_names(tmp_path):
    other = UNet(3, 1, 2, channels=(4, 8), strides=(2,))
    torch.save(other.state_dict(), tmp_path / "unet.pt")
    with pytest.raises(InputError, match=rf"unet\.pt: not a MedNeXt.*{next(iter(other.state_dict()))}.*enc_block_0"):
        import_official(tmp_path / "unet.pt")


def test_our_own_weights_are_refused_with_the_names_that_were_expected():
    with pytest.raises(InputError, match=r"not a MedNeXt of the authors' v1 code.*stem\.weight.*enc_block_0\.0\.conv1"):
        import_official(tiny().state_dict())


@pytest.mark.parametrize(
    "content", [{}, [], {"state_dict": {}}, {"epoch": 3}, {"network_weights": None}, torch.ones(3)], ids=str
)
def test_a_checkpoint_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"empty\.pth: holds no state dict"):
        import_official(tmp_path / "empty.pth")


def test_names_that_are_no_text_are_refused():
    with pytest.raises(InputError):
        import_official({0: torch.ones(3)})


@pytest.mark.parametrize("settings", [{"deep_supervision": True}, {"global_resp_norm": True}], ids=str)
def test_a_checkpoint_that_lacks_any_one_tensor_is_refused(settings):
    state = as_the_authors_save_it(tiny(spatial_dims=2, init_filters=2, **settings))
    keys = [k for k in state if k != "dummy_tensor"][::2]  # weights; every bias is like another
    for key in keys:
        with pytest.raises(InputError, match=r"not a MedNeXt of the authors' v1 code"):
            import_official({k: v for k, v in state.items() if k != key})
    assert len(keys) > 75


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("up_2.conv2.bias", r"1 tensor not in the file: up\.1\.expand\.bias"),
        ("out_3.conv_out.weight", r"1 tensor not in the file: heads\.3\.weight"),
        ("out_0.conv_out.weight", r"it has no tensor 'out_0\.conv_out\.weight'"),
        ("bottleneck.0.conv2.weight", r"it has no tensor 'bottleneck\.0\.conv2\.weight'"),
    ],
)
def test_a_missing_tensor_is_named(key, words):
    state = as_the_authors_save_it(tiny(spatial_dims=2, deep_supervision=True))
    del state[key]
    with pytest.raises(InputError, match=words):
        import_official(state)


def test_a_missing_stage_is_named():
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    with pytest.raises(InputError, match="its stage dec_block_2 has no block"):
        import_official({k: v for k, v in state.items() if not k.startswith("dec_block_2")})


def test_an_extra_tensor_is_refused_by_name():
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    with pytest.raises(InputError, match=r"1 tensor not in this network: attention\.weight"):
        import_official({**state, "attention.weight": torch.ones(3)})


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("enc_block_1.0.norm.weight", lambda v: v[:-1], r"encoder\.1\.0\.norm\.weight \(7,\) in the file, \(8,\) here"),
        ("down_1.conv3.weight", lambda v: v[..., None], r"down\.1\.compress\.weight \(16, 16, 1, 1, 1\) in the file"),
        ("out_1.conv_out.weight", lambda v: v.swapaxes(0, 1), r"heads\.1\.weight \(8, 2, 1, 1\) in the file, \(2, 8"),
        ("up_0.conv1.weight", lambda v: torch.ones(8, 1, 5, 5), "depthwise kernels differ in size"),
        ("stem.weight", lambda v: v.flatten(), "not a MedNeXt"),
        ("stem.bias", lambda v: v[0], r"stem\.bias \(\) in the file, \(4,\) here"),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_name(key, change, words):
    state = as_the_authors_save_it(tiny(spatial_dims=2, deep_supervision=True))
    state[key] = change(state[key]).contiguous()
    with pytest.raises(InputError, match=words):
        import_official(state)


def test_an_even_kernel_is_refused():
    state = as_the_authors_save_it(tiny(spatial_dims=2))
    state = {k: v[..., :2, :2] if k.endswith("conv1.weight") else v for k, v in state.items()}
    with pytest.raises(InputError, match="kernel_size is an odd int"):
        import_official(state)


def test_kernels_of_unequal_edges_are_refused():
    state = as_the_authors_save_it(tiny())
    state = {k: v[..., :1] if k.endswith("conv1.weight") else v for k, v in state.items()}
    with pytest.raises(InputError, match="depthwise kernels differ in size"):
        import_official(state)
