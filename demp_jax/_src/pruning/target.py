# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A target instead of a search: how strong the regularizer has to be for a network to end at a given size.

The paper searches for lambda and names that as its main limitation (appendix H.1). Here the size that a cut would leave
is watched while training goes on, and lambda follows.
"""

from __future__ import annotations

import dataclasses
import math

# Who is dead before this part of the span was so from the start, and may come to life yet.
_BEGIN = 0.03
# Dying has begun when so much of the way is gone. Until then the logarithm of the factor grows by so much in a span:
# scales take their time to come to zero, however strong the regularizer is.
_BEGUN, _WAITING = 0.02, 10.0
# Those about to die do so within about this part of the span, also when the regularizer stops.
_COASTING = 0.04
# Of what is left, about so much dies without the regularizer over a span, of units with small scales.
_UNAIDED = 0.03
# The regularizer fades over the last so much of what is to leave, on the logarithmic scale.
_GENTLE = 0.08
# By how much the logarithm of the factor grows with how far the network is behind, and with how long it has been, in
# parts of what is left of the span, but not less than this part of the whole.
_PROPORTIONAL, _INTEGRAL, _LATE = 4.0, 15.0, 0.1
# More strength than this only empties scales: units that are constant, not dead.
_MOST = math.log(50)
# Stopped, it begins anew from here.
_LEAST = 0.01


@dataclasses.dataclass
class TargetController:
    """Says by what to multiply the strength of a regularizer, so that a network ends at a given size.

    Let r be the part of the network that a cut would leave, and r* the part that is to be left. Both are taken on a
    logarithmic scale, because what dies is a part of what is there: z = log r / log r* goes from 0 to 1. With c = 4% of
    the span, for which those about to die go on dying once the regularizer has stopped:

        z+(t)  = z(t) + c dz/dt                                where it will be
        z*(t)  = 1 - (1 - v)^2,  v = (t - t_0) / (T - t_0)     where it should be
        e(t)   = z*(t + c) - z+(t)                             how far it is behind
        factor = exp(4 e + 15 integral of e dt / (span - t))   fading near z+ = 1, 0 beyond it

    The course z* is that of a regularizer that does not change: most die early, the last ones late. It begins at t_0,
    when the first have died; scales take their time to come to zero, and until then the factor just grows. It ends at
    T, 30% to 60% of the span, the earlier the more is to leave, which leaves time to make up for what is missing, and
    to recover. The less of the span is left, the more each step behind counts: where the learning rate falls, less dies
    of the same strength. Time is counted in steps and nothing is drawn at random, so runs repeat.

    Example:
      >>> controller = TargetController(left=0.2, span=1000)
      >>> controller.update(300, 0.9) > 1
      True
      >>> controller.update(400, 0.15)  # There.
      0.0

    Attributes:
      left: the part that is to be left, in (0, 1), of whatever `update` is told of: parameters, neurons, FLOPs.
      span: steps in which units die, those of the schedules.
      first: the factor to begin with.
      integral: of how far the network was behind, in parts of what was left of the span.
      step: of the last update.
      reached: z at the last update.
      rate: of z, in 1 / steps, averaged over about 4% of the span.
      begun: the step at which the first were seen to have died; `None` before.
      factor: that the last update gave; `first` before.
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
        """Returns the part at which the regularizer stops: above `left` by as many as are to die without it."""
        return min(self.left * (1 + _UNAIDED * max(1 - step / self.span, 0.0)), (1 + self.left) / 2)

    def update(self, step: int, left: float) -> float:
        """Returns the factor from now on.

        Args:
          step: how many updates of the parameters were made; not less than at the last call.
          left: the part of the network that a cut would leave now, in (0, 1].

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
        # Gently at the end, and never much stronger all at once: those at the brink die together.
        missing = (coming - 1) * math.log(aim) / _GENTLE
        force = _INTEGRAL * self.integral + math.log(self.first)
        force = min(force + _PROPORTIONAL * behind, _MOST)
        most = max(self.factor, _LEAST) * math.exp(min(2 * passed / coasting, _MOST))
        self.factor = min(min(missing, 1.0) * math.exp(force), most)
        return self.factor

    @property
    def _end(self) -> float:
        """The step at which the target is to be reached: the more is to leave the earlier, and not all at once."""
        end = min(max(0.65 + 0.13 * math.log(self.left), 0.3), 0.6) * self.span
        return max(end, (self.begun or 0) + 0.3 * self.span)

    def outlook(self) -> float | None:
        """Returns the part that is left at the end if it goes on like this; `None` where it is too early to tell."""
        if self.step < self._end:
            return None
        remaining = max(self.span - self.step, 0)
        return self.aim(self.step) ** (self.reached + max(self.rate, 0.0) * remaining)

    def _course(self, step: float) -> float:
        """Returns where z should be at a step."""
        begun = self.begun or 0
        progress = min(max((step - begun) / (self._end - begun), 0.0), 1.0)
        return 1 - (1 - progress) ** 2
