# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Plots, tables and the HTML page of runs."""
