"""The shared feature extractor: a 3D ResNet-18 without its last stage (Section 3.1, Table S2).

It differs between presets only in stem, block and width; see `tlt.model.presets`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlt.model.presets import BackboneConfig


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv3d:
    """A 3x3x3 convolution that keeps token k at voxel k * stride."""
    return nn.Conv3d(inputs, outputs, 3, stride, 1)


class PublishedStem(nn.Module):
    """conv-ReLU-conv with a parallel convolution as skip (published; its norm does nothing)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv3(inputs, outputs)
        self.second = conv3(outputs, outputs)
        self.skip = conv3(inputs, outputs)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(image))) + self.skip(image)


class PreactivationBlock(nn.Module):
    """ReLU-conv-ReLU-conv plus a strided convolution as skip (published code)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv3(inputs, outputs, stride)
        self.second = conv3(outputs, outputs)
        self.skip = conv3(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(torch.relu(x)))) + self.skip(x)


class ResidualBlock(nn.Module):
    """conv-norm-ReLU-conv-norm plus identity or 1x1x1 skip, then ReLU: the block of ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        moved = self.second(self.first(x).relu_())
        moved += self.skip(x)  # in place, as the rectifiers: new memory costs more than the sum
        return moved.relu_()


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    conv = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs))


def stem_of(config: BackboneConfig, inputs: int) -> nn.Module:
    """The layers before the first residual block."""
    width = config.channels[0]
    if config.stem == "published":
        return PublishedStem(inputs, width)
    if config.stem == "compact":
        return nn.Sequential(convolution(inputs, width, 5, 2), nn.ReLU(inplace=True))
    first, second = convolution(inputs, width, 7), convolution(width, width, 3)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


class Backbone(nn.Module):
    """Features (B, C, D/s, H/s, W/s) of CT windows (B, 1, D, H, W) in HU; s is the stride.

    The feature at index k is centred on voxel k * s. Outside the image the input counts as the
    lower end of the window (air), because that is what zero padding means after scaling.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.windows_hu, self.clip = config.windows_hu, config.clip
        inputs, width = len(config.windows_hu), config.channels[0]
        self.stem = stem_of(config, inputs)
        block = PreactivationBlock if config.preactivation else ResidualBlock
        stages: list[nn.Module] = []
        self.block_strides: list[int] = []
        for outputs, stride, count in zip(
            config.channels[1:], config.strides, config.blocks, strict=True
        ):
            for index in range(count):
                self.block_strides.append(stride if index == 0 else 1)
                stages.append(block(width, outputs, self.block_strides[-1]))
                width = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, image_hu: Tensor) -> Tensor:
        return self.stages(self.stem(self.scaled(image_hu)))

    def levels(self, image_hu: Tensor) -> list[Tensor]:
        """The features of every resolution, finest first; the last are those of `forward`."""
        kept = [self.stem(self.scaled(image_hu))]
        for stage, stride in zip(self.stages, self.block_strides, strict=True):
            features = stage(kept[-1])
            if stride == 1:
                kept.pop()
            kept.append(features)
        return kept

    def scaled(self, image_hu: Tensor) -> Tensor:
        """One channel a window: 0 at its lower, 1 at its upper end."""
        return windowed(image_hu, self.windows_hu, self.clip)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """The module, in place, with every conv + batch norm made one convolution (inference only)."""
    for name, child in module.named_children():
        kinds = [type(part) for part in child] if isinstance(child, nn.Sequential) else []
        if kinds == [nn.Conv3d, nn.BatchNorm3d]:
            setattr(module, name, nn.utils.fuse_conv_bn_eval(child[0], child[1]))  # type: ignore
        else:
            fold_batch_norms(child)
    return module


def windowed(image_hu: Tensor, windows_hu: tuple[tuple[float, float], ...], clip: bool) -> Tensor:
    """An image (B, 1, ...) as one channel a window: 0 at its lower, 1 at its upper end."""
    channels = [(image_hu - low).div_(high - low) for low, high in windows_hu]
    scaled = torch.cat(channels, 1)
    return scaled.clamp_(0, 1) if clip else scaled
