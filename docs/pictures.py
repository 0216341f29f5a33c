# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Draws the pictures of the concepts, from what the library computes; the build of the docs runs it.

Pictures are SVG within the page, so their lines and text follow the theme. Kept weights are blue, removed ones are
hatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import demp_jax

STYLE = """
.picture { font: 13px sans-serif; max-width: 100%; height: auto; }
.picture text { fill: currentColor; stroke: none; }
.picture .line { stroke: currentColor; fill: none; }
.picture .faint { opacity: 0.55; }
.picture .kept { fill: #4c8bd0; stroke: none; }
.picture .mark { fill: #e08a1e; stroke: none; }
.picture .curve { stroke: #4c8bd0; stroke-width: 2.5; fill: none; }
.picture .gone { fill: url(#hatched); stroke: currentColor; stroke-opacity: 0.35; }
td code.literal { white-space: nowrap; }
div.math { overflow-y: hidden; padding-block: 0.2em; }
"""
_HATCH = (
    '<defs><pattern id="hatched" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="5" stroke="currentColor" stroke-opacity="0.45" stroke-width="1.5"/></pattern>'
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>'
)
CELL = 15


def picture(parts: Sequence[str], width: int, height: int, title: str) -> str:
    """Returns an SVG with a title for screen readers."""
    head = f'<svg class="picture" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
    return "\n".join([head, f"<title>{title}</title>", _HATCH, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    """Returns a line of text."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Returns an arrow."""
    return f'<line class="line" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" marker-end="url(#tip)"/>'


def grid(x: float, y: float, rows: Sequence[bool], columns: Sequence[bool], mark: Sequence[bool] = ()) -> list[str]:
    """Returns the cells of a matrix whose dead rows and columns are hatched and whose marked columns are orange."""
    found = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            kind = "gone" if row or column else "kept"
            kind = "mark" if mark and mark[j] else kind
            place = f'x="{x + j * CELL:g}" y="{y + i * CELL:g}"'
            found.append(f'<rect class="{kind}" {place} width="{CELL - 2}" height="{CELL - 2}" rx="2"/>')
    return found


def neuron() -> str:
    """Draws the values of an alive and of a dead unit on the examples of a death set."""
    rng = np.random.default_rng(3)
    parts = []
    for x0, name, mean in ((20, "alive", 0.4), (330, "dead", -2.2)):
        values = np.clip(rng.normal(mean, 0.75, 24), -3.8, 2.2)
        assert (values > 0).any() == (name == "alive")
        parts += [
            f'<line class="line faint" x1="{x0}" y1="110" x2="{x0 + 260}" y2="110"/>',
            f'<line class="line faint" x1="{x0 + 160}" y1="20" x2="{x0 + 160}" y2="128"/>',
            f'<path class="line" d="M{x0} 110 H{x0 + 160} L{x0 + 250} 20"/>',
        ]
        for value in values:
            kind = "kept" if value > 0 else "mark"
            parts.append(
                f'<circle class="{kind}" cx="{x0 + 160 + 40 * value:.1f}" cy="{110 - 40 * max(value, 0):.1f}" r="4"/>'
            )
        share = f"positive on {(values > 0).sum()} of {values.size} examples"
        parts.append(text(x0 + 130, 152, f"{name}: {share}"))
    parts.append(text(24, 34, "value", "start", "faint") + text(280, 126, "input", "end", "faint"))
    return picture(parts, 610, 165, "Values of an alive and of a dead unit after a ReLU, one point per example")


def group() -> str:
    """Draws the weights that belong to one unit."""
    columns = np.arange(8) == 2
    none, mark = [False], list(columns)
    parts = [*grid(70, 30, [False] * 5, [False] * 8, mark), text(130, 125, "kernel")]
    for i, name in enumerate(("bias", "mean", "var", "scale", "bias")):
        parts += grid(240, 30 + i * CELL, none, [False] * 8, mark)
        parts.append(text(370, 41 + i * CELL, name, "start"))
    parts += [
        text(25, 72, "inputs"),
        arrow(52, 68, 66, 68),
        arrow(196, 68, 234, 68),
        text(300, 125, "normalization, activation"),
        arrow(412, 68, 446, 68),
    ]
    # The next kernel has a row per unit.
    for i in range(8):
        mine = [bool(columns[i])] * 3
        parts += grid(452, 8 + i * CELL, none, [False] * 3, mine)
    parts += [arrow(500, 68, 534, 68), text(570, 72, "outputs"), text(474, 145, "next kernel")]
    return picture(
        parts, 610, 155, "A unit is a column of one kernel, entries of vectors, and a row of the next kernel"
    )


def selection() -> str:
    """Draws a residual sum after a prune that removed other channels from the skip than from the block."""

    def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ weights["before"])
        kept = demp_jax.select(h, weights["index"], weights["fill"], unique_indices=True)
        return jax.nn.relu(kept + h @ weights["inside"]) @ weights["after"]

    weights = {"before": jnp.ones((4, 6)), "inside": jnp.ones((6, 6)), "after": jnp.ones((6, 2))}
    weights |= {"index": jnp.arange(6, dtype=jnp.int32), "fill": jnp.zeros(6)}
    gone = {"before": np.isin(np.arange(6), (1, 4)), "inside": np.isin(np.arange(6), (0, 4))}
    options = demp_jax.PruneOptions(tolerance=np.inf)
    pruned = demp_jax.prune(network, weights, [jnp.ones((2, 4))], remove=gone, options=options)
    index = np.asarray(pruned.variables["index"])
    skip, total = (np.flatnonzero(~gone[name]) for name in ("before", "inside"))
    parts = [text(70, 32, "skip", "end"), text(70, 112, "sum", "end")]
    for name, y in (("before", 20), ("inside", 100)):
        for channel, dead in enumerate(gone[name]):
            x = 100 + 60 * channel
            kind = "gone" if dead else "kept"
            parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="30" height="18" rx="2"/>')
            parts.append(text(x + 15, y - 5 if name == "before" else y + 34, str(channel), kind="faint"))
    for channel, source in zip(total, index, strict=True):
        if source < skip.size:
            parts.append(arrow(115 + 60 * skip[source], 42, 115 + 60 * channel, 96))
    listed = ", ".join(str(i) if i < skip.size else "fill" for i in index)
    parts.append(text(480, 72, f"index = [{listed}]", "start"))
    return picture(parts, 640, 140, "Channels of a skip that a residual sum selects after a prune")


def prune() -> str:
    """Draws kernels, moments and a copy before and after a prune."""
    dead = np.isin(np.arange(8), (1, 2, 6))
    none5, none3 = [False] * 5, [False] * 3
    parts = []
    trees = ("parameters", "Adam's moments", "average")
    for i, name in enumerate(trees):
        y = 24 + i * 132
        parts.append(text(4, y + 63, name, "start"))
        parts += grid(122, y + 22, none5, list(dead)) + grid(262, y, list(dead), none3)
        kept = list(dead[~dead])
        parts += [arrow(330, y + 58, 390, y + 58)]
        parts += grid(410, y + 22, none5, kept) + grid(505, y + 22, kept, none3)
    parts += [text(215, 12, "before"), text(480, 12, "after")]
    return picture(parts, 570, 412, "A prune slices parameters, moments of the optimizer and averages by one plan")


def one_cycle() -> str:
    """Draws the strength of the regularizer over a run."""
    peak, span, steps = 1.0, 600, 1000
    schedule = demp_jax.one_cycle(peak, span)
    x0, y0, width, height = 60, 140, 500, 110
    points = [(step, float(schedule(step))) for step in range(0, steps + 1, 10)]
    line = " L".join(f"{x0 + width * step / steps:.1f} {y0 - height * value:.1f}" for step, value in points)
    parts = [
        f'<path class="line faint" d="M{x0} {y0 - height - 10} V{y0} H{x0 + width + 10}"/>',
        f'<path class="curve" d="M{line}"/>',
        text(x0 - 8, y0 - height + 4, "peak", "end"),
        text(x0 - 8, y0 + 4, "0", "end"),
    ]
    for step in range(100, steps + 1, 100):
        x = x0 + width * step / steps
        parts.append(f'<path class="mark" d="M{x:.1f} {y0 + 3} l-4 8 h8 z"/>')
    rise = 0.3 * span / steps
    for start, end, words in (
        (0.0, rise, "30%"),
        (rise, span / steps, "70% of the span"),
        (span / steps, 1.0, "recovery"),
    ):
        middle = x0 + width * (start + end) / 2
        parts.append(text(middle, y0 + 30, words))
        parts.append(f'<path class="line faint" d="M{x0 + width * end:.1f} {y0 + 16} v22"/>')
    parts.append(text(x0 + width / 2, y0 + 52, "training steps; a prune at each triangle"))
    return picture(parts, 610, 200, "The strength of the regularizer rises linearly and decays by a half cosine")


def write(folder: Path) -> None:
    """Writes all pictures and their style."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures.css").write_text(STYLE)
    for draw in (neuron, group, selection, prune, one_cycle):
        (folder / f"{draw.__name__}.svg").write_text(draw())
