# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Other ways to make networks small, beside DemP: each method is one module.

Structured methods score units and cut those that score least (`structured.prune`); masking methods keep the network's
shapes and hold weights at zero (`masking.Updater`).
"""
