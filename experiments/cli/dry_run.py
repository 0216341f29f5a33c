# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What a run would do and take, without training: its network, cuts, schedules, durations, FLOPs and memory."""

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
    """Prints the plan of a run; returns the exit status.

    Args:
      config: of the run.
      twin: whether its dense twin is trained, too.
      compiles: whether the step is compiled, to know the memory that it takes.

    Raises:
      UsageError: for bad input, as the run would.
    """
    problem = pose(config)
    taken = memory.compiled(problem) if compiles else None
    if problem.devices.first:
        # What is not on a terminal gets lines of one length, and no colors.
        console = Console(markup=False, highlight=False, emoji=False)
        console.width = min(max(console.width, 80), 120) if console.is_terminal else 100
        with console.capture() as captured:
            console.print(plan(problem, console.width, console.options.ascii_only, twin=twin, compiled=taken))
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))  # noqa: T201
    return 0


def plan(
    problem: Problem, width: int, plain: bool = False, *, twin: bool = False, compiled: int | None = None
) -> RenderableType:
    """Returns what is printed.

    Args:
      problem: of the run.
      width: in characters, at least 80.
      plain: whether schedules are drawn in ASCII.
      twin: whether its dense twin is trained, too.
      compiled: bytes that the compiled step takes, where they are known.
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
        "cuts": _cuts(problem),
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
    title = f"{name}, {problem.settings.steps:,} steps. This is its plan; nothing is trained.\n"
    note = "Parameters and FLOPs (forward, of an image) are those that leave with one unit"
    note += ", without channels of branches that it frees.\n" if problem.dense.branches else ".\n"
    return Group(title, _sites(problem.dense), note, facts)


def _sites(graph: demp_jax.Graph) -> Table:
    """Returns a row per activation: its width, how many of its units can leave, and what leaves with one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("site", no_wrap=True)
    for header in ("width", "can leave", "parameters", "FLOPs"):
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
        table.add_column("leave together with")
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
    where = "in the memory of the devices" if isinstance(dataset, Arrays) else "read while training goes on"
    parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
    return [
        f"{dataset.name}: {dataset.train_examples:,} images to train on and {dataset.test_examples:,} to test, "
        f"{dataset.classes:,} classes, {size}{inputs}; {where}",
        f"batches of {config.batch_size:,}{parts}, {config.steps_per_epoch:,.1f} steps an epoch; death set of "
        f"{config.pruning.examples:,}",
    ]


def _network(problem: Problem) -> list[str]:
    graph = problem.dense
    can = sum(int((site.groups >= 0).sum()) for site in graph.sites)
    lines = [
        f"{problem.settings.model.name}: {problem.dense_parameters:,} parameters, {graph.neurons:,} neurons in "
        f"{len(graph.sites)} activation{'s' * (len(graph.sites) > 1)}, of which {can:,} can leave"
    ]
    if graph.branches:
        channels = sum(int((branch.groups >= 0).sum()) for branch in graph.branches)
        lines.append(
            f"{channels:,} channels of {len(graph.branches)} residual branches leave, too, once nothing reads them; "
            "they do not count as neurons"
        )
    return [*lines, *_refused(graph)]


def _refused(graph: demp_jax.Graph) -> list[str]:
    """Returns what cannot be pruned, those together that have the same reason."""
    if not graph.refusals:
        return ["nothing in it was refused"]
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
        f"{amount(forward)} forward for an image, {amount(step)} for a training step, "
        f"{amount(step * problem.settings.steps)} for the run if nothing leaves"
    ]
    if twin:
        lines.append(f"{amount(step * problem.settings.steps)} for its dense twin, which is trained before it")
    return lines


def _settings(problem: Problem, regularized: bool) -> list[str]:
    """Returns the keys that a method has to do with."""
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
            f"target: {goal.kind}={goal.asked}; lambda follows, from what a cut would leave, looked at every "
            f"{goal.every:,} steps"
        )
    return lines


