# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning of Flax NNX models, their copies and their optimizers, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from demp_jax._src.frameworks.nnx_models import Call, Forward, Updating, apply, forward, resize
from demp_jax._src.optim import demp
from demp_jax._src.pruning import prune as prune_lib
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.record import PruneRecord
from demp_jax._src.tracing.graph import Graph
from demp_jax._src.tracing.paths import leaf_paths

Copies = Mapping[str, nnx.Module] | Sequence[nnx.Module]
Optimizers = nnx.Optimizer | Sequence[nnx.Optimizer] | Mapping[str, nnx.Optimizer] | None


def trace(
    model: Any,
    x: Any,
    *,
    call: Call = apply,
    calls: Sequence[Call] = (),
    batch_axis: int = 0,
    exclude: Sequence[str] | str = (),
    extra_units: Sequence[str] | str = (),
) -> Graph:
    """Finds the removable units of a model, in evaluation and training mode; see `demp_jax.trace`.

    Args:
      model: a Flax NNX model, or a dict or list of models that `call` takes.
      x: a batch of at least two inputs, or its shape and dtype.
      call: how to call the model in evaluation mode, `call(model, x)`.
      calls: further calls in training, see `prune`.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns of names of sites that keep all their units.
      extra_units: extra units, see `demp_jax.trace`.

    Returns:
      The graph of removable units. `print(graph.report())` lists them.

    Raises:
      ValueError: see `demp_jax.trace`.
    """
    fn, state = forward(whole(model), call)
    options = PruneOptions(batch_axis=batch_axis, exclude=exclude, extra_units=extra_units)
    return prune_lib.traced(fn, state, x, options, calls=updating(fn, calls))


def prune(
    model: Any,
    batches: Iterable[Any],
    optimizer: Optimizers = None,
    *,
    copies: Copies = (),
    call: Call = apply,
    calls: Sequence[Call] = (),
    remove: Mapping[str, np.ndarray] | None = None,
    at_most: Mapping[str, np.ndarray] | None = None,
    options: PruneOptions | None = None,
) -> PruneRecord:
    """Removes dead units from a model, its copies and its optimizer, in place; see `demp_jax.prune`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
      >>> model.layers[0].bias[...] = jnp.array([-99.0] * 3 + [9.0] * 5)  # Three units are dead.
      >>> optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
      >>> prune(model, [jnp.ones((4, 3))], optimizer).removed
      {'layers/0': 3}
      >>> model.layers[0].kernel.shape, optimizer.opt_state[0].mu["layers"][0]["kernel"].shape
      ((3, 5), (3, 5))

    Args:
      model: a Flax NNX model, in training or evaluation mode, or a dict or list of models that `call` takes.
      batches: the death set, a list of batches of training inputs of one shape.
      optimizer: the optimizer of the model; a list of optimizers, each of which trains a part of it (`wrt`); or a dict
        of optimizers, each for the submodel `model[key]` or `model.key`.
      copies: by name or in a list, other models of the same architecture and widths, such as an average of the weights
        or a target network. A unit is removed only if it is dead in all of them.
      call: how to call the model in evaluation mode, `call(model, x)`. For a model with several entry points, it should
        call all of them, as in `lambda model, x: (model.actor(x), model.critic(x))`.
      calls: further calls in training, `call(model, x)`, such as a teacher that follows its student, or an entry point
        for other inputs. They may change variables of the model in place. Variables that they read are pruned along. By
        default, a call in training mode with dropout is added if some variables would not be read otherwise.
      remove: by name of a site, `[width]` bool, the units to remove instead of dead ones; see `demp_jax.prune`.
      at_most: by name of a site, `[width]` bool, limits how many units are removed; see `demp_jax.prune`.
      options: the criterion, the units to keep, and the tolerance.

    Returns:
      The record of the prune.

    Raises:
      ValueError: see `demp_jax.prune`.
    """
    model = whole(model)
    fn, state = forward(model, call)
    own_copies = named(copies)
    optimizers, params = optimizers_of(model, optimizer)
    alone = isinstance(optimizer, nnx.Optimizer)
    states = {key: nnx.as_pure(each.opt_state) for key, each in optimizers.items()}
    result = prune_lib.prune(
        fn,
        state,
        batches,
        opt_state=states[0] if alone else states or None,
        tx=optimizers[0].tx if alone else {key: each.tx for key, each in optimizers.items()} or None,
        params=params[0] if alone else params,
        copies={name: nnx.as_pure(nnx.state(copy)) for name, copy in own_copies.items()},
        calls=updating(fn, calls),
        remove=remove,
        at_most=at_most,
        options=options,
    )
    if result.plan is not None:
        resize(model, result.variables)
        for name, copy in own_copies.items():
            resize(copy, result.copies[name])
        for key, each in optimizers.items():
            nnx.update(each.opt_state, nnx.state(result.opt_state if alone else result.opt_state[key]))
    return result.record


