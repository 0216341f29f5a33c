# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The order of training examples."""

from __future__ import annotations

import numpy as np


class BatchOrder:
    """The examples of each step, from a new random permutation of the training set per epoch.

    The order is a pure function of seed and step. A resumed run therefore needs no iterator state, and every process
    and data worker can compute it. Every example is used exactly once per epoch; a batch may span two epochs.
    """

    def __init__(self, seed: int, examples: int, batch: int):
        """Initializes the order of `examples` examples in batches of `batch`."""
        self._seed = seed
        self._examples = examples
        self._batch = batch
        self._permutations: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        """Returns the indices of the examples of a step, `[B]` int32."""
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
            # NumPy's generator, because data workers must not initialize JAX.
            rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            found = rng.permutation(self._examples).astype(np.int32)
            # A batch may span two epochs, and several threads may call this, so the last permutations are kept and the
            # dict is replaced instead of modified.
            self._permutations = {**{e: p for e, p in self._permutations.items() if e >= epoch - 1}, epoch: found}
        return found
