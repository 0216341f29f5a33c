# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The dry run: shows network, prunes, schedules, durations, FLOPs and memory of a run, without training."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table

import demp_jax
from experiments.cli import field_help, memory
from experiments.data.arrays import Arrays
from experiments.recipe.problem import Problem, pose
from experiments.settings import options

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def show(config: ml_collections.ConfigDict, *, twin: bool = False, compiles: bool = False) -> int:
    """Prints the dry run of a config; returns the exit status.

    Args:
      config: the config of the run.
      twin: whether a dense twin is trained as well.
      compiles: whether to compile the step and show its memory.

    Raises:
      UsageError: for invalid input, as in the run.
    """
    problem = pose(config)
    taken = memory.compiled(problem) if compiles else None
    if problem.devices.first:
        # Files and pipes get a fixed width and no colors.
        console = Console(markup=False, highlight=False, emoji=False)
        console.width = min(max(console.width, 80), 120) if console.is_terminal else 100
        with console.capture() as captured:
            console.print(plan(problem, console.width, console.options.ascii_only, twin=twin, compiled=taken))
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))  # noqa: T201
    return 0


def plan(
    problem: Problem, width: int, plain: bool = False, *, twin: bool = False, compiled: int | None = None
) -> RenderableType:
    """Returns the output of the dry run.

    Args:
      problem: dataset, initial network and method, as configured.
      width: width of the output in characters, at least 80.
      plain: whether to draw schedules in ASCII.
      twin: whether a dense twin is trained as well.
      compiled: memory of the compiled step in bytes, if known.
    """
    steps = jnp.arange(problem.settings.steps)
    schedules = {"learning rate": problem.rate, "lambda": problem.method.strength, "noise": problem.method.noise}
    values = {name: np.asarray(jax.jit(jax.vmap(schedule))(steps)) for name, schedule in schedules.items()}
    regularized = bool(values["lambda"].any() or values["noise"].any())
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    parts: dict[str, Sequence[RenderableType]] = {
        "data": _data(problem),
        "network": _network(problem),
        "FLOPs": _flops(problem, twin),
        "method": _settings(problem, regularized),
        "prunes": _cuts(problem),
        "schedules": [_schedules(values, width - 60, plain)],
        "durations": [_durations(problem, regularized)],
        "memory": _memory(problem, compiled),
        "devices": _devices(problem),
    }
    for label, lines in parts.items():
        for i, line in enumerate(lines):
            facts.add_row("" if i else label, line)
        facts.add_row("", "")
    name = f"{problem.method.name}: {problem.settings.model.name} on {problem.settings.data.name}"
    title = f"{name}, {problem.settings.steps:,} steps. This is a dry run; nothing is trained.\n"
    note = "Parameters and FLOPs (forward pass, per image) are those removed with one unit"
    note += ", without the channels of residual branches.\n" if problem.dense.branches else ".\n"
    return Group(title, _sites(problem.dense), note, facts)


