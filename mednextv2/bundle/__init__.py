"""Building of bundles from facts and recipes, and running them."""

from mednextv2.bundle.build import build_bundle, write_bundle
from mednextv2.bundle.run import find_bundle, run_bundle

__all__ = ["build_bundle", "find_bundle", "run_bundle", "write_bundle"]
