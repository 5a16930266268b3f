"""VULD: one-stage, anchor-free detection with pseudo-3D convolutions and surface points.

Source: Cai et al., *Deep Volumetric Universal Lesion Detection*, MLMI at MICCAI 2020. Of it are
the pseudo-3D convolutions (one in the plane, one across the slices), the centre heat map, and the
regression of the lesion's extreme points. Different here: the small backbone of all networks of
this table instead of a pretrained DenseNet or HRNet; the surface points are the middles of the
box's six faces, each by its distance along its axis (what is painted is a ball, and RECIST gives
no outline); 2 mm voxels; the heads lie 4 mm apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import nn

from tlt.model.detection import Detector, DetectorConfig
from tlt.model.presets import COMPACT


class VULD(Detector):
    """The detector, every convolution of its backbone and head made pseudo-3D."""

    presets: ClassVar[Mapping[str, DetectorConfig]] = {
        "compact": DetectorConfig("compact", **COMPACT),
    }

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config)
        make_pseudo_3d(self)


def make_pseudo_3d(module: nn.Module) -> None:
    """Replace, in place, every cubic convolution by one in the plane and one across the slices."""
    for name, child in module.named_children():
        layers = list(child) if isinstance(child, nn.Sequential) else []
        if layers and _is_cubic(layers[0]):
            setattr(module, name, _pseudo(layers[0], layers[1:]))
        else:
            make_pseudo_3d(child)


def _is_cubic(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1


def _pseudo(cubic: nn.Module, rest: Iterable[nn.Module]) -> nn.Sequential:
    """The two convolutions that stand for a cubic one, the second with what followed it."""
    assert isinstance(cubic, nn.Conv3d)
    size, stride, reach = cubic.kernel_size[0], cubic.stride[0], cubic.kernel_size[0] // 2
    inputs, outputs = cubic.in_channels, cubic.out_channels
    plane = nn.Conv3d(
        inputs, outputs, (1, size, size), (1, stride, stride), (0, reach, reach), bias=False
    )
    across = nn.Conv3d(
        outputs, outputs, (size, 1, 1), (stride, 1, 1), (reach, 0, 0), bias=cubic.bias is not None
    )
    return nn.Sequential(plane, nn.Sequential(across, *rest))
