"""Plain NumPy versions of the algorithms, written from the paper, without JAX."""
