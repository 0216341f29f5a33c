# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning of Equinox models.

`prune` returns a smaller model with its state and the state of its optimizer. `norm_weights` selects the scales of
normalization layers, which Equinox names `weight`; pass it to `demp_jax.demp` as `where`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from demp_jax._src.frameworks.batch_stats import batch_averages
from demp_jax._src.pruning import prune as prune_lib
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.proof import training_of
from demp_jax._src.pruning.record import PruneRecord
from demp_jax._src.pruning.slicing import Plan
from demp_jax._src.tracing import trace as trace_lib
from demp_jax._src.tracing.graph import Graph
from demp_jax._src.tracing.program import describes_call

__all__ = [
    "Forward",
    "PruneResult",
    "forward",
    "norm_weights",
    "prune",
    "reestimate_batch_stats",
    "refit",
    "trace",
]


def norm_weights(params: Any) -> Any:
    """Returns the mask of the scale parameters of normalization layers, which Equinox names `weight`.

    The layers are `eqx.nn.BatchNorm`, `GroupNorm`, `LayerNorm` and `RMSNorm`.

    Example:
      >>> norm = eqx.nn.LayerNorm(4)
      >>> norm_weights(norm).weight, norm_weights(norm).bias
      (True, False)

    Args:
      params: a model, or the result of `eqx.filter`.

    Returns:
      A tree of bools like `params`.

    Raises:
      ValueError: if there is no such layer with a weight.
    """

    def mask(node: Any) -> Any:
        none = jax.tree.map(lambda _: False, node)
        if not isinstance(node, _NORMS) or node.weight is None:
            return none
        return eqx.tree_at(lambda norm: norm.weight, none, True)

    masks = jax.tree.map(mask, params, is_leaf=lambda node: isinstance(node, _NORMS))
    if not any(jax.tree.leaves(masks)):
        raise ValueError(
            "norm_weights: no normalization layer of equinox.nn with a weight was found. Regularize "
            "`demp_jax.regularizers.all_params`, or give a mask of your own."
        )
    return masks


def _apply(model: Any, x: Any, state: Any) -> Any:
    if state is None:
        return jax.vmap(model)(x)
    return jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(x, state)[0]


@dataclasses.dataclass(frozen=True)
class Forward:
    """A model in inference mode as a function, `forward(variables, x)`, for variables of any widths.

    Two forwards of the same architecture and widths are equal and share compiled programs.

    Attributes:
      structure, leaves: the model without its arrays, as a flattened tree.
      call: how to call the model on a batch, `call(model, x, state)`.
    """

    structure: Any
    leaves: tuple[Any, ...]
    call: Callable[[Any, Any, Any], Any] = _apply

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        return self.call(self.model(variables), x, variables["state"])

    def model(self, variables: Any) -> Any:
        """Returns the model in inference mode with the given variables."""
        return refit(eqx.combine(variables["params"], jax.tree.unflatten(self.structure, self.leaves)))

    def training(self, variables: Any, x: Any) -> BatchStatistics | None:
        """Returns the model with every `eqx.nn.BatchNorm` in training mode, and the rest in inference mode.

        BatchNorm computes its statistics over the axis of a `jax.vmap` with its `axis_name`. By default, the model is
        mapped with that name. A `call` of your own has to name the axis, as in
        `jax.vmap(model, axis_name="batch", ...)`, which is also allowed in inference mode.

        Args:
          variables: the variables of the model, or their shapes and dtypes.
          x: a batch of inputs, or its shape and dtype.

        Returns:
          A function `train(variables, x)` of the same variables. `None` if training mode does not differ, because the
          model has no BatchNorm, or if the axis of a BatchNorm is missing, because the `call` does not name it or
          because BatchNorms have different names and there is no `call`.
        """
        if not _batch_norms(jax.tree.unflatten(self.structure, self.leaves)):
            return None
        train = BatchStatistics(self)
        try:
            with describes_call(x):
                jax.eval_shape(lambda variables, x: train(variables, x), variables, x)
        except NameError:  # The axis of a BatchNorm is missing.
            return None
        return train


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """A model with every `eqx.nn.BatchNorm` in training mode and no dropout, `train(variables, x)`.

    The new state that the model returns is discarded.

    Attributes:
      forward: the same model in inference mode.
    """

    forward: Forward

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        model = _with_norms(self.forward.model(variables), inference=False)
        state = _copied(variables["state"])
        if self.forward.call is _apply:
            return _mapped(model, x, state)[0]
        return self.forward.call(model, x, state)


