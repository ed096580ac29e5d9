import yaml
from delivery_helpers import refused
from monai.bundle import download_large_files

from mednextv2.delivery.large_files import write_large_files


def test_monai_fetches_the_weights_that_it_names(tmp_path, hosts):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w" * 1_000_001)
    copy, listing = write_large_files(tmp_path / "out", "x_v0.1.0", "x", {"models/model.pt": weights}, hosts.address)
    assert copy.read_bytes() == weights.read_bytes()
    assert listing == tmp_path / "out" / "large_files" / "x" / "large_files.yml"
    hosts.files[copy.name] = copy
    download_large_files(str(listing.parent))  # compares the SHA-256, and ends with an error if it is another
    assert (listing.parent / "models" / "model.pt").read_bytes() == weights.read_bytes()
    (entry,) = yaml.safe_load(listing.read_text())["large_files"]
    assert entry["hash_type"] == "sha256"


def test_an_ensemble_has_a_copy_of_each_of_its_files(tmp_path):
    weights = {f"models/{name}": tmp_path / name for name in ("model.pt", "model_1.pt", "small.pt")}
    for file in weights.values():
        file.write_bytes(file.name.encode() * (10 if file.name == "small.pt" else 200_000))
    *copies, listing = write_large_files(tmp_path / "out", "x_v0.1.0", "x", weights, "https://host")
    assert [copy.name for copy in copies] == ["x_v0.1.0_model.pt", "x_v0.1.0_model_1.pt"]
    entries = yaml.safe_load(listing.read_text())["large_files"]
    assert [entry["path"] for entry in entries] == ["models/model.pt", "models/model_1.pt"]
    assert [entry["url"] for entry in entries] == [f"https://host/{copy.name}" for copy in copies]


def test_small_weights_need_no_such_file(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w" * 1_000_000)
    assert write_large_files(tmp_path / "out", "x_v0.1.0", "x", {"models/model.pt": weights}, "https://host") == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w" * 1_000_001)
    (tmp_path / "out").touch()
    message = refused(
        write_large_files, tmp_path / "out", "x_v0.1.0", "x", {"models/model.pt": weights}, "https://host"
    )
    assert str(tmp_path / "out") in message
