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

from demp_jax._src.frameworks.batch_stats import batch_averages
from demp_jax._src.frameworks.refit import refit as refit
from demp_jax._src.optim import demp
from demp_jax._src.pruning import prune as prune_lib
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.record import PruneRecord
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
    "reestimate_batch_stats",
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


# How a model is called, `call(model, x)`.
Call = Callable[[Any, Any], Any]
Copies = Mapping[str, nnx.Module] | Sequence[nnx.Module]
Optimizers = nnx.Optimizer | Sequence[nnx.Optimizer] | Mapping[str, nnx.Optimizer] | None


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

    def training(self, variables: Any, x: Any) -> BatchStatistics | None:
        """Returns the model with batch statistics in its BatchNorms, and without dropout.

        Args:
          variables: the variables of the model, or their shapes and dtypes.
          x: a batch of inputs, or its shape and dtype; the adapters of the other libraries need it.

        Returns:
          A function `train(variables, x)` of the same variables; `None` when the model has no module whose flag
          `use_running_average` can be set by `nnx.view`, so that nothing would differ. A BatchNorm that gets
          `use_running_average` as an argument of its call does what the call says.
        """
        del x
        model = nnx.merge(self.graphdef, variables)
        same = nnx.split(_viewed(model, use_running_average=False))[0] == nnx.split(model)[0]
        return None if same else BatchStatistics(self)

    def updating(self) -> Updating:
        """Returns the model in training mode, as a function that returns the updated variables beside the outputs."""
        return Updating(self)


def _viewed(model: Any, **flags: bool) -> Any:
    """Returns a view of a model whose batch statistics are those of the batch it is called on."""
    view = nnx.view(model, raise_if_not_found=False, **flags)
    for norm in _batch_norms(view).values():
        # The whole batch is there: no mapped axis with the rest of it.
        norm.axis_name = norm.axis_index_groups = None
    return view


def _batch_norms(model: Any) -> dict[Any, nnx.BatchNorm]:
    return {path: module for path, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)}


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """A model with batch statistics in its BatchNorms and without dropout, `train(variables, x)`.

    What the model would write to its state, such as running statistics, is discarded.

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

    Dropout draws from the model's own random keys, whose counts are updated, too. The updated variables have the
    structure of those given; variables that only exist after the call, such as what `sow` keeps, are left out.

    Attributes:
      forward: the same model in evaluation mode.
    """

    forward: Forward

    def __call__(self, variables: Any, x: Any) -> tuple[Any, Any]:
        """Returns the model's output for `x`, and its variables after that step."""
        model = nnx.merge(self.forward.graphdef, variables)
        view = _viewed(model, deterministic=False, use_running_average=False)
        out = self.forward.call(view, x)
        after = _by_steps(nnx.as_pure(nnx.state(view)))
        updated = [after.get(steps, leaf) for steps, leaf in _by_steps(variables).items()]
        return out, jax.tree.unflatten(jax.tree.structure(variables), updated)

    def resized(self, variables: Any) -> Updating:
        """Returns the function for smaller variables."""
        return Updating(self.forward.resized(variables))


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
    model: Any,
    x: Any,
    *,
    call: Call = _apply,
    calls: Sequence[Call] = (),
    batch_axis: int = 0,
    exclude: Sequence[str] | str = (),
) -> Graph:
    """Finds the removable units of a model, in evaluation and training mode; see `demp_jax.trace`.

    Args:
      model: a Flax NNX model, or a dict or list of models that `call` takes.
      x: a batch of inputs, or its shape and dtype.
      call: how to call the model in evaluation mode, `call(model, x)`.
      calls: further ways in which it is called in training, see `prune`.
      batch_axis: the axis of each array of `x` along which examples lie.
      exclude: a pattern or patterns of names of sites that keep all their units.
    """
    fn, state = forward(_whole(model), call)
    options = PruneOptions(batch_axis=batch_axis, exclude=exclude)
    return prune_lib.traced(fn, state, x, options, calls=_updating(fn, calls))