def _batch_norms(model: Any) -> list[Any]:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))
    return [node for node in nodes if isinstance(node, eqx.nn.BatchNorm)]


def _with_norms(model: Any, **changes: Any) -> Any:
    """Returns a model with other attributes of every BatchNorm."""

    def changed(node: Any) -> Any:
        return _replaced(node, changes) if isinstance(node, eqx.nn.BatchNorm) else node

    return jax.tree.map(changed, model, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))


def _replaced(module: Any, changes: dict[str, Any]) -> Any:
    module = copy.copy(module)
    for name, value in changes.items():
        object.__setattr__(module, name, value)  # Modules are frozen dataclasses.
    return module


def _copied(state: Any) -> Any:
    """Returns a copy of a state. Setting an entry makes the original invalid."""
    return jax.tree.map(lambda leaf: leaf, state)


def _mapped(model: Any, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
    """Returns the outputs and the state of a model with BatchNorms that is mapped over the first axis of a batch."""
    name = _batch_norms(model)[0].axis_name
    name = name[0] if isinstance(name, list | tuple) else name
    return jax.vmap(model, axis_name=name, in_axes=(0, None), out_axes=(0, None))(x, state)


def reestimate_batch_stats(
    model: Any,
    state: eqx.nn.State,
    batches: Iterable[Any],
    *,
    call: Callable[[Any, Any, eqx.nn.State], tuple[Any, eqx.nn.State]] = _mapped,
) -> eqx.nn.State:
    """Returns a state with the running statistics of every `eqx.nn.BatchNorm` averaged over batches.

    The new mean is the mean over batches of the batch means, and the new variance is the mean over batches of the batch
    variances, for any momentum; see `demp_jax.nnx.reestimate_batch_stats`. In the mode `"batch"`, inference divides
    running sums by their total weight 1 - momentum^n after n calls. They are set to the averages times this weight. A
    layer that is called several times in one pass keeps the statistics of its last call.

    Args:
      model: an Equinox model, in training or inference mode.
      state: its state.
      batches: batches of training inputs, with equal weights. Each new shape is compiled.
      call: how to call the model on a batch, `call(model, x, state) -> (outputs, state)`. By default, it is mapped over
        the first axis with the `axis_name` of its BatchNorms.

    Returns:
      The state with new running statistics. The given state stays valid.

    Raises:
      ValueError: if the model has no BatchNorm, or if there is no batch.
    """
    norms = _batch_norms(model)
    if not norms:
        raise ValueError("reestimate_batch_stats: the model has no eqx.nn.BatchNorm, so there is nothing to estimate.")
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)

    def statistics(variables: Any, x: Any) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
        params, before = variables
        training = _with_norms(eqx.combine(params, static), inference=False, momentum=0.0)
        start = _copied(before)
        for norm in norms:
            index = _running(norm)
            # Zero times a statistic that is not finite is NaN.
            start = start.set(index, jax.tree.map(jnp.nan_to_num, start.get(index)))
        after = call(training, x, start)[1]
        return [(*after.get(_running(norm)), _calls(norm, before, after)) for norm in norms]

    averages = batch_averages(statistics, (params, state), batches)
    for norm, (mean, var, calls) in zip(norms, averages, strict=True):
        if not calls:
            continue
        new = _copied(state)
        if norm.mode == "ema":
            new = new.set(norm.ema_first_time_index, jnp.array(False))
        else:
            counter = jnp.maximum(state.get(norm.batch_counter), 1)
            weight = 1 - norm.momentum**counter
            mean, var = ((leaf * weight).astype(leaf.dtype) for leaf in (mean, var))
            new = new.set(norm.batch_counter, counter)
        state = new.set(_running(norm), (mean, var))
    return state


def _running(norm: Any) -> Any:
    """Returns the index of the running mean and variance in a state."""
    return norm.ema_state_index if norm.mode == "ema" else norm.batch_state_index


def _calls(norm: Any, before: eqx.nn.State, after: eqx.nn.State) -> jax.Array:
    """Returns a number that is zero if a BatchNorm has never set its statistics."""
    if norm.mode == "ema":
        return 1.0 - after.get(norm.ema_first_time_index)
    return jnp.float32(after.get(norm.batch_counter) - before.get(norm.batch_counter))


