# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A network at its current widths, its training state and its compiled step."""

from __future__ import annotations

from typing import Any

import jax

import demp_jax
from baselines import masking, sparsity
from experiments.recipe.network import Network
from experiments.recipe.problem import Problem, size
from experiments.training.batches import Batches
from experiments.training.compiled_step import Stepper
from experiments.training.step import StepMetrics, TrainState, free_compiled


class Learner:
    """A network and its training state.

    Attributes:
      network: the network at its current widths.
      state: the training state.
      stepper: runs the steps.
      parameters: number of parameters, without masked weights.
      flops: FLOPs of a forward pass per example, without masked weights.
    """

    def __init__(self, problem: Problem, network: Network, state: TrainState):
        """Traces the network; compiles nothing yet."""
        self._problem = problem
        self._set(network, state)

    def _set(self, network: Network, state: TrainState, prepared: Stepper | None = None) -> None:
        self.network, self.state = network, state
        self.stepper = Stepper(self._problem, network, state.variables)
        if prepared is not None:
            self.stepper.take_over(prepared)
        self.count()

    def shrink(self, cut: demp_jax.PruneResult, prepared: Stepper | None = None) -> None:
        """Replaces the network and state by the pruned ones, and frees the compiled step of the wider network.

        Args:
          cut: the prune.
          prepared: stepper that was compiled ahead for the pruned network, if any.
        """
        assert isinstance(cut.fn, Network)
        state = self.state._replace(variables=cut.variables, opt_state=cut.opt_state)
        self._set(cut.fn, self._problem.devices.everywhere(state), prepared)
        free_compiled()

    def take(self, batches: Batches) -> StepMetrics:
        """Runs the steps of `batches` and returns their metrics, see `Stepper`."""
        self.state, metrics = self.stepper(self.state, batches)
        return metrics

    def count(self) -> None:
        """Updates `parameters` and `flops`; call it after the masks have changed."""
        params = self.state.variables["params"]
        self.parameters, self.flops = size(params), self.graph.flops()
        if self._problem.method.updater is not None:
            dense = masking.densities(params, self.state.opt_state)
            sizes = dict(
                zip(demp_jax.tracing.leaf_paths(params), (leaf.size for leaf in jax.tree.leaves(params)), strict=True)
            )
            self.parameters -= sum(round((1 - part) * sizes[path]) for path, part in dense.items())
            self.flops = self.graph.flops(densities={f"params/{path}": part for path, part in dense.items()})

    def remasks(self, step: int) -> bool:
        """Returns whether the update of a step may have changed the masks."""
        updater = self._problem.method.updater
        if updater is None:
            return False
        schedule = getattr(updater, "schedule", None)
        if isinstance(schedule, sparsity.Schedule):
            return bool(schedule.changes(step))
        # Updaters of other libraries have no known schedule.
        return (step + 1) % self._problem.settings.log_every == 0

    @property
    def graph(self) -> demp_jax.Graph:
        """The removable units of the network."""
        return self.stepper.graph

    @property
    def variables(self) -> Any:
        """The variables of the network."""
        return self.state.variables
