"""The verb `pack`: make a bundle ready for others."""


def pack(
    bundle: str,
    output: str | None = None,
    weights: str | None = None,
    github: str | None = None,
    url: str | None = None,
    hugging_face: bool = False,
) -> None:
    """Pack a bundle with its weights into one archive, which runs where mednextv2 is not installed.

    Args:
        bundle: The folder or the name of the bundle.
        output: The folder for the archive, which is named NAME_vVERSION.zip. By default, that is the working
            directory.
        weights: The weights for the archive, such as the model.pt of a fold. By default, the bundle's own are taken.
        github: The release at GitHub that will have the archive, as OWNER/REPO/TAG. The version is added to the index
            models/model_info.json in the output folder, which belongs into the repository.
        url: The address of the folder on a web server that will have the archive. The version is added to the index,
            too.
        hugging_face: Also write the content of a repository at Hugging Face, with a model card. This option has no
            value.

    Examples:
        mednextv2 pack mednextv2_hippocampus
        mednextv2 pack bundles/mednextv2_liver --weights bundles/mednextv2_liver/models/fold_0/model.pt
        mednextv2 pack mednextv2_hippocampus --output release --github alice/bundles/v1 --hugging_face
    """
    from mednextv2.delivery import pack_bundle

    for path in pack_bundle(bundle, output or ".", weights, github, url, hugging_face):
        print(f"written: {path}")