def forward(
    model: Any, state: eqx.nn.State | None = None, call: Callable[[Any, Any, Any], Any] = _apply
) -> tuple[Forward, Any]:
    """Returns a model in inference mode as a pure function of a tree of arrays, and that tree.

    Args:
      model: the model. It is not changed.
      state: its state from `eqx.nn.make_with_state`, or `None`.
      call: how to call the model on a batch, `call(model, x, state)`; by default it is mapped over the first axis.
        Define it once, at module level, so that forwards are equal and share compiled programs.

    Returns:
      The function `fn(variables, x)`, and the variables, `{"params": arrays of the model, "state": state}`.
    """
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    leaves, structure = jax.tree.flatten(static)
    return Forward(structure, tuple(leaves), call), {"params": params, "state": state}


def trace(
    model: Any,
    x: Any,
    state: eqx.nn.State | None = None,
    *,
    call: Callable[[Any, Any, Any], Any] = _apply,
    batch_axis: int = 0,
    exclude: Sequence[str] | str = (),
    extra_units: Sequence[str] | str = (),
) -> Graph:
    """Finds the removable units of a model; see `demp_jax.trace`.

    Args:
      model: an Equinox model.
      x: a batch of at least two inputs, or its shape and dtype.
      state: the state of the model, or `None`.
      call: how to call the model on a batch, `call(model, x, state)`.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns of names of sites that keep all their units.
      extra_units: extra units, see `demp_jax.trace`.

    Returns:
      The graph of removable units. `print(graph.report())` lists them.

    Raises:
      ValueError: see `demp_jax.trace`.
    """
    fn, variables = forward(model, state, call)
    train_fn = training_of(fn, variables, x)
    return trace_lib.trace(
        fn, variables, x, batch_axis=batch_axis, exclude=exclude, train_fn=train_fn, extra_units=extra_units
    )


class PruneResult(NamedTuple):
    """The result of a prune.

    Attributes:
      model: the smaller model, in training or inference mode like the given one.
      state: its smaller state, or `None`.
      opt_state: the smaller state of the optimizer.
      copies: the smaller copies, by name.
      plan: slices other trees that mirror the model, as in `refit(plan.slice(average))`; `None` if nothing was removed.
      record: the record of the prune.
    """

    model: Any
    state: Any
    opt_state: Any
    copies: dict[str, Any]
    plan: Plan | None
    record: PruneRecord


def prune(
    model: Any,
    batches: Iterable[Any],
    state: eqx.nn.State | None = None,
    *,
    opt_state: Any = None,
    tx: optax.GradientTransformation | None = None,
    filter_spec: Any = eqx.is_inexact_array,
    copies: Mapping[str, Any] | None = None,
    call: Callable[[Any, Any, Any], Any] = _apply,
    remove: Mapping[str, np.ndarray] | None = None,
    at_most: Mapping[str, np.ndarray] | None = None,
    options: PruneOptions | None = None,
) -> PruneResult:
    """Removes dead units from a model, its state, its copies and the state of its optimizer; see `demp_jax.prune`.

    Example:
      >>> model = eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0))
      >>> bias = jnp.array([-99.0] * 3 + [9.0] * 5)  # Three units are dead.
      >>> model = eqx.tree_at(lambda model: model.layers[0].bias, model, bias)
      >>> result = prune(model, [jnp.ones((4, 3))])
      >>> result.model.layers[0].out_features, result.record.removed
      (5, {'layers/0': 3})

    Args:
      model: an Equinox model, in training or inference mode.
      batches: the death set, a list of batches of training inputs of one shape.
      state: its state from `eqx.nn.make_with_state`, or `None`.
      opt_state: the state of an optimizer over `eqx.filter(model, filter_spec)`.
      tx: the optimizer.
      filter_spec: the trained leaves, as in `eqx.filter`.
      copies: by name, other models of the same architecture and widths, such as an average of its weights. A unit is
        removed only if it is dead in all of them.
      call: how to call the model on a batch in inference mode, `call(model, x, state)`.
      remove: by name of a site, `[width]` bool, the units to remove instead of dead ones; see `demp_jax.prune`.
      at_most: by name of a site, `[width]` bool, limits how many units are removed; see `demp_jax.prune`.
      options: the criterion, the units to keep, and the tolerance.

    Returns:
      The smaller model, state, optimizer state and copies. The arguments are not changed.

    Raises:
      ValueError: see `demp_jax.prune`; also for an `opt_state` without its `tx`.
    """
    if opt_state is not None and tx is None:
        raise ValueError("prune: opt_state was given without tx, the optimizer that it belongs to.")
    fn, variables = forward(model, state, call)
    params, static = eqx.partition(model, eqx.is_array)
    trained = jax.tree.map(lambda _, kept: kept is not None, params, eqx.filter(params, filter_spec))
    copies = copies or {}
    result = prune_lib.prune(
        fn,
        variables,
        batches,
        opt_state=opt_state,
        tx=tx,
        params=lambda tree: eqx.filter(tree["params"], trained),
        copies={name: {"params": eqx.filter(copy, eqx.is_array)} for name, copy in copies.items()},
        remove=remove,
        at_most=at_most,
        options=options,
    )
    if result.plan is None:
        return PruneResult(model, state, opt_state, dict(copies), None, result.record)
    smaller = refit(eqx.combine(result.variables["params"], static))
    cut = {
        name: refit(eqx.combine(result.copies[name]["params"], eqx.partition(copy, eqx.is_array)[1]))
        for name, copy in copies.items()
    }
    if tx is not None and opt_state is not None:
        # The structure of the optimizer's state contains static attributes of modules, such as widths.
        params = eqx.filter(smaller, eqx.is_array)
        trained = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(trained))
        wanted = jax.eval_shape(tx.init, eqx.filter(params, trained))
        opt_state = jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(result.opt_state))
    return PruneResult(smaller, result.variables["state"], opt_state, cut, result.plan, result.record)


