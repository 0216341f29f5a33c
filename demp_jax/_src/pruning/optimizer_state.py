# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Slices the state of an optimizer after a prune, and folds constants into copies of the parameters.

The state of an optimizer has four kinds of leaves:

* Moments, such as Adam's `mu`, mirror the parameters (see `mirror`) and are sliced like them. The vector to which
  `optax.flatten` concatenates all parameters is sliced, too.
* Copies of parameters, such as the `z` of schedule-free optimizers, are sliced, and the constants are folded into
  them, each with its own weights. Example: schedule-free computes gradients at y = (1 - b) z + b x. A fold adds W c to
  a bias, where W are the removed weights and c their constant inputs. It is linear in the bias and W together, so
  y = (1 - b) z + b x still holds after folding into all three. Without a fold, the bias in z would pull y back.
* Leaves that belong to a parameter but have another shape, such as the factored moments of Adafactor, cannot be sliced.
  The whole state of their transformation is initialized again, and its paths are reported.
* All other leaves, such as step counts and hyperparameters, are kept.

Dimension names: kept, the entries of the vector of all parameters that are kept.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from demp_jax._src.pruning.slicing import Plan, is_array, put_like
from demp_jax._src.tracing import mirror
from demp_jax._src.tracing.paths import Entries, entries, leaf_paths


def slice_state(
    plan: Plan, state: Any, variables: Any, params: mirror.Params, params_after: Any, tx: Any
) -> tuple[Any, list[str], list[str]]:
    """Returns the state of an optimizer for the smaller parameters.

    Args:
      plan: the plan of the prune.
      state: the state for the parameters before the prune, of any Optax optimizer. For several optimizers, a dict or
        list of states.
      variables: the variables before the prune.
      params: picks the trained part of the variables, all of them by default. For several optimizers, a dict or list of
        such functions like `tx`, or one function that returns a dict or list of trained trees.
      params_after: the trained part after the prune, as from `mirror.picked`.
      tx: the optimizer, or a dict or list of optimizers like `state`. With it the result is compared with
        `tx.init(params_after)`, state that cannot be sliced is initialized again, and copies of parameters are found.
        With `None`, copies cannot be told from moments, so no constants are folded into copies, and state that does not
        mirror the parameters is not changed.

    Returns:
      The smaller state, the paths of the leaves that were initialized again, and the paths of the copies of parameters
      that constants were folded into.

    Raises:
      ValueError: if the state does not have the structure of `tx.init(params_after)`, if the keys of dicts or lists
        differ, or if there is no `tx` and no leaf of the state mirrors a parameter.
    """
    if tx is not None and not _is_optimizer(tx):
        return _slice_each(plan, state, variables, params, params_after, tx)
    trained = mirror.trained_leaves(params, variables)
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    leaves = [leaf for _, leaf in paths_and_leaves]
    matched = _match(plan, trained, [(path, np.shape(leaf)) for path, leaf in paths_and_leaves])
    if tx is None:
        _require_mirrors(plan, trained, leaves, matched)
        sliced = [leaf if i is None else plan.slice_leaf(leaf, i) for leaf, i in zip(leaves, matched, strict=True)]
        return jax.tree.unflatten(structure, sliced), [], []

    # Compared by path and not by structure: a state from a checkpoint may have dicts instead of named tuples, and
    # `optax.monitor` adds scalars to its state that its `init` does not return.
    shapes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(tx.init, params_after))
    wanted = {entries(path): want.shape for path, want in shapes}
    own = {entries(path): np.size(leaf) if is_array(leaf) else 1 for path, leaf in paths_and_leaves}
    if set(wanted) - set(own) or any(size > 1 for path, size in own.items() if path not in wanted):
        raise ValueError(
            "opt_state: its structure is not that of tx.init(params). Give the optimizer that was made for this "
            "network (in Flax NNX, nnx.Optimizer(model, tx, wrt=nnx.Param)), and params= if it trains a part of the "
            "variables, such as lambda v: v['params']."
        )
    sliced, stale = [], set()
    for n, (path, leaf) in enumerate(paths_and_leaves):
        variable, shape = matched[n], np.shape(leaf)
        want = wanted.get(entries(path), shape)
        small = leaf if variable is None else plan.slice_leaf(leaf, variable)
        if is_array(leaf) and np.shape(small) != want:
            small = leaf
            if _flat(plan, trained, shape, want):
                small = put_like(np.asarray(leaf)[_flat_positions(plan, trained)], leaf)
            elif shape != want:
                stale.add(n)
            # Otherwise the path ends like that of a parameter, but `tx.init` shows that the leaf does not mirror it.
        elif is_array(leaf) and variable is None and _shadows(plan, trained, path, shape):
            stale.add(n)
        sliced.append(small)
    folded = _fold_copies(plan, variables, trained, params_after, tx, paths_and_leaves, sliced)
    renewed: list[int] = []
    if stale:
        fresh = {entries(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tx.init(params_after))}
        numbered = jax.tree.unflatten(structure, range(len(sliced)))
        renewed = sorted({i for group in _states(numbered) if stale & set(group) for i in group})
        for n in renewed:
            path, leaf = paths_and_leaves[n]
            sliced[n] = fresh.get(entries(path), leaf)
    names = leaf_paths(state)
    return (
        jax.tree.unflatten(structure, sliced),
        [names[n] for n in renewed],
        [names[n] for n in sorted(folded - set(renewed))],
    )


