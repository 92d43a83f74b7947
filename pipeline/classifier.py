"""The data set's own judge: a small convolutional classifier trained on real images. Not a generative model.

Generated images of every stage are judged at one size, the data set's: smaller ones are upsampled first. To
be as fair as it can be to each stage, the classifier trains on real images that went the same way: each was
shrunk to one of the cascade's sizes (box average) and enlarged again (bilinear). The outputs of all its levels,
averaged over the image, are the features of FID, precision and recall, and a linear layer on them gives the
class. All levels, because the last one knows the shape and forgets the texture, which a sample can have wrong.

Two judges with different seeds share nothing but the data: one can score accuracy while the other gives the
features, so that neither figure is selected on the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.classifier_spec import ClassifierSpec
from pipeline.data.ordering import ExampleOrder
from pipeline.errors import UserError
from stages.images import downsample, to_float, upsample
from stages.optimizers import AdamW

DESCRIPTION_FILE = "classifier.json"
WEIGHTS_FILE = "classifier.safetensors"
FORMAT = 1

Device = str | torch.device
Log = Callable[[int, dict[str, float]], None]


class ImageSource(Protocol):
    """Real images by index: `pipeline.data.loading.Examples`, or anything that reads like it."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Examples per shard, int64 (shards,)."""
        ...

    def read(self, indices: npt.NDArray[np.int64], /) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]: ...


