# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP for Equinox models: which weights to regularise, and cuts of a model, its state and its optimizer's state."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax

from demp_jax._src.pruning import prune as prune_lib
from demp_jax._src.pruning import slicing as surgery
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.proof import training_of
from demp_jax._src.pruning.record import PruneRecord
from demp_jax._src.tracing import trace as trace_lib
from demp_jax._src.tracing.graph import Graph

__all__ = ["Forward", "PruneResult", "forward", "norm_weights", "prune", "refit", "trace"]


def norm_weights(params: Any) -> Any:
    """Returns the mask of the scale parameters of normalisation layers, which Equinox calls `weight`.

    They are those of `eqx.nn.BatchNorm`, `GroupNorm`, `LayerNorm` and `RMSNorm`.

    Example:
      >>> norm = eqx.nn.LayerNorm(4)
      >>> norm_weights(norm).weight, norm_weights(norm).bias
      (True, False)

    Args:
      params: a model, or what `eqx.filter` leaves of it.

    Raises:
      ValueError: when there is none.
    """

    def mask(node: Any) -> Any:
        none = jax.tree.map(lambda _: False, node)
        if not isinstance(node, _NORMS) or node.weight is None:
            return none
        return eqx.tree_at(lambda norm: norm.weight, none, True)

    masks = jax.tree.map(mask, params, is_leaf=lambda node: isinstance(node, _NORMS))
    if not any(jax.tree.leaves(masks)):
        raise ValueError(
            "norm_weights: no normalisation layer of equinox.nn with a weight was found. Regularise "
            "`demp_jax.regularizers.all_params`, or give a mask of the parameters you mean."
        )
    return masks


def _apply(model: Any, x: Any, state: Any) -> Any:
    if state is None:
        return jax.vmap(model)(x)
    return jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(x, state)[0]


@dataclasses.dataclass(frozen=True)
class Forward:
    """A model in inference mode as a function of its arrays and a batch, `forward(variables, x)`, at any widths.

    Two forwards of the same architecture are equal, so nothing is compiled twice.

    Attributes:
      structure, leaves: the model without its arrays.
      call: how to call the model on a batch, `call(model, x, state)`.
    """

    structure: Any
    leaves: tuple[Any, ...]
    call: Callable[[Any, Any, Any], Any] = _apply

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        model = eqx.combine(variables["params"], jax.tree.unflatten(self.structure, self.leaves))
        return self.call(refit(model), x, variables["state"])


def forward(
    model: Any, state: eqx.nn.State | None = None, call: Callable[[Any, Any, Any], Any] = _apply
) -> tuple[Forward, Any]:
    """Returns a model in inference mode as a pure function of a tree of arrays, and that tree.

    Args:
      model: the model; it is not changed.
      state: its state, where `eqx.nn.make_with_state` gave one.
      call: how to call it on a batch; by default it is mapped over the first axis. Defined once, at module level.
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
) -> Graph:
    """Finds the removable units of a model; see `demp_jax.trace`.

    Args:
      model: an Equinox model.
      x: a batch of inputs, or its shape and dtype.
      state: the model's state, where it has one.
      call: how to call the model on a batch, `call(model, x, state)`.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns of names of sites that keep all their units.
    """
    fn, variables = forward(model, state, call)
    return trace_lib.trace(
        fn, variables, x, batch_axis=batch_axis, exclude=exclude, train_fn=training_of(fn, variables, x)
    )


class PruneResult(NamedTuple):
    """The result of a cut.

    Attributes:
      model: the smaller model, in the mode of the one given.
      state: its smaller state; `None` where it has none.
      opt_state: the smaller state of the optimizer.
      copies: the smaller copies, by name.
      plan: what slices another tree like the model, as in `refit(plan.slice(average))`; `None` when nothing left.
      record: what was done.
    """

    model: Any
    state: Any
    opt_state: Any
    copies: dict[str, Any]
    plan: surgery.Plan | None
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

    Args:
      model: an Equinox model, in training or inference mode.
      batches: the death set, as batches of training inputs of one shape.
      state: the model's state, where `eqx.nn.make_with_state` gave one.
      opt_state: the state of an optimizer over `eqx.filter(model, filter_spec)`.
      tx: that optimizer.
      filter_spec: which leaves are trained, as in `eqx.filter`.
      copies: by name, other models of the same architecture and widths, such as an average of its weights. A unit is
        removed only if it is dead in all of them.
      call: how to call the model on a batch in inference mode, `call(model, x, state)`.
      remove: by name of a site, which units to remove instead of the dead ones; see `demp_jax.prune`.
      at_most: by name of a site, which units may be removed; see `demp_jax.prune`.
      options: what counts as dead, how much is kept, how exact it has to be.

    Returns:
      The smaller model and what belongs to it; what was given is not changed.

    Raises:
      ValueError: as `demp_jax.prune`, and for an `opt_state` without its `tx`.
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
        # The static attributes of modules are part of a tree's structure, also within the optimizer's state.
        params = eqx.filter(smaller, eqx.is_array)
        trained = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(trained))
        wanted = jax.eval_shape(tx.init, eqx.filter(params, trained))
        opt_state = jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(result.opt_state))
    return PruneResult(smaller, result.variables["state"], opt_state, cut, result.plan, result.record)


def refit(tree: Any) -> Any:
    """Returns a model, or any tree of models, whose modules' static attributes agree with the shapes of their arrays.

    A module of your own that keeps widths as static attributes may have a method `refit()`, which returns it as it is
    to be. `eqx.nn.MLP` keeps its `width_size`: its layers may have come to differ.

    Args:
      tree: the tree, every module with its arrays.
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
            tree = copy.copy(tree)
            for name, value in fit(tree).items():
                object.__setattr__(tree, name, value)  # Modules are frozen dataclasses.
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
    return {**sizes, "output_size": m.output_proj.weight.shape[-2]}


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
