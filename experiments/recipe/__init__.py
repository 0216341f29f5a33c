# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a config asks for, checked once: the problem, its network, optimizer and method."""
