# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Measures dead units, plans a prune, slices all trees, and compares the outputs."""
