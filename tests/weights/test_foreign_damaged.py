"""Files that are no weights, or no longer: each is told with what it is."""

import pickle

import pytest
import torch
from pretrained_helpers import nnunet_checkpoint, our_unet, their_unet

from mednextv2.errors import InputError
from mednextv2.weights import load_pretrained
from mednextv2.weights.files import save_file

WRONG = {
    "empty": (b"", "it is empty"),
    "a web page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "it is a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "a pointer of Git LFS"),
    "numbers": (bytes(range(256)) * 9, "not a PyTorch checkpoint, or a damaged one"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_that_are_no_weights_are_told(kind, tmp_path):
    content, words = WRONG[kind]
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_pretrained(our_unet(), tmp_path / "weights.pth", 1, 3)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_a_download_that_was_cut_off_is_told(part, ending, tmp_path):
    file = tmp_path / f"weights{ending}"
    save_file(our_unet().state_dict(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=r"or a damaged one \(.*copy the file again") as caught:
        load_pretrained(our_unet(), file, 1, 3)
    if ending == ".pth":
        assert "its end is missing, as after an interrupted download" in str(caught.value)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_plain_pickle_is_refused_before_it_is_read(protocol, tmp_path, recwarn):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"stem.weight": [1.0]}, protocol))
    with pytest.raises(InputError, match="refused, since it is a pickle") as caught:
        load_pretrained(our_unet(), tmp_path / "weights.pth", 1, 3)
    assert "save the state dict alone: torch.save(network.state_dict(), path)" in str(caught.value)
    assert not [w for w in recwarn if "pickle" in str(w.message)]


@pytest.mark.parametrize(
    ("content", "words"),
    [({}, "It holds {} in their place."), ([], "It holds []"), ({"model": {}}, "{}"), ({"x": 1}, "entry 'x' is 1")],
)
def test_a_file_without_weights_says_what_it_holds_and_what_fits(content, words, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"holds no weights of this network\.") as caught:
        load_pretrained(our_unet(), tmp_path / "weights.pth", 1, 3)
    assert words in str(caught.value)
    assert "Give the model.pt of a training, or another of the files that docs/finetuning.md" in str(caught.value)


class Unknown:
    """A class of another project, such as nnssl's Plan, which a whole checkpoint of its trainer may hold."""


def test_a_file_that_needs_code_names_it_and_the_remedy(tmp_path):
    torch.save(nnunet_checkpoint(their_unet(), init_args={"plan": Unknown()}), tmp_path / "weights.pth")
    with pytest.raises(
        InputError, match=r"refused, .* it names \(test_foreign_damaged\.Unknown\)|refused, .*Unknown"
    ) as caught:
        load_pretrained(our_unet(), tmp_path / "weights.pth", 1, 3)
    assert "save the state dict alone: torch.save(network.state_dict(), path)" in str(caught.value)
