"""The MedNeXt network in its v1 and v2 forms."""

from mednextv2.nets.adapters import AdaptedNetwork
from mednextv2.nets.cuda_graph import CudaGraphs
from mednextv2.nets.explain_implementations import explain
from mednextv2.nets.legal_sizes import scaled_patch
from mednextv2.nets.masked_autoencoder import MaskedAutoencoder
from mednextv2.nets.mednext import MedNeXt
from mednextv2.nets.variants import VARIANTS, Variant, create_mednext

__all__ = [
    "VARIANTS",
    "AdaptedNetwork",
    "CudaGraphs",
    "MaskedAutoencoder",
    "MedNeXt",
    "Variant",
    "create_mednext",
    "explain",
    "scaled_patch",
]
