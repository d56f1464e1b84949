"""Augmentation keeps pairs together and batches repeatable."""

import numpy as np
import pytest

from fastrestore.data import PairSampler
from fastrestore.data.augment import crop, cutmix


def test_a_pair_is_cropped_turned_and_mirrored_alike():
    degraded = np.arange(20 * 23 * 3).reshape(20, 23, 3)
    pair = np.stack([degraded, degraded + 10_000])
    seen = set()
    for seed in range(64):
        part = crop(np.random.default_rng(seed), pair, 8)
        assert part.shape == (2, 8, 8, 3)
        np.testing.assert_array_equal(part[1] - part[0], 10_000)
        steps = part[0, 0, 1, 0] - part[0, 0, 0, 0], part[0, 1, 0, 0] - part[0, 0, 0, 0]
        seen.add(tuple(int(step) for step in steps))
    assert len(seen) == 8  # all turns and mirrors


def test_cutmix_puts_in_one_rectangle_of_another_pair():
    pairs = np.broadcast_to(np.arange(6.0)[:, None, None, None, None], (6, 2, 16, 16, 3))
    mixed = cutmix(np.random.default_rng(1), pairs, 1.0)
    np.testing.assert_array_equal(mixed[:, 0], mixed[:, 1])
    foreign = mixed[:, 0, :, :, 0] != np.arange(6.0)[:, None, None]
    for mask in foreign:
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 3 <= foreign.any((1, 2)).sum() <= 6
    np.testing.assert_array_equal(cutmix(np.random.default_rng(1), pairs, 0.0), pairs)


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_batches_depend_on_seed_and_step_alone(mix):
    pairs = [np.random.default_rng(0).integers(0, 256, (3, 2, 20, 20, 3), np.uint8)]
    first, again = (PairSampler(pairs, 12, 4, 0.25, 7, mix) for _ in range(2))
    np.testing.assert_array_equal(first(5), again(5))
    assert not np.array_equal(first(5), first(6))
    clean, degraded = first(5)
    assert clean.shape == degraded.shape == (4, 12, 12, 3)
    assert clean.dtype == np.float32 and clean.max() <= 1
