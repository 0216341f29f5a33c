# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Datasets, the order of their batches, and what happens to images on their way into a network."""

from experiments.data.dataset import Dataset
from experiments.data.load import load
from experiments.data.order import BatchOrder
from experiments.data.preparation import Preparation, preparation

__all__ = ["BatchOrder", "Dataset", "Preparation", "load", "preparation"]
