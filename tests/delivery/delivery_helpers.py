"""What the tests of packed bundles share: small bundles, and a loopback server laid out like their hosts."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from mednextv2.delivery.archive import write_archive
from mednextv2.delivery.manifest import MANIFEST, manifest_text
from mednextv2.delivery.model_info import MODEL_INFO, Entry, add_entry
from mednextv2.errors import InputError
from mednextv2.version import __version__
from mednextv2.weights.files import digest_file

ROOT = Path(__file__).parents[2]
HIPPOCAMPUS = ROOT / "bundles" / "mednextv2_hippocampus"
NAME = "mednextv2_liver"
sys.path.insert(0, str(ROOT / "scripts"))


def small_files(version="0.1.0", needs=__version__, **more):
    """Return the files of a bundle that is small enough to be fetched often."""
    metadata = {"version": version, "required_packages_version": {"mednextv2": needs}}
    files = {"configs/metadata.json": json.dumps(metadata).encode(), "models/model.pt": version.encode() * 1000, **more}
    files[MANIFEST] = manifest_text(files).encode()
    return files


def release(hosts, folder, *versions, needs=__version__):
    """Write archives and their index, and serve them as a release at GitHub; return the address of the index."""
    for version in versions:
        archive = folder / f"{NAME}_v{version}.zip"
        folder.mkdir(exist_ok=True)
        write_archive(archive, NAME, small_files(version, needs))
        add_entry(folder / MODEL_INFO, NAME, version, Entry(f"{hosts.address}/{archive.name}", digest_file(archive)))
        hosts.files[archive.name] = archive
    hosts.files["index.json"] = folder / MODEL_INFO
    return f"{hosts.address}/index.json"


def refused(function, *arguments, **settings):
    """Return the message with which a call is refused."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **settings)
    return str(caught.value)


def content(folder):
    """Return the content of every file below a folder."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def copy_bundle(folder, **replaced):
    """Copy the hippocampus bundle under a name of its own; texts of its task.yaml can be replaced."""
    shutil.copytree(HIPPOCAMPUS, folder, ignore=shutil.ignore_patterns("output", "fold_*"))
    task = folder / "task.yaml"
    text = task.read_text(encoding="utf-8")
    for old, new in replaced.get("texts", {}).items():
        assert old in text
        text = text.replace(old, new)
    task.write_text(text, encoding="utf-8")
    return folder


def hand_made_zip(path, entries):
    """Write an archive of any entries: ZipInfo or name, and content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, text in entries:
            archive.writestr(entry, text)
    return path
