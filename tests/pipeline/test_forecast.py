"""The model of a step's time on N GPUs: closed forms, limits and what can never be otherwise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sharing import positions_of_rank
from pipeline.forecast import (
    BUCKET_BYTES,
    Load,
    Rates,
    all_reduce_seconds,
    bytes_sent,
    data_seconds,
    efficiency,
    exposed_seconds,
    largest_share,
    optimizer_bytes,
    step_time,
)

RATES = Rates(
    flops=4e14,
    memory=3e12,
    link=4.5e11,
    network=5e10,
    read=1e9,
    gpus_per_node=8,
    link_seconds=3e-6,
    network_seconds=2e-5,
)
LOAD = Load(flops=5e11, parameters=800_000_000, batch=2048, image_bytes=12_288)
ENDLESS = replace(RATES, memory=math.inf, link=math.inf, network=math.inf, link_seconds=0.0, network_seconds=0.0)

loads = st.builds(
    Load,
    flops=st.floats(1e8, 1e13),
    parameters=st.integers(1000, 2 * 10**9),
    batch=st.integers(64, 4096),
    micro_batch=st.none() | st.integers(1, 8),
    averages=st.sampled_from([0, 2]),
    image_bytes=st.floats(0, 1e6),
    decoded=st.floats(10, 1e5),
    ahead=st.booleans(),
)
machines = st.builds(
    Rates,
    flops=st.floats(1e12, 1e15),
    memory=st.floats(1e10, 1e13),
    link=st.floats(1e9, 1e12),
    network=st.floats(1e8, 1e12),
    read=st.floats(1e6, 1e11),
    gpus_per_node=st.sampled_from([1, 4, 8]),
    link_seconds=st.floats(0, 1e-4),
    network_seconds=st.floats(0, 1e-3),
    loop=st.floats(1, 2),
    hidden=st.floats(0, 1),
)


@given(loads, machines, st.integers(1, 512))
def test_what_holds_on_any_machine(load: Load, rates: Rates, gpus: int) -> None:
    gpus = min(gpus, load.most_gpus)
    found = step_time(load, rates, gpus)
    assert 0.0 <= found.exposed <= found.all_reduce * (1 + 1e-9)
    assert found.step >= max(found.compute, found.data)
    assert 0.0 < efficiency(load, rates, gpus) <= 1.0 + 1e-9
    for faster in (
        replace(rates, network=2 * rates.network),
        replace(rates, link=2 * rates.link),
        replace(rates, memory=2 * rates.memory),
        replace(rates, flops=2 * rates.flops),
        replace(rates, read=2 * rates.read),
        replace(rates, hidden=1.0),
        replace(rates, loop=1.0),
    ):
        assert step_time(load, faster, gpus).step <= found.step * (1 + 1e-9)


@given(st.integers(1, 4096), st.none() | st.integers(1, 64), st.integers(1, 512))
def test_the_largest_share_is_the_one_that_training_gives_the_first_rank(
    batch: int, micro_batch: int | None, gpus: int
) -> None:
    micro_batch = None if micro_batch is None else min(micro_batch, batch)
    load = replace(LOAD, batch=batch, micro_batch=micro_batch)
    world = min(gpus, load.most_gpus)
    assert largest_share(load, world) == len(positions_of_rank(batch, 0, world, micro_batch))


def test_one_gpu_exchanges_nothing() -> None:
    alone = step_time(LOAD, RATES, 1)
    assert alone.all_reduce == alone.exposed == 0.0
    assert alone.step == pytest.approx(2048 * 5e11 / 4e14 + 2 * 5 * 4 * 800e6 / 3e12)
    assert efficiency(LOAD, RATES, 1) == 1.0


def test_two_gpus_exchange_all_but_the_last_bucket_beside_the_backward_pass() -> None:
    each = BUCKET_BYTES / RATES.link + 2 * RATES.link_seconds  # 2 (N - 1) / N is 1, and so many hops are 2
    load = replace(LOAD, parameters=10 * BUCKET_BYTES // 4)
    found = step_time(load, RATES, 2)
    assert found.all_reduce == pytest.approx(10 * each)
    assert found.exposed == pytest.approx(each)
    assert exposed_seconds(load, replace(RATES, hidden=0.0), 2) == pytest.approx(10 * each)
    assert exposed_seconds(load, replace(RATES, hidden=0.5), 2) == pytest.approx(5.5 * each)


def test_what_is_longer_than_the_backward_pass_is_waited_for() -> None:
    load = replace(LOAD, flops=1e6)
    backward = 2 / 3 * 1024 * 1e6 / RATES.flops
    assert exposed_seconds(load, RATES, 2) == pytest.approx(all_reduce_seconds(3.2e9, RATES, 2) - backward)


def test_only_the_last_micro_batch_hides_an_exchange() -> None:
    load, slow = replace(LOAD, micro_batch=64), replace(RATES, link=1e9)
    assert largest_share(load, 8) == 256
    backward = 2 / 3 * 64 * 5e11 / RATES.flops
    assert exposed_seconds(load, slow, 8) == pytest.approx(all_reduce_seconds(3.2e9, slow, 8) - backward)


def test_each_gpu_sends_twice_the_gradients_in_the_end() -> None:
    assert bytes_sent(4 * 800e6, 2) == 4 * 800e6
    sent = [bytes_sent(4 * 800e6, gpus) for gpus in (1, 2, 8, 64, 512, 10**9)]
    assert sent[0] == 0.0
    assert sent == sorted(sent)
    assert sent[-1] == pytest.approx(2 * 4 * 800e6)


def test_nodes_exchange_over_their_network_and_many_by_a_tree() -> None:
    gradients = 40 * BUCKET_BYTES
    quiet = replace(RATES, link_seconds=0.0, network_seconds=0.0)
    assert all_reduce_seconds(gradients, quiet, 8) == pytest.approx(2 * 7 / 8 * gradients / RATES.link)
    assert all_reduce_seconds(gradients, quiet, 64) == pytest.approx(2 * 63 / 64 * gradients / RATES.network)
    # 64 nodes: two ways through 7 links within a node and log2(64) = 6 levels of nodes, for each bucket
    tree = 2 * gradients / RATES.network + 40 * 2 * (7 * 3e-6 + 6 * 2e-5)
    assert all_reduce_seconds(gradients, RATES, 512) == pytest.approx(tree)
    # two nodes, close together within: 15 hops around the ring and 15 again, two of each between nodes
    close = replace(RATES, link_seconds=1e-9)
    ring = 2 * 15 / 16 * gradients / RATES.network + 40 * 2 * (13 * 1e-9 + 2 * 2e-5)
    assert all_reduce_seconds(gradients, close, 16) == pytest.approx(ring)
    # nodes of one GPU: the one hop of two is between them
    lone = replace(RATES, gpus_per_node=1, link_seconds=1.0)
    assert all_reduce_seconds(gradients, lone, 2) == pytest.approx(gradients / RATES.network + 40 * 2 * 2e-5)


@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_endless_bandwidth_scales_perfectly_and_a_fixed_time_does_not(gpus: int) -> None:
    assert efficiency(replace(LOAD, image_bytes=0.0), ENDLESS, gpus) == pytest.approx(1.0)
    fixed = replace(ENDLESS, memory=RATES.memory)
    alone, optimizer = 2048 * 5e11 / 4e14, optimizer_bytes(LOAD) / RATES.memory
    assert step_time(LOAD, fixed, gpus).step == pytest.approx(alone / gpus + optimizer)


def test_a_batch_that_does_not_divide_waits_for_the_largest_share() -> None:
    load = replace(LOAD, batch=9, image_bytes=0.0)
    assert efficiency(load, ENDLESS, 8) == pytest.approx(9 / (8 * 2))


def test_a_step_that_data_bounds_takes_as_long_as_reading_it() -> None:
    load = replace(LOAD, image_bytes=3e6)
    found = step_time(load, RATES, 64)
    assert found.step == found.data == pytest.approx(8 * 32 * 3e6 / 1e9)  # a node's eight shares of 32
    assert found.bound == "data"
    decoding = replace(LOAD, decoded=100.0)
    assert data_seconds(decoding, RATES, 64) == pytest.approx(32 / 100.0)
    here = step_time(replace(decoding, ahead=False), RATES, 64)
    assert here.step == pytest.approx(here.compute + here.exposed + 32 / 100.0)


def test_the_bound_is_what_is_waited_for_longest() -> None:
    assert step_time(LOAD, RATES, 8).bound == "compute"
    assert step_time(LOAD, RATES, 512).bound == "all-reduce"


def test_a_loop_multiplies_what_the_gpu_does() -> None:
    slow = replace(RATES, loop=1.25)
    assert step_time(LOAD, slow, 8).compute == pytest.approx(1.25 * step_time(LOAD, RATES, 8).compute)


def test_averages_are_read_and_written_like_the_weights() -> None:
    assert optimizer_bytes(replace(LOAD, averages=2)) - optimizer_bytes(LOAD) == 2 * 2 * 4 * LOAD.parameters
