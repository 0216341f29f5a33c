# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A common interface to networks of all frameworks, by the public functions of `demp_jax` for each framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from flax import nnx

import demp_jax
import demp_jax.equinox
import demp_jax.linen
import demp_jax.nnx
from benchmarks.prunability.cases import Case

UNITS = "features"  # Expected units include outputs of linear layers.
OPTIONS = demp_jax.PruneOptions(extra_units=UNITS)


class Subject:
    """A network with its variables, in plain JAX or Linen.

    Attributes:
      fn: the network in evaluation mode, `fn(variables, x)`.
      train: the network in training mode; `None` if it has no other mode.
      variables: a tree of arrays.
    """

    def __init__(self, fn: Callable[..., Any], train: Callable[..., Any] | None, variables: Any):
        self.fn, self.train, self.variables = fn, train, variables

    @property
    def trained(self) -> list[int]:
        """The indices of the trained variables."""
        places = jax.tree.unflatten(jax.tree.structure(self.variables), range(len(jax.tree.leaves(self.variables))))
        return jax.tree.leaves(_params(places))

    @property
    def params(self) -> Any:
        """The trained part of the variables."""
        return _params(self.variables)

    def with_params(self, params: Any) -> Any:
        """Returns the variables with their trained part replaced."""
        leaves = jax.tree.leaves(self.variables)
        for i, leaf in zip(self.trained, jax.tree.leaves(params), strict=True):
            leaves[i] = leaf
        return jax.tree.unflatten(jax.tree.structure(self.variables), leaves)

    def trace(self, x: Any, extra_units: str = UNITS) -> demp_jax.Graph:
        """Returns the graph, with the units of activations and of `extra_units`."""
        return demp_jax.trace(self.fn, self.variables, x, train_fn=self.train, extra_units=extra_units)

    def prune(
        self, params: Any, batches: Sequence[Any], tx: Any, state: Any, at_most: Mapping[str, np.ndarray]
    ) -> tuple[Subject, Any, demp_jax.PruneRecord]:
        """Returns the pruned network, the state of its optimizer, and the record."""
        options: dict[str, Any] = {"params": _params, "train_fn": self.train, "at_most": at_most, "options": OPTIONS}
        result = demp_jax.prune(self.fn, self.with_params(params), batches, opt_state=state, tx=tx, **options)
        return Subject(result.fn, self.train, result.variables), result.opt_state, result.record


def _params(variables: Any) -> Any:
    return variables["params"] if isinstance(variables, dict) and "params" in variables else variables


class _Nnx(Subject):
    """A Flax NNX model."""

    def __init__(self, model: nnx.Module, call: Any, x: Any):
        fn, variables = demp_jax.nnx.forward(model, call)
        super().__init__(fn, fn.training(variables, x), variables)
        self._model, self._call = model, call

    @property
    def trained(self) -> list[int]:
        names = set(demp_jax.tracing.leaf_paths(self.params))
        return [i for i, path in enumerate(demp_jax.tracing.leaf_paths(self.variables)) if path in names]

    @property
    def params(self) -> Any:
        return nnx.as_pure(nnx.state(self._model, nnx.Param))

    def trace(self, x: Any, extra_units: str = UNITS) -> demp_jax.Graph:
        return demp_jax.nnx.trace(self._model, x, call=self._call, extra_units=extra_units)

    def prune(
        self, params: Any, batches: Sequence[Any], tx: Any, state: Any, at_most: Mapping[str, np.ndarray]
    ) -> tuple[Subject, Any, demp_jax.PruneRecord]:
        model = nnx.clone(self._model)
        nnx.update(model, nnx.state(self.with_params(params)))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        nnx.update(optimizer.opt_state, nnx.state(state))
        record = demp_jax.nnx.prune(model, batches, optimizer, call=self._call, at_most=at_most, options=OPTIONS)
        return _Nnx(model, self._call, batches[0]), nnx.as_pure(optimizer.opt_state), record


class _Equinox(Subject):
    """An Equinox model."""

    def __init__(self, model: Any, state: Any, call: Any, x: Any):
        self._model, self._state, self._options = model, state, {} if call is None else {"call": call}
        fn, variables = demp_jax.equinox.forward(model, state, **self._options)
        super().__init__(fn, fn.training(variables, x), variables)

    @property
    def trained(self) -> list[int]:
        paths, leaves = demp_jax.tracing.leaf_paths(self.variables), jax.tree.leaves(self.variables)
        return [i for i, path in enumerate(paths) if path.startswith("params/") and eqx.is_inexact_array(leaves[i])]

    @property
    def params(self) -> Any:
        return eqx.filter(self._model, eqx.is_inexact_array)

    def trace(self, x: Any, extra_units: str = UNITS) -> demp_jax.Graph:
        return demp_jax.equinox.trace(self._model, x, self._state, **self._options, extra_units=extra_units)

    def prune(
        self, params: Any, batches: Sequence[Any], tx: Any, state: Any, at_most: Mapping[str, np.ndarray]
    ) -> tuple[Subject, Any, demp_jax.PruneRecord]:
        model = eqx.combine(params, self._model)
        options = {"opt_state": state, "tx": tx, "at_most": at_most, "options": OPTIONS, **self._options}
        result = demp_jax.equinox.prune(model, batches, self._state, **options)
        pruned = _Equinox(result.model, result.state, self._options.get("call"), batches[0])
        return pruned, result.opt_state, result.record


def _plain(case: Case, x: Any) -> Subject:
    fn, variables, *train = case.make()
    return Subject(fn, train[0] if train else None, variables)


def _linen(case: Case, x: Any) -> Subject:
    made = case.make()
    module, options = made if isinstance(made, tuple) else (made, {})
    fn = demp_jax.linen.Forward(module, **options)
    variables = jax.jit(lambda key: module.init(key, x, **options))(jax.random.key(0))
    return Subject(fn, fn.training(variables, x), variables)


def _nnx(case: Case, x: Any) -> Subject:
    return _Nnx(case.make(nnx.Rngs(0)), case.call or _apply, x)


def _equinox(case: Case, x: Any) -> Subject:
    made = case.make(jax.random.key(0))
    model, state = made if isinstance(made, tuple) else (made, None)
    return _Equinox(model, state, case.call, x)


def _apply(model: Any, x: Any) -> Any:
    return model(x)


# The function that makes a subject, by framework.
SUBJECTS: dict[str, Callable[[Case, Any], Subject]] = {
    "plain JAX": _plain,
    "Linen": _linen,
    "NNX": _nnx,
    "Equinox": _equinox,
}


def tagged() -> optax.GradientTransformation:
    """Returns a transformation without effect whose state has the flat index of every entry of the parameters.

    A prune slices the state with the parameters. The remaining indices tell which entries were kept.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(lambda p: np.arange(p.size, dtype=np.float32).reshape(p.shape) + 0 * p, params)

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
