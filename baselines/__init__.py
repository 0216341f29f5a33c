# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Baselines: other pruning methods, one module per method.

Structured methods score units and remove those with the smallest scores (`structured.prune`). Masking methods keep the
shapes of the network and mask weights (`masking.Updater`).
"""
