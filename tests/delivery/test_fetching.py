import json

import pytest
from delivery_helpers import NAME, content, hand_made_zip, refused, release, small_files
from test_full_disk import room_for

from mednextv2.delivery.archive import write_archive
from mednextv2.delivery.fetching import fetch_bundle, list_versions
from mednextv2.delivery.manifest import MANIFEST, manifest_text
from mednextv2.version import __version__
from mednextv2.weights.files import digest_file


@pytest.fixture
def index(hosts, tmp_path):
    """The address of an index with two versions."""
    return release(hosts, tmp_path / "release", "0.1.0", "0.2.0")


@pytest.fixture
def bundles(tmp_path):
    return tmp_path / "bundles"


def test_the_newest_version_is_fetched_and_nothing_else_is_left(index, bundles):
    assert list_versions(NAME, index) == ["0.1.0", "0.2.0"]
    fetched = fetch_bundle(NAME, bundles, index)
    assert fetched.describe() == f"{bundles / NAME}: version 0.2.0, verified"
    assert [path.name for path in bundles.iterdir()] == [NAME]
    assert content(bundles / NAME) == small_files("0.2.0")


def test_what_is_there_is_not_downloaded_again(index, bundles, hosts):
    fetch_bundle(NAME, bundles, index)
    hosts.requests.clear()
    assert "is there already, and is as it was packed" in fetch_bundle(NAME, bundles, index).describe()
    assert hosts.requests == ["/index.json"]


def test_an_older_version_is_upgraded_and_goes(index, bundles):
    fetch_bundle(NAME, bundles, index, "0.1.0")
    assert content(bundles / NAME) == small_files("0.1.0")
    fetched = fetch_bundle(NAME, bundles, index)
    assert fetched.describe() == f"{bundles / NAME}: version 0.2.0, verified; before, it was version 0.1.0"
    assert content(bundles) == {f"{NAME}/{path}": text for path, text in small_files("0.2.0").items()}


def test_a_newer_version_stays_unless_an_older_one_is_asked_for(index, bundles, hosts, tmp_path):
    fetch_bundle(NAME, bundles, index)
    old = release(hosts, tmp_path / "old", "0.1.0")
    assert fetch_bundle(NAME, bundles, old).version == "0.2.0"
    assert fetch_bundle(NAME, bundles, old, "0.1.0").version == "0.1.0"
    assert content(bundles / NAME) == small_files("0.1.0")


def test_files_of_the_user_are_kept(index, bundles):
    for number, place in ((1, f"{NAME}_v0.1.0"), (2, f"{NAME}_v0.1.0_2")):
        fetch_bundle(NAME, bundles, index, "0.1.0")
        trained = bundles / NAME / "models" / "fold_0" / "model.pt"
        trained.parent.mkdir()
        trained.write_text(f"trained {number}")
        fetched = fetch_bundle(NAME, bundles, index)
        assert fetched.describe().endswith(f"whose folder with your files is now {bundles / place}")
        assert (bundles / place / "models" / "fold_0" / "model.pt").read_text() == f"trained {number}"
        assert content(bundles / NAME) == small_files("0.2.0")


def test_a_changed_bundle_is_fetched_again_and_the_change_kept(index, bundles):
    fetch_bundle(NAME, bundles, index)
    (bundles / NAME / "models" / "model.pt").write_text("mine")
    fetch_bundle(NAME, bundles, index)
    assert content(bundles / NAME) == small_files("0.2.0")
    assert (bundles / f"{NAME}_v0.2.0" / "models" / "model.pt").read_text() == "mine"


def test_a_folder_that_was_not_fetched_is_left_alone(index, bundles):
    (bundles / NAME).mkdir(parents=True)
    (bundles / NAME / "mine").write_text("mine")
    assert "was not fetched" in refused(fetch_bundle, NAME, bundles, index)
    assert content(bundles) == {f"{NAME}/mine": b"mine"}


def _other_bytes(archive):
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 255
    archive.write_bytes(raw)


def _truncated(archive):
    archive.write_bytes(archive.read_bytes()[:-200])


@pytest.mark.parametrize("harm", [_other_bytes, _truncated])
def test_an_archive_with_another_checksum_leaves_the_old_version(harm, index, bundles, tmp_path):
    fetch_bundle(NAME, bundles, index, "0.1.0")
    before = content(bundles)
    harm(tmp_path / "release" / f"{NAME}_v0.2.0.zip")
    assert "where" in (message := refused(fetch_bundle, NAME, bundles, index))
    assert "has the checksum" in message
    assert content(bundles) == before


def test_a_connection_that_breaks_off_leaves_the_old_version(index, bundles, hosts):
    fetch_bundle(NAME, bundles, index, "0.1.0")
    before = content(bundles)
    hosts.cut = 600  # the index is shorter
    assert "broke off" in refused(fetch_bundle, NAME, bundles, index)
    assert content(bundles) == before


