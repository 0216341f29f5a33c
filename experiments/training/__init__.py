# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The training loop, its compiled step, evaluation, and when and what to prune."""
