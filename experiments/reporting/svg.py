# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""SVG charts for an HTML page. All text is escaped.

Colors are classes `c0`, `c1`, ... of the page's style sheet, which has a light and a dark theme.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

from matplotlib.ticker import MaxNLocator

# Number of colors of series, which are used in turn.
COLORS = 7
Element = ElementTree.Element
Point = tuple[float, float]

# Marker shapes around the origin, used in turn, which distinguish series without color.
_MARKERS = (
    "M-4 0A4 4 0 1 1 4 0A4 4 0 1 1 -4 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "M0 -4.8L4.6 3.4H-4.6Z",
    "M0 -5L5 0L0 5L-5 0Z",
    "M0 4.8L4.6 -3.4H-4.6Z",
)


def element(tag: str, *content: Element | str | None, **attributes: object) -> Element:
    """Returns an element. In attribute names, `_` becomes `-` and a trailing `_` is dropped."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()})
    last: Element | None = None
    for each in content:
        if isinstance(each, str):
            if last is None:
                made.text = (made.text or "") + each
            else:
                last.tail = (last.tail or "") + each
        elif each is not None:
            made.append(each)
            last = each
    return made


@dataclasses.dataclass(frozen=True)
class Series:
    """A data series.

    Attributes:
      label: label in the legend.
      points: x and y of each point; for lines, in order of x.
      style: number that determines color and marker.
      kind: `"line"`, `"steps"` (constant until the next point), `"markers"` or `"both"` (line and markers).
      hollow: whether to draw markers as outlines.
      labels: texts beside the markers, drawn if there is room.
      links: link targets of the markers.
      titles: tooltips of the markers, or of the line; the label by default.
      spread: standard deviations of x and y, drawn as a band around a line and as bars at markers.
      faint: whether to draw thinner and paler, such as single seeds beside their mean.
    """

    label: str
    points: Sequence[Point]
    style: int = 0
    kind: str = "line"
    hollow: bool = False
    labels: Sequence[str] = ()
    links: Sequence[str] = ()
    titles: Sequence[str] = ()
    spread: Sequence[Point] = ()
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class Mark:
    """A marked step; `kind` is a class of the page's style sheet, and `title` a tooltip."""

    step: float
    kind: str
    title: str


def percent(part: float) -> str:
    """Formats a fraction in percent: `25%` for 0.25."""
    return f"{100 * part:.6g}%"


