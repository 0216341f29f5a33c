# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Which network architectures `demp_jax` can prune, and how exactly: `python -m benchmarks.prunability`."""
