"""The trial of a release, as a stranger uses it: in an environment without mednextv2, with MONAI's own commands."""

import configparser
import contextlib
import os
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from release_hosts import REDIRECT, Hosts, serving

import mednextv2
from mednextv2.bundle.build import write_bundle
from mednextv2.bundle.task import read_task
from mednextv2.delivery import pack_bundle
from mednextv2.delivery.manifest import verify
from mednextv2.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
_OWNER = "alice"  # of repositories at the stand-in for Hugging Face
#: What MONAI needs to ask hosts for versions, besides what mednextv2 needs.
_FOR_DOWNLOADS = ("requests", "huggingface_hub>=0.34")
_LOAD = """
import sys
import monai.bundle, torch
name, folder = sys.argv[1:]
network, saved = monai.bundle.load(name, bundle_dir=folder), torch.load(f"{folder}/{name}/models/model.pt")
own = network.state_dict()
assert set(own) == set(saved), "other tensors"
print("largest difference:", max(float((own[key].cpu() - saved[key].cpu()).abs().max()) for key in saved))
"""


@dataclass
class Stranger:
    """An environment without the package.

    Attributes:
        python: Its interpreter.
        folder: The folder in which its commands run.
        hosts: The stand-ins for the hosts.
    """

    python: Path
    folder: Path
    hosts: Hosts

    def run(self, *words: str | Path) -> str:
        """Run Python with arguments, and return what it printed.

        Raises:
            InputError: If it fails.
        """
        start = self.folder / "start"
        start.mkdir(parents=True, exist_ok=True)
        (start / "sitecustomize.py").write_text(REDIRECT, encoding="utf-8")
        others = {k: v for k, v in _without_pythonpath().items() if k != "HF_HUB_OFFLINE"}
        own = {"PYTHONPATH": str(start), "RELEASE_HOSTS": self.hosts.address, "HF_ENDPOINT": self.hosts.address,
               "HF_HOME": str(self.folder / "hf")}  # fmt: skip
        command = [str(self.python), *map(str, words)]
        done = subprocess.run(
            command, cwd=self.folder, env={**others, **own}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise InputError(f"the trial failed at {' '.join(command)}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        return done.stdout


def _without_pythonpath() -> dict[str, str]:
    """Return this process's environment without PYTHONPATH, in which pip would find the package installed already."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@contextlib.contextmanager
def environment(folder: str | os.PathLike | None) -> Iterator[Path]:
    """Provide the interpreter of a virtual environment with what a bundle requires, but without mednextv2.

    Args:
        folder: Its folder, which is kept; None: a temporary one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary).absolute()
        python = place / "bin" / "python"
        if not python.exists():
            venv.create(place, with_pip=True)
        settings = configparser.ConfigParser()
        settings.read(ROOT / "setup.cfg", encoding="utf-8")
        lines = settings["options"]["install_requires"].splitlines()
        required = [line for line in lines if line.strip() and not line.startswith("#")]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                   "-c", str(ROOT / "constraints.txt")]  # fmt: skip
        own = _without_pythonpath()
        subprocess.run([*install, "torch"], check=True, env=own)  # first and alone, as in environment.sh
        subprocess.run([*install, *required, *_FOR_DOWNLOADS], check=True, env=own)
        yield python


def try_release(
    bundles: list[Path], output: Path, github: str, image: Path, folder: str | os.PathLike | None = None
) -> None:
    """Try a release.

    Args:
        bundles: The folders of its bundles.
        output: The folder of the release.
        github: The release at GitHub, `OWNER/REPO/TAG`.
        image: The image that each bundle segments.
        folder: The folder of the virtual environment: see :func:`environment`.

    Raises:
        InputError: If anything fails or differs.
    """
    with environment(folder) as python, tempfile.TemporaryDirectory() as work, serving() as hosts:
        stranger = Stranger(python, Path(work), hosts)
        subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "mednextv2"], check=True,
                       env=_without_pythonpath())  # fmt: skip
        found = stranger.run("-c", "import importlib.util as u; print(u.find_spec('mednextv2'))")
        if found.strip() != "None":
            raise InputError(f"{python}: this environment has mednextv2; give another one with --environment")
        hosts.add_release(github, output)
        for bundle in bundles:
            _try_bundle(stranger, bundle, output, github, image)
            _try_upgrade(stranger, bundle, output, github)
    print("the trial has passed")