def prune(
    model: Any,
    batches: Iterable[Any],
    optimizer: Optimizers = None,
    *,
    copies: Copies = (),
    call: Call = _apply,
    calls: Sequence[Call] = (),
    remove: Mapping[str, np.ndarray] | None = None,
    at_most: Mapping[str, np.ndarray] | None = None,
    options: PruneOptions | None = None,
) -> PruneRecord:
    """Removes dead units from a model, its copies and its optimizer, in place; see `demp_jax.prune`.

    Example:
      >>> import optax
      >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
      >>> model.layers[0].bias[...] = jnp.array([-99.0] * 3 + [1.0] * 5)  # Three units are dead.
      >>> optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
      >>> prune(model, [jnp.ones((4, 3))], optimizer).removed
      {'layers/0': 3}
      >>> model.layers[0].kernel.shape, optimizer.opt_state[0].mu["layers"][0]["kernel"].shape
      ((3, 5), (3, 5))

    Args:
      model: a Flax NNX model, in training or evaluation mode, or a dict or list of models that `call` takes.
      batches: the death set, as batches of training inputs of one shape.
      optimizer: the optimizer of the model. A list of optimizers each of which trains a part of it (`wrt`); or a dict
        of optimizers, each of the submodel that is `model[key]` or `model.key`.
      copies: other models of the same architecture and widths, such as an average of its weights or a target network,
        by name or in a list. A unit is removed only if it is dead in all of them.
      call: how to call the model in evaluation mode, `call(model, x)`. For a model with several entry points it calls
        them all, as in `lambda model, x: (model.actor(x), model.critic(x))`.
      calls: further ways in which the model is called in training, `call(model, x)`, with changes of its variables in
        place: a teacher that follows its student, an entry point of other inputs. What they read is pruned along. By
        default the model itself in training mode, where that reads variables that evaluation does not.
      remove: by name of a site, which units to remove instead of the dead ones; see `demp_jax.prune`.
      at_most: by name of a site, which units may be removed; see `demp_jax.prune`.
      options: what counts as dead, how much is kept, how exact it has to be.

    Returns:
      What was done.

    Raises:
      ValueError: as `demp_jax.prune`.
    """
    model = _whole(model)
    fn, state = forward(model, call)
    named = _named(copies)
    optimizers, params = _optimizers(model, optimizer)
    alone = isinstance(optimizer, nnx.Optimizer)
    states = {key: nnx.as_pure(each.opt_state) for key, each in optimizers.items()}
    result = prune_lib.prune(
        fn,
        state,
        batches,
        opt_state=states[0] if alone else states or None,
        tx=optimizers[0].tx if alone else {key: each.tx for key, each in optimizers.items()} or None,
        params=params[0] if alone else params,
        copies={name: nnx.as_pure(nnx.state(copy)) for name, copy in named.items()},
        calls=_updating(fn, calls),
        remove=remove,
        at_most=at_most,
        options=options,
    )
    if result.plan is not None:
        resize(model, result.variables)
        for name, copy in named.items():
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
    call: Call = _apply,
    calls: Sequence[Call] = (),
    options: PruneOptions | None = None,
) -> prune_lib.Preview:
    """Returns what a prune of all that is dead would leave of a model; see `demp_jax.preview`.

    Args:
      model: a Flax NNX model, in training or evaluation mode, or a dict or list of models that `call` takes.
      batches: the death set, as batches of training inputs of one shape.
      wrt: the variables that count as parameters, as the optimizer has them.
      copies, call, calls: as for `prune`.
      options: what counts as dead, how much is kept.
    """
    model = _whole(model)
    fn, state = forward(model, call)
    trees = {name: nnx.as_pure(nnx.state(copy)) for name, copy in _named(copies).items()}
    return prune_lib.preview(
        fn, state, batches, params=_trained(model, wrt), copies=trees, calls=_updating(fn, calls), options=options
    )


def _whole(model: Any) -> nnx.Module:
    """Returns several models, in a dict or list, as one."""
    if isinstance(model, Mapping):
        return nnx.Dict(model)
    return nnx.List(model) if isinstance(model, list | tuple) else model


def _named(copies: Copies) -> dict[str, nnx.Module]:
    return dict(copies) if isinstance(copies, Mapping) else {f"copies[{i}]": copy for i, copy in enumerate(copies)}


def _updating(fn: Forward, calls: Sequence[Call]) -> tuple[Updating, ...]:
    return tuple(Updating(Forward(fn.graphdef, call)) for call in calls)


