"""Packing of a bundle: one archive that runs where the package is not installed, and layouts for hosts."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import mednextv2
from mednextv2.bundle.build import build_bundle
from mednextv2.bundle.run import find_bundle
from mednextv2.bundle.task import Task, read_task
from mednextv2.delivery.archive import write_archive
from mednextv2.delivery.fit import check_fit
from mednextv2.delivery.hugging_face import write_repository
from mednextv2.delivery.large_files import write_large_files
from mednextv2.delivery.manifest import MANIFEST, manifest_text
from mednextv2.delivery.model_info import MODEL_INFO, Entry, add_entry
from mednextv2.delivery.names import check_name, check_version, versioned
from mednextv2.delivery.twins import workflow_files
from mednextv2.errors import InputError, UsageError
from mednextv2.paths import absolute, new_folder
from mednextv2.text_files import read_text
from mednextv2.weights.files import as_bytes, digest_file, load_file
from mednextv2.weights.promotion import OWN_POSTPROCESSING, OWN_WEIGHTS, own_weights
from mednextv2.weights.provenance import read_about
from mednextv2.weights.safetensors_file import is_safetensors

_WEIGHTS = f"models/{OWN_WEIGHTS}"
_CHOICE = f"models/{OWN_POSTPROCESSING}"  # belongs to the bundle's own weights
_ENDINGS = (".py", ".h", ".cpp", ".csv", ".yaml", ".md", ".conf", ".j2", ".css", ".js")  # of the package's files


@dataclass(frozen=True)
class Pack:
    """A bundle as it is given to others.

    Attributes:
        task: The facts of the bundle.
        files: Content, or the file with it, by path in the bundle's folder; with the manifest.
        weights: Those of the files that are weights.
    """

    task: Task
    files: dict[str, bytes | Path]
    weights: dict[str, bytes | Path]

    @property
    def name(self) -> str:
        """The name of the bundle."""
        return self.task.name

    @property
    def version(self) -> str:
        """The version of the bundle."""
        return str(self.task.public["version"])


def collect_pack(bundle: str | os.PathLike, weights: str | os.PathLike | None = None) -> Pack:
    """Collect the files of a pack, and check them.

    Args:
        bundle: The path or name of the bundle.
        weights: The weights that it shall have; by default its own, which are several files for an ensemble.

    Raises:
        InputError: If the bundle has no weights or they do not fit its network exactly, its files differ from a fresh
            build, or its name or version cannot be downloaded.
    """
    root = find_bundle(bundle)
    file = root / "task.yaml"
    if not file.is_file():
        raise InputError(
            f"{root}: has no task.yaml, from which its files are built; only bundles of mednextv2 can be packed"
        )
    check_name(root.name)
    task = read_task(file)
    check_version(str(task.public["version"]), str(file))
    packed = _built_files(root, file)
    files: dict[str, bytes | Path] = {path: text.encode() for path, text in packed.items()}
    chosen = _chosen_weights(root, weights)
    files |= {"task.yaml": file, **chosen, **_package_files()}
    if (root / _CHOICE).is_file():
        files[_CHOICE] = root / _CHOICE
    files[MANIFEST] = manifest_text(files).encode()
    return Pack(task, files, chosen)


def _chosen_weights(root: Path, weights: str | os.PathLike | None) -> dict[str, bytes | Path]:
    """Return the weights by their paths in the pack, which are several for an ensemble.

    Those of safetensors are packed in PyTorch's format, which MONAI reads.
    """
    own = own_weights(root) if weights is None else []
    chosen = {f"models/{file.stem}.pt": file for file in own} or {_WEIGHTS: absolute(weights or root / _WEIGHTS)}
    for file in chosen.values():
        if not file.is_file():
            raise InputError(
                f"{file}: there are no such weights, without which a bundle is of no use to others; make those of a "
                f"training the bundle's own (mednextv2 promote {root}), or give a file with --weights"
            )
        check_fit(root, file)
    return {
        path: as_bytes(load_file(file), read_about(file)) if is_safetensors(file) else file
        for path, file in chosen.items()
    }


def _built_files(root: Path, task_file: Path) -> dict[str, str]:
    """Return the generated files as they are packed, after comparing those of the bundle with a fresh build.

    A bundle that was packed and fetched holds them as they were packed.
    """
    built = build_bundle(task_file)
    packed = workflow_files(built)
    other = [
        path
        for path, text in built.items()
        if not (root / path).is_file() or read_text(root / path) not in (text, packed[path])
    ]
    built_as = re.search(r"mednextv2 run (\S+) train", read_text(root / "docs" / "README.md")) if other else None
    if built_as and built_as[1] != root.name:
        raise InputError(
            f"{root}: the bundle was built under the name {built_as[1]}; rename the folder back, or build the bundle "
            f"again under its new name: mednextv2 bundle {task_file}"
        )
    if other:
        raise InputError(
            f"{root}: differs from a fresh build of its task.yaml: {', '.join(other)}. Enter what you changed in "
            f"task.yaml, then build the bundle again: mednextv2 bundle {task_file}"
        )
    return packed


def _package_files() -> dict[str, bytes | Path]:
    package = Path(mednextv2.__file__).parent
    files: dict[str, bytes | Path] = {}
    for file in package.rglob("*"):
        inside = file.relative_to(package)
        if (file.suffix in _ENDINGS or file.name == "LICENSE") and not any(p.startswith(".") for p in inside.parts):
            files[f"{package.name}/{inside.as_posix()}"] = file
    return files


def pack_bundle(
    bundle: str | os.PathLike,
    output: str | os.PathLike = ".",
    weights: str | os.PathLike | None = None,
    github: str | None = None,
    url: str | None = None,
    hugging_face: bool = False,
) -> list[Path]:
    """Pack a bundle.

    Args:
        bundle: The path or name of the bundle.
        output: The folder for `<name>_v<version>.zip`.
        weights: The weights that the pack shall have; by default the bundle's own.
        github: The release at GitHub that will have the archive, `OWNER/REPO/TAG`. The version is added to the index
            `models/model_info.json` in `output`.
        url: The address of the folder on a web server that will have the archive; it is added to the index, too.
        hugging_face: Whether to write the content of a repository at Hugging Face, to `huggingface/<name>`.

    Returns:
        What was written.

    Raises:
        InputError: If the bundle cannot be packed as it is (see :func:`collect_pack`), the index has the same version
            with another content, or the disk is full. Nothing is left half-written.
    """
    address = release_address(github, url)
    pack = collect_pack(bundle, weights)
    output = absolute(output)
    key = versioned(pack.name, pack.version)
    with new_folder(output, "output"):
        archive = output / f"{key}.zip"
        write_archive(archive, pack.name, pack.files)
        written = [archive]
        if address:
            entry = Entry(f"{address}/{archive.name}", digest_file(archive))
            add_entry(output / MODEL_INFO, pack.name, pack.version, entry)
            written.append(output / MODEL_INFO)
            written += write_large_files(output, key, pack.name, pack.weights, address)
        if hugging_face:
            written.append(write_repository(output / "huggingface" / pack.name, pack.task, pack.files))
    return written


def release_address(github: str | None, url: str | None) -> str:
    """Return the address of the folder with the archives, or an empty text if there is none.

    Args:
        github: A release, `OWNER/REPO/TAG`.
        url: The address of a folder on a web server.

    Raises:
        UsageError: If both are given, or one of them is of another kind.
    """
    if github is not None and url is not None:
        raise UsageError("--github and --url: the archive has one address in the index; give one of them")
    if github is not None:
        owner, repository, tag = split_release(github)
        return f"https://github.com/{owner}/{repository}/releases/download/{tag}"
    if url is not None and not url.startswith(("https://", "http://")):
        raise UsageError(f"--url {url}: should be an address that begins with https:// or http://")
    return url.rstrip("/") if url else ""


def split_release(github: str) -> list[str]:
    """Return owner, repository and tag of a release at GitHub.

    Raises:
        UsageError: If the text is not `OWNER/REPO/TAG`.
    """
    parts = github.split("/")
    if len(parts) != 3 or not all(parts):
        raise UsageError(f"--github {github}: should be OWNER/REPO/TAG, such as alice/bundles/v1")
    return parts
