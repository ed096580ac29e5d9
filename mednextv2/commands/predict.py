"""The verb `predict`: segment images."""

from typing import Any


def predict(
    bundle: str,
    input: str,
    output: str,
    series: str | None = None,
    dicom_seg: bool = False,
    report: bool = False,
    probabilities: bool = False,
    rtstruct: bool = False,
    dicom_seg_storage: str | None = None,
    **settings: Any,
) -> None:
    """Segment an image, a folder of images, or a DICOM series.

    Args:
        bundle: The folder or the name of the bundle, such as mednextv2_hippocampus.
        input: An image (.nii.gz, .nii, .nrrd, .mha, .mhd), a folder of images, the folder of
            a data set, or a folder of DICOM files.
        output: The folder for the masks, which are named CASE_seg.nii.gz. For a single image it may also be the name of
            the file to write.
        series: The series to segment, if the DICOM folder holds several: its number in the list that is printed, its
            UID, or a part of its description. With the value all, every series that is a volume is segmented. A bundle
            with several channels needs one series for each channel, such as --series 3,4,5,6.
        dicom_seg: Also write each mask as a DICOM SEG file. This needs the package highdicom.
        report: Also write report.html, a page with the volume of each class and pictures of the cases, and the volumes
            in ml as the table volumes.csv.
        probabilities: Also write CASE_seg_probabilities.npy, an array of the shape (classes, X, Y, Z) in float16.
        rtstruct: Also write each mask as a DICOM RT Structure Set, for radiotherapy planning systems. This needs the
            package contourpy.
        dicom_seg_storage: How the DICOM SEG stores its segments: binary (one bit per voxel), deflated (the same,
            compressed) or labelmap (smallest, but new: many viewers cannot read it). By default, more than 20 segments
            are deflated.
        settings: Any setting at the top of the bundle's configs/inference.yaml, such as --device cpu, --weights FILE or
            --overlap 0.25.

    Examples:
        mednextv2 predict mednextv2_hippocampus head.nii.gz masks --report
        mednextv2 predict mednextv2_hippocampus images masks --device cpu
        mednextv2 predict mednextv2_hippocampus dicom_study masks --series 4 --dicom_seg
    """
    from mednextv2.allocator import keep_freed_memory
    from mednextv2.predict_files import predict_files

    keep_freed_memory()
    files = predict_files(
        bundle, input, output, series, dicom_seg, report, probabilities, rtstruct, dicom_seg_storage, **settings
    )
    for file in files:
        print(f"written: {file}")
