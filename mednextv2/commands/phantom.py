"""The verb `phantom`: generate a synthetic data set."""


def phantom(folder: str, cases: int = 60, seed: int = 0) -> None:
    """Generate a small synthetic data set for trying things out: images of two touching ellipsoids, with labels.

    Args:
        folder: The folder to write the data set to, in the layout of the Medical Segmentation Decathlon.
        cases: The number of cases.
        seed: The seed of the random numbers.

    Examples:
        mednextv2 phantom phantom_data --cases 20
    """
    from mednextv2.data import make_phantom_dataset

    print(make_phantom_dataset(folder, cases, seed))
