# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Construction of the network, optimizer, pruning method and target size from a config."""
