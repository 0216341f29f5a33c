# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which examples each step takes."""

from __future__ import annotations

import numpy as np


class BatchOrder:
    """Which examples each step takes: one random permutation of the training set after the other.

    A pure function of seed and step, so a resumed run needs no iterator state, and every process of a run and every
    process that reads for it can tell by itself. Every example is taken exactly once per epoch; a batch may reach from
    one epoch into the next.
    """

    def __init__(self, seed: int, examples: int, batch: int):
        """Orders `examples` examples into batches of `batch`."""
        self._seed = seed
        self._examples = examples
        self._batch = batch
        self._permutations: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        """Returns `[B]` int32, the examples of a step."""
        first = step * self._batch
        parts = []
        missing = self._batch
        while missing:
            epoch, start = divmod(first, self._examples)
            part = self._permutation(epoch)[start : start + missing]
            parts.append(part)
            first += len(part)
            missing -= len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        found = self._permutations.get(epoch)
        if found is None:
            # NumPy's, as the processes that read images must not start JAX.
            rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            found = rng.permutation(self._examples).astype(np.int32)
            # Two epochs can meet in a batch, and batches may be asked for from several threads.
            self._permutations = {**{e: p for e, p in self._permutations.items() if e >= epoch - 1}, epoch: found}
        return found
