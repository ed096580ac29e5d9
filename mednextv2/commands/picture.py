"""The verb `picture`: draw a case."""


def picture(image: str, output: str, truth: str | None = None, prediction: str | None = None) -> None:
    """Draw an image on three planes, with the outlines of a reference and of a prediction.

    Args:
        image: The image file.
        output: The .png file to write.
        truth: The reference label map, on the same voxel grid as the image.
        prediction: The predicted label map, on the same voxel grid as the image.

    Examples:
        mednextv2 picture case.nii.gz case.png --prediction masks/case_seg.nii.gz
        mednextv2 picture case.nii.gz case.png --truth labels/case.nii.gz --prediction masks/case_seg.nii.gz
    """
    from mednextv2.picture import save_picture

    print(save_picture(image, output, truth and str(truth), prediction and str(prediction)))
