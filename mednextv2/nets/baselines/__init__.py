"""Networks with which MedNeXt was compared and that no maintained library has, built from MONAI's blocks.

They are not imported by :mod:`mednextv2.nets`, since MONAI's blocks take seconds to import.
"""

from mednextv2.nets.baselines.nnformer import NnFormer
from mednextv2.nets.baselines.transbts import TransBTS
from mednextv2.nets.baselines.transunet3d import TransUNet3D
from mednextv2.nets.baselines.uxnet3d import UXNet3D

__all__ = ["NnFormer", "TransBTS", "TransUNet3D", "UXNet3D"]
