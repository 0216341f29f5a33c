# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The options of a prune, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from demp_jax._src.pruning.activity import check_criterion
from demp_jax._src.tracing.trace import checked_extra_units

MODES = ("both", "evaluation")


@dataclasses.dataclass(frozen=True)
class PruneOptions:
    """What counts as dead, how much is kept, and how exact a prune has to be.

    Example:
      >>> PruneOptions(min_units=8, exclude=("stem*",)).multiple
      1
      >>> PruneOptions(min_units=-1)
      Traceback (most recent call last):
      ValueError: min_units must be at least 0; got min_units=-1.

    Attributes:
      criterion: what a unit is called dead by, one of `demp_jax.activity.CRITERIA`; see `demp_jax.alive`.
      epsilon: threshold of the criterion `"epsilon"`, > 0.
      modes: `"both"`, a unit is removed only if it is dead in evaluation and in training mode (batch statistics in
        BatchNorm, no dropout), or `"evaluation"`, the criterion of the paper. A network without a training mode of its
        own is looked at in evaluation mode alone, at no cost.
      constant: past the paper, off by default: units whose value varies by at most this much wherever it is read are
        removed, too, and their constant is folded into what reads it (a bias, a running mean, a skip).
      tolerance: largest difference of the outputs before and after, relative to the largest output (at least 1), beyond
        which nothing is removed. By default 1e-4, or 8 units in the last place of the narrowest floats the network
        computes in if that is more (0.06 for bfloat16), where all removed units were exactly zero; 0.01 with
        `constant`; and no limit for criteria that remove units that are not zero. There the outputs are compared with
        those of the network in which the removed units are masked, at 1e-4.
      min_units: every site keeps at least this many units, the most active ones. With 0, sites are emptied where every
        output still depends on the inputs, as in a residual block, and keep one unit elsewhere.
      multiple: every site keeps a multiple of this many units, the most active ones, or all that it has: a width of 32
        can be faster than one of 29. What is kept can be removed later.
      least_gain: nothing is removed unless it saves at least this part of the FLOPs, in [0, 1): a smaller network has
        to be compiled again, which a unit or two do not repay. What is kept can be removed later.
      exclude: a pattern or patterns (as in `fnmatch`) of names of sites that keep all their units.
      extra_units: units besides those of activations that saturate at zero, removed where they are zero: `"heads"`,
        attention heads, and `"features"`, those of layers that no such activation follows.
      batch_axis: the axis of a batch along which examples lie.

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
