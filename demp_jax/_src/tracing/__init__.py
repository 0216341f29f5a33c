# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Traces a function to the graph of its removable units."""