def preview(
    model: Any,
    batches: Iterable[Any],
    *,
    wrt: Any = nnx.Param,
    copies: Copies = (),
    call: Call = apply,
    calls: Sequence[Call] = (),
    options: PruneOptions | None = None,
) -> prune_lib.Preview:
    """Returns the sizes of a model after a prune of all dead units, without pruning; see `demp_jax.preview`.

    Args:
      model: a Flax NNX model, in training or evaluation mode, or a dict or list of models that `call` takes.
      batches: the death set, a list of batches of training inputs of one shape.
      wrt: the variables that count as parameters, as in `nnx.Optimizer`.
      copies, call, calls: see `prune`.
      options: the criterion and the units to keep.

    Returns:
      The sizes before and after, and the units that would be removed.

    Raises:
      ValueError: see `demp_jax.preview`.
    """
    model = whole(model)
    fn, state = forward(model, call)
    trees = {name: nnx.as_pure(nnx.state(copy)) for name, copy in named(copies).items()}
    return prune_lib.preview(
        fn, state, batches, params=_trained(model, wrt), copies=trees, calls=updating(fn, calls), options=options
    )


def whole(model: Any) -> nnx.Module:
    """Returns a dict or list of models as one module."""
    if isinstance(model, Mapping):
        return nnx.Dict(model)
    return nnx.List(model) if isinstance(model, list | tuple) else model


def named(copies: Copies) -> dict[str, nnx.Module]:
    """Returns the copies by name."""
    return dict(copies) if isinstance(copies, Mapping) else {f"copies[{i}]": copy for i, copy in enumerate(copies)}


def updating(fn: Forward, calls: Sequence[Call]) -> tuple[Updating, ...]:
    """Returns further calls of a model as functions of its variables."""
    return tuple(Updating(Forward(fn.graphdef, call)) for call in calls)


def optimizers_of(model: Any, optimizer: Optimizers) -> tuple[dict[Any, nnx.Optimizer], Any]:
    """Returns the optimizers by key, and functions that pick the variables that each of them trains."""
    if optimizer is None:
        return {}, _trained(model, nnx.Param)
    if isinstance(optimizer, Mapping):
        return dict(optimizer), {key: _trained(model, each.wrt, key) for key, each in optimizer.items()}
    several: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    odd = next((each for each in several if not isinstance(each, nnx.Optimizer)), None)
    if odd is not None:
        raise ValueError(
            f"optimizer must be an nnx.Optimizer, or a list or dict of them; got {type(odd).__name__}. The order is "
            "prune(model, batches, optimizer) and Pruner(model, optimizer, death_set)."
        )
    return dict(enumerate(several)), {i: _trained(model, each.wrt) for i, each in enumerate(several)}


def _trained(model: Any, wrt: Any, key: Any = None) -> Callable[[Any], Any]:
    """Returns a function that picks the parameters of a model, or of its submodel `key`, from a state."""
    part = model if key is None else _part(model, key)
    trained = set(leaf_paths(nnx.as_pure(nnx.state(part, wrt))))
    return lambda tree: nnx.as_pure(_only(tree if key is None else tree[key], trained))


def _part(model: Any, key: Any) -> Any:
    if isinstance(model, nnx.Dict):
        return model[key]
    if not hasattr(model, key):
        raise ValueError(f"optimizer: the model has no submodel {key!r}. Name each optimizer as its submodel.")
    return getattr(model, key)


def _only(tree: Any, paths: set[str]) -> Any:
    flat = {path: leaf for path, leaf in nnx.to_flat_state(tree) if "/".join(map(str, path)) in paths}
    return nnx.from_flat_state(flat.items())


def set_strength_factor(optimizer: nnx.Optimizer, factor: float) -> None:
    """Sets the factor of the strength of an optimizer's regularizer, in place; see `demp_jax.set_strength_factor`.

    Args:
      optimizer: an optimizer whose `tx` contains `demp_jax.demp`.
      factor: the factor, >= 0.

    Raises:
      ValueError: see `demp_jax.set_strength_factor`.
    """
    changed = demp.set_strength_factor(nnx.as_pure(optimizer.opt_state), factor)
    nnx.update(optimizer.opt_state, nnx.state(changed))
