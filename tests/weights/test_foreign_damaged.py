"""Files that are no weights, or no longer: each is told with what it is."""

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
    with pytest.raises(InputError, match=r"or a damaged one \(.*copy the file again"):
        load_pretrained(our_unet(), file, 1, 3)


class Unknown:
    """A class of another project, such as nnssl's Plan, which a whole checkpoint of its trainer may hold."""


def test_a_file_that_needs_code_names_it_and_the_remedy(tmp_path):
    torch.save(nnunet_checkpoint(their_unet(), init_args={"plan": Unknown()}), tmp_path / "weights.pth")
    with pytest.raises(
        InputError, match=r"refused, .* it names \(test_foreign_damaged\.Unknown\)|refused, .*Unknown"
    ) as caught:
        load_pretrained(our_unet(), tmp_path / "weights.pth", 1, 3)
    assert "save the state dict alone: torch.save(network.state_dict(), path)" in str(caught.value)
