# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The record of a prune: what was removed, what was kept and why, and how the outputs compare."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PruneRecord:
    """What one prune did.

    Attributes:
      removed: by site, how many units were removed.
      protected: by site, how many units were dead but kept, so that the site is not emptied or has a round width.
      needed: by site, how many units were dead but kept for a consumer of their value.
      needed_by: by site, which consumer that is.
      dead_alone: by mode, how many units were dead in that mode alone, and so kept.
      folded: how many units were removed whose constant was folded into what reads it.
      neurons, parameters, flops: before and after; FLOPs of a forward pass for one example.
      examples: size of the death set.
      differences: the largest absolute difference of the outputs on the death set before and after: in
        `"evaluation"` and `"training"` mode, and of each copy. Before means with the units masked, where they were
        named by `remove`.
      deviation: largest absolute difference of the outputs after from those of the network in which the removed units
        are masked with zero, or with their constant: the error of the prune itself, whatever the criterion. Measured
        where the criterion removes units that are not zero; elsewhere it is `difference`.
      scale: largest finite absolute output before, in evaluation mode.
      spared: sites that were left whole, because pruning them would have changed the outputs.
      refused: why nothing was removed, else `None`.
      waiting: how many units were dead but kept, because removing them would have saved too little.
      saves: which part of the FLOPs is saved by what was removed, or would be by what waits.
      reset: leaves of the optimizer state that could not be sliced and were initialized again, with all of the state of
        their transformation.
      unread: variables that no traced call reads and that have the width of a pruned site. They were left as they were.
      warnings: what the user should know, each with a remedy.
      seconds: by stage, `measure`, `slice` and `prove`; what compiles is in the stage that first runs it.
    """

    removed: dict[str, int]
    protected: dict[str, int]
    needed: dict[str, int]
    needed_by: dict[str, str]
    dead_alone: dict[str, int]
    folded: int
    neurons: tuple[int, int]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    examples: int
    differences: dict[str, float]
    deviation: float
    scale: float
    spared: list[str]
    refused: str | None
    waiting: int
    saves: float
    reset: list[str]
    unread: list[str]
    warnings: list[str]
    seconds: dict[str, float]

    @property
    def difference(self) -> float:
        """The largest of `differences`."""
        return max(self.differences.values(), default=0.0)

    def __str__(self) -> str:
        if self.refused:
            done = f"nothing removed: {self.refused}"
        elif self.waiting:
            done = f"nothing removed: {self.waiting} dead units wait until removing them saves more"
        else:
            done = f"{sum(self.removed.values())} units removed"
        changes = ", ".join(f"{name} by {value:.2g}" for name, value in self.differences.items())
        sizes = (
            f"neurons {self.neurons[0]} -> {self.neurons[1]}, parameters {self.parameters[0]} -> {self.parameters[1]}, "
            f"FLOPs x {self.flops[1] / max(self.flops[0], 1):.3f}"
        )
        return "; ".join([done, sizes, *([f"outputs differ: {changes}"] if changes else []), *self._kept()])

    def _kept(self) -> list[str]:
        """Returns why dead units were kept, and what else there is to know."""
        lines = []
        if self.protected:
            lines.append(f"{sum(self.protected.values())} dead units kept by the floor of {', '.join(self.protected)}")
        for site, count in self.needed.items():
            lines.append(
                f"{count} dead units of {site} kept: {self.needed_by.get(site, 'a consumer needs their value')}"
            )
        if any(self.dead_alone.values()):
            modes = " and ".join(f"{count} in {mode} mode" for mode, count in self.dead_alone.items() if count)
            lines.append(f"kept since they are dead in one mode alone: {modes}")
        if self.spared and not self.refused:
            lines.append(f"left whole since the outputs would change: {', '.join(self.spared)}")
        if self.unread:
            lines.append(
                f"not pruned along, since no traced call reads them: {', '.join(self.unread)}. If they belong to "
                "pruned units, trace a call that reads them"
            )
        return [*lines, *self.warnings]
