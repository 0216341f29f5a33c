# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The architectures, by framework."""

from benchmarks.prunability.networks import equinox, linen, nnx, packages, plain

CASES = (*plain.CASES, *linen.CASES, *nnx.CASES, *equinox.CASES, *packages.CASES)
