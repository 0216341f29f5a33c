"""The training program and its experiments; it uses the public names of demp_jax only."""
