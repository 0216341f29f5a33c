# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The figures and tables of the paper: what each needs, shows and claims."""

from __future__ import annotations

from experiments.figures import ablations, deaths, imagenet, mnist_noise, persistence, tradeoffs, walks
from experiments.figures.figure import Figure

_MODULES = (ablations, deaths, imagenet, mnist_noise, persistence, tradeoffs, walks)
_ORDER = (
    "fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8 fig9 fig10 fig11 fig12 fig13 fig14 fig15 fig16 fig17 "
    "table1 table2 table3 propB1 lemmaB2 speed length folding"
).split()
_ALL = {figure.name: figure for module in _MODULES for figure in module.FIGURES}
FIGURES: dict[str, Figure] = {name: _ALL[name] for name in _ORDER}
