# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Flax NNX models as pure functions of their variables, in evaluation and training mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from demp_jax._src.frameworks.batch_stats import batch_averages
from demp_jax._src.frameworks.refit import refit

# How a model is called, `call(model, x)`.
Call = Callable[[Any, Any], Any]


def apply(model: Any, x: Any) -> Any:
    """Returns `model(x)`."""
    return model(x)


@dataclasses.dataclass(frozen=True)
class Forward:
    """A model in evaluation mode as a pure function, `forward(state, x)`.

    Two forwards of the same architecture and widths are equal and share compiled programs.

    Attributes:
      graphdef: the model's structure.
      call: how to call the model, `call(model, x)`.
    """

    graphdef: nnx.GraphDef
    call: Callable[[Any, Any], Any] = apply

    def __call__(self, state: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        return self.call(nnx.merge(self.graphdef, state), x)

    def resized(self, state: Any) -> Forward:
        """Returns the function for smaller variables."""
        model = nnx.merge(self.graphdef, state)
        refit(model)
        return Forward(nnx.split(model)[0], self.call)

    def training(self, variables: Any, x: Any) -> BatchStatistics | None:
        """Returns the model with batch statistics in its BatchNorms, and without dropout.

        Args:
          variables: the variables of the model, or their shapes and dtypes.
          x: a batch of inputs, or its shape and dtype; the adapters of the other libraries need it.

        Returns:
          A function `train(variables, x)` of the same variables. `None` if training mode does not differ, because the
          model has no module whose flag `use_running_average` can be set by `nnx.view`. A BatchNorm that gets
          `use_running_average` as an argument of its call follows the argument.
        """
        del x
        model = nnx.merge(self.graphdef, variables)
        same = nnx.split(_viewed(model, use_running_average=False))[0] == nnx.split(model)[0]
        return None if same else BatchStatistics(self)

    def updating(self) -> Updating:
        """Returns the model in training mode, as a function that returns the outputs and the updated variables."""
        return Updating(self)


def _viewed(model: Any, **flags: bool) -> Any:
    """Returns a view of a model with other flags, in which BatchNorms do not average over a mapped axis."""
    view = nnx.view(model, raise_if_not_found=False, **flags)
    for norm in _batch_norms(view).values():
        # The model is called with the whole batch, outside of any mapped axis.
        norm.axis_name = norm.axis_index_groups = None
    return view


def _batch_norms(model: Any) -> dict[Any, nnx.BatchNorm]:
    return {path: module for path, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)}


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """A model with batch statistics in its BatchNorms and without dropout, `train(variables, x)`.

    Updates of its state, such as running statistics, are discarded.

    Attributes:
      forward: the same model in evaluation mode.
    """

    forward: Forward

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        model = nnx.merge(self.forward.graphdef, variables)
        return self.forward.call(_viewed(model, use_running_average=False), x)

    def resized(self, variables: Any) -> BatchStatistics:
        """Returns the function for smaller variables."""
        return BatchStatistics(self.forward.resized(variables))


@dataclasses.dataclass(frozen=True)
class Updating:
    """A model in training mode, `updating(variables, x) -> (outputs, updated variables)`.

    Dropout uses the random keys of the model and updates their counts. The updated variables have the structure of the
    given ones. Variables that are created during the call, such as those of `sow`, are not returned.

    Attributes:
      forward: the same model in evaluation mode.
    """

    forward: Forward

    def __call__(self, variables: Any, x: Any) -> tuple[Any, Any]:
        """Returns the model's output for `x`, and its variables after the call."""
        model = nnx.merge(self.forward.graphdef, variables)
        view = _viewed(model, deterministic=False, use_running_average=False)
        out = self.forward.call(view, x)
        after = by_steps(nnx.as_pure(nnx.state(view)))
        updated = [after.get(steps, leaf) for steps, leaf in by_steps(variables).items()]
        return out, jax.tree.unflatten(jax.tree.structure(variables), updated)

    def resized(self, variables: Any) -> Updating:
        """Returns the function for smaller variables."""
        return Updating(self.forward.resized(variables))


def forward(model: nnx.Module, call: Callable[[Any, Any], Any] = apply) -> tuple[Forward, Any]:
    """Returns a model in evaluation mode as a pure function, and its state as a tree of arrays.

    Example:
      >>> fn, state = forward(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      >>> fn(state, jnp.ones((4, 3))).shape
      (4, 2)

    Args:
      model: the model. It is not changed.
      call: how to call the model, `call(model, x)`. Define it once, at module level, so that forwards are equal and
        share compiled programs.

    Returns:
      The function `fn(state, x)`, and the state.
    """
    evaluating = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(evaluating)
    return Forward(graphdef, call), nnx.as_pure(state)