def _cuts(problem: Problem) -> list[str]:
    method, pruning = problem.method, problem.settings.pruning
    if method.name == "dense":
        return ["none"]
    lines = [] if method.ranking is None else [f"units that score least: {method.ranking.when}"]
    made = steps_of_cuts(problem)
    if made:
        lines.append(f"dead units, at {len(made)} steps: {_some(made)}")
        if problem.method.updater is None and pruning.ahead:
            lines.append(f"each is looked for and prepared {pruning.ahead:,} steps before")
        if pruning.cut_cost:
            lines.append(
                f"each is made if it pays: it costs {pruning.cut_cost:,} steps, and units wait until that is saved"
            )
    return [*lines, f"all that is dead: at the end, step {problem.settings.steps:,}"]


def steps_of_cuts(problem: Problem) -> list[int]:
    """Returns the steps before the last at which dead units leave, if there are any, none waits and none comes back."""
    # Methods that mask cut at once.
    ahead = problem.settings.pruning.ahead if problem.method.updater is None else 0
    made: list[int] = []
    for step in filter(problem.method.prunes, range(1, problem.settings.steps - ahead)):
        if not made or step >= made[-1]:  # One is prepared at a time.
            made.append(step + ahead)
    return made


def _some(steps: Sequence[int]) -> str:
    shown = [f"{step:,}" for step in steps]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def _schedules(values: Mapping[str, np.ndarray], width: int, plain: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("", "", "at most", "at step", "at the end")
    for name, each in values.items():
        drawn = picture(each, width, plain=plain)
        table.add_row(name, drawn, f"{each.max():.3g}", f"{each.argmax():,}", f"{each[-1]:.3g}")
    return table


def picture(values: np.ndarray, width: int, *, plain: bool = False) -> str:
    """Returns a picture of a schedule in one line of text.

    Args:
      values: at every step, `[T]`, at least 0.
      width: of the picture, in characters.
      plain: draw in ASCII.
    """
    levels = _ASCII if plain else _BLOCKS
    chosen = values[np.linspace(0, len(values) - 1, width).round().astype(int)]
    heights = np.ceil(chosen / (values.max() or 1.0) * (len(levels) - 1) - 1e-3).astype(int)
    heights = np.maximum(heights, chosen > 0)  # What is not zero is seen.
    return "".join(levels[height] for height in heights)


def _durations(problem: Problem, regularized: bool) -> Table:
    settings, method = problem.settings, problem.method
    rows = {"steps": "the run", "eval_every": "between evaluations", "checkpoint_every": "between checkpoints"}
    rows["log_every"] = "between metrics"
    if settings.watch.every:
        rows["watch.every"] = "between looks"
    if regularized:
        rows |= {"method.strength_span": "schedule of lambda", "method.noise_span": "schedule of noise"}
    if method.name != "dense":
        rows |= {"pruning.every": "tau: between cuts", "pruning.start": "before the first cut"}
        rows |= {"pruning.ahead": "to prepare a cut", "pruning.cut_cost": "cost of a cut"}
    if method.updater is not None:
        rows |= {"masking.start": "before masks change", "masking.every": "between their changes"}
        rows["masking.end"] = "until masks stay"
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
        f"about {size(sum(parts.values()))} on each device at first, from the shapes alone: "
        + ", ".join(f"{name} {size(number)}" for name, number in parts.items()),
    ]
    if compiled is None:
        lines.append("the compiled step may take less, as XLA fuses operations: --compile compiles it, and says")
    else:
        lines.append(f"{size(compiled)} at once in the compiled step")
    return lines


def _devices(problem: Problem) -> list[str]:
    devices, kind = problem.devices, jax.devices()[0].device_kind
    batch = problem.settings.batch_size // devices.count
    lines = [f"{devices.count} of {jax.device_count()} x {kind}, {batch:,} images of a batch on each"]
    return lines + ([f"in {devices.processes} processes"] if devices.processes > 1 else [])


def amount(number: float) -> str:
    """Returns a number of FLOPs with three digits: `1.11 G`."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if number < 999.5:
            return f"{number:.3g} {unit}".strip()
        number /= 1000
    return f"{number:.3g} E"


def size(number: float) -> str:
    """Returns a number of bytes with three digits: `1.49 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"
