# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Steers the strength of a regularizer so that a network ends at a given size.

The paper searches for lambda and names that as its main limitation (appendix H.1). Here the size that a prune would
leave is measured during training, and lambda follows.
"""

from __future__ import annotations

import dataclasses
import math

# Units that are dead before this fraction of the span were dead at the start, and may revive.
_BEGIN = 0.03
# Progress at which pruning counts as started. Until then the logarithm of the factor grows by `_WAITING` per span,
# because scales need time to reach zero, whatever the strength.
_BEGUN, _WAITING = 0.02, 10.0
# Fraction of the span for which units continue to die after the regularizer has stopped.
_COASTING = 0.04
# Fraction of the remaining units that dies over a span without the regularizer, because their scales are small.
_UNAIDED = 0.03
# The regularizer fades out over this much of the progress, on the logarithmic scale.
_GENTLE = 0.08
# Gains of the logarithm of the factor: proportional, and integral per remaining fraction of the span, at least `_LATE`.
_PROPORTIONAL, _INTEGRAL, _LATE = 4.0, 15.0, 0.1
# Upper bound of the logarithm of the factor. More strength only makes units constant, not dead.
_MOST = math.log(50)
# The factor restarts from here after it was 0.
_LEAST = 0.01


@dataclasses.dataclass
class TargetController:
    """Computes the factor of a regularizer's strength with which a network ends at a given size.

    Let r be the fraction of the network that a prune would leave, and r* the fraction to keep. Both are compared on a
    logarithmic scale, because units die in proportion to their number: z = log r / log r* goes from 0 to 1. With c = 4%
    of the span, the time for which units continue to die after the regularizer has stopped::

        z+(t)  = z(t) + c dz/dt                                predicted progress
        z*(t)  = 1 - (1 - v)^2,  v = (t - t_0) / (T - t_0)     wanted progress
        e(t)   = z*(t + c) - z+(t)                             error
        factor = exp(4 e + 15 integral of e dt / (span - t))   fading near z+ = 1, 0 beyond it

    The wanted progress z* is that of a constant regularizer: most units die early. It starts at t_0, when the first
    units have died. Until then the factor grows, because scales need time to reach zero. It ends at T, 30% to 60% of
    the span, and earlier for smaller targets, which leaves time to correct and to recover. The integral gain grows
    toward the end of the span, because fewer units die at the same strength when the learning rate is smaller. Time is
    counted in steps and nothing is random, so runs are reproducible.

    Example:
      >>> controller = TargetController(left=0.2, span=1000)
      >>> controller.update(300, 0.9) > 1
      True
      >>> controller.update(400, 0.15)  # Reached.
      0.0

    Attributes:
      left: the fraction to keep, in (0, 1), of the quantity passed to `update`: parameters, neurons or FLOPs.
      span: steps in which units die, usually the length of the strength's schedule, >= 1.
      first: the first factor, in (0, 50].
      integral: the integral of e dt / (span - t).
      step: the step of the last update.
      reached: z at the last update.
      rate: dz/dt in 1 / steps, averaged over about 4% of the span.
      begun: t_0, the step at which the first units had died; `None` before.
      factor: the factor of the last update; `first` before.
    """

    left: float
    span: int
    first: float = 1.0
    integral: float = 0.0
    step: int = 0
    reached: float = 0.0
    rate: float = 0.0
    begun: int | None = None
    factor: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.factor):
            self.factor = self.first
        if not 0 < self.left < 1:
            raise ValueError(f"TargetController: left must be in (0, 1); got left={self.left}.")
        if self.span < 1:
            raise ValueError(f"TargetController: span must be >= 1 step; got span={self.span}.")
        if not 0 < self.first <= math.exp(_MOST):
            raise ValueError(f"TargetController: first must be in (0, 50]; got first={self.first}.")

    def aim(self, step: int) -> float:
        """Returns the fraction at which the regularizer stops: `left` plus the units that will die without it."""
        return min(self.left * (1 + _UNAIDED * max(1 - step / self.span, 0.0)), (1 + self.left) / 2)

    def update(self, step: int, left: float) -> float:
        """Returns the new factor.

        Args:
          step: the number of updates of the parameters so far, not less than at the last call.
          left: the fraction of the network that a prune would leave now, in (0, 1].

        Returns:
          The factor, in [0, 50]; 0 when the target is reached.
        """
        passed, coasting = step - self.step, _COASTING * self.span
        aim = self.aim(step)
        z = math.log(min(max(left, 1e-9), 1.0)) / math.log(aim)
        if passed > 0:
            self.rate += ((z - self.reached) / passed - self.rate) * min(passed / coasting, 1.0)
        self.step, self.reached = step, z
        coming = z + max(self.rate, 0.0) * coasting
        if self.begun is None and z >= _BEGUN and step >= _BEGIN * self.span:
            self.begun = step
        behind = 0.0
        if self.begun is None:
            integral = self.integral + _WAITING / _INTEGRAL * passed / self.span
        else:
            behind = self._course(step + coasting) - coming
            integral = self.integral + behind * passed / max(self.span - step, _LATE * self.span)
        self.integral = min(max(integral, -_MOST / _INTEGRAL), _MOST / _INTEGRAL)
        if coming >= 1:
            self.factor = 0.0
            return 0.0
        # Fade out at the end, and bound the growth per update, because units near zero die together.
        missing = (coming - 1) * math.log(aim) / _GENTLE
        force = _INTEGRAL * self.integral + math.log(self.first)
        force = min(force + _PROPORTIONAL * behind, _MOST)
        most = max(self.factor, _LEAST) * math.exp(min(2 * passed / coasting, _MOST))
        self.factor = min(min(missing, 1.0) * math.exp(force), most)
        return self.factor

    @property
    def _end(self) -> float:
        """T, the step at which the target should be reached; earlier for smaller targets."""
        end = min(max(0.65 + 0.13 * math.log(self.left), 0.3), 0.6) * self.span
        return max(end, (self.begun or 0) + 0.3 * self.span)

    def outlook(self) -> float | None:
        """Returns the fraction that is left at the end at the current rate; `None` before T."""
        if self.step < self._end:
            return None
        remaining = max(self.span - self.step, 0)
        return self.aim(self.step) ** (self.reached + max(self.rate, 0.0) * remaining)

    def _course(self, step: float) -> float:
        """Returns z*, the wanted progress at a step."""
        begun = self.begun or 0
        progress = min(max((step - begun) / (self._end - begun), 0.0), 1.0)
        return 1 - (1 - progress) ** 2