def reestimate_batch_stats(
    model: nnx.Module, batches: Iterable[Any], *, call: Callable[[Any, Any], Any] = apply
) -> None:
    """Sets the running statistics of every `nnx.BatchNorm` to averages over batches, in place.

    Running statistics lag behind the weights; with the default momentum of 0.99, by a few hundred steps. With the batch
    means m_b and batch variances v_b of B batches, the new statistics are::

        mean = sum_b m_b / B        var = sum_b v_b / B

    Running averages converge to these values at fixed weights, for any momentum. (The variance of all examples would
    include the variance of the batch means.) The inputs of every layer are normalized with batch statistics, without
    dropout. A layer that is called several times in one pass keeps the statistics of its last call.

    Example:
      >>> norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> reestimate_batch_stats(norm, [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])])
      >>> norm.mean[...].tolist(), norm.var[...].tolist()  # Means of 1 and 6, and of 1 and 4.
      ([3.5], [2.5])

    Args:
      model: a Flax NNX model, in training or evaluation mode. Only its running statistics change.
      batches: batches of training inputs, with equal weights. Each new shape is compiled.
      call: how to call the model, `call(model, x)`, as in `forward`.

    Raises:
      ValueError: if the model has no BatchNorm, or if there is no batch.
    """
    norms = _batch_norms(model)
    if not norms:
        raise ValueError("reestimate_batch_stats: the model has no nnx.BatchNorm, so there is nothing to estimate.")
    graphdef, state = nnx.split(model)

    def statistics(variables: Any, x: Any) -> list[tuple[jax.Array, jax.Array]]:
        view = _viewed(nnx.merge(graphdef, variables), deterministic=True, use_running_average=False)
        found = _batch_norms(view)
        for norm in found.values():
            norm.momentum = 0.0
            # Zero times a statistic that is not finite is NaN.
            norm.mean[...], norm.var[...] = (jnp.nan_to_num(v[...]) for v in (norm.mean, norm.var))
        call(view, x)
        return [(found[path].mean[...], found[path].var[...]) for path in norms]

    averages = batch_averages(statistics, nnx.as_pure(state), batches)
    for norm, (mean, var) in zip(norms.values(), averages, strict=True):
        norm.mean[...], norm.var[...] = mean, var


def resize(model: nnx.Module, state: Any) -> None:
    """Replaces the variables of a model by variables of other widths, in place, and updates its static attributes.

    Only widths may differ. Paths, dtypes, numbers of axes, and the window sizes of convolutions must be equal.

    Example:
      >>> small, wide = (nnx.Linear(2, width, rngs=nnx.Rngs(0)) for width in (3, 8))
      >>> resize(wide, nnx.as_pure(nnx.state(small)))
      >>> wide.out_features
      3

    Args:
      model: a model of the same architecture at any widths. It may come from `nnx.eval_shape`, unless it has an
        `nnx.WeightNorm`, whose scales would be missing.
      state: the variables, a tree of arrays like `nnx.as_pure(nnx.state(model))`. It may be restored by Orbax without a
        target: keys may be strings instead of numbers or tuples, and an array may be in a dict `{"value": array}`.
        Random keys and their counts may be missing, as in `nnx.state(model, nnx.Not(nnx.RngState))`; the model then
        keeps its own.

    Raises:
      ValueError: if the variables are not those of the model.
    """
    wanted = dict(nnx.to_flat_state(nnx.as_pure(nnx.state(model))))
    paths = {tuple(map(str, path)): path for path in wanted}
    found: dict[tuple[Any, ...], Any] = {}
    for steps, leaf in by_steps(nnx.as_pure(state)).items():
        boxed = steps not in paths and steps[-1:] == ("value",)
        steps = steps[:-1] if boxed else steps
        found[paths.get(steps, steps)] = leaf
    random = {path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.RngState))}
    windows = {
        (*path, "kernel")
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.Conv | nnx.ConvTranspose)
    }
    odd = []
    for path in sorted({*wanted, *found}, key=str):
        stored, own = found.get(path), wanted.get(path)
        if stored is None and path in random:
            continue
        if _kind(stored, path in windows) != _kind(own, path in windows):
            odd.append(f"{'/'.join(map(str, path))}: stored {_described(stored)}, wanted {_described(own)}")
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise ValueError(
            f"resize: the state is not of this model; {odd[0]}{more}. Only widths may differ: give the variables of "
            "the same architecture."
        )
    nnx.update(model, nnx.from_flat_state((path, found[path]) for path in wanted if path in found))
    refit(model)


def by_steps(tree: Any) -> dict[tuple[str, ...], Any]:
    """Returns the leaves of a tree by their paths, as tuples of strings."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves}


def _kind(leaf: Any, window: bool) -> tuple[Any, ...]:
    """Returns the properties of an array besides its widths: dtype, number of axes, window of a convolution."""
    shape = np.shape(leaf)
    return getattr(leaf, "dtype", type(leaf)), len(shape), shape[:-2] if window else ()


def _described(leaf: Any) -> str:
    if leaf is None:
        return "nothing"
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
