"""The verb `fetch`: download a public data set."""


def fetch(task: str, folder: str) -> None:
    """Download a task of the Medical Segmentation Decathlon and verify its checksum.

    Args:
        task: The name of the task, such as Task04_Hippocampus.
        folder: The folder in which the task's folder is created.

    Examples:
        mednextv2 fetch Task04_Hippocampus data
    """
    from mednextv2.data import fetch_msd_task

    print(fetch_msd_task(task, folder))
