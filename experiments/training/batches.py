# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Batches of a dataset on the devices.

Every process reads its own share of each batch. The batches are global arrays, sharded over the devices of all
processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import BatchOrder
from experiments.data.arrays import Arrays
from experiments.data.dataset import Batch as DatasetBatch
from experiments.recipe.problem import Problem
from experiments.training.step import Data, prepare


class Batches(NamedTuple):
    """Batches of several steps, as arguments of `train_steps`.

    Attributes:
      data: the training set, or the batch of one step.
      examples: `[S, B]`, indices of the batch of each step; `None` if `data` is a batch.
      steps: number of steps to run, at most S.
    """

    data: Data
    examples: jax.Array | None
    steps: int


class TestBatch(NamedTuple):
    """Inputs `[B, H, W, C]` and labels `[n]` of a test batch; inputs from index n on are padding."""

    inputs: jax.Array
    labels: np.ndarray


class Feed:
    """Reads the batches of a run.

    Attributes:
      last: the last training batches; `None` before the first. All training batches have the same shapes.
    """

    def __init__(self, problem: Problem):
        """Puts the training set on the devices if it is an in-memory dataset."""
        self._problem, self._settings = problem, problem.settings
        self._devices, self._dataset = problem.devices, problem.dataset
        order = BatchOrder(self._settings.seed, self._dataset.train_examples, self._settings.batch_size)
        self._order = order
        self.last: Batches | None = None
        self._resident: Data | None = None
        if isinstance(self._dataset, Arrays):
            images, labels = self._dataset.splits["train"]
            self._resident = self._devices.everywhere(Data(jnp.asarray(images), jnp.asarray(labels)))

    def batches(self, first: int, last: int, together: Callable[[int], int] = lambda step: 1) -> Generator[Batches]:
        """Yields the batches of the steps `first`, ..., `last - 1`. Close the generator to stop reading.

        Args:
          first, last: range of steps.
          together: returns the number of steps to run in one call from a given step on, at most
            `settings.steps_per_call`. Called when the batches of that step are requested. Not used for streamed
            datasets, which always run one step per call.
        """
        if self._resident is not None:
            step = first
            while step < last:
                taken = together(step)
                rows = np.zeros((self._settings.steps_per_call, self._settings.batch_size), np.int32)
                rows[:taken] = [self._order(step + i) for i in range(taken)]
                examples = self._devices.spread(self._devices.share(rows, 1), 1)
                self.last = Batches(self._resident, examples, taken)
                yield self.last
                step += taken
            return
        from experiments.data.streamed import Streamed  # Imports Grain, which is slow.

        assert isinstance(self._dataset, Streamed)
        part = (self._devices.process, self._devices.processes)
        for batch in self._dataset.feed(self._order, range(first, last), part=part):
            self.last = Batches(Data(*self._devices.spread(batch)), None, 1)
            yield self.last

    def death_set(self, step: int) -> list[jax.Array]:
        """Returns inputs of random training examples, without augmentation, in batches of equal size.

        There are at least `pruning.examples` of them, rounded up to fill all batches.
        """
        asked, most = self._settings.pruning.examples, self._settings.eval_batch_size
        batches = math.ceil(asked / most)
        size = math.ceil(asked / batches / self._devices.count) * self._devices.count
        return [self._inputs(images) for images, _ in self._drawn(2, step, batches, size)]

    def whole_training_set(self) -> Iterator[jax.Array]:
        """Yields inputs of all training examples, not augmented; the last batch is padded with the first examples."""
        examples, size = self._dataset.train_examples, self._settings.eval_batch_size
        rows = [np.arange(start, start + size) % examples for start in range(0, examples, size)]
        for images, _ in self._dataset.read("train", [self._devices.share(chosen) for chosen in rows]):
            yield self._inputs(images)

    def scored(self, step: int, batches: int, size: int) -> list[tuple[jax.Array, jax.Array]]:
        """Returns inputs and labels of random training examples, without augmentation, in `batches` of equal `size`."""
        drawn = self._drawn(3, step, batches, size)
        return [(self._inputs(images), self._devices.spread(labels)) for images, labels in drawn]

    def _drawn(self, purpose: int, step: int, batches: int, size: int) -> Iterator[DatasetBatch]:
        """Yields this process's share of batches of random training examples, which depend on the step."""
        key = jax.random.fold_in(jax.random.key(self._settings.seed + purpose), step)
        chosen = np.asarray(jax.random.permutation(key, self._dataset.train_examples))
        # Repeats examples if the training set is smaller than the batches.
        chosen = np.resize(chosen, batches * size).reshape(batches, size)
        return self._dataset.read("train", [self._devices.share(rows) for rows in chosen])

    def test_batches(self) -> Iterator[TestBatch]:
        """Yields every test example once."""
        examples, size = self._dataset.test_examples, self._settings.eval_batch_size
        rows = [np.resize(np.arange(start, min(start + size, examples)), size) for start in range(0, examples, size)]
        read = self._dataset.read("test", [self._devices.share(chosen) for chosen in rows])
        for start, (images, labels) in zip(range(0, examples, size), read, strict=True):
            yield TestBatch(self._inputs(images), self._devices.gather(labels)[: examples - start])

    def _inputs(self, images: np.ndarray) -> jax.Array:
        return prepare(self._devices.spread(images), preparation=self._problem.preparation)
