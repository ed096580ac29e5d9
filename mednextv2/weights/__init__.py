"""Weights in and out of the network: safe files only, and never a silent mismatch."""

from mednextv2.weights.files import load_file
from mednextv2.weights.loading import load_weights
from mednextv2.weights.official import import_official
from mednextv2.weights.pretrained import load_pretrained
from mednextv2.weights.provenance import read_about

__all__ = ["import_official", "load_file", "load_pretrained", "load_weights", "read_about"]