class Classifier(nn.Module):
    """Images -> features -> logits. `channels`: one width per level; `size`: the side it judges at, in px."""

    def __init__(self, *, channels: Sequence[int], blocks: int, classes: int, size: int) -> None:
        super().__init__()
        if size % 2 ** len(channels):
            raise UserError(
                f"a classifier with {len(channels)} levels needs images whose size is "
                f" a multiple of {2 ** len(channels)} px, not {size} px"
            )
        self.shape = {"channels": list(channels), "blocks": blocks, "classes": classes, "size": size}
        self.size = size
        levels, width = [], 12  # RGB of 2 x 2 neighbouring pixels: the first halving costs nothing
        for after in channels:
            levels.append(_Level(width, after, blocks))
            width = after
        self.levels = nn.ModuleList(levels)
        self.head = nn.Linear(sum(channels), classes)

    def features(self, images: Tensor) -> Tensor:
        """float (N, 3, h, w) in [-1, 1], upsampled (bilinear) where smaller than `size` -> float32 (N, D).

        D is the sum of the levels' widths.
        """
        h = F.pixel_unshuffle(upsample(images, self.size), 2).contiguous(memory_format=torch.channels_last)
        means = []
        for number, level in enumerate(self.levels):
            h = level(F.max_pool2d(h, 2) if number else h)
            means.append(h.float().mean(dim=(2, 3)))
        return torch.cat(means, dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, D) -> (N, classes)."""
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """float (N, 3, h, w) in [-1, 1] -> logits (N, classes)."""
        return self.logits(self.features(images))


class _Level(nn.Module):
    def __init__(self, width: int, after: int, blocks: int) -> None:
        super().__init__()
        self.first = _convolution(width, after)
        self.others = nn.ModuleList([_convolution(after, after) for _ in range(blocks - 1)])

    def forward(self, h: Tensor) -> Tensor:
        h = self.first(h)
        for convolution in self.others:
            h = h + convolution(h)
        return h


def _convolution(width: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def train_classifier(
    spec: ClassifierSpec,
    examples: ImageSource,
    sizes: Sequence[int],
    seed: int,
    *,
    device: Device = "cpu",
    log: Log | None = None,
) -> Classifier:
    """A classifier trained on `examples`; the same bits again on the same machine with as many threads.

    `sizes` are the cascade's sizes in px: each image is shrunk to one of them, drawn evenly, and enlarged
    again. `log(step, {"loss", "accuracy"})` is called about 20 times with figures of the last batch. Returned
    in evaluation mode. Raises UserError when the image size does not suit the spec, FloatingPointError when a loss was
    not finite, or what is learnt is not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(
            channels=spec.channels,
            blocks=spec.blocks,
            classes=len(examples.classes),
            size=examples.image_size,
        )
    net = net.to(device=device).train()
    optimizer = AdamW(net.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    order = ExampleOrder(examples.counts, seed=seed, stage="classifier")
    losses = torch.empty(spec.steps, device=device)  # looked at in the end: no step is waited for
    for step in range(spec.steps):
        images, labels = _batch(spec, examples, order, sizes, seed, step)
        images, labels = images.to(device), labels.to(device)
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * _one_cycle((step + 1) / (spec.steps + 1))
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = net(images).float()
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        if log is not None and (step + 1) % max(1, spec.steps // 20) == 0:
            accuracy = (logits.argmax(dim=1) == labels).float().mean()
            log(step + 1, {"loss": loss.item(), "accuracy": accuracy.item()})
    _refuse_unsound(net, losses)
    return net.eval()


def _refuse_unsound(net: Classifier, losses: Tensor) -> None:
    """Raise FloatingPointError where scores by this net would mean nothing."""
    bad = (~losses.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        what = f"the loss of a classifier is {losses[bad[0]]:g} at step {bad[0] + 1}"
    elif all(bool(value.isfinite().all()) for value in net.state_dict().values()):
        return
    else:
        what = "the weights of a classifier are not finite after its last step"
    raise FloatingPointError(f"{what}, and it is not kept; set evaluation.classifier.learning_rate lower")


def _one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` in (0, 1): up over the first fifth, then down."""
    return min(progress / 0.2, (1 - progress) / 0.8)


def _batch(
    spec: ClassifierSpec, examples: ImageSource, order: ExampleOrder, sizes: Sequence[int], seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) in [-1, 1] and labels (B,) of one step; every draw is keyed by (seed, step)."""
    pixels, truth = examples.read(order.of_step(step, spec.batch_size))
    images, labels = to_float(torch.from_numpy(pixels)), torch.from_numpy(truth)
    dice = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step))))
    choice = torch.from_numpy(dice.integers(len(sizes), size=len(images)))
    mirrored = torch.from_numpy(dice.random(len(images)) < 0.5)
    down, across = dice.integers(2 * spec.shift + 1, size=2).tolist()
    full = images.shape[-1]
    for place, size in enumerate(sizes):
        at = (choice == place).nonzero()[:, 0]
        images[at] = upsample(downsample(images[at], size), full)
    if spec.flip:
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if spec.shift:
        images = F.pad(images, (spec.shift,) * 4, mode="reflect")
        images = images[..., down : down + full, across : across + full]
    return images, labels


@torch.inference_mode()
def ranked(net: Classifier, images: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    """The ``count`` classes (N, count), fewer where there are fewer, that `net` finds likeliest, by falling logit.

    Images are uint8 (N, h, w, 3), h at most its own size.
    """
    pixels = to_float(torch.from_numpy(np.array(images))).to(net.head.weight.device)
    logits = net(pixels)
    found: npt.NDArray[np.int64] = logits.topk(min(count, logits.shape[1]), dim=1).indices.cpu().numpy()
    return found


@torch.inference_mode()
def predict(net: Classifier, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The class (N,) that `net` sees in uint8 images (N, h, w, 3), h at most its own size."""
    pixels = to_float(torch.from_numpy(np.array(images))).to(net.head.weight.device)
    found: npt.NDArray[np.int64] = net(pixels).argmax(dim=1).cpu().numpy()
    return found


def save_classifier(net: Classifier, folder: Path) -> None:
    """Writes `classifier.json` and `classifier.safetensors` into `folder`, which is made where absent."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.cpu().contiguous() for name, value in net.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    description = json.dumps({"format": FORMAT, **net.shape}, indent=1, sort_keys=True)
    (folder / DESCRIPTION_FILE).write_text(description + "\n", encoding="utf-8")


def load_classifier(folder: Path, device: Device = "cpu") -> Classifier:
    """The classifier that `save_classifier` wrote, in evaluation mode. UserError when `folder` holds none."""
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no trained classifier: {name} is missing")
    shape = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    if shape.pop("format", None) != FORMAT:
        raise UserError(f"{folder / DESCRIPTION_FILE} is not of format {FORMAT}, the one that is read here")
    net = Classifier(**shape)
    net.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return net.to(device=device).eval()
