# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The files of a run and how they are read: records, checkpoints, the workdir's config, trackers."""
