# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Regularizers as Optax transformations, and masks of the parameters that they act on.

`add_regularizer` adds the gradient of a Lasso or L2 penalty to the gradient of the loss. `add_decoupled_regularizer`
shrinks the parameters directly, and `add_proximal_lasso` shrinks them to exactly zero. `norm_scales` selects the scales
of normalization layers, `all_params` all parameters, and `by_cost` gives each layer a strength of its own.
`add_group_lasso` regularizes the weights of each unit together.
"""

from demp_jax._src.optim.costs import by_cost as by_cost
from demp_jax._src.optim.regularizers import add_decoupled_regularizer as add_decoupled_regularizer
from demp_jax._src.optim.regularizers import add_group_lasso as add_group_lasso
from demp_jax._src.optim.regularizers import add_proximal_lasso as add_proximal_lasso
from demp_jax._src.optim.regularizers import add_regularizer as add_regularizer
from demp_jax._src.optim.regularizers import all_params as all_params
from demp_jax._src.optim.regularizers import norm_scales as norm_scales

__all__ = [
    "add_decoupled_regularizer",
    "add_group_lasso",
    "add_proximal_lasso",
    "add_regularizer",
    "all_params",
    "by_cost",
    "norm_scales",
]
