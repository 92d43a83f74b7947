"""The nets that are trained for the score: ResNet-18 and ResNet-50 (He et al. 2015), or the small classifier.

The residual nets are those that the field trains: the stride of a bottleneck is in its 3 x 3 convolution, the last
batch norm of each block begins at zero (Goyal et al. 2017, section 5.1), so that every block begins as the identity,
and the last layer begins with weights of standard deviation 0.01. Parameters are named as torchvision names them.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.cas.spec import NetSpec, SmallNetSpec
from pipeline.classifier import Classifier

_WIDTHS = (64, 128, 256, 512)
_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


class _Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(width, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _convolution(planes, planes, 3), nn.BatchNorm2d(planes)
        self.downsample = _shortcut(width, planes, stride)

    def forward(self, h: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(h)))))
        return F.relu(inner + self.downsample(h))


class _Bottleneck(nn.Module):
    """1 x 1 to fewer channels, 3 x 3, 1 x 1 to four times as many, beside a shortcut."""

    expansion = 4

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        after = planes * self.expansion
        self.conv1, self.bn1 = _convolution(width, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _convolution(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _convolution(planes, after, 1), nn.BatchNorm2d(after)
        self.downsample = _shortcut(width, after, stride)

    def forward(self, h: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(h)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(h))


def _convolution(width: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, after, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(width: int, after: int, stride: int) -> nn.Module:
    if width == after and stride == 1:
        return nn.Identity()
    return nn.Sequential(_convolution(width, after, 1, stride), nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """Images float (B, 3, h, w) -> logits (B, classes). ``stem`` "small" is for images of 64 px and less."""

    def __init__(self, kind: Literal["resnet18", "resnet50"], *, classes: int, stem: Literal["imagenet", "small"]):
        super().__init__()
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False) if large else _convolution(3, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        block: type[_Basic] | type[_Bottleneck] = _Bottleneck if kind == "resnet50" else _Basic
        layers, width = [], 64
        for level, (planes, count) in enumerate(zip(_WIDTHS, _BLOCKS[kind], strict=True)):
            blocks = []
            for number in range(count):
                blocks.append(block(width, planes, 2 if level and not number else 1))
                width = planes * block.expansion
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc = nn.Linear(width, classes)
        self.apply(_begin)

    def forward(self, images: Tensor) -> Tensor:
        h = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            h = layer(h)
        logits: Tensor = self.fc(h.mean(dim=(2, 3)))
        return logits


def _begin(module: nn.Module) -> None:
    """The first weights of one layer, or, of a block, of its last batch norm (a block comes after its layers)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, _Basic):
        nn.init.zeros_(module.bn2.weight)
    elif isinstance(module, _Bottleneck):
        nn.init.zeros_(module.bn3.weight)


def build_net(spec: NetSpec, *, classes: int, side: int, seed: int) -> nn.Module:
    """The net for images (B, 3, side, side) in [-1, 1], its first weights a function of ``seed``; in training mode.

    Raises UserError where the small net cannot halve ``side`` often enough.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(spec, SmallNetSpec):
            return Classifier(channels=spec.channels, blocks=spec.blocks, classes=classes, size=side)
        return ResNet(spec.kind, classes=classes, stem=spec.stem)


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """All parameters for an optimizer: the batch norms' are not decayed (Goyal et al. 2017, section 5.1)."""
    norms = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters(recurse=False)]
    known = set(map(id, norms))
    others = [parameter for parameter in net.parameters() if id(parameter) not in known]
    return [{"params": others, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]
