# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Examples of the library in training loops of their own, with records of what they reach."""
