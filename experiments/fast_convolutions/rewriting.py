# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Rewriting of the operations of a traced function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core as jex_core
from jax.extend import source_info_util

# Primitives whose bodies are rewritten, with the parameter that holds the body.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}

# Function of an equation and its operands that returns the result, or `None` to keep the operation.
Rule = Callable[[Any, Sequence[Any]], Any | None]


def rewrite(fn: Callable[..., Any], args: Sequence[Any], rules: Mapping[str, Rule]) -> Any:
    """Returns `fn(*args)` with operations of one result replaced, also under `jax.jit`.

    The function is traced to a jaxpr, and its equations are evaluated in order. The bodies of `jit` calls are evaluated
    inline, so that a value keeps its identity from the outside of a call to the inside: a rule can recognize an operand
    as the result of an operation that it has seen. For example, `jnp.sum(jnp.square(x))` is an equation `square`
    followed by a call whose body is `reduce_sum`; the operand of `reduce_sum` is the object that the rule of `square`
    returned.

    Args:
      fn: a function of trees of arrays.
      args: its arguments.
      rules: rules by the name of the primitive. Loops, conditionals, rematerialized and custom-derivative calls are
        not rewritten.
    """
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), rules)
    return jax.tree.unflatten(jax.tree.structure(out_shape), results)


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], rules: Mapping[str, Rule]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex_core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _CALLS:
            body = eqn.params[_CALLS[name]]
            results = _evaluate(body.jaxpr, body.consts, operands, rules)
        else:
            result = None
            if name in rules:
                with _at(eqn):
                    result = rules[name](eqn, operands)
            results = bind(eqn, operands) if result is None else [result]
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of an equation for the given operands."""
    with _at(eqn):
        results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


@contextlib.contextmanager
def _at(eqn: Any) -> Iterator[None]:
    """Operations traced in this context get the name stack and the source line of `eqn`."""
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with source_info_util.user_context(eqn.source_info.traceback, name_stack=stack), eqn.ctx.manager:
        yield
