# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Datasets, batch order, and preprocessing of images."""

from experiments.data.dataset import Dataset
from experiments.data.load import load
from experiments.data.order import BatchOrder
from experiments.data.preparation import Preparation, preparation

__all__ = ["BatchOrder", "Dataset", "Preparation", "load", "preparation"]