def _try_bundle(stranger: Stranger, bundle: Path, output: Path, github: str, image: Path) -> None:
    """Download a bundle from both hosts, load its network, segment the image, and compare the labels."""
    name, version = bundle.name, str(read_task(bundle / "task.yaml").public["version"])
    stranger.hosts.repositories[f"{_OWNER}/{name}"] = {version: output / "huggingface" / name}
    archive = f"{name}_v{version}.zip"
    stranger.hosts.files[f"www/{archive}"] = output / archive
    address = f"{stranger.hosts.address}/www/{archive}"
    stranger.run("-m", "monai.bundle", "download", "--name", name, "--url", address, "--bundle_dir", "www")
    verify(stranger.folder / "www" / name, address)
    print(f"{name} {version} from a web server: as it was packed")
    expected = mednextv2.predict(bundle, image).labels
    for source, repository in (("github", github), ("huggingface_hub", f"{_OWNER}/{name}")):
        folder, masks = stranger.folder / source, stranger.folder / f"{source}-{name}"
        where = ("--name", name, "--source", source, "--repo", repository, "--bundle_dir", folder)
        stranger.run("-m", "monai.bundle", "download", *where)
        root = folder / name
        shutil.rmtree(root / ".cache", ignore_errors=True)  # of huggingface_hub
        verify(root, source)
        stranger.run(
            "-m", "monai.bundle", "run", "--config_file", root / "configs" / "inference.json",
            "--bundle_root", root, "--input", image, "--output_dir", masks,
        )  # fmt: skip
        (mask,) = masks.glob("*_seg.nii.gz")
        other = int((np.asarray(nib.load(mask).dataobj) != expected).sum())
        print(f"{name} {version} from {source}: {other} of {expected.size} voxels have another label than here")
        if other:
            raise InputError(f"{name} from {source}: the labels of {image} are not those that mednextv2 predict gives")
        loaded = stranger.run("-c", _LOAD, name, folder).splitlines()[-1]
        print(f"{name} {version} from {source}: monai.bundle.load, {loaded}")
        if loaded != "largest difference: 0.0":
            raise InputError(f"{name} from {source}: the loaded network does not have the weights of the bundle")


def _try_upgrade(stranger: Stranger, bundle: Path, output: Path, github: str) -> None:
    """Publish a second version, find it with MONAI's command, and upgrade to it with `mednextv2 fetch` of the wheel."""
    name, hosts = bundle.name, stranger.hosts
    release = stranger.folder / "second"
    shutil.copytree(output, release, ignore=shutil.ignore_patterns("python", "huggingface"))
    copy = stranger.folder / "copy" / name
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("output", "fold_*"))
    first, second = _next_version(copy)
    pack_bundle(copy, release, github=github, hugging_face=True)
    hosts.add_release(github, release)
    hosts.repositories[f"{_OWNER}/{name}"][second] = release / "huggingface" / name
    folder = stranger.folder / "newest"
    stranger.run("-m", "monai.bundle", "download", "--name", name, "--source", "github", "--repo", github,
                 "--bundle_dir", folder)  # fmt: skip
    if not (folder / f"{name}_v{second}.zip").is_file():
        raise InputError(f"{name}: MONAI's command did not find version {second}")
    (wheel,) = (output / "python").glob("*.whl")
    subprocess.run([str(stranger.python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True,
                   env=_without_pythonpath())  # fmt: skip
    try:
        for source in (f"github:{github}", f"huggingface:{_OWNER}/{name}"):
            target = stranger.folder / f"fetched-{source.partition(':')[0]}"
            for version in (("--version", first), ()):
                said = stranger.run("-m", "mednextv2", "fetch", name, target, "--source", source, *version)
                print(said.strip().replace(str(stranger.folder), "…"))
            if f"version {second}, verified; before, it was version {first}" not in said:
                raise InputError(f"{name}: was not upgraded to version {second}: {said}")
    finally:
        subprocess.run([str(stranger.python), "-m", "pip", "uninstall", "-q", "-y", "mednextv2"], check=True,
                       env=_without_pythonpath())  # fmt: skip


def _next_version(bundle: Path) -> tuple[str, str]:
    """Give a copy of a bundle the next version; return both versions."""
    task = bundle / "task.yaml"
    first = str(read_task(task).public["version"])
    second = f"{first[:-1]}{int(first[-1]) + 1}"
    text = task.read_text(encoding="utf-8").replace(f"version: {first}", f"version: {second}")
    text = text.replace("changelog:\n", f"changelog:\n  {second}: second version, of a trial\n")
    task.write_text(text, encoding="utf-8")
    write_bundle(task)
    return first, second
