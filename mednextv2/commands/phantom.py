"""The verb `phantom`: generate a synthetic data set."""

from mednextv2.errors import InputError


def phantom(
    folder: str, cases: int | None = None, seed: int = 0, bundle: str | None = None, spatial_dims: int | None = None
) -> None:
    """Generate a small synthetic data set for trying things out: images of two touching ellipsoids, with labels.

    Args:
        folder: The folder to write the data set to, new or empty. Its layout is that of the Medical Segmentation
            Decathlon, or with --bundle that of nnU-Net.
        cases: The number of cases; by default 60, or 6 with --bundle.
        seed: The seed of the random numbers.
        bundle: The folder or the name of a bundle. The data set then has its labels, channels and voxel size, with an
            ellipsoid for each label.
        spatial_dims: The number of axes: 3 for volumes, the default, or 2 for images of one plane. With --bundle, it is
            that of the bundle.

    Examples:
        mednextv2 phantom phantom_data --cases 20
        mednextv2 phantom planes --cases 20 --spatial_dims 2
        mednextv2 phantom try_kits19 --bundle mednextv2_kits19
    """
    from mednextv2.bundle import find_bundle
    from mednextv2.bundle.task import read_task
    from mednextv2.data import make_phantom_dataset, make_task_phantom

    if bundle is None:
        axes = 3 if spatial_dims is None else spatial_dims
        print(make_phantom_dataset(folder, 60 if cases is None else cases, seed, axes))
        return
    task = read_task(find_bundle(bundle) / "task.yaml")
    facts = task.workflow
    if spatial_dims not in (None, len(facts["spacing"])):
        raise InputError(f"--spatial_dims {spatial_dims}: the bundle {bundle} is for {len(facts['spacing'])}D images")
    print(
        make_task_phantom(
            folder, task.scheme(), facts["channels"], facts["spacing"], facts["normalization"],
            cases=6 if cases is None else cases, seed=seed,
        )
    )  # fmt: skip
