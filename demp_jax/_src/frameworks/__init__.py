# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The adapters for Flax NNX, and code that they share with those for Flax Linen and Equinox."""
