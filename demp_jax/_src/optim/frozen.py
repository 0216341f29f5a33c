# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Finds the parameters that an optimizer never updates, from the jaxpr of its update.

`optax.set_to_zero` in an `optax.partition` freezes parameters. Their updates are constants of the jaxpr, such as
`a:f32[3] = broadcast_in_dim 0.0`. Zeros are propagated through the jaxpr. An update that depends on the gradients does
not count as frozen, even if it is zero at some steps, for example because the learning rate is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

# Operations whose result is zero if their operand is.
_KEEP = {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "neg", "reshape", "stop_gradient", "transpose"}
# Operations whose result is zero if all of their operands are. The first operand of `select_n` is the condition.
_ALL = {"add", "add_any", "concatenate", "max", "min", "select_n", "sub"}


def frozen(update: Callable[[Any], Any], grads: Any) -> tuple[bool, ...]:
    """Returns, for each leaf of `update(grads)`, whether it is zero for all gradients."""
    return tuple(_zero_outputs(jax.make_jaxpr(update)(grads), [False] * len(jax.tree.leaves(grads))))


def _zero_outputs(closed: Any, inputs: Sequence[bool]) -> list[bool]:
    """Returns which outputs of a jaxpr are zero, given which of its inputs are."""
    zero = dict(zip(closed.jaxpr.invars, inputs, strict=True))

    def is_zero(operand: Any) -> bool:
        if isinstance(operand, jex_core.Literal):
            return not np.any(operand.val)
        return zero.get(operand, False)

    for eqn in closed.jaxpr.eqns:
        operands = [is_zero(operand) for operand in eqn.invars]
        name = eqn.primitive.name
        results = [False] * len(eqn.outvars)
        if name in _KEEP:
            results = [operands[0]]
        elif name in _ALL:
            results = [all(operands[1:] if name == "select_n" else operands)]
        elif name == "mul":
            # A literal zero factor is a learning rate of zero. It stops the base optimizer, but not the noise.
            results = [
                any(z for z, of in zip(operands, eqn.invars, strict=True) if not isinstance(of, jex_core.Literal))
            ]
        elif name in ("jit", "pjit"):
            results = _zero_outputs(eqn.params["jaxpr"], operands)
        elif name == "cond":
            branches = [_zero_outputs(branch, operands[1:]) for branch in eqn.params["branches"]]
            results = [all(each) for each in zip(*branches, strict=True)]
        zero.update(zip(eqn.outvars, results, strict=True))
    return [is_zero(operand) for operand in closed.jaxpr.outvars]
