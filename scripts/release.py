"""Make a release: the wheel, the source distribution, and every bundle with weights packed for its hosts.

    python scripts/release.py --output release --github OWNER/REPO/TAG [--try IMAGE] [BUNDLE ...]

The folder then contains:

    python/                    the wheel and the source distribution
    NAME_vVERSION.zip          a packed bundle, an asset of the release at GitHub; so is NAME_vVERSION_model.pt
    models/model_info.json     the index, which is committed to the repository at the release's tag
    large_files/NAME/          large_files.yml, for a repository that keeps the bundle without its weights
    huggingface/NAME/          the content of the bundle's repository at Hugging Face

Earlier versions stay in an index that is there already. With --try, everything is tried before it is published: in an
environment without mednextv2, MONAI's own commands download each bundle from stand-ins of the hosts on this machine,
load its network and segment IMAGE with the same labels as here; then a second version is found, fetched and verified.
docs/sharing.md says how to publish the result.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mednextv2.bundle.run import find_bundle
from mednextv2.delivery import pack_bundle
from mednextv2.errors import InputError
from mednextv2.paths import absolute, new_folder

ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
# setuptools writes to sys.argv
_BUILD = "import setuptools.build_meta as b, sys; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
_TIME = "315532800"  # 1 January 1980: the time of every file, so that a second release of the same files is the same


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("bundles", nargs="*", metavar="BUNDLE", help="folders or names of bundles (default: all that have weights)")
    add("--output", required=True, help="folder for the release")
    add("--github", required=True, metavar="OWNER/REPO/TAG", help="the release at GitHub that will have the archives")
    add("--try", dest="image", metavar="IMAGE", help="try everything; the image that each bundle segments")
    add("--environment", help="folder of the virtual environment for --try (default: a new one, removed at the end)")
    return parser.parse_args(arguments)


def bundles_with_weights() -> list[Path]:
    """Return the folders of the bundles in this checkout that have weights."""
    return sorted(file.parents[1] for file in (ROOT / "bundles").glob("*/models/model.pt"))


def build_package(folder: Path) -> list[Path]:
    """Build the wheel and the source distribution.

    Args:
        folder: The folder for both.

    Returns:
        The files.

    Raises:
        InputError: If the build fails.
    """
    with tempfile.TemporaryDirectory() as copy, new_folder(folder, "output"):  # no build files are left in the checkout
        for name in _SOURCES:
            shutil.copy(ROOT / name, copy)
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / "mednextv2", Path(copy) / "mednextv2", ignore=ignored)
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, str(folder)],
            cwd=copy, capture_output=True, text=True, check=False, env={**os.environ, "SOURCE_DATE_EPOCH": _TIME},
        )  # fmt: skip
        if done.returncode:
            raise InputError(f"{folder}: the package cannot be built:\n{done.stderr[-2000:]}")
    return sorted(folder.iterdir())


def make_release(bundles: list[Path], output: Path, github: str) -> list[Path]:
    """Write a release.

    Args:
        bundles: The folders of the bundles.
        output: The folder for the release.
        github: The release at GitHub, `OWNER/REPO/TAG`.

    Returns:
        What was written.

    Raises:
        InputError: If a bundle cannot be packed: see :func:`mednextv2.delivery.pack_bundle`.
    """
    if not bundles:
        raise InputError("there is no bundle with weights; name one, or train one")
    written = []
    for bundle in bundles:
        written += pack_bundle(bundle, output, github=github, hugging_face=True)
    return list(dict.fromkeys([*written, *build_package(output / "python")]))


def main(arguments: list[str] | None = None) -> int:
    """Make the release; a mistake ends with one message."""
    options = parse_options(arguments)
    try:
        bundles = [find_bundle(name) for name in options.bundles] or bundles_with_weights()
        output = absolute(options.output)
        for path in make_release(bundles, output, options.github):
            print(f"written: {path}")
        if options.image is not None:
            from release_trial import try_release

            try_release(bundles, output, options.github, absolute(options.image), options.environment)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
