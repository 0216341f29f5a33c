# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Adapts the strength of a regularizer during training so that a network ends at a given size.

The paper searches for lambda, which it calls its main limitation (appendix H.1). Here lambda is controlled by feedback:
the size that the network would have after a prune is measured every few steps.
"""

from __future__ import annotations

import dataclasses
import math

# Units that are dead before this fraction of the span were dead at the start, and may revive.
_BEGIN = 0.03
# Progress at which pruning counts as started. Until then the logarithm of the factor grows by `_WAITING` per span,
# because scales need time to reach zero, whatever the strength.
_BEGUN, _WAITING = 0.02, 10.0
# Time for which units continue to die after the regularizer has stopped, as a fraction of the span.
_COASTING = 0.04
# Fraction of the remaining units that dies over a span without the regularizer, because of small scales.
_UNAIDED = 0.03
# Distance from the target, in log r, below which the factor is reduced linearly to 0.
_GENTLE = 0.08
# Gains of the logarithm of the factor: proportional, and integral per remaining fraction of the span, at least `_LATE`.
_PROPORTIONAL, _INTEGRAL, _LATE = 4.0, 15.0, 0.1
# Upper bound of the logarithm of the factor. A larger strength makes units constant, not dead.
_MOST = math.log(50)
# The factor restarts from here after it was 0.
_LEAST = 0.01


@dataclasses.dataclass
class TargetController:
    """Computes the factor of a regularizer's strength with which a network ends at a given size.

    Let r be the fraction of the network that would remain after a prune, and r* the fraction to keep. They are compared
    on a logarithmic scale, because units die in proportion to their number: the progress z = log r / log r* goes from 0
    to 1. Let c be 4% of the span, the time for which units continue to die after the regularizer has stopped::

        z+(t)  = z(t) + c dz/dt                                predicted progress
        z*(t)  = 1 - (1 - v)^2,  v = (t - t_0) / (T - t_0)     wanted progress
        e(t)   = z*(t + c) - z+(t)                             error
        factor = first * exp(4 e + 15 integral of e dt / (span - t))

    This is a proportional-integral controller. The factor is between 0 and 50; it is reduced as z+ approaches 1, and is
    0 for z+ >= 1. The wanted progress z* is that of a constant regularizer: most units die early. It begins at t_0,
    when the first units have died. Until then the factor grows, because scales need time to reach zero. It ends at T,
    30% to 60% of the span and earlier for smaller targets, which leaves time to correct and to recover. The integral
    gain grows toward the end of the span, because at a smaller learning rate fewer units die at the same strength. Time
    is counted in steps and nothing is random, so runs are reproducible.

    Example:
      >>> controller = TargetController(left=0.2, span=1000)
      >>> controller.update(300, 0.9) > 1
      True
      >>> controller.update(400, 0.15)  # The target is reached.
      0.0

    Attributes:
      left: r*, the fraction to keep, in (0, 1), of the quantity passed to `update`: parameters, neurons or FLOPs.
      span: number of steps in which units die, >= 1, usually the length of the strength's schedule.
      first: the first factor, in (0, 50].
      integral: the integral of e dt / (span - t).
      step: the step of the last update.
      reached: z at the last update.
      rate: dz/dt in 1 / steps, averaged over about 4% of the span.
      begun: t_0, the step at which the first units had died; `None` before.
      factor: the factor of the last update; `first` before.

    Raises:
      ValueError: for a value out of its range.
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
        """Returns the fraction at which the regularizer stops.

        It is larger than `left`, because some units will still die without the regularizer.
        """
        return min(self.left * (1 + _UNAIDED * max(1 - step / self.span, 0.0)), (1 + self.left) / 2)

    def update(self, step: int, left: float) -> float:
        """Returns the new factor.

        Args:
          step: the number of updates of the parameters so far, not less than at the last call.
          left: r, the fraction of the network that would remain after a prune now, in (0, 1].

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
        # Reduce the factor at the end, and bound its growth per update, because units near zero die together.
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
        """Returns the fraction that will remain at the end of the span at the current rate; `None` before T."""
        if self.step < self._end:
            return None
        remaining = max(self.span - self.step, 0)
        return self.aim(self.step) ** (self.reached + max(self.rate, 0.0) * remaining)

    def _course(self, step: float) -> float:
        """Returns z*, the wanted progress at a step."""
        begun = self.begun or 0
        progress = min(max((step - begun) / (self._end - begun), 0.0), 1.0)
        return 1 - (1 - progress) ** 2
