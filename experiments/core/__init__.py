# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Utilities shared by all packages: errors, devices, processes, signals, progress, timing, compilation."""