def _optimizers(model: Any, optimizer: Optimizers) -> tuple[dict[Any, nnx.Optimizer], Any]:
    """Returns the optimizers by key, and what picks the variables that each of them trains."""
    if optimizer is None:
        return {}, _trained(model, nnx.Param)
    if isinstance(optimizer, Mapping):
        return dict(optimizer), {key: _trained(model, each.wrt, key) for key, each in optimizer.items()}
    several = [optimizer] if isinstance(optimizer, nnx.Optimizer) else list(optimizer)
    return dict(enumerate(several)), {i: _trained(model, each.wrt) for i, each in enumerate(several)}


def reestimate_batch_stats(
    model: nnx.Module, batches: Iterable[Any], *, call: Callable[[Any, Any], Any] = _apply
) -> None:
    """Sets the running statistics of every `nnx.BatchNorm` to averages over batches, in place.

    Running statistics lag behind the weights: with the default momentum of 0.99 they are those of a few hundred steps
    ago. The new mean is the mean over batches of the batch means, and the new variance the mean over batches of the
    batch variances. These are the values that running averages tend to at fixed weights, for any momentum, and the
    ones that training normalizes with; the variance of all examples together would also count how the batch means
    differ. Batches count the same, whatever their sizes. Every layer sees inputs that were normalized with batch
    statistics, without dropout. A layer that is called several times in one pass keeps the statistics of its last
    call.

    Example:
      >>> norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
      >>> reestimate_batch_stats(norm, [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])])
      >>> norm.mean[...].tolist(), norm.var[...].tolist()  # Means of 1 and 6, and of 1 and 4.
      ([3.5], [2.5])

    Args:
      model: a Flax NNX model, in training or evaluation mode. Nothing but its running statistics changes.
      batches: batches of training inputs, of one shape: another shape is compiled anew.
      call: how to call the model, `call(model, x)`, as in `forward`.

    Raises:
      ValueError: when the model has no BatchNorm, or there is no batch.
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
            # Zero times a statistic that is not finite would not be zero.
            norm.mean[...], norm.var[...] = (jnp.nan_to_num(v[...]) for v in (norm.mean, norm.var))
        call(view, x)
        return [(found[path].mean[...], found[path].var[...]) for path in norms]

    averages = batch_averages(statistics, nnx.as_pure(state), batches)
    for norm, (mean, var) in zip(norms.values(), averages, strict=True):
        norm.mean[...], norm.var[...] = mean, var


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


def _trained(model: Any, wrt: Any, key: Any = None) -> Callable[[Any], Any]:
    """Returns what picks the parameters from a state: of a model, or of the submodel that is called `key`."""
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


def resize(model: nnx.Module, state: Any) -> None:
    """Puts variables of other widths into a model, in place, and makes its attributes agree with them.

    Everything but the widths must be that of the model: the paths, the dtypes, the number of axes, and the size of the
    window of a convolution.

    Example:
      >>> small, wide = (nnx.Linear(2, width, rngs=nnx.Rngs(0)) for width in (3, 8))
      >>> resize(wide, nnx.as_pure(nnx.state(small)))
      >>> wide.out_features
      3

    Args:
      model: a model of the same architecture at any widths; one of `nnx.eval_shape` is enough, unless it has an
        `nnx.WeightNorm`, whose scales are then missing.
      state: the variables, a tree of arrays like `nnx.as_pure(nnx.state(model))`, or such a tree as Orbax restores it
        without a target: keys may be strings where the model has numbers or tuples, and an array may be within a
        dictionary `{"value": array}`. Without random keys and their counts,
        `nnx.state(model, nnx.Not(nnx.RngState))`, those of the model stay.

    Raises:
      ValueError: when the variables are not those of the model.
    """
    wanted = dict(nnx.to_flat_state(nnx.as_pure(nnx.state(model))))
    paths = {tuple(map(str, path)): path for path in wanted}
    found: dict[tuple[Any, ...], Any] = {}
    for steps, leaf in _by_steps(nnx.as_pure(state)).items():
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


def _by_steps(tree: Any) -> dict[tuple[str, ...], Any]:
    """Returns the leaves of a tree by their paths, every step as a string."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves}


def _kind(leaf: Any, window: bool) -> tuple[Any, ...]:
    """Returns what of an array is no width: its dtype, its number of axes, and those of a convolution's window."""
    shape = np.shape(leaf)
    return getattr(leaf, "dtype", type(leaf)), len(shape), shape[:-2] if window else ()


def _described(leaf: Any) -> str:
    if leaf is None:
        return "nothing"
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