def serve(hosts, tmp_path, files):
    archive = hand_made_zip(tmp_path / f"{NAME}_v0.1.0.zip", [(f"{NAME}/{path}", text) for path, text in files.items()])
    hosts.files[archive.name] = archive
    return f"{hosts.address}/{archive.name}"


def test_a_manifest_that_does_not_hold_is_refused(hosts, tmp_path, bundles):
    files = small_files() | {"models/model.pt": b"others"}
    message = refused(fetch_bundle, NAME, bundles, serve(hosts, tmp_path, files))
    assert "models/model.pt has another content" in message
    assert not bundles.exists()


def test_an_archive_that_leads_out_of_the_folder_is_refused(hosts, tmp_path, bundles):
    address = serve(hosts, tmp_path, {**small_files(), "../../evil": b""})
    assert "no plain path" in refused(fetch_bundle, NAME, bundles, address)
    assert not bundles.exists()


def test_another_version_than_its_name_says_is_refused(hosts, tmp_path, bundles):
    address = serve(hosts, tmp_path, small_files("0.3.0"))
    assert "says that it is version 0.3.0, not 0.1.0" in refused(fetch_bundle, NAME, bundles, address)


def test_a_bundle_that_needs_a_newer_package_is_refused(hosts, tmp_path, bundles):
    index = release(hosts, tmp_path / "release", "0.1.0")
    release(hosts, tmp_path / "release", "0.2.0", needs="99.0.0")
    message = refused(fetch_bundle, NAME, bundles, index)
    assert f"version 0.2.0 needs mednextv2 99.0.0, and {__version__} is installed" in message
    assert "--version" in message
    assert fetch_bundle(NAME, bundles, index, "0.1.0").version == "0.1.0"


@pytest.mark.parametrize("metadata", [b"[]", b"{}", b'{"version": 1}'])
def test_metadata_of_another_kind_are_refused(metadata, hosts, tmp_path, bundles):
    files = {"configs/metadata.json": metadata}
    files[MANIFEST] = manifest_text(files).encode()
    assert "says that it is version" in refused(fetch_bundle, NAME, bundles, serve(hosts, tmp_path, files))


def test_a_version_that_does_not_exist_is_refused_with_those_that_do(index, bundles):
    message = refused(fetch_bundle, NAME, bundles, index, "0.3.0")
    assert f"has no version 0.3.0 of {NAME}; it has 0.1.0, 0.2.0" in message
    assert not bundles.exists()


def test_a_bundle_that_does_not_exist_is_refused_with_those_that_do(index, bundles):
    assert f"has no bundle spleen; it has {NAME}" in refused(fetch_bundle, "spleen", bundles, index)


def test_a_full_disk_leaves_the_old_version(index, bundles):
    fetch_bundle(NAME, bundles, index, "0.1.0")
    before = content(bundles)
    with room_for(500):
        message = refused(fetch_bundle, NAME, bundles, index)
    assert "cannot be written (File too large); make room" in message
    assert content(bundles) == before


def test_metadata_of_the_small_bundle_are_those_of_a_real_one(packed):
    metadata = json.loads((packed / "huggingface" / "mednextv2_hippocampus" / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"]["mednextv2"] == __version__
    assert metadata["version"] == "0.1.0"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"configs/metadata.json": b"{"}, "the bundle cannot be used (configs/metadata.json: is not valid JSON"),
        ({"models/model.pt": None}, "the bundle has no weights (models/model.pt); tell its owner"),
    ],
)
def test_a_bundle_that_is_packed_badly_is_the_owners_to_mend(files, words, bundles, hosts, tmp_path):
    made = {path: text for path, text in {**small_files(), **files}.items() if text is not None and path != MANIFEST}
    made[MANIFEST] = manifest_text(made).encode()
    archive = tmp_path / f"{NAME}_v0.1.0.zip"
    write_archive(archive, NAME, made)
    hosts.files[archive.name] = archive
    address = f"{hosts.address}/{archive.name}"
    assert f"{address}: {words}" in refused(fetch_bundle, NAME, bundles, address)
    assert not bundles.exists()


def test_an_index_from_the_web_names_no_files_of_this_computer(bundles, hosts, tmp_path):
    secret = tmp_path / f"{NAME}_v0.1.0.zip"
    write_archive(secret, NAME, small_files())
    (tmp_path / "index.json").write_text(
        json.dumps({secret.stem: {"source": secret.as_uri(), "checksum": digest_file(secret)}})
    )
    hosts.files["index.json"] = tmp_path / "index.json"
    assert "names a file of this computer" in refused(fetch_bundle, NAME, bundles, f"{hosts.address}/index.json")
    assert fetch_bundle(NAME, bundles, (tmp_path / "index.json").as_uri()).version == "0.1.0"
