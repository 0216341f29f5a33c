# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The record of a prune: removed units, kept units with reasons, sizes, and differences of the outputs."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PruneRecord:
    """The record of one prune.

    Attributes:
      removed: by site, how many units were removed.
      protected: by site, how many units were dead but kept because of `min_units`, `multiple`, `at_most`, or the equal
        width of stacked layers.
      needed: by site, how many units were dead but kept because a consumer needs their value.
      needed_by: by site, that consumer.
      dead_alone: by mode, how many units were dead only in that mode, and therefore kept.
      folded: how many units were removed whose constant was folded into a consumer.
      neurons, parameters, flops: before and after; FLOPs of a forward pass for one example.
      examples: size of the death set.
      differences: the largest absolute difference of the outputs on the death set before and after the prune, in
        `"evaluation"` and `"training"` mode and for each copy. For units named by `remove`, the outputs before are
        those with these units masked.
      deviation: the largest absolute difference between the outputs after the prune and those of the network in which
        the removed units are masked with zero or with their constant. This is the error of the prune itself. It is
        measured if the criterion removes nonzero units; otherwise it equals `difference`.
      scale: largest finite absolute output before the prune, in evaluation mode.
      spared: sites that keep all units because removing any would change the outputs by more than the tolerance.
      refused: why no site could be pruned, or `None`.
      waiting: how many units were dead but kept because removing them would save less than `least_gain`.
      saves: the fraction of the FLOPs that the prune saves, or that the units in `waiting` would save.
      reset: leaves of the optimizer state that could not be sliced. They were initialized again, with the rest of the
        state of their transformation.
      unread: variables that no traced call reads and that have the width of a pruned site. They were not changed.
      warnings: warnings, each with a remedy.
      seconds: duration in seconds by stage, `measure`, `slice` and `prove`. Compiling counts for the stage that first
        runs a program.
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
            if not (self.removed or self._kept()):
                done += f", as no unit is dead on all {self.examples} examples"
        changes = ", ".join(f"{name} by {value:.2g}" for name, value in self.differences.items())
        sizes = (
            f"neurons {self.neurons[0]} -> {self.neurons[1]}, parameters {self.parameters[0]} -> {self.parameters[1]}, "
            f"FLOPs x {self.flops[1] / max(self.flops[0], 1):.3f}"
        )
        return "; ".join([done, sizes, *([f"outputs differ: {changes}"] if changes else []), *self._kept()])

    def _kept(self) -> list[str]:
        """Returns why dead units were kept, and the warnings."""
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
