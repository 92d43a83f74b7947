"""Keyed draws: the published cipher, independence of order and slicing, the right distributions."""

from __future__ import annotations

import pytest
import torch

from stages.randomness import KeyedDraws, _compiled_words, _words, philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of Philox 4x32-10 that Salmon et al. publish with their code
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: str) -> None:
    words = philox(tuple(torch.tensor([c]) for c in counter), key)  # type: ignore[arg-type]
    assert " ".join(f"{int(word):08x}" for word in words) == expected


@pytest.mark.slow
def test_the_compiled_cipher_gives_the_same_words() -> None:
    """In kernels that torch writes; steps and keys come as tensors, and any shape is welcome."""
    fused = _compiled_words()
    for positions in (torch.zeros(1, dtype=torch.int64), torch.arange(2), torch.arange(7) * 997 + 2**33):
        for count, step in ((1, 0), (5, 2**32 - 1), (192, 7)):
            key = 0xFFFFFFFF, 0x9E3779B9
            asked = torch.tensor(step), (torch.tensor(key[0]), torch.tensor(key[1]))
            assert torch.equal(fused(positions, *asked, count), _words(positions, step, key, count))


def test_draws_do_not_depend_on_order_or_slicing() -> None:
    draws = KeyedDraws(3, "sr16")
    positions = torch.arange(100)
    whole = draws.normal("noise", 7, positions, (3, 5))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws.normal("noise", 7, positions[order], (3, 5)), whole[order])
    assert torch.equal(draws.normal("noise", 7, positions[40:], (3, 5)), whole[40:])


def test_every_part_of_the_key_matters() -> None:
    positions = torch.arange(50)
    base = KeyedDraws(0, "a").uniform("noise", 1, positions)
    others = [
        KeyedDraws(1, "a").uniform("noise", 1, positions),
        KeyedDraws(0, "b").uniform("noise", 1, positions),
        KeyedDraws(0, "a").uniform("time", 1, positions),
        KeyedDraws(0, "a").uniform("noise", 2, positions),
        KeyedDraws(0, "a").uniform("noise", 1, positions + 1000),
        KeyedDraws(0, "a").uniform("noise", 1, positions + 2**33),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([base, other]))[0, 1]) < 0.5
        assert not torch.equal(base, other)


def test_moments_of_normal_and_range_of_uniform() -> None:
    draws = KeyedDraws(11, "moments")
    z = draws.normal("noise", 0, torch.arange(2000), (301,)).double()  # an odd count: half a pair is thrown away
    error = len(z.flatten()) ** -0.5
    assert abs(z.mean()) < 4 * error
    assert abs(z.var() - 1) < 4 * error * 2**0.5
    assert abs((z**4).mean() - 3) < 4 * error * 96**0.5
    assert z.abs().max() > 4.5  # the tail is there
    neighbours = torch.corrcoef(torch.stack([z[:, :-1].flatten(), z[:, 1:].flatten()]))[0, 1]
    assert abs(neighbours) < 4 * error
    u = draws.uniform("time", 0, torch.arange(200_000))
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.003)
