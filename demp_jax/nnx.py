# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP for Flax NNX models: trace and cut a model and its `nnx.Optimizer` in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from demp_jax._src.optim import demp
from demp_jax._src.pruning import prune as prune_lib
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.proof import training_of
from demp_jax._src.pruning.record import PruneRecord
from demp_jax._src.tracing import trace as trace_lib
from demp_jax._src.tracing.graph import Graph
from demp_jax._src.tracing.paths import leaf_paths
from demp_jax._src.tracing.select import select

__all__ = [
    "ChannelSum",
    "Forward",
    "Routing",
    "forward",
    "preview",
    "prune",
    "refit",
    "resize",
    "set_strength_factor",
    "trace",
]


class Routing(nnx.Variable):
    """A variable of `ChannelSum`: not trained, rewritten by cuts."""


class ChannelSum(nnx.Module):
    """A residual sum `x_1 + x_2 + ...` whose operands may lose channels on their own.

    A plain sum couples its operands: a channel can leave only where all of them let it go. Here each operand is routed
    by an index (`demp_jax.select`), so a channel can be dead after one block and alive after the next, as the paper
    counts. While no cut has made them differ, the sum costs what a plain one costs.
    """

    def __init__(self, channels: int, operands: int = 2):
        """Sums `operands` arrays of `channels` channels."""
        for i in range(operands):
            setattr(self, f"index_{i}", Routing(jnp.arange(channels, dtype=jnp.int32)))
            setattr(self, f"fill_{i}", Routing(jnp.zeros(channels)))
        self.ordered = (True,) * operands

    def __call__(self, *xs: jax.Array) -> jax.Array:
        """Returns the sum of `xs`, each `[..., channels]`."""
        total = None
        for i, (x, ordered) in enumerate(zip(xs, self.ordered, strict=True)):
            index, fill = getattr(self, f"index_{i}")[...], getattr(self, f"fill_{i}")[...]
            identity = ordered and x.shape[-1] == index.shape[0]
            routed = select(x, index, fill, identity=identity, unique_indices=True)
            total = routed if total is None else total + routed
        assert total is not None
        return total

    def refit(self) -> None:
        """Makes the static attributes agree with the variables."""
        indices = [np.asarray(getattr(self, f"index_{i}")[...]) for i in range(len(self.ordered))]
        self.ordered = tuple(bool((index == np.arange(index.size)).all()) for index in indices)


def _apply(model: Any, x: Any) -> Any:
    return model(x)


