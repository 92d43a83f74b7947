"""What the net sees of an image: parts of the published shapes, drawn by place in the batch alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.cas.augmentation import AREA, RATIO, augmented, centre
from pipeline.cas.spec import CasSpec
from stages.randomness import KeyedDraws

DRAWS = KeyedDraws(0, "cas augmentation")


def ramps(count: int, size: int) -> Tensor:
    """Images whose first channel is the place from left to right, whose second that from top to bottom, in (0, 1)."""
    line = (torch.arange(size) + 0.5) / size
    across, down = line.expand(size, size), line[:, None].expand(size, size)
    return torch.stack([across, down, torch.zeros(size, size)]).expand(count, 3, size, size)


def test_random_parts_have_the_published_shapes_and_lie_inside() -> None:
    size, side = 64, 56
    seen = augmented(ramps(500, size), CasSpec(flip=False), DRAWS, 3, torch.arange(500))
    assert seen.shape == (500, 3, side, side)
    assert seen[:, 2].abs().max() == 0
    # Away from the border, where the last half pixel is repeated, a part of a ramp is a ramp of its width.
    for channel, along in ((0, -1), (1, -2)):
        assert torch.allclose(seen[:, channel], seen[:, channel].mean(-3 - along, keepdim=True), atol=1e-5)
    across, down = seen[:, 0, side // 2], seen[:, 1, :, side // 2]
    middle = slice(side // 4, 3 * side // 4)
    width, height = ((line[:, middle].diff(dim=1).mean(dim=1) * side) for line in (across, down))
    area, ratio = width * height, width / height
    assert AREA[0] - 1e-3 <= area.min() < 0.12
    assert 0.9 < area.max() <= AREA[1] + 1e-3
    assert RATIO[0] - 1e-3 <= ratio.min() < 0.8
    assert 1.25 < ratio.max() <= RATIO[1] + 1e-3
    for line, length in ((across, width), (down, height)):
        begin = line[:, side // 2 - 1 : side // 2 + 1].mean(dim=1) - length / 2
        assert begin.min() > -1e-3
        assert (begin + length).max() < 1 + 1e-3
        assert (begin / (1 - length).clamp_min(1e-3)).std() > 0.2  # not always the same corner


def test_shifts_move_whole_pixels_and_mirror_edges() -> None:
    spec = CasSpec(crop=None, shift=0.125, flip=False)
    image = torch.arange(16 * 16.0).reshape(1, 1, 16, 16).expand(200, 3, 16, 16)
    seen = augmented(image, spec, DRAWS, 0, torch.arange(200))
    padded = torch.nn.functional.pad(image[:1], (2, 2, 2, 2), mode="reflect")[0]
    shifted = {
        (down, across): padded[:, down : down + 16, across : across + 16] for down in range(5) for across in range(5)
    }
    found = [next(place for place, other in shifted.items() if torch.equal(one, other)) for one in seen]
    assert set(found) == set(shifted)  # all 25 of them


def test_half_of_the_images_are_mirrored() -> None:
    spec = CasSpec(crop=None, shift=0.0)
    images = ramps(1000, 8)
    seen = augmented(images, spec, DRAWS, 0, torch.arange(1000))
    mirrored = torch.tensor([torch.equal(one, images[0].flip(-1)) for one in seen])
    assert (mirrored | torch.tensor([torch.equal(one, images[0]) for one in seen])).all()
    assert 440 < mirrored.sum() < 560
    assert torch.equal(
        augmented(images, CasSpec(crop=None, shift=0.0, flip=False), DRAWS, 0, torch.arange(1000)), images
    )


@pytest.mark.parametrize("crop", [0.875, None])
def test_draws_are_those_of_the_step_and_the_place_in_the_batch(crop: float | None) -> None:
    spec = CasSpec(crop=crop)
    images, positions = torch.rand(12, 3, 16, 16), torch.arange(12)
    whole = augmented(images, spec, DRAWS, 5, positions)
    parts = [augmented(images[part], spec, DRAWS, 5, positions[part]) for part in (slice(0, 5), slice(5, 12))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(augmented(images, spec, DRAWS, 6, positions), whole)


def test_the_centre_is_the_centre() -> None:
    seen = centre(ramps(1, 256), 224)
    assert seen.shape == (1, 3, 224, 224)
    assert torch.allclose(seen.mean(dim=(2, 3)), torch.tensor([[0.5, 0.5, 0.0]]))
    assert torch.equal(centre(seen, 224), seen)