def number(value: float) -> str:
    """Formats a number with four significant digits, or as an integer if it is at least 1000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def chart(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    marks: Sequence[Mark] = (),
    x_text: Callable[[float], str] = number,
    y_text: Callable[[float], str] = percent,
    x_range: Point | None = None,
    y_range: Point | None = None,
) -> Element:
    """Returns a chart of lines and points.

    Args:
      title: title for screen readers.
      series: the data.
      x, y: labels of the axes.
      marks: steps to mark by vertical lines.
      x_text, y_text: format the tick labels.
      x_range, y_range: ranges of the axes; by default, those of the points.
    """
    width, height, left, right, top, bottom = 420, 250, 46, 14, 24, 38
    points = [point for each in series for point in (*each.points, *_edge(each, 1), *_edge(each, -1))]
    x_ticks = _ticks(x_range, [p[0] for p in points] + [mark.step for mark in marks])
    y_ticks = _ticks(y_range, [p[1] for p in points])
    # A margin, so that no points are drawn on the axis.
    place_x = _scale(x_ticks[0], x_ticks[-1], left + 8, width - right - 8)
    place_y = _scale(y_ticks[0], y_ticks[-1], height - bottom, top)
    drawn = []
    for tick in y_ticks:
        at = place_y(tick)
        drawn.append(element("path", class_="grid", d=f"M{left} {at:.1f}H{width - right}"))
        drawn.append(element("text", y_text(tick), x=left - 6, y=f"{at + 3.5:.1f}", class_="end"))
    for tick in x_ticks:
        drawn.append(element("path", class_="grid", d=f"M{place_x(tick):.1f} {height - bottom}v4"))
        drawn.append(element("text", x_text(tick), x=f"{place_x(tick):.1f}", y=height - bottom + 15, class_="middle"))
    middle = f"{(left + width - right) / 2:.1f}"
    drawn.append(element("text", x, x=middle, y=height - 6, class_="middle axis"))
    drawn.append(element("text", y, x=2, y=10, class_="axis"))
    for mark in marks:
        d = f"M{place_x(mark.step):.1f} {top}V{height - bottom}"
        drawn.append(element("path", element("title", mark.title), class_=f"mark {mark.kind}", d=d))
    taken: list[Point] = []
    for each in series:
        drawn += _drawn(each, place_x, place_y, taken)
    return _svg(title, (width, height), drawn, "chart")


def _drawn(
    series: Series, place_x: Callable[[float], float], place_y: Callable[[float], float], taken: list[Point]
) -> list[Element]:
    """Returns the elements of a series, without labels that would overlap those at the points `taken`."""
    at, above, below = (
        [(place_x(x), place_y(y)) for x, y in points] for points in (series.points, _edge(series, 1), _edge(series, -1))
    )
    color = f"c{series.style % COLORS}" + (" seed" if series.faint else "")
    drawn = []
    if series.kind != "markers" and len(at) > 1:
        if above:
            around = [*_corners(above, series.kind), *reversed(_corners(below, series.kind))]
            drawn.append(element("path", class_=f"band {color}", d=_path(around) + "Z"))
        path = _path(at, steps=series.kind == "steps")
        title = series.titles[0] if series.titles else series.label
        drawn.append(element("path", element("title", title), class_=f"line {color}", d=path))
    if series.kind == "markers":
        for (x, y), (right, top), (left, bottom) in zip(at, above, below, strict=False):
            d = f"M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {top:.1f}V{bottom:.1f}"
            drawn.append(element("path", class_=f"line {color}", d=d))
    if series.kind in ("markers", "both"):
        for i, (x, y) in enumerate(at):
            title = series.titles[i] if series.titles else series.label
            shape = element(
                "path",
                element("title", title),
                class_=f"marker {color}" + (" hollow" if series.hollow else ""),
                d=_MARKERS[series.style % len(_MARKERS)],
                transform=f"translate({x:.1f} {y:.1f})",
            )
            text = None
            free = all(abs(x - u) > 18 or abs(y - v) > 10 for u, v in taken)
            if series.labels and free:
                text = element("text", series.labels[i], x=f"{x + 6:.1f}", y=f"{y - 4:.1f}")
                taken.append((x, y))
            link = {"href": series.links[i]} if series.links else {}
            drawn.append(element("a" if link else "g", shape, text, **link))
    return drawn


def _edge(series: Series, sign: int) -> list[Point]:
    """Returns the points one standard deviation above (`sign` 1) or below (-1), if the series has a spread."""
    return [(x + sign * dx, y + sign * dy) for (x, y), (dx, dy) in zip(series.points, series.spread, strict=False)]


def _corners(at: Sequence[Point], kind: str) -> list[Point]:
    """Returns the corners of a line; a line in steps has two per further point."""
    if kind != "steps":
        return list(at)
    return [at[0], *(corner for (_, y), (u, v) in itertools.pairwise(at) for corner in ((u, y), (u, v)))]


def legend(entries: Sequence[tuple[str, Element]]) -> Element:
    """Returns a legend from labels and their signs."""
    return element("ul", *(element("li", sign, " " + label) for label, sign in entries), class_="legend")


def sign(series: Series) -> Element:
    """Returns the sign of a series for a legend."""
    at = [(0.0, 6.0), (20.0, 6.0)] if series.kind in ("line", "steps", "both") else []
    middle = [(10.0, 6.0)] if series.kind in ("markers", "both") else []
    bare = dataclasses.replace(series, label="", labels=(), links=(), titles=(), spread=())
    line = dataclasses.replace(bare, kind="line", points=at)
    marker = dataclasses.replace(bare, kind="markers", points=middle)
    return _sign([drawn for each in (line, marker) for drawn in _drawn(each, float, float, [])])


def mark_sign(kind: str) -> Element:
    """Returns the sign of a kind of marks for a legend."""
    return _sign([element("path", class_=f"mark {kind}", d="M10 0V12")])


def color_sign(style: int) -> Element:
    """Returns a colored square for a legend."""
    return _sign([element("path", class_=f"fill c{style}", d="M4 0H16V12H4Z")])


def _sign(drawn: Sequence[Element]) -> Element:
    return element("svg", *drawn, class_="sign", viewBox="0 0 20 12", width=20, height=12, aria_hidden="true")


def small(
    title: str, kept: Sequence[Point], live: Sequence[Point], top: float, steps: float, marks: Sequence[Mark]
) -> Element:
    """Returns a small chart from 0 to `top` with an area in steps and a line.

    Args:
      title: title for screen readers.
      kept: points of the area, up to the last step; may be empty.
      live: points of the line; may be empty.
      top: the largest value.
      steps: the last step.
      marks: steps to mark below the chart.
    """
    width, height, bottom = 160, 56, 50
    place_x, place_y = _scale(0, max(steps, 1), 0, width), _scale(0, top or 1, bottom, 2)
    drawn = [element("path", class_="frame", d=f"M0 2H{width}M0 {bottom}H{width}")]
    if kept:
        at = [(place_x(x), place_y(y)) for x, y in kept]
        drawn.append(element("path", class_="area", d=f"{_path(at, steps=True)}V{bottom}H{at[0][0]:.1f}Z"))
    if len(live) > 1:
        drawn.append(element("path", class_="line live", d=_path([(place_x(x), place_y(y)) for x, y in live])))
    for mark in marks:
        d = f"M{place_x(mark.step):.1f} {bottom}V{height}"
        drawn.append(element("path", element("title", mark.title), class_=f"mark {mark.kind}", d=d))
    return _svg(title, (width, height), drawn, "small")


def network(title: str, dense: Mapping[str, int], live: Mapping[str, int]) -> Element:
    """Returns a chart of a network, with a bar for each site from input to output.

    The height of a bar is the square root of the dense width, so that narrow sites are visible next to wide ones. The
    filled fraction is the fraction of units left.
    """
    unit = max(32, min(44, 900 // max(len(dense), 1)))
    longest = max(map(len, dense), default=0)
    tall, head, left = 120, 34, 6 + 4 * longest
    width, height = left + unit * len(dense) + 10, head + tall + 14 + 5 * longest
    most = max(dense.values(), default=1)
    drawn = []
    for i, (name, units) in enumerate(dense.items()):
        x, bar = left + unit * i, unit - 8
        whole = max(tall * (units / most) ** 0.5, 2.0)
        part = whole * live[name] / max(units, 1)
        foot = head + tall
        middle = x + bar / 2
        told = element("title", f"{name}: {live[name]} of {units} units are left")
        box = {"x": x, "width": bar}
        drawn.append(
            element(
                "g",
                told,
                element("rect", class_="dense", y=f"{foot - whole:.1f}", height=f"{whole:.1f}", **box),
                element("rect", class_="left", y=f"{foot - part:.1f}", height=f"{part:.1f}", **box),
                element("text", str(live[name]), x=middle, y=f"{foot - whole - 15:.1f}", class_="middle strong"),
                element("text", f"/{units}", x=middle, y=f"{foot - whole - 4:.1f}", class_="middle faint"),
                element("text", name, class_="end", transform=f"translate({middle + 3} {foot + 12}) rotate(-50)"),
            )
        )
    return _svg(title, (width, height), drawn, "network", width=width, height=height)


def bar(title: str, parts: Sequence[tuple[str, float, int]]) -> Element:
    """Returns a stacked bar; each part has a tooltip, a size and a color."""
    whole, x, drawn = sum(size for _, size, _ in parts) or 1.0, 0.0, []
    for told, size, color in parts:
        wide = 200 * size / whole
        box = {"x": f"{x:.2f}", "y": 0, "width": f"{wide:.2f}", "height": 12}
        drawn.append(element("rect", element("title", told), class_=f"fill c{color}", **box))
        x += wide
    return _svg(title, (200, 12), drawn, "bar", preserveAspectRatio="none")


def _svg(title: str, size: Point, drawn: Sequence[Element], class_: str, **more: object) -> Element:
    box = f"0 0 {size[0]} {size[1]}"
    return element(
        "svg", element("title", title), *drawn, class_=class_, viewBox=box, role="img", aria_label=title, **more
    )


def thinned(points: Sequence[Point], most: int = 150) -> list[Point]:
    """Returns about `most` evenly spaced points at most, and always the last one."""
    every = max(-(-len(points) // most), 1)
    return [*points[:-1:every], *points[-1:]]


def _path(at: Sequence[Point], *, steps: bool = False) -> str:
    first, *others = at
    step = "H{0:.1f}V{1:.1f}" if steps else "L{0:.1f} {1:.1f}"
    return f"M{first[0]:.1f} {first[1]:.1f}" + "".join(step.format(*point) for point in others)


def _ticks(limits: Point | None, values: Sequence[float]) -> list[float]:
    low, high = limits or (min(values, default=0.0), max(values, default=1.0))
    if low == high:
        low, high = low - (abs(low) or 1) / 50, high + (abs(high) or 1) / 50
    return [float(tick) for tick in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)