@dataclasses.dataclass(frozen=True)
class Forward:
    """A model in evaluation mode as a function of its state and an input, `forward(state, x)`.

    Two forwards of the same architecture are equal, so nothing is compiled twice.

    Attributes:
      graphdef: the model's structure.
      call: how to call the model, `call(model, x)`.
    """

    graphdef: nnx.GraphDef
    call: Callable[[Any, Any], Any] = _apply

    def __call__(self, state: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        return self.call(nnx.merge(self.graphdef, state), x)

    def resized(self, state: Any) -> Forward:
        """Returns the forward for smaller variables."""
        model = nnx.merge(self.graphdef, state)
        refit(model)
        return Forward(nnx.split(model)[0], self.call)


def forward(model: nnx.Module, call: Callable[[Any, Any], Any] = _apply) -> tuple[Forward, Any]:
    """Returns a model in evaluation mode as a pure function, and its state as a tree of arrays.

    Args:
      model: the model; it is not changed.
      call: how to call it, for models that take more than `x`; defined once, at module level.
    """
    evaluating = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(evaluating)
    return Forward(graphdef, call), nnx.as_pure(state)


def trace(
    model: nnx.Module,
    x: Any,
    *,
    call: Callable[[Any, Any], Any] = _apply,
    batch_axis: int = 0,
    exclude: Sequence[str] | str = (),
) -> Graph:
    """Finds the removable units of a model, in evaluation and training mode; see `demp_jax.trace`.

    Args:
      model: a Flax NNX model.
      x: a batch of inputs, or its shape and dtype.
      call: how to call the model in evaluation mode, `call(model, x)`.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns of names of sites that keep all their units.
    """
    fn, state = forward(model, call)
    return trace_lib.trace(fn, state, x, batch_axis=batch_axis, exclude=exclude, train_fn=training_of(fn, state, x))


def prune(
    model: nnx.Module,
    batches: Iterable[Any],
    optimizer: nnx.Optimizer | None = None,
    *,
    copies: Mapping[str, nnx.Module] | Sequence[nnx.Module] = (),
    call: Callable[[Any, Any], Any] = _apply,
    remove: Mapping[str, np.ndarray] | None = None,
    at_most: Mapping[str, np.ndarray] | None = None,
    options: PruneOptions | None = None,
) -> PruneRecord:
    """Removes dead units from a model, its copies and its optimizer, in place; see `demp_jax.prune`.

    Args:
      model: a Flax NNX model, in training or evaluation mode.
      batches: the death set, as batches of training inputs of one shape.
      optimizer: the optimizer of the model.
      copies: other models of the same architecture and widths, such as an average of its weights or a target network,
        by name or in a list. A unit is removed only if it is dead in all of them.
      call: how to call the model in evaluation mode, `call(model, x)`.
      remove: by name of a site, which units to remove instead of the dead ones; see `demp_jax.prune`.
      at_most: by name of a site, which units may be removed; see `demp_jax.prune`.
      options: what counts as dead, how much is kept, how exact it has to be.

    Returns:
      What was done.

    Raises:
      ValueError: as `demp_jax.prune`.
    """
    fn, state = forward(model, call)
    if not isinstance(copies, Mapping):
        copies = {f"copies[{i}]": copy for i, copy in enumerate(copies)}
    result = prune_lib.prune(
        fn,
        state,
        batches,
        opt_state=None if optimizer is None else nnx.as_pure(optimizer.opt_state),
        tx=None if optimizer is None else optimizer.tx,
        params=_trained(model, nnx.Param if optimizer is None else optimizer.wrt),
        copies={name: nnx.as_pure(nnx.state(copy)) for name, copy in copies.items()},
        remove=remove,
        at_most=at_most,
        options=options,
    )
    if result.plan is not None:
        resize(model, result.variables)
        for name, copy in copies.items():
            resize(copy, result.copies[name])
        if optimizer is not None:
            nnx.update(optimizer.opt_state, nnx.state(result.opt_state))
    return result.record


def preview(
    model: nnx.Module,
    batches: Iterable[Any],
    *,
    wrt: Any = nnx.Param,
    copies: Mapping[str, nnx.Module] | Sequence[nnx.Module] = (),
    call: Callable[[Any, Any], Any] = _apply,
    options: PruneOptions | None = None,
) -> prune_lib.Preview:
    """Returns what a prune of all that is dead would leave of a model; see `demp_jax.preview`.

    Args:
      model: a Flax NNX model, in training or evaluation mode.
      batches: the death set, as batches of training inputs of one shape.
      wrt: the variables that count as parameters, as the optimizer has them.
      copies: as for `prune`.
      call: how to call the model in evaluation mode, `call(model, x)`.
      options: what counts as dead, how much is kept.
    """
    fn, state = forward(model, call)
    if not isinstance(copies, Mapping):
        copies = {f"copies[{i}]": copy for i, copy in enumerate(copies)}
    trees = {name: nnx.as_pure(nnx.state(copy)) for name, copy in copies.items()}
    return prune_lib.preview(fn, state, batches, params=_trained(model, wrt), copies=trees, options=options)


def set_strength_factor(optimizer: nnx.Optimizer, factor: float) -> None:
    """Multiplies the strength of an optimizer's regulariser, in place; see `demp_jax.set_strength_factor`.

    Args:
      optimizer: whose `tx` is made by `demp_jax.demp`.
      factor: >= 0.

    Raises:
      ValueError: as `demp_jax.set_strength_factor`.
    """
    changed = demp.set_strength_factor(nnx.as_pure(optimizer.opt_state), factor)
    nnx.update(optimizer.opt_state, nnx.state(changed))


def _trained(model: nnx.Module, wrt: Any) -> Callable[[Any], Any]:
    """Returns what picks the parameters from a state."""
    trained = set(leaf_paths(nnx.as_pure(nnx.state(model, wrt))))
    return lambda tree: nnx.as_pure(_only(tree, trained))


def _only(tree: Any, paths: set[str]) -> Any:
    flat = {path: leaf for path, leaf in nnx.to_flat_state(tree) if "/".join(map(str, path)) in paths}
    return nnx.from_flat_state(flat.items())


def resize(model: nnx.Module, state: Any) -> None:
    """Puts variables of other widths into a model, in place, and makes its attributes agree with them.

    Args:
      model: a model of the same architecture at any widths.
      state: the variables, a tree of arrays like `nnx.as_pure(nnx.state(model))`; without random keys and their counts,
        `nnx.state(model, nnx.Not(nnx.RngState))`, those of the model stay.

    Raises:
      ValueError: when the variables are not those of the model.
    """
    random, theirs = set(leaf_paths(nnx.as_pure(nnx.state(model, nnx.RngState)))), set(leaf_paths(state))
    ours = set(leaf_paths(nnx.as_pure(nnx.state(model)))) - random
    if ours != theirs - random:
        odd = sorted(ours ^ (theirs - random))
        raise ValueError(f"resize: the state is not of this model; only one of them has {', '.join(odd[:5])}.")
    nnx.update(model, state)
    refit(model)


def refit(model: nnx.Module) -> None:
    """Makes the static attributes of every module agree with the shapes of its variables.

    A module of your own that keeps widths as attributes may have a method `refit()`, which is called.
    """
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "refit"):
            module.refit()
        for kind, fit in _FITS.items():
            if isinstance(module, kind):
                fit(module)