def _is_optimizer(tx: Any) -> bool:
    # A GradientTransformation is a tuple, and `optax.MultiSteps` is a class of its own.
    return hasattr(tx, "init") and hasattr(tx, "update")


def _slice_each(
    plan: Plan, state: Any, variables: Any, params: mirror.Params, params_after: Any, tx: Any
) -> tuple[Any, list[str], list[str]]:
    """Slices the states of several optimizers, given as dicts or lists."""
    named = [("tx", tx), ("opt_state", state), ("params", params_after)]
    keys = [set(_keys(each)) for _, each in named]
    for (name, _), found in zip(named, keys, strict=True):
        if found != keys[0]:
            raise ValueError(
                f"{name}: with several optimizers it must be a dict or list with the keys of tx, "
                f"{sorted(map(str, keys[0]))}; got {sorted(map(str, found))}."
            )
    states: dict[Any, Any] = {}
    reset: list[str] = []
    folded: list[str] = []
    for key in _keys(tx):
        if params is None or callable(params):
            part: mirror.Params = lambda tree, key=key: mirror.picked(params, tree)[key]  # noqa: E731
        else:
            part = params[key]
        states[key], *paths = slice_state(plan, state[key], variables, part, params_after[key], tx[key])
        for all_paths, ours in zip((reset, folded), paths, strict=True):
            all_paths += [f"{key}/{path}" for path in ours]
    if isinstance(state, Mapping):
        return type(state)({key: states[key] for key in state}), reset, folded  # type: ignore[call-arg]
    return type(state)(states[n] for n in range(len(state))), reset, folded


def _keys(each: Any) -> Sequence[Any]:
    if isinstance(each, Mapping):
        return list(each)
    return range(len(each)) if isinstance(each, list | tuple) and not _is_optimizer(each) else ()


def _match(
    plan: Plan, trained: Sequence[mirror.Leaf], leaves: Sequence[tuple[Sequence[Any], tuple[int, ...]]]
) -> list[int | None]:
    graph = plan.graph
    ours = {leaf.variable for leaf in trained}
    return mirror.match(leaves, [[leaf for leaf in graph.leaves if leaf.variable in ours], trained], graph.alike)


def _require_mirrors(
    plan: Plan, trained: Sequence[mirror.Leaf], leaves: Sequence[Any], matched: Sequence[int | None]
) -> None:
    """Raises `ValueError` if the state has arrays and parameters are sliced, but no array mirrors a parameter."""
    arrays = any(is_array(leaf) and np.size(leaf) > 1 for leaf in leaves)
    smaller = any(leaf.variable is not None and plan.shrinks(leaf.variable) for leaf in trained)
    if arrays and smaller and all(variable is None for variable in matched):
        raise ValueError(
            "opt_state: no leaf of it mirrors a parameter. Give params=, which picks the tree the optimizer was "
            "initialized with, or tx=, the optimizer."
        )


