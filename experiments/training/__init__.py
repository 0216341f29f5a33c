# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training loop and its hooks, the compiled step, evaluation, and pruning during training."""
