# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What the adapters of `demp_jax.nnx`, `linen` and `equinox` are made of."""