def _flat(plan: Plan, trained: Sequence[mirror.Leaf], shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Returns whether a leaf is the vector of all parameters, as in `optax.flatten`."""
    if len(shape) != 1 or any(leaf.variable is None for leaf in trained):
        return False
    kept = len(_flat_positions(plan, trained))
    return tuple(shape) == (sum(int(np.prod(leaf.shape)) for leaf in trained),) and tuple(wanted) == (kept,)


def _flat_positions(plan: Plan, trained: Sequence[mirror.Leaf]) -> Int[np.ndarray, " kept"]:
    """Returns the indices of the kept entries of the vector of all parameters."""
    positions, start = [], 0
    for leaf in trained:
        assert leaf.variable is not None
        size = int(np.prod(leaf.shape))
        numbers = np.arange(start, start + size).reshape(leaf.shape)
        positions.append(np.ravel(plan.slice_leaf(numbers, leaf.variable)))
        start += size
    return np.concatenate(positions)


def _shadows(plan: Plan, trained: Sequence[mirror.Leaf], path: Sequence[Any], shape: Sequence[int]) -> bool:
    """Returns whether a leaf belongs to a sliced parameter without mirroring it.

    Examples are the row means of second moments in Adafactor, `v_row/kernel`, and the maxima along each axis in SM3,
    `mu/kernel/0`. Scalars do not depend on the width.
    """
    if np.prod(shape, dtype=np.int64) <= 1:
        return False
    named = entries(path)
    places = [(n, m) for n in range(len(named) + 1) for m in range(n, len(named) + 1)]
    found: list[tuple[int, int | None]] = []
    for leaf in trained:
        ours = entries(leaf.path)
        if any(named[n:m] == ours for n, m in places if m - n == len(ours)):
            found.append((len(ours), leaf.variable))
    longest = max((length for length, _ in found), default=0)
    return any(length == longest and i is not None and plan.shrinks(i) for length, i in found)


def _fold_copies(
    plan: Plan,
    variables: Any,
    trained: Sequence[mirror.Leaf],
    params_after: Any,
    tx: Any,
    before: Sequence[tuple[Sequence[Any], Any]],
    sliced: list[Any],
) -> set[int]:
    """Folds the constants of a prune into copies of parameters in `sliced`, in place, and returns their indices.

    For each copy, the copied variables are replaced by the leaves of the copy, and then sliced and folded like the
    variables of the network.
    """
    if not plan.absorbers & {leaf.variable for leaf in trained}:
        return set()
    variable_leaves, structure = jax.tree.flatten(variables)
    copies: list[_Copy] = []
    numbers = {entries(path): n for n, (path, _) in enumerate(before)}
    for copied, members in _copies(params_after, tx).items():
        n = numbers[copied]
        path, leaf = before[n]
        ours = [trained[k] for k in members]
        named, own = entries(path), entries(ours[0].path)
        root = named[: len(named) - len(own)] if named[len(named) - len(own) :] == own else named
        field = root[-1] if root else ""
        pieces = _pieces(leaf, ours)
        # `optax.partition` distributes a copy over several states. Its parts are joined, so that a bias in one state is
        # folded with the copied weights in another.
        copy = next((c for c in copies if c.field == field and not set(pieces) & set(c.leaves)), None)
        if copy is None:
            copy = _Copy(field, {}, {})
            copies.append(copy)
        copy.leaves.update(pieces)
        copy.places[n] = [leaf.variable for leaf in ours if leaf.variable is not None]
    folded = set()
    for copy in copies:
        places = {n: members for n, members in copy.places.items() if plan.absorbers & set(members)}
        if places:
            overlaid = [copy.leaves.get(i, leaf) for i, leaf in enumerate(variable_leaves)]
            small = jax.tree.leaves(plan.slice_variables(jax.tree.unflatten(structure, overlaid)))
            for n, members in places.items():
                arrays = [np.asarray(small[i]) for i in members]
                whole = arrays[0] if len(arrays) == 1 else np.concatenate([np.ravel(array) for array in arrays])
                sliced[n] = put_like(whole, before[n][1])
            folded |= set(places)
    return folded


class _Copy(NamedTuple):
    """A copy of parameters in the state of an optimizer.

    Attributes:
      field: the field of the state that holds it, such as "z".
      leaves: by index of a variable, the leaf that is its copy, at the widths before the prune.
      places: by index of a leaf of the state, the variables in it: one, or all of them in one vector.
    """

    field: str
    leaves: dict[int, Any]
    places: dict[int, list[int]]


def _pieces(leaf: Any, ours: Sequence[mirror.Leaf]) -> dict[int, Any]:
    """Returns, by index of a variable, its part of a copy, which is of one variable or a vector of several."""
    if len(ours) == 1:
        return {} if ours[0].variable is None else {ours[0].variable: leaf}
    ends = np.cumsum([np.prod(each.shape, dtype=np.int64) for each in ours])
    parts = np.split(np.asarray(leaf), ends[:-1])
    return {
        each.variable: part.reshape(each.shape)
        for each, part in zip(ours, parts, strict=True)
        if each.variable is not None
    }


def _copies(params: Any, tx: Any) -> dict[Entries, list[int]]:
    """Returns, by path of a leaf of `tx.init(params)`, the parameters that it is a copy of.

    A leaf is a copy of one parameter, or of all of them in one vector. It counts as a copy if it equals the parameters,
    up to its dtype, for two random draws of the parameters.
    """
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    found: list[set[tuple[Entries, tuple[int, ...]]]] = []
    init = jax.jit(tx.init)
    for _ in range(2):
        drawn = [_random_like(rng, leaf) for leaf in leaves]
        state = jax.tree_util.tree_leaves_with_path(init(jax.tree.unflatten(structure, drawn)))
        arrays = {k: np.asarray(leaf) for k, leaf in enumerate(drawn) if is_array(leaf)}
        sources: dict[tuple[int, ...], np.ndarray] = {(k,): array for k, array in arrays.items()}
        if len(arrays) == len(leaves) > 1:
            sources[tuple(arrays)] = np.concatenate([np.ravel(array) for array in arrays.values()])
        shapes: dict[tuple[int, ...], list[tuple[int, ...]]] = collections.defaultdict(list)
        for members, array in sources.items():
            shapes[array.shape].append(members)
        equal: set[tuple[Entries, tuple[int, ...]]] = set()
        for path, leaf in state:
            if is_array(leaf):
                for members in shapes[np.shape(leaf)]:
                    if np.array_equal(np.asarray(leaf), sources[members].astype(leaf.dtype)):
                        equal.add((entries(path), members))
        found.append(equal)
    return {path: list(members) for path, members in sorted(found[0] & found[1])}


def _random_like(rng: np.random.Generator, leaf: Any) -> Any:
    if not is_array(leaf):
        return leaf
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return put_like(rng.standard_normal(np.shape(leaf)).astype(leaf.dtype), leaf)
    return put_like(rng.integers(0, 2, np.shape(leaf)).astype(leaf.dtype), leaf)


def _states(tree: Any) -> list[list[int]]:
    """Returns the leaves of a tree of integers, grouped by innermost named tuple, the state of one transformation."""
    groups: list[list[int]] = []

    def walk(node: Any, own: list[int]) -> None:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            own = []
            groups.append(own)
        if isinstance(node, int):
            own.append(node)
            return
        children = jax.tree_util.default_registry.flatten_one_level(node)
        for child in children[0] if children is not None else ():
            walk(child, own)

    loose: list[int] = []
    groups.append(loose)
    walk(tree, loose)
    return groups
