# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""From measured units to a smaller network: what is dead, what is removed, and the proof."""
