"""Updates in fewer bytes: what arrives, how far it is off, and that nothing is lost over the rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecgshared.learning.compression import (
    BLOCK,
    compressed,
    restored,
    with_feedback,
    written_as,
    written_size,
)
from ecgshared.stages.train import Config, misfit, weights_of

KINDS = ("bf16", "int8")


def moves(n: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=n) * 10.0 ** draw.uniform(-6, 0, n)).astype(np.float32)


@given(st.integers(0, 3000), st.integers(0, 2**31 - 1))
def test_bfloat16_is_torchs(n, seed):
    values = moves(n, seed)
    theirs = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(restored(compressed(values, "bf16"), "bf16", n), theirs)


@given(st.integers(0, 3000), st.integers(0, 2**31 - 1))
def test_int8_is_off_by_half_a_step_of_its_block_at_most(n, seed):
    values = moves(n, seed)
    found = restored(compressed(values, "int8"), "int8", n)
    for start in range(0, n, BLOCK):
        block = values[start : start + BLOCK]
        step = np.abs(block).max() / 127
        assert np.abs(found[start : start + BLOCK] - block).max() <= 0.5 * step * (1 + 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, BLOCK, BLOCK + 1])
def test_zeros_and_odd_sizes(kind, n):
    written = compressed(np.zeros(n, np.float32), kind)
    assert (written.dtype, len(written)) == (written_as(kind), written_size(kind, n))
    np.testing.assert_array_equal(restored(written, kind, n), np.zeros(n))


@pytest.mark.parametrize(("kind", "share"), [("bf16", 0.5), ("int8", 0.251)])
def test_the_bytes_that_travel(kind, share):
    values = moves(100_000)
    assert compressed(values, kind).nbytes <= share * values.nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_over_the_rounds_all_arrives_but_what_is_kept(kind):
    """What arrived and what is kept is what was sent, to the rounding of fp32; without feedback the bias would grow."""
    sent, arrived, plain = np.zeros(5000), np.zeros(5000), np.zeros(5000)
    kept = None
    for number in range(50):
        moved = moves(5000, 7) + 0.1 * moves(5000, number)
        written, kept = with_feedback(moved, kept, kind)
        sent += moved
        arrived += restored(written, kind, 5000)
        plain += restored(compressed(moved, kind), kind, 5000)
    np.testing.assert_allclose(arrived + kept, sent, rtol=1e-5, atol=1e-5)
    assert np.abs(arrived - sent).max() < 0.2 * np.abs(plain - sent).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_not_written(kind, bad):
    with pytest.raises(ValueError, match="a number that"):
        compressed(np.array([1.0, bad], np.float32), kind)


def test_a_number_that_bfloat16_rounds_to_infinity_is_not_written():
    with pytest.raises(ValueError, match="bfloat16 cannot hold"):
        compressed(np.array([np.finfo(np.float32).max]), "bf16")


CONFIG = {"id": "t", "stage": "train", "heads": ("male",)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_update_of_the_step_is_refused(kind):
    step, received = Config(**CONFIG, compress=kind), moves(3000)
    written = compressed(moves(3000, 1), kind)
    assert misfit(written, "l", "l", step, received) is None
    np.testing.assert_array_equal(weights_of(written, step, received), received + restored(written, kind, 3000))
    assert misfit(written, "l", "another", step, received) == "wrong-shape"
    assert misfit(received, "l", "l", step, received) == "wrong-shape"
    assert misfit(written[:-1], "l", "l", step, received) == "wrong-shape"
    assert misfit(written, "l", "l", Config(**CONFIG), received) == "wrong-shape"
    infinite = written.copy()
    infinite.view(np.uint8)[:4] = [0x80, 0x7F, 0x80, 0x7F]
    assert misfit(infinite, "l", "l", step, received) == "not-finite"


@pytest.mark.parametrize(
    ("also", "why"),
    [
        ({"privacy": {"epsilon": 3, "delta": 1e-5}, "local": {"steps": 2}}, "privacy accounts for the update"),
        ({"precision": "fp64"}, "compress writes fp32"),
    ],
)
def test_neither_private_nor_double_updates_are_compressed(also, why):
    with pytest.raises(ValueError, match=why):
        Config(**CONFIG, compress="int8", **also)


def test_it_is_no_part_of_a_step_that_does_not_compress():
    assert "compress" not in Config(**CONFIG).model_dump()
