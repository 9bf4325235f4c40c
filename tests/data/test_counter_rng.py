"""Draws and orders: pure, even, and never shared between seeds, epochs or uses."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.data.counter_rng import Stream, draw, mix
from pipeline.data.sampler import held_out, sample_order

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 10_000)


def test_mix_is_splitmix64() -> None:
    """First outputs of Vigna's public-domain splitmix64.c for state 1234567."""
    state = np.uint64(1234567)
    outputs = []
    with np.errstate(over="ignore"):
        for _ in range(3):
            state = state + np.uint64(0x9E3779B97F4A7C15)
            outputs.append(int(mix(np.atleast_1d(state))[0]))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(SEEDS, EPOCHS, st.integers(0, 2**40), st.sampled_from(Stream))
def test_a_draw_does_not_depend_on_its_neighbours(seed: int, epoch: int, index: int, stream: Stream) -> None:
    alone = draw(seed, stream, epoch, [index])
    among = draw(seed, stream, epoch, np.arange(max(0, index - 3), index + 4))
    assert alone[0] in among


@given(SEEDS, EPOCHS, st.integers(1, 3000), st.data())
def test_held_out_samples_are_never_visited_and_the_rest_keeps_its_order(
    seed: int, epoch: int, n: int, data: st.DataObject
) -> None:
    holdout = data.draw(st.integers(0, n))
    held = held_out(n, holdout)
    assert len(np.unique(held)) == holdout
    everything = sample_order(seed, epoch, n)
    assert np.array_equal(np.sort(everything), np.arange(n))
    assert np.array_equal(sample_order(seed, epoch, n, holdout), everything[~np.isin(everything, held)])


def test_held_out_samples_are_drawn_evenly() -> None:
    assert chisquare(np.bincount(held_out(50_000, 5_000) // 5_000, minlength=10)).pvalue > 1e-3


def test_seeds_and_epochs_do_not_overlap() -> None:
    """FFCV's own order for seed 2, epoch 0 is that of seed 1, epoch 1."""
    orders = {sample_order(seed, epoch, 50).tobytes() for seed in range(30) for epoch in range(30)}
    assert len(orders) == 900


def test_streams_share_no_bits() -> None:
    draws = np.stack([draw(7, stream, 3, np.arange(20_000)) for stream in Stream])
    assert len(np.unique(draws)) == draws.size
    bits = (draws >> np.uint64(63)).astype(float)
    correlation = np.corrcoef(bits) - np.eye(len(Stream))
    assert np.abs(correlation).max() < 0.04  # 5.6 standard deviations of 20,000 coin flips
