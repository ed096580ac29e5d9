"""The pixels of DICOM files, judged by ITK and pydicom."""

import numpy as np
from dicom_helpers import numbers, write_series

from mednextv2.data import read_volume


def test_each_slice_is_rescaled_by_its_own_header(tmp_path):
    def slopes(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = 0.5 * (k + 1), 10 * k

    write_series(tmp_path, numbers(), change=slopes)
    array, _ = read_volume(tmp_path)
    expected = np.stack([numbers()[..., k] * 0.5 * (k + 1) + 10 * k for k in range(6)], axis=-1)
    np.testing.assert_allclose(array, expected, rtol=1e-6)
