"""The verb `fetch`: download a public data set, or a bundle."""

import re
from pathlib import Path

from mednextv2.errors import UsageError


def fetch(name: str, folder: str, source: str | None = None, version: str | None = None, list: bool = False) -> None:
    """Download a bundle, or a task of the Medical Segmentation Decathlon, and verify its checksums.

    A bundle that is there already is upgraded to the newest version. The older one stays in its place until the newer
    one is verified.

    Args:
        name: The name of the bundle, or of the task, such as Task04_Hippocampus.
        folder: The folder in which the folder of the bundle or of the task is created.
        source: Where the bundle is: github:OWNER/REPO/TAG, huggingface:OWNER/NAME, the address of a model_info.json, or
            the address of an archive NAME_vVERSION.zip. A task of the Decathlon needs no source.
        version: The version of the bundle. By default, the newest is fetched.
        list: Only list the versions of the bundle.

    Examples:
        mednextv2 fetch Task04_Hippocampus data
        mednextv2 fetch mednextv2_liver bundles --source github:alice/bundles/v1
        mednextv2 fetch mednextv2_liver bundles --source huggingface:alice/mednextv2_liver --version 0.1.0
        mednextv2 fetch mednextv2_liver bundles --source https://example.org/models/model_info.json --list
    """
    if source is not None:
        from mednextv2.delivery import fetch_bundle, list_versions

        if list:
            print("\n".join(list_versions(name, source)))
        else:
            print(fetch_bundle(name, folder, source, version).describe())
        return
    is_data = re.match(r"Task\d", name) or (Path(folder) / name / "dataset.json").is_file()
    if version is not None or list or not is_data:
        raise UsageError(
            f"{name}: where is this bundle? Give --source, such as --source github:OWNER/REPO/TAG; only tasks of the "
            "Medical Segmentation Decathlon, such as Task04_Hippocampus, need none"
        )
    from mednextv2.data import fetch_msd_task

    print(fetch_msd_task(name, folder))
