"""Bundles on their way to other people: packed, laid out for hosts, fetched and verified."""

from mednextv2.delivery.fetching import fetch_bundle, list_versions
from mednextv2.delivery.packing import pack_bundle

__all__ = ["fetch_bundle", "list_versions", "pack_bundle"]