def refit(tree: Any) -> Any:
    """Returns a model, or a tree of models, with static attributes set to the shapes of its arrays.

    For a module of your own that has widths as static attributes, define a method `refit()`, which returns the new
    module. `eqx.nn.MLP` keeps its `width_size`, because its layers may have different widths.

    Example:
      >>> layer = eqx.nn.Linear(2, 8, key=jax.random.key(0))
      >>> layer = eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (layer.weight[:3], layer.bias[:3]))
      >>> layer.out_features, refit(layer).out_features
      (8, 3)

    Args:
      tree: the model or tree, with arrays.
    """
    tree = jax.tree.map(
        lambda node: refit(node) if isinstance(node, eqx.Module) else node,
        tree,
        is_leaf=lambda node: node is not tree and isinstance(node, eqx.Module),
    )
    if hasattr(tree, "refit"):
        return tree.refit()
    for kind, fit in _FITS.items():
        if isinstance(tree, kind):
            tree = _replaced(tree, fit(tree))
    return tree


def _fit_linear(m: Any) -> dict[str, Any]:
    *_, outputs, inputs = m.weight.shape
    scalars = {"in_features": m.in_features == "scalar", "out_features": m.out_features == "scalar"}
    widths = {"in_features": inputs, "out_features": outputs}
    return {name: width for name, width in widths.items() if not scalars[name]}


def _fit_conv(m: Any) -> dict[str, Any]:
    outputs, inputs = m.weight.shape[-2 - m.num_spatial_dims :][:2]
    groups = outputs // (m.out_channels // m.groups) if m.groups > 1 else 1
    return {"in_channels": inputs * groups, "out_channels": outputs, "groups": groups}


def _fit_attention(m: Any) -> dict[str, Any]:
    sizes = {f"{name}_size": getattr(m, f"{name}_proj").weight.shape[-1] for name in ("query", "key", "value")}
    heads = m.query_proj.weight.shape[-2] // m.qk_size
    return {**sizes, "output_size": m.output_proj.weight.shape[-2], "num_heads": heads}


def _fit_embedding(m: Any) -> dict[str, Any]:
    *_, entries, size = m.weight.shape
    return {"num_embeddings": entries, "embedding_size": size}


def _fit_batch_norm(m: Any) -> dict[str, Any]:
    return {} if m.weight is None else {"input_size": m.weight.shape[-1]}


def _fit_group_norm(m: Any) -> dict[str, Any]:
    if m.weight is None:
        return {}
    channels = m.weight.shape[-1]
    return {"channels": channels, "groups": channels // (m.channels // m.groups)}


_NORMS = (eqx.nn.BatchNorm, eqx.nn.GroupNorm, eqx.nn.LayerNorm, eqx.nn.RMSNorm)

_FITS: dict[type, Callable[[Any], dict[str, Any]]] = {
    eqx.nn.Linear: _fit_linear,
    eqx.nn.Conv: _fit_conv,
    eqx.nn.ConvTranspose: _fit_conv,
    eqx.nn.MultiheadAttention: _fit_attention,
    eqx.nn.Embedding: _fit_embedding,
    eqx.nn.BatchNorm: _fit_batch_norm,
    eqx.nn.GroupNorm: _fit_group_norm,
}
