# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a run leaves and how it is read: records, checkpoints, the folder's identity, trackers."""
