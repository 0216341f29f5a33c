# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A pruner for training loops: called after every update, it prunes and adapts the strength of the regularizer."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from demp_jax._src.optim import demp
from demp_jax._src.pruning import prune as prune_lib
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.proof import training_of
from demp_jax._src.pruning.record import PruneRecord
from demp_jax._src.pruning.target import TargetController
from demp_jax._src.tracing.graph import Graph

# A target counts as missed if so much more of the network is expected to be left.
_MISSED = 0.06
TARGETS = ("parameters", "flops", "neurons", "sparsity")


class Pruned(NamedTuple):
    """The result of a step of a `Pruner`.

    Attributes:
      variables, opt_state, copies: the trees to continue with, which are the arguments if nothing was removed.
      record: the record of the prune; `None` at steps without a prune.
    """

    variables: Any
    opt_state: Any
    copies: dict[str, Any]
    record: PruneRecord | None


class Pruner:
    """Prunes a network while it trains, optionally to a given size.

    Call `step` after every update of the parameters. Every `every` steps it removes dead units. With a `target`, every
    `look_every` steps it also previews the size after a prune, and multiplies the strength of the regularizer (see
    `demp`) by the factor of a `TargetController`, so that the network ends at the given size.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
      >>> pruner = Pruner(network, [jnp.array([[1.0], [2.0]])], every=2)
      >>> pruner.step(params).record is None
      True
      >>> pruned = pruner.step(params)
      >>> pruned.variables["hidden"].shape, pruned.record.removed
      ((1, 2), {'hidden': 1})

    Attributes:
      fn: the network, to be called with the current variables.
      steps: the number of calls of `step`.
      factor: the factor of the strength of the regularizer, in [0, 50]; 1 without a target.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        death_set: Iterable[Any] | Callable[[], Iterable[Any]],
        *,
        every: int,
        start: int = 0,
        target: Mapping[str, float] | None = None,
        span: int | None = None,
        look_every: int | None = None,
        tx: Any = None,
        params: Any = None,
        calls: Sequence[Callable[..., Any]] = (),
        options: PruneOptions | None = None,
    ):
        """Initializes the pruner.

        Args:
          fn: the network in evaluation mode, `fn(variables, x)`, see `prune`.
          death_set: batches of training inputs of one shape, or a function that returns them, which is called at every
            preview and prune.
          every: steps between prunes, >= 1; tau in the paper.
          start: the first step at which to prune.
          target: a dict with one entry, the size at the end: for `"parameters"`, `"flops"` or `"neurons"` the fraction
            of the dense network to keep, in (0, 1), or for `"sparsity"` the fraction of the parameters to remove, in
            (0, 1).
          span: number of steps in which units die, usually the length of the strength's schedule. Required with a
            `target`.
          look_every: steps between previews for the target, >= 1; by default a hundredth of `span`.
          tx, params, calls: see `prune`.
          options: the options of the prunes.

        Raises:
          ValueError: for an argument out of its range, or a `target` without `span`.
        """
        if every < 1:
            raise ValueError(f"Pruner: every must be at least 1 step; got {every=}.")
        if target is not None and (len(target) != 1 or next(iter(target)) not in TARGETS):
            raise ValueError(f"Pruner: target must have one entry, of {', '.join(TARGETS)}; got {target=}.")
        if target is not None and span is None:
            raise ValueError("Pruner: a target needs span, the number of steps in which units die; got span=None.")
        if look_every is not None and look_every < 1:
            raise ValueError(f"Pruner: look_every must be at least 1 step; got {look_every=}.")
        self.steps, self.factor = 0, 1.0
        self._network, self._calls = _Network(fn), tuple(map(_Network, calls))
        self._death_set, self._every, self._start = death_set, every, start
        self._tx, self._params, self._options = tx, params, options or PruneOptions()
        self._span = span or 0
        self._look_every = look_every or max(self._span // 100, 1)
        self._kind, self._controller = "", None
        if target is not None:
            [(self._kind, value)] = target.items()
            left = 1 - value if self._kind == "sparsity" else value
            if not 0 < left < 1:
                raise ValueError(f"Pruner: target[{self._kind!r}] must be in (0, 1); got {value}.")
            self._controller = TargetController(left, self._span)
        self._dense: dict[str, int] = {}
        self._warned = False
        self._graph: Graph | None = None

    @property
    def fn(self) -> Callable[..., Any]:
        """The network, to be called with the current variables."""
        return self._network.fn

    def step(self, variables: Any, opt_state: Any = None, copies: Mapping[str, Any] | None = None) -> Pruned:
        """Counts an update of the parameters; adapts the strength and prunes at the steps at which this is due.

        Args:
          variables: the variables after the update.
          opt_state: the state of the optimizer `tx` after the update. With a target, it must contain the state of
            `demp`.
          copies: by name, copies of the variables such as averages, see `prune`.

        Returns:
          The variables, optimizer state and copies to continue with, and the record if the network was pruned.

        Raises:
          ValueError: see `prune` and `set_strength_factor`.
        """
        self.steps += 1
        copies = dict(copies or {})
        if self._looks(self.steps):
            opt_state = self._steer(variables, opt_state, copies)
        if not self._prunes(self.steps):
            return Pruned(variables, opt_state, copies, None)
        return self.prune(variables, opt_state, copies)

    def busy(self, step: int) -> bool:
        """Returns whether `step` previews or prunes at a step, instead of only counting it."""
        return self._looks(step) or self._prunes(step)

    def _looks(self, step: int) -> bool:
        # The first step measures the dense network. The first step after the span sets the strength to zero.
        return self._controller is not None and (step % self._look_every == 0 or step in (1, self._span + 1))

    def _prunes(self, step: int) -> bool:
        return step % self._every == 0 and step >= self._start

    def prune(self, variables: Any, opt_state: Any = None, copies: Mapping[str, Any] | None = None) -> Pruned:
        """Prunes now, for example at the end of training. Arguments and result are those of `step`."""
        self._measure_dense(variables, copies or {})
        result = prune_lib.prune(
            self._network,
            variables,
            self._batches(),
            opt_state=opt_state,
            tx=self._tx,
            params=self._params,
            copies=copies,
            calls=self._calls,
            options=self._options,
        )
        if result.plan is not None:
            self._network, self._graph = _Network(result.fn), None
            self._calls = tuple(_Network(_resized(call.fn, result.variables)) for call in self._calls)
        return Pruned(result.variables, result.opt_state, result.copies, result.record)

    def _steer(self, variables: Any, opt_state: Any, copies: Mapping[str, Any]) -> Any:
        """Returns the state of the optimizer with the new factor of the strength."""
        assert self._controller is not None
        self._measure_dense(variables, copies)
        if self.steps > self._span:
            self.factor = 0.0
        else:
            seen = self._preview(variables, copies)
            sizes = {"neurons": seen.neurons[1], "parameters": seen.parameters[1], "flops": seen.flops[1]}
            kind = "parameters" if self._kind == "sparsity" else self._kind
            self.factor = self._controller.update(self.steps, min(sizes[kind] / self._dense[kind], 1.0))
            self._warn()
        return None if opt_state is None else demp.set_strength_factor(opt_state, self.factor)

    def _warn(self) -> None:
        """Warns once, as early as possible, if too few units die for the target."""
        assert self._controller is not None
        expected = self._controller.outlook()
        if self._warned or expected is None or expected <= self._controller.left + _MISSED:
            return
        self._warned = True
        asked = 1 - self._controller.left if self._kind == "sparsity" else self._controller.left
        shown = 1 - expected if self._kind == "sparsity" else expected
        warnings.warn(
            f"Pruner: the target {self._kind}={asked:.3g} will be missed, at about {shown:.3g}, because too few units "
            "die. Raise the learning rate, span or the noise, or set PruneOptions(constant=...).",
            stacklevel=4,
        )

    def _preview(self, variables: Any, copies: Mapping[str, Any]) -> prune_lib.Preview:
        batches = self._batches()
        if self._graph is None:
            self._graph = prune_lib.traced(self._network, variables, batches[0], self._options, calls=self._calls)
        given: dict[str, Any] = {"params": self._params, "copies": copies, "calls": self._calls, "graph": self._graph}
        return prune_lib.preview(self._network, variables, batches, **given, options=self._options)

    def _measure_dense(self, variables: Any, copies: Mapping[str, Any]) -> None:
        """Stores the size of the network before its first prune."""
        if not self._dense and self._controller is not None:
            seen = self._preview(variables, copies)
            self._dense = {"neurons": seen.neurons[0], "parameters": seen.parameters[0], "flops": seen.flops[0]}

    def _batches(self) -> list[Any]:
        return list(self._death_set() if callable(self._death_set) else self._death_set)

    def state(self) -> dict[str, Any]:
        """Returns the state of the pruner as dicts of numbers, for a checkpoint or JSON."""
        controller = {} if self._controller is None else dataclasses.asdict(self._controller)
        # Missing values are numbers, too, so that the structure of the tree is the same at every step.
        if controller:
            controller["begun"] = -1 if controller["begun"] is None else controller["begun"]
        dense = {kind: self._dense.get(kind, 0) for kind in ("neurons", "parameters", "flops")}
        return {"steps": self.steps, "factor": self.factor, "dense": dense, "controller": controller}

    def load(
        self,
        state: Mapping[str, Any],
        fn: Callable[..., Any] | None = None,
        calls: Sequence[Callable[..., Any]] | None = None,
    ) -> None:
        """Restores a state.

        Args:
          state: the result of `state()` of a pruner with the same target and span.
          fn, calls: the network and further calls at the current widths; by default those given to the constructor.

        Raises:
          ValueError: if the state belongs to a pruner with another target or span.
        """
        controller = dict(state["controller"])
        if bool(controller) != (self._controller is not None):
            raise ValueError("Pruner: the state and this pruner must both have a target, or both have none.")
        if self._controller is not None:
            numbers = {name: float(value) for name, value in controller.items()}
            if not math.isclose(numbers["left"], self._controller.left) or int(numbers["span"]) != self._span:
                raise ValueError(
                    f"Pruner: the state has the target {numbers['left']:g} in {int(numbers['span'])} steps, "
                    f"this pruner {self._controller.left:g} in {self._span}. Make it with the same target and span."
                )
            whole = {"span": int(numbers["span"]), "step": int(numbers["step"])}
            begun = None if numbers["begun"] < 0 else int(numbers["begun"])
            self._controller = TargetController(**{**numbers, **whole, "begun": begun})  # type: ignore[arg-type]
        self.steps, self.factor = int(state["steps"]), float(state["factor"])
        self._dense = {kind: int(value) for kind, value in state["dense"].items() if int(value)}
        self._graph = None
        if fn is not None:
            self._network = _Network(fn)
        if calls is not None:
            self._calls = tuple(map(_Network, calls))


def _resized(fn: Callable[..., Any], variables: Any) -> Callable[..., Any]:
    return fn.resized(variables) if hasattr(fn, "resized") else fn


class _Network:
    """Wraps a network so that it can be a key of caches. `fn` may not be hashable, or may differ at every call."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self._training: Any = None
        self._updating: Any = None

    def __call__(self, variables: Any, x: Any) -> Any:
        return self.fn(variables, x)

    def training(self, variables: Any, x: Any) -> Any:
        if self._training is None:
            train_fn = training_of(self.fn, variables, x)
            self._training = None if train_fn is None else _Network(train_fn)
        return self._training

    def __getattr__(self, name: str) -> Any:
        if name == "updating":  # An AttributeError if the network has none.
            make = self.fn.updating  # type: ignore[attr-defined]
            self._updating = self._updating or _Network(make())
            return lambda: self._updating
        return getattr(self.fn, name)