def _fit_linear(m: Any) -> None:
    *_, m.in_features, m.out_features = m.kernel.shape


def _fit_linear_general(m: Any) -> None:
    inputs, outputs = len(m.axis), len(m.out_features)
    shape = m.kernel.shape[-(inputs + outputs) :]
    m.in_features, m.out_features = tuple(shape[:inputs]), tuple(shape[inputs:])


def _fit_attention(m: Any) -> None:
    m.in_features = m.query.kernel.shape[-3]
    if hasattr(m, "in_kv_features"):
        m.in_kv_features = m.key.kernel.shape[-3]


def _fit_conv(m: Any) -> None:
    per_group = m.out_features // m.feature_group_count
    *_, inputs, outputs = m.kernel.shape
    if m.feature_group_count > 1:
        m.feature_group_count = outputs // per_group
    m.in_features, m.out_features = inputs * m.feature_group_count, outputs
    m.kernel_shape = _own_shape(m)


def _own_shape(m: Any) -> tuple[int, ...]:
    """Returns the shape of a kernel without the axes of a stack of layers before it."""
    return tuple(m.kernel.shape[-len(m.kernel_shape) :])


def _fit_conv_transpose(m: Any) -> None:
    m.kernel_shape = _own_shape(m)
    inputs, outputs = m.kernel.shape[-2:]
    m.in_features, m.out_features = (outputs, inputs) if m.transpose_kernel else (inputs, outputs)


def _fit_einsum(m: Any) -> None:
    m.kernel_shape = _own_shape(m)
    if m.bias_shape is not None:
        m.bias_shape = tuple(m.bias.shape[-len(m.bias_shape) :])


def _fit_embed(m: Any) -> None:
    *_, m.num_embeddings, m.features = m.embedding.shape


def _fit_norm(m: Any) -> None:
    for name in ("scale", "bias", "mean"):
        variable = getattr(m, name, None)
        if isinstance(variable, nnx.Variable):
            m.num_features = variable.shape[-1]


def _fit_group_norm(m: Any) -> None:
    variable = next((v for v in (m.scale, m.bias) if isinstance(v, nnx.Variable)), None)
    if variable is not None:
        m.num_groups = variable.shape[-1] // m.group_size


_FITS: dict[type, Callable[[Any], None]] = {
    nnx.Linear: _fit_linear,
    nnx.LinearGeneral: _fit_linear_general,
    nnx.Conv: _fit_conv,
    nnx.ConvTranspose: _fit_conv_transpose,
    nnx.Einsum: _fit_einsum,
    nnx.MultiHeadAttention: _fit_attention,
    nnx.Embed: _fit_embed,
    nnx.BatchNorm: _fit_norm,
    nnx.LayerNorm: _fit_norm,
    nnx.RMSNorm: _fit_norm,
    nnx.InstanceNorm: _fit_norm,
    nnx.GroupNorm: _fit_group_norm,
}
