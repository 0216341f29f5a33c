"""The training program and its experiments. It only uses the public API of demp_jax."""
