# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The options of a prune, validated at construction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from demp_jax._src.pruning.activity import check_criterion
from demp_jax._src.tracing.trace import checked_extra_units

MODES = ("both", "evaluation")


@dataclasses.dataclass(frozen=True)
class PruneOptions:
    """The criterion of dead units, the units to keep, and the tolerance of a prune.

    Example:
      >>> PruneOptions(min_units=8, exclude=("stem*",)).multiple
      1
      >>> PruneOptions(min_units=-1)
      Traceback (most recent call last):
      ValueError: min_units must be at least 0; got min_units=-1.

    Attributes:
      criterion: the criterion of dead units, one of `demp_jax.activity.CRITERIA`; see `demp_jax.alive`.
      epsilon: threshold of the criterion `"epsilon"`, > 0, in units of the activation.
      modes: with `"both"`, a unit is removed only if it is dead in evaluation and in training mode (batch statistics in
        BatchNorm, no dropout). `"evaluation"` is the criterion of the paper. A network without a training mode is only
        measured in evaluation mode.
      constant: if given, >= 0 and in units of the activation, units whose value varies by at most this much at every
        consumer are removed as well, and their constant is folded into the consumer (a bias, a running mean, a skip).
        This is an extension of the paper.
      tolerance: largest difference of the outputs before and after, >= 0, relative to the largest output (at least 1).
        Sites that exceed it keep all units. The default for units that are exactly zero is 1e-4, or 8 units in the
        last place of the narrowest floats in the network if that is larger (0.06 for bfloat16). It is 0.01 with
        `constant`. There is no limit for criteria that remove nonzero units; their outputs are compared with those of
        the masked network, at 1e-4.
      min_units: the minimum number of units of a site, >= 0; the most active ones are kept. With 0, a site is emptied
        if every output still depends on the inputs, as in a residual block, and keeps one unit otherwise.
      multiple: every site keeps a multiple of this many units, >= 1, or all of them; the most active ones are kept. A
        width of 32 can be faster than one of 29. Units that are kept can be removed later.
      least_gain: nothing is removed unless it saves at least this fraction of the FLOPs, in [0, 1), because a smaller
        network has to be compiled again. Units that are kept can be removed later.
      exclude: a pattern or patterns (as in `fnmatch`) of names of sites that keep all their units.
      extra_units: units besides those of activations that saturate at zero, which are dead if they are zero: `"heads"`,
        attention heads, and `"features"`, features of layers that no such activation follows.
      batch_axis: the axis of each array of a batch along which examples lie.

    Raises:
      ValueError: for a value out of its range.
    """

    criterion: str = "auto"
    epsilon: float = 0.01
    modes: str = "both"
    constant: float | None = None
    tolerance: float | None = None
    min_units: int = 1
    multiple: int = 1
    least_gain: float = 0.0
    exclude: Sequence[str] | str = ()
    extra_units: Sequence[str] | str = ()
    batch_axis: int = 0

    def __post_init__(self) -> None:
        check_criterion(self.criterion, self.epsilon)
        if self.modes not in MODES:
            raise ValueError(f"modes must be one of {', '.join(MODES)}; got modes={self.modes!r}.")
        if self.min_units < 0:
            raise ValueError(f"min_units must be at least 0; got min_units={self.min_units}.")
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1; got multiple={self.multiple}.")
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"least_gain must be in [0, 1); got least_gain={self.least_gain}.")
        if self.constant is not None and not (self.constant >= 0 and math.isfinite(self.constant)):
            raise ValueError(f"constant must be a finite number >= 0, or None; got constant={self.constant}.")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance must be a number >= 0, or None; got tolerance={self.tolerance}.")
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        object.__setattr__(self, "exclude", exclude)
        object.__setattr__(self, "extra_units", checked_extra_units(self.extra_units))