def _sites(graph: demp_jax.Graph) -> Table:
    """Returns a table with a row per site: its width, prunable units, and what is removed with one unit."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("site", no_wrap=True)
    for header in ("width", "prunable", "parameters", "FLOPs"):
        table.add_column(header, justify="right", no_wrap=True)
    parameters, flops = graph.parameters(_trained), graph.flops()
    rows: list[list[str]] = []
    for site in graph.sites:
        own = site.groups[site.groups >= 0]
        rows.append([site.name, f"{site.width:,}", f"{len(own):,}", "", "", ""])
        if len(own):
            unit = np.zeros(graph.num_groups, bool)
            unit[own[0]] = True
            rows[-1][3] = f"{parameters - graph.parameters(_trained, unit):,}"
            rows[-1][4] = amount(flops - graph.flops(unit))
        rows[-1][5] = ", ".join(s.name for s in graph.sites if s is not site and np.isin(own, s.groups).any())
    coupled = any(row[5] for row in rows)
    if coupled:
        table.add_column("pruned together with")
    for row in rows:
        table.add_row(*row[: 6 if coupled else 5])
    return table


def _trained(path: str) -> bool:
    return path.startswith("params/")


def _data(problem: Problem) -> list[str]:
    dataset, config = problem.dataset, problem.settings
    size = " x ".join(map(str, dataset.image_shape))
    inputs = (
        "" if problem.input_shape == dataset.image_shape else f", inputs {' x '.join(map(str, problem.input_shape))}"
    )
    where = "in device memory" if isinstance(dataset, Arrays) else "streamed during training"
    parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
    return [
        f"{dataset.name}: {dataset.train_examples:,} training images and {dataset.test_examples:,} test images, "
        f"{dataset.classes:,} classes, {size}{inputs}; {where}",
        f"batches of {config.batch_size:,}{parts}, {config.steps_per_epoch:,.1f} steps per epoch; death set of "
        f"{config.pruning.examples:,} images",
    ]


def _network(problem: Problem) -> list[str]:
    graph = problem.dense
    can = sum(int((site.groups >= 0).sum()) for site in graph.sites)
    lines = [
        f"{problem.settings.model.name}: {problem.dense_parameters:,} parameters, {graph.neurons:,} neurons in "
        f"{len(graph.sites)} activation{'s' * (len(graph.sites) > 1)}, of which {can:,} can be pruned"
    ]
    if graph.branches:
        channels = sum(int((branch.groups >= 0).sum()) for branch in graph.branches)
        lines.append(
            f"{channels:,} channels of {len(graph.branches)} residual branches, which do not count as neurons, are "
            "removed once nothing reads them"
        )
    return [*lines, *_refused(graph)]


def _refused(graph: demp_jax.Graph) -> list[str]:
    """Returns what cannot be pruned, a line per reason."""
    if not graph.refusals:
        return ["nothing is excluded from pruning"]
    groups: dict[tuple[str, str], list[str]] = {}
    for refusal in graph.refusals:
        groups.setdefault((refusal.reason, refusal.source.replace(f"{Path.cwd()}{os.sep}", "")), []).append(
            refusal.what
        )
    return [
        f"cannot be pruned: {', '.join(what[:3])}{f' and {len(what) - 3} more' if len(what) > 3 else ''}: {reason}"
        + (f" at {source}" if source else "")
        for (reason, source), what in groups.items()
    ]


def _flops(problem: Problem, twin: bool) -> list[str]:
    forward = problem.dense.flops()
    step = 3 * forward * problem.settings.batch_size
    lines = [
        f"{amount(forward)} for the forward pass of an image, {amount(step)} for a training step, "
        f"{amount(step * problem.settings.steps)} for the run if nothing is pruned"
    ]
    if twin:
        lines.append(f"{amount(step * problem.settings.steps)} for the dense twin, which is trained first")
    return lines


def _settings(problem: Problem, regularized: bool) -> list[str]:
    """Returns the config options that the method uses."""
    method, config = problem.method, problem.config
    sections = ["optimizer"]
    sections += ["method"] if regularized else []
    sections += ["ranking"] if method.ranking is not None else []
    sections += ["masking"] if method.updater is not None else []
    sections += ["pruning"] if method.name != "dense" else []
    lines = [method.name]
    places = {path: place for place, path in enumerate(field_help.comments())}
    for section in sections:
        values = {f"{section}.{key}": value for key, value in config[section].items() if value not in (None, (), "")}
        values = {path: value for path, value in values.items() if not isinstance(value, ml_collections.ConfigDict)}
        ordered = sorted(values, key=lambda path: places.get(path, len(places)))
        pairs = (f"{path.partition('.')[2]}={options.as_text(values[path])}" for path in ordered)
        lines.append(f"{section}: {' '.join(pairs)}")
    goal = problem.goal
    if goal is not None:
        lines.append(
            f"target: {goal.kind}={goal.asked}; lambda is adjusted every {goal.every:,} steps to the size that a "
            "prune would leave"
        )
    return lines


def _cuts(problem: Problem) -> list[str]:
    method, pruning = problem.method, problem.settings.pruning
    if method.name == "dense":
        return ["none"]
    lines = [] if method.ranking is None else [f"units with the lowest scores: {method.ranking.when}"]
    made = steps_of_cuts(problem)
    if made:
        lines.append(f"dead units, at {len(made)} steps: {_some(made)}")
        if problem.method.updater is None and pruning.ahead:
            lines.append(f"each is prepared {pruning.ahead:,} steps in advance")
        if pruning.cut_cost:
            lines.append(f"each is delayed until it pays off its cost of {pruning.cut_cost:,} steps")
    return [*lines, f"all dead units: at the end, step {problem.settings.steps:,}"]


def steps_of_cuts(problem: Problem) -> list[int]:
    """Returns the steps before the last at which dead units are pruned, if there are any and no prune is delayed."""
    # Prunes of masking methods are not prepared.
    ahead = problem.settings.pruning.ahead if problem.method.updater is None else 0
    made: list[int] = []
    for step in filter(problem.method.prunes, range(1, problem.settings.steps - ahead)):
        if not made or step >= made[-1]:  # Only one prune is prepared at a time.
            made.append(step + ahead)
    return made


def _some(steps: Sequence[int]) -> str:
    shown = [f"{step:,}" for step in steps]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def _schedules(values: Mapping[str, np.ndarray], width: int, plain: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("", "", "maximum", "at step", "at the end")
    for name, each in values.items():
        drawn = picture(each, width, plain=plain)
        table.add_row(name, drawn, f"{each.max():.3g}", f"{each.argmax():,}", f"{each[-1]:.3g}")
    return table


def picture(values: np.ndarray, width: int, *, plain: bool = False) -> str:
    """Draws a schedule as one line of text.

    Args:
      values: nonnegative values at every step, `[T]`.
      width: number of characters.
      plain: whether to draw in ASCII.
    """
    levels = _ASCII if plain else _BLOCKS
    chosen = values[np.linspace(0, len(values) - 1, width).round().astype(int)]
    heights = np.ceil(chosen / (values.max() or 1.0) * (len(levels) - 1) - 1e-3).astype(int)
    heights = np.maximum(heights, chosen > 0)  # Every positive value is visible.
    return "".join(levels[height] for height in heights)


def _durations(problem: Problem, regularized: bool) -> Table:
    settings, method = problem.settings, problem.method
    rows = {"steps": "the run", "eval_every": "between evaluations", "checkpoint_every": "between checkpoints"}
    rows["log_every"] = "between metrics"
    if settings.watch.every:
        rows["watch.every"] = "between measurements of dead units"
    if regularized:
        rows |= {"method.strength_span": "schedule of lambda", "method.noise_span": "schedule of noise"}
    if method.name != "dense":
        rows |= {"pruning.every": "tau: between prunes", "pruning.start": "before the first prune"}
        rows |= {"pruning.ahead": "to prepare a prune", "pruning.cut_cost": "cost of a prune"}
    if method.updater is not None:
        rows |= {"masking.start": "before masks change", "masking.every": "between changes of masks"}
        rows["masking.end"] = "until masks are fixed"
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify)
    table.add_row("", "steps", "epochs", "")
    values = options.flat(problem.config)
    for path, what in rows.items():
        steps = operator.attrgetter(path)(settings)
        table.add_row(f"{path}={values[path]}", f"{steps:,}", f"{steps / settings.steps_per_epoch:,.3g}", what)
    return table


def _memory(problem: Problem, compiled: int | None) -> list[str]:
    parts = memory.from_shapes(problem)
    lines = [
        f"about {size(sum(parts.values()))} per device before pruning, estimated from shapes: "
        + ", ".join(f"{name} {size(number)}" for name, number in parts.items()),
    ]
    if compiled is None:
        lines.append("the compiled step may need less, as XLA fuses operations; --compile shows how much")
    else:
        lines.append(f"{size(compiled)} for the compiled step")
    return lines


def _devices(problem: Problem) -> list[str]:
    devices, kind = problem.devices, jax.devices()[0].device_kind
    batch = problem.settings.batch_size // devices.count
    lines = [f"{devices.count} of {jax.device_count()} x {kind}, {batch:,} images per device and step"]
    return lines + ([f"in {devices.processes} processes"] if devices.processes > 1 else [])


def amount(number: float) -> str:
    """Formats a number of FLOPs with three significant digits, such as `1.11 G`."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if number < 999.5:
            return f"{number:.3g} {unit}".strip()
        number /= 1000
    return f"{number:.3g} E"


def size(number: float) -> str:
    """Formats a number of bytes with three significant digits, such as `1.49 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"
