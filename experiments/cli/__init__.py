# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The command line: flags and help, exit status, dry run, memory estimate, many runs at once."""
