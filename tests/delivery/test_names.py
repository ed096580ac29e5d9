import re

import pytest
from delivery_helpers import refused

from mednextv2.delivery.names import check_name, check_version, sort_key, split_versioned, versioned


@pytest.mark.parametrize("name", ["mednextv2_liver", "mednext-v2-amos", "a"])
def test_names_that_can_be_downloaded(name):
    check_name(name)
    # how MONAI 1.6.1 reads the name of an archive (monai/bundle/scripts.py, _get_all_bundles_info)
    assert re.compile(r"_v\d*.").split(versioned(name, "0.1.0"))[0] == name
    assert split_versioned(versioned(name, "0.1.0")) == (name, "0.1.0")


@pytest.mark.parametrize("name", ["hepatic_vessel", "mednext_v2_btcv"])
def test_a_name_that_monai_cuts_is_refused(name):
    assert 'holds "_v"' in refused(check_name, name)
    assert re.compile(r"_v\d*.").split(versioned(name, "0.1.0"))[0] != name


@pytest.mark.parametrize("name", ["liver 2", "a/b", "", "-x", "über", "a.b"])
def test_a_name_that_is_no_part_of_an_address_is_refused(name):
    assert "part of addresses" in refused(check_name, name)


@pytest.mark.parametrize("version", ["0.10.0", "1.0", "10.0.0", "v0.1.0", "0.1.0rc1", "", "01.0.0"])
def test_a_version_that_does_not_sort_is_refused(version):
    message = refused(check_version, version, "task.yaml")
    assert message.startswith(f"task.yaml: the version {version!r}")
    assert "0.9.0 for newer than 0.10.0" in message


def test_versions_that_are_allowed_sort_as_text_and_as_numbers():
    versions = [f"{a}.{b}.{c}" for a in (0, 1, 9) for b in (0, 2, 9) for c in (0, 9)]
    for version in versions:
        check_version(version, "task.yaml")
    assert sorted(versions) == sorted(versions, key=sort_key)


def test_what_is_no_version_is_not_split():
    assert split_versioned("README") is None
    assert split_versioned("spleen_ct_segmentation_v0.5.10") == ("spleen_ct_segmentation", "0.5.10")
