"""How much weight each configuration adds to lists of others, for many weightings of the same samples at once.

A product of matrices in float32 has whole numbers exactly as long as they stay below 2^24. The sums of one weighting
over a few thousand samples need half of these bits, so two weightings share a row, as a + 4096 b, and the product takes
half the time.
"""

from __future__ import annotations

import numpy as np

_SAMPLES = 3584
"""Samples in one product: in a resample they hardly ever weigh `_BASE` or more, eight standard deviations above."""
_FEWEST = 200
"""Samples of which a product takes longer than telling two weightings apart."""
_BASE = 4096
"""2^12: what two weightings of a row are told apart by."""
_CACHED_CELLS = 400_000
"""Weights at once, so that what is made of them stays in a cache."""


class Uncovered:
    """Samples that the list of each weighting does not cover yet, and where each configuration is right on them."""

    def __init__(self, weights: np.ndarray, right: np.ndarray) -> None:
        """weights: (B, n) how often each sample counts, whole numbers that sum to less than 2^24; written to. right:
        (C, n) bool."""
        self._weights, self._right = weights, right
        self._blocks = _blocks(weights)

    def gains(self, configs: np.ndarray | None = None) -> np.ndarray:
        """(B, c) float32: the weight that each configuration is right on. configs: (c,) which; default all."""
        count = len(self._right) if configs is None else len(configs)
        gains = np.zeros((len(self._weights), count), np.float32)
        for block, paired in self._blocks:
            weights, right = self._weights[:, block], self._right[:, block]
            by_config = (right if configs is None else right[configs]).astype(np.float32).T
            if not paired:
                gains += weights.astype(np.float32) @ by_config
                continue
            pairs, odd = weights[::2].astype(np.float32), weights[1::2]
            pairs[: len(odd)] += np.multiply(odd, np.float32(_BASE), dtype=np.float32)
            sums = pairs @ by_config
            of_odd = np.floor(sums * np.float32(1 / _BASE))
            gains[::2] += sums - np.float32(_BASE) * of_odd
            gains[1::2] += of_odd[: len(odd)]
        return gains

    def take_out(self, pick: np.ndarray) -> None:
        """Takes out what a configuration of each weighting is right on; and samples that no weighting has left, when
        half of them are gone, so that all the shedding costs one matrix. pick: (B,)."""
        size = max(1, _CACHED_CELLS // max(1, self._weights.shape[1]))
        for start in range(0, len(pick), size):
            self._weights[start : start + size] *= np.logical_not(self._right[pick[start : start + size]])
        kept = np.flatnonzero(self._weights.max(0, initial=0))
        if len(kept) <= self._weights.shape[1] / 2:
            self._weights, self._right = np.take(self._weights, kept, axis=1), np.take(self._right, kept, axis=1)
            self._blocks = _blocks(self._weights)


def _blocks(weights: np.ndarray) -> list[tuple[slice, bool]]:
    """The samples a few at a time, and whether two weightings of these can share a row. weights: (B, n)."""
    blocks = []
    for start in range(0, weights.shape[1], _SAMPLES):
        block = weights[:, start : start + _SAMPLES]
        pays = block.dtype == np.uint8 and block.shape[1] >= _FEWEST
        paired = pays and int(block.sum(1, dtype=np.uint32).max(initial=0)) < _BASE
        blocks.append((slice(start, start + _SAMPLES), paired))
    return blocks
