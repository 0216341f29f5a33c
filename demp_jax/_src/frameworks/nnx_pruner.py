# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A pruner for training loops with Flax NNX, with a state that contains model, optimizers and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from demp_jax._src.frameworks import nnx_pruning
from demp_jax._src.frameworks.nnx_models import Call, apply, by_steps, forward, resize
from demp_jax._src.pruning import pruner
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.record import PruneRecord


class Pruner:
    """Prunes a model, its optimizer and its copies while they train, in place.

    Call `step` after every update of the parameters. Every `every` steps it removes dead units. With a `target`, every
    `look_every` steps it also previews the size after a prune, and multiplies the strength of the regularizer (see
    `demp_jax.demp`) by the factor of a `TargetController`, so that the model ends at the given size.

    `state` returns the state of model, optimizers, copies and pruner, at their current widths. `restore` loads it into
    a new model and pruner, which may have other widths:

      >>> import optax
      >>> def build():
      ...     rngs = nnx.Rngs(0)
      ...     model = nnx.Sequential(nnx.Linear(3, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 2, rngs=rngs))
      ...     model.layers[0].bias[...] = jnp.array([-99.0] * 3 + [9.0] * 5)  # Three units are dead.
      ...     optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
      ...     return model, Pruner(model, optimizer, [jnp.ones((4, 3))], every=100)
      >>> model, pruner = build()
      >>> for _ in range(100):
      ...     record = pruner.step()  # After an update.
      >>> record.removed
      {'layers/0': 3}
      >>> other, pruner_of_other = build()
      >>> pruner_of_other.restore(pruner.state())  # Or a state from a checkpoint.
      >>> other.layers[0].out_features, pruner_of_other.steps
      (5, 100)

    Attributes:
      steps: the number of calls of `step`.
      factor: the factor of the strength of the regularizer, in [0, 50]; 1 without a target.
    """

    def __init__(
        self,
        model: Any,
        optimizer: nnx_pruning.Optimizers,
        death_set: Iterable[Any] | Callable[[], Iterable[Any]],
        *,
        every: int,
        start: int = 0,
        target: Mapping[str, float] | None = None,
        span: int | None = None,
        look_every: int | None = None,
        copies: nnx_pruning.Copies = (),
        call: Call = apply,
        calls: Sequence[Call] = (),
        options: PruneOptions | None = None,
    ):
        """Initializes the pruner.

        Args:
          model, optimizer, copies, call, calls: see `demp_jax.nnx.prune`.
          death_set: batches of training inputs of one shape, or a function that returns them, which is called at every
            preview and prune.
          every: steps between prunes, >= 1; tau in the paper.
          start: the first step at which to prune.
          target: a dict with one entry, the size at the end: for `"parameters"`, `"flops"` or `"neurons"` the fraction
            of the dense model to keep, in (0, 1), or for `"sparsity"` the fraction of the parameters to remove, in
            (0, 1).
          span: number of steps in which units die, usually the length of the strength's schedule. Required with a
            `target`.
          look_every: steps between previews for the target, >= 1; by default a hundredth of `span`.
          options: the options of the prunes.

        Raises:
          ValueError: for an argument out of its range, or a `target` without `span`.
        """
        self._model = nnx_pruning.whole(model)
        self._copies = nnx_pruning.named(copies)
        self._optimizers, params = nnx_pruning.optimizers_of(self._model, optimizer)
        self._call, self._calls = call, tuple(calls)
        fn, _ = forward(self._model, call)
        self._core = pruner.Pruner(
            fn,
            death_set,
            every=every,
            start=start,
            target=target,
            span=span,
            look_every=look_every,
            tx={key: each.tx for key, each in self._optimizers.items()} or None,
            params=params,
            calls=nnx_pruning.updating(fn, self._calls),
            options=options,
        )

    @property
    def steps(self) -> int:
        """The number of calls of `step`."""
        return self._core.steps

    @property
    def factor(self) -> float:
        """The factor of the strength of the regularizer, in [0, 50]."""
        return self._core.factor

    def step(self) -> PruneRecord | None:
        """Counts an update of the parameters; adapts the strength and prunes at the steps at which this is due.

        Returns:
          The record of the prune; `None` at steps without a prune.

        Raises:
          ValueError: see `demp_jax.prune` and `demp_jax.set_strength_factor`.
        """
        if not self._core.busy(self._core.steps + 1):
            self._core.steps += 1  # The arrays of the model are not read at most steps.
            return None
        return self._take(self._core.step(**self._given()))

    def prune(self) -> PruneRecord:
        """Prunes now, for example at the end of training, and returns the record."""
        record = self._take(self._core.prune(**self._given()))
        assert record is not None
        return record

    def _given(self) -> dict[str, Any]:
        return {
            "variables": nnx.as_pure(nnx.state(self._model)),
            "opt_state": {key: nnx.as_pure(each.opt_state) for key, each in self._optimizers.items()} or None,
            "copies": {name: nnx.as_pure(nnx.state(copy)) for name, copy in self._copies.items()},
        }

    def _take(self, pruned: pruner.Pruned) -> PruneRecord | None:
        record = pruned.record
        if record is not None and record.removed:
            resize(self._model, pruned.variables)
            for name, copy in self._copies.items():
                resize(copy, pruned.copies[name])
        for key, each in self._optimizers.items():
            nnx.update(each.opt_state, nnx.state(pruned.opt_state[key]))
        return record

    def state(self) -> dict[str, Any]:
        """Returns the state of model, optimizers, copies and pruner, a tree of arrays and numbers.

        The arrays have their current widths. The tree can be saved with Orbax.
        """
        return {
            "model": _saved(self._model),
            "optimizers": {str(key): _saved(each) for key, each in self._optimizers.items()},
            "copies": {name: _saved(copy) for name, copy in self._copies.items()},
            "pruner": self._core.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state, in place.

        Args:
          state: the result of `state()`, which may be restored by Orbax without a target. Only its widths may differ
            from those of the model, the optimizers and the copies.

        Raises:
          ValueError: if anything but the widths differs.
        """
        self._core.load(state["pruner"])  # First, because it raises an error for another target.
        _require_keys("the optimizers", state.get("optimizers") or {}, map(str, self._optimizers))
        _require_keys("the copies", state.get("copies") or {}, self._copies)
        resize(self._model, _loaded(state["model"], self._model))
        for name, copy in self._copies.items():
            resize(copy, _loaded(state["copies"][name], copy))
        for key, each in self._optimizers.items():
            _restore_optimizer(each, state["optimizers"][str(key)], str(key))
        fn, _ = forward(self._model, self._call)
        self._core.load(state["pruner"], fn, nnx_pruning.updating(fn, self._calls))


def _saved(node: Any) -> Any:
    """Returns the variables of a model or an optimizer. Random keys become arrays of numbers."""

    def plain(leaf: Any) -> Any:
        return jax.random.key_data(leaf) if _is_key(leaf) else leaf

    return jax.tree.map(plain, nnx.as_pure(nnx.state(node)))


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _loaded(stored: Any, node: Any) -> Any:
    """Returns stored variables with arrays of numbers converted to random keys, where `node` has random keys."""
    own = by_steps(nnx.as_pure(nnx.state(node)))

    def key(path: Any, leaf: Any) -> Any:
        steps = tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
        if not _is_key(own.get(steps)) or _is_key(leaf):
            return leaf
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(own[steps]))

    return jax.tree_util.tree_map_with_path(key, stored)


def _restore_optimizer(optimizer: nnx.Optimizer, stored: Any, name: str) -> None:
    """Loads the stored state of an optimizer into another, whose model may have other widths."""
    wanted, found = by_steps(nnx.as_pure(nnx.state(optimizer))), by_steps(_loaded(stored, optimizer))
    for path in sorted({*wanted, *found}):
        one, other = found.get(path), wanted.get(path)
        kinds = [None if leaf is None else (np.ndim(leaf), _dtype(leaf)) for leaf in (one, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"restore: the state is not of this optimizer ({name}); {'/'.join(path)}: stored {_what(one)}, wanted "
                f"{_what(other)}. Build the same optimizer as in the interrupted training."
            )
    structure = jax.tree.structure(nnx.as_pure(nnx.state(optimizer)))
    leaves = [found[path] if _is_key(found[path]) else jnp.asarray(found[path]) for path in wanted]
    nnx.update(optimizer, nnx.state(jax.tree.unflatten(structure, leaves)))


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None) or jnp.result_type(leaf)


def _what(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{_dtype(leaf)}{list(np.shape(leaf))}"


def _require_keys(what: str, stored: Mapping[str, Any], wanted: Iterable[str]) -> None:
    names = sorted(wanted)
    if sorted(stored) != names:
        raise ValueError(
            f"restore: {what} of the state must be those of this pruner, {', '.join(names) or 'none'}; got "
            f"{', '.join(sorted(stored)) or 'none'}."
        )
