# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The HTML page about runs and its sections."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from experiments.core.errors import UsageError
from experiments.reporting import seeds, svg, tables
from experiments.reporting.seeds import Group
from experiments.reporting.svg import Element, Mark, Series, element
from experiments.rundir import reader
from experiments.rundir.reader import Recorded, outcome

# The parts of a run's time, and their colors.
_PARTS = {"steps": 0, "data": 1, "compiling": 2, "cuts": 3, "evaluation": 4, "checkpoints": 5, "other": 6, "unknown": 7}
_NONE = "\N{EN DASH}"
# With more groups, the table of configs has a row per group instead of a column. With more sites, the list of sites of
# a prune is collapsed.
_FEW = 4
# Attributes of `Recorded` that can be left out if they cannot be shown, and their files.
_FILES = {
    "dead": "dead.jsonl",
    "cuts": "cuts.jsonl",
    "metrics": "metrics.jsonl",
    "summary": "summary.json",
    "counters": "checkpoints",
    "config": "config.json",
}
# Content security policy: the page loads nothing and runs no script.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(runs: Sequence[Recorded]) -> str:
    """Returns the page about runs. Records that cannot be shown are left out and named in a note."""
    shown = list(map(_without_damage, runs))
    return _page(shown, [note for run in shown for note in run.damage])


def _without_damage(run: Recorded) -> Recorded:
    """Returns the run without the fewest files such that the rest can be shown, and with a note that names them."""
    reason = ""
    for count in range(len(_FILES) + 1):
        for left_out in itertools.combinations(_FILES, count):
            kept = dataclasses.replace(run, **{name: type(getattr(run, name))() for name in left_out})
            try:
                _sections(seeds.grouped([kept]))
            except Exception as error:  # Invalid values can cause any exception.
                reason = reason or f"{type(error).__name__}: {error}"
                continue
            if not left_out:
                return run
            files = " and ".join(_FILES[name] for name in left_out)
            note = f"{run.name} is shown without {files}: a value was not written by this program ({reason})"
            return dataclasses.replace(kept, damage=[*run.damage, note])
    raise UsageError(f"{run.name} cannot be shown: its records are damaged ({reason}). Leave it out.")


def _sections(groups: Sequence[Group]) -> tuple[list[tuple[str, str, Any]], list[tuple[str, str, Any]]]:
    """Returns the sections about all runs and those about each run, as anchor, title and content."""
    runs = [numbered for group in groups for numbered in group.numbered]
    sections = [("runs", "Runs", _overview(groups)), ("tradeoff", "Accuracy against sparsity", _tradeoff(groups))]
    if len(runs) > 1:
        sections.append(("training", "Training", _training(groups)))
    sections.append(("time", "Where time went", _time(groups)))
    if len(runs) > 1:
        sections.append(("configs", "What differs between the configs", _differences(groups)))
    each = [(_anchor(number), f"{number} {run.name}" if len(runs) > 1 else run.name, _run(run)) for number, run in runs]
    return sections, each


def _page(runs: Sequence[Recorded], notes: Sequence[str]) -> str:
    sections, each = _sections(seeds.grouped(runs))
    name = counted(runs) if len(runs) > 1 else runs[0].name
    counts = {status: sum(run.status == status for run in runs) for status in ("finished", "unfinished", "failed")}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    tasks = dict.fromkeys(run.task for run in runs if run.config)
    body = element(
        "body",
        element("nav", element("ul", *map(_entry, sections), *map(_entry, each)), aria_label="Contents"),
        element(
            "main",
            element("h1", name),
            element("p", ", ".join([*tasks, said]) + ".", class_="lead"),
            *(element("p", _printable(note), class_="damage") for note in notes),
            *(element("section", element("h2", title), *content, id=id_) for id_, title, content in sections),
            *(element("section", element("h2", title), *content, id=id_, class_="run") for id_, title, content in each),
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{name} of demp_jax" if len(runs) > 1 else name),
        element("style", Path(__file__).with_name("report.css").read_text()),
    )
    html = ElementTree.tostring(element("html", head, body, lang="en"), encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{html}\n"


def counted(runs: Sequence[Recorded]) -> str:
    """Returns the number of runs as text."""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def _anchor(number: str) -> str:
    return f"run-{number}"


def _entry(section: tuple[str, str, Any]) -> Element:
    return element("li", element("a", section[1], href=f"#{section[0]}", title=section[1]))


# All runs.


def _overview(groups: Sequence[Group]) -> list[Element]:
    headers = ["run", "seeds", "method", "status", "test accuracy", "neuron sparsity", "weight sparsity", "FLOPs"]
    headers += ["training FLOPs", "step", "cuts", "seconds"]
    ratios = ("inference_flops_ratio", "train_flops_ratio", "step_time_ratio")
    rows: list[list[Element | str]] = []
    for group in groups:
        first = group.runs[0]
        steps = sorted({run.step for run in group.runs})
        at = f" at step {steps[0]:,}" + (f" to {steps[-1]:,}" if len(steps) > 1 else "")
        cells = [_over_seeds(group.runs, map(value, group.runs), tables.percent) for value in _MEASURES.values()]
        cells += [_over_seeds(group.runs, (run.summary.get(key) for run in group.runs), tables.ratio) for key in ratios]
        cuts = (sum(bool(cut["removed"]) for cut in run.cuts) for run in group.runs)
        rows.append(
            [
                _link(group),
                str(len(group.runs)),
                first.method,
                element("span", first.status + ("" if first.summary else at), class_=first.status),
                *cells,
                _over_seeds(group.runs, cuts, tables.count),
                _over_seeds(group.runs, (run.seconds_total for run in group.runs), tables.seconds),
            ]
        )
    note = (
        "Runs whose configs differ in the seed alone are one row, with the mean and standard deviation over seeds; "
        "hover for the value of each seed. Weight sparsity counts weights that were removed or are masked. FLOPs are "
        "those of a forward pass, training FLOPs are summed over the run, and step is the time of a training step at "
        "the end of the run, all relative to plain dense training. For an unfinished run, accuracy and sparsity are "
        "the last recorded values, and seconds end at its newest checkpoint."
    )
    return [_table("Runs", headers, rows, numbers=(1, *range(4, 12))), element("p", note, class_="note")]


_MEASURES: dict[str, Callable[[Recorded], float | None]] = {
    "test accuracy": lambda run: run.test_accuracy,
    "neuron sparsity": lambda run: run.neuron_sparsity,
    "weight sparsity": lambda run: run.weight_sparsity,
}


def _over_seeds(
    runs: Sequence[Recorded], values: Iterable[float | None], text: Callable[[Sequence[float]], str]
) -> Element | str:
    """Returns mean and standard deviation over the runs of a group as text, with the value of each seed on hover."""
    known = [(run, v) for run, v in zip(runs, values, strict=True) if v is not None and not math.isnan(v)]
    if not known:
        return _NONE
    mean, sign, std = text([value for _, value in known]).partition("±")
    if len(runs) == 1:
        return mean
    spread = f"{sign}{std}" + (f" (n = {len(known)})" if len(known) < len(runs) else "")
    each = ", ".join(f"seed {run.config['seed']}: {text([value])}" for run, value in known)
    return element("span", mean, element("span", spread, class_="spread"), title=each)


def _styles(groups: Sequence[Group]) -> list[tuple[str, int]]:
    """Returns a label and a style for each group: its own if there are few groups, else that of its method."""
    keys = [group.name if len(groups) <= svg.COLORS else group.runs[0].method for group in groups]
    known = list(dict.fromkeys(keys))
    return [(key, known.index(key)) for key in keys]


def _tradeoff(groups: Sequence[Group]) -> list[Element]:
    figures = []
    for what in ("weight sparsity", "neuron sparsity"):
        series, missing = [], []
        for group, (label, style) in zip(groups, _styles(groups), strict=True):
            known: list[tuple[str, Recorded, float, float]] = []
            for number, run in group.numbered:
                x, y = _MEASURES[what](run), run.test_accuracy
                if x is None or y is None:
                    missing.append(number)
                else:
                    known.append((number, run, x, y))
            if not known:
                continue
            alone, hollow = len(group.runs) == 1, group.runs[0].status != "finished"
            each = Series(
                label,
                [(x, y) for _, _, x, y in known],
                style,
                "markers",
                hollow,
                labels=[number for number, *_ in known] if alone else (),
                links=[f"#{_anchor(number)}" for number, *_ in known],
                titles=[_measured(f"{number} {run.name}", what, [x], [y]) for number, run, x, y in known],
                faint=not alone,
            )
            series.append(each)
            if not alone:
                xs, ys = ([point[axis] for point in each.points] for axis in (0, 1))
                (x, dx), (y, dy) = map(seeds.mean_and_std, (xs, ys))
                told = _measured(f"{group.label}, {len(known)} seeds", what, xs, ys)
                mean = Series(label, [(x, y)], style, "markers", hollow, labels=[str(group.number)], titles=[told])
                series.append(dataclasses.replace(mean, spread=[(dx or 0.0, dy or 0.0)]))
        title = f"Test accuracy against {what}"
        picture = svg.chart(title, series, x=what, y="test accuracy", x_text=svg.percent, x_range=(0.0, 1.0))
        said = title + "; numbers refer to the table of runs."
        if any(each.faint for each in series):
            said += " Pale: single seeds, with their mean and standard deviation."
        if any(each.hollow for each in series):
            said += " Hollow: not finished."
        if missing:
            said += f" Unknown for {', '.join(missing)}."
        figures.append(_figure(picture, said, _legend(series)))
    return [element("div", *figures, class_="figures")]


def _measured(name: str, what: str, xs: Sequence[float], ys: Sequence[float]) -> str:
    return f"{name}: test accuracy {tables.percent(ys)}, {what} {tables.percent(xs)}"


def _training(groups: Sequence[Group]) -> list[Element]:
    figures = []
    kinds: dict[str, tuple[Callable[[Recorded], list[svg.Point]], str, str, svg.Point | None]] = {
        "Test accuracy": (lambda run: _points(run.metrics, "test_accuracy"), "line", "test accuracy", None),
        "Neurons left": (_neurons, "steps", "neurons left", (0.0, 1.0)),
    }
    for what, (points, kind, y, y_range) in kinds.items():
        series: list[Series] = []
        for group, (label, style) in zip(groups, _styles(groups), strict=True):
            lines = [(f"{number} {run.name}", found) for number, run in group.numbered if (found := points(run))]
            alone = len(group.runs) == 1
            series += [Series(label, line, style, kind, titles=[name], faint=not alone) for name, line in lines]
            if lines and not alone:
                mean, spread = seeds.averaged([line for _, line in lines], steps=kind == "steps")
                told = f"{group.label}: mean of {len(lines)} seeds"
                series.append(Series(label, mean, style, kind, titles=[told], spread=spread))
        title = f"{what} over training"
        said = title + "."
        if any(each.spread for each in series):
            said += " Thick: mean over seeds, with a band of one standard deviation. Thin: single seeds."
        picture = svg.chart(title, series, x="step", y=y, y_range=y_range)
        figures.append(_figure(picture, said, _legend(series)))
    return [element("div", *figures, class_="figures")]


def _time(groups: Sequence[Group]) -> list[Element]:
    timed = [group for group in groups if any(run.seconds_total is not None for run in group.runs)]
    known = [part for part in _PARTS if any(part in run.seconds for group in timed for run in group.runs)]
    rows: list[list[Element | str]] = []
    for group in timed:
        runs = [run for run in group.runs if run.seconds_total is not None]
        means = {part: statistics.mean(run.seconds.get(part, 0.0) for run in runs) for part in known}
        told = {part: f"{part}: {mean:,.1f} s" for part, mean in means.items() if any(part in r.seconds for r in runs)}
        title = f"Time of {group.name}: " + ", ".join(told.values())
        bar = svg.bar(title, [(text, means[part], _PARTS[part]) for part, text in told.items()])
        cells = (_over_seeds(runs, (run.seconds.get(part) for run in runs), tables.seconds) for part in known)
        total = _over_seeds(runs, (run.seconds_total for run in runs), tables.seconds)
        rows.append([_link(group), bar, total, *cells])
    if not rows:
        return [element("p", "No run has saved its times yet.")]
    note = (
        "In seconds; the parts do not overlap. Steps: dispatching steps and waiting for the device. Data: waiting for "
        "a batch, while the device may still be computing. Compiling: compiling any program. Cuts: measuring dead "
        "units, slicing arrays, checking the outputs, and waiting for a prepared prune. Evaluation: includes measuring "
        "dead units without pruning. Checkpoints: saving them."
    )
    if "unknown" in known:
        note += " Unknown: time that older versions of the program did not attribute."
    signs = svg.legend([(part, svg.color_sign(_PARTS[part])) for part in known])
    table = _table("Where time went", ["run", "", "total", *known], rows, numbers=range(2, 3 + len(known)))
    return [signs, table, element("p", note, class_="note")]


def _differences(groups: Sequence[Group]) -> list[Element]:
    told = [group for group in groups if group.config]
    configs = [group.config for group in told]
    fields = seeds.differing(configs)
    if sum(len(group.runs) for group in told) < 2:
        return [element("p", "Not known: no two of the runs have a config on record.")]
    if not fields:
        same = "Nothing: the runs have the same config"
        return [element("p", same + (", apart from the seed." if len(told[0].runs) > 1 else "."))]
    table: list[Sequence[Element | str]] = [["", *map(_link, told)]]
    for field in fields:
        each = [_value(config, field) for config in configs]
        usual = [2 * each.count(value) > len(each) for value in each]
        cells = [
            element("span", value, class_="faint" if like else "strong")
            for value, like in zip(each, usual, strict=True)
        ]
        table.append([_broken(field), *cells])
    if len(told) > _FEW:
        table = list(zip(*table, strict=True))
    headers, *rows = table
    return [_table("What differs between the configs", headers, rows)]


def _link(group: Group) -> Element:
    """Returns a link to the section of a run; for several seeds, the name of the group and a link per seed."""
    if len(group.runs) == 1:
        return element("a", group.label, href=f"#{_anchor(str(group.number))}")
    links: list[Element | str] = []
    for number, run in group.numbered:
        told = f"{number} {run.name}: test accuracy {_percent(run.test_accuracy)}, "
        told += f"weight sparsity {_percent(run.weight_sparsity)}"
        links += [" ", element("a", str(run.config["seed"]), href=f"#{_anchor(number)}", title=told)]
    return element("div", group.label, " ", element("span", "seeds", *links, class_="note"), class_="group")


def _broken(field: str) -> Element:
    """Returns the name of an option, with a possible line break after its section."""
    section, dot, name = field.rpartition(".")
    return element("span", section + dot, element("wbr"), name)


def _value(config: Mapping[str, Any], field: str) -> str:
    if field not in config:
        return _NONE  # The config is of a version without this option.
    value = config[field]
    return value if isinstance(value, str) and value else json.dumps(value)


# One run.


def _run(run: Recorded) -> list[Element]:
    found = [_facts(run)]
    if run.metrics:
        found.append(_history(run))
    if run.widths:
        found += [element("h3", "Live neurons of each layer over time"), _layers(run)]
    found.append(element("h3", "Cuts"))
    found.append(_cuts(run) if run.cuts else element("p", "None on record."))
    if run.widths:
        found += [
            element("h3", "The network that is left" if run.summary else "The network as it stands"),
            _network(run),
        ]
    return found


def _facts(run: Recorded) -> Element:
    summary = run.summary
    facts: dict[str, Element | str] = {"status": element("span", run.status, class_=run.status)}
    if run.config:
        taken = f"{run.step:,}" if summary else f"{run.step:,} of {run.config['steps']}"
        facts |= {"task": run.task, "method": run.method, "seed": str(run.config["seed"]), "steps": taken}
    if run.seconds_total is not None:
        facts["time"] = f"{run.seconds_total:,.1f} s" + ("" if summary else " until its checkpoint")
    if summary:
        facts["result"] = (
            f"test accuracy {_percent(run.test_accuracy)}; {summary['neurons']:,} of {summary['dense_neurons']:,} "
            f"neurons, {summary['parameters']:,} of {summary['dense_parameters']:,} parameters"
        )
        facts |= {"device": summary["device"], "command": _command(summary["command"])}
        versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
        facts |= {"commit": element("code", summary["commit"]), "versions": versions}
    elif run.log:
        facts["last line of its log"] = element("code", _printable(run.log))
    # The first facts are short, and are shown side by side.
    short = len(facts) if not summary else list(facts).index("result")
    rows = (
        element("div", element("dt", name), element("dd", fact), **({} if i < short else {"class": "wide"}))
        for i, (name, fact) in enumerate(facts.items())
    )
    return element("dl", *rows)


def _command(text: str) -> Element:
    """Returns a command without line breaks inside flags."""
    return element(
        "code", *(each for word in text.split(" ") for each in (element("span", word), " ")), class_="command"
    )


def _history(run: Recorded) -> Element:
    marks = _marks(run)
    accuracy = [
        Series("training batches", svg.thinned(_points(run.metrics, "train_accuracy")), 1),
        Series("test set", _points(run.metrics, "test_accuracy"), 0, "both"),
    ]
    left = [Series("neurons", _neurons(run), 0, "steps")]
    if run.dense_parameters:
        told = [(step, value / run.dense_parameters) for step, value in _points(run.metrics, "parameters")]
        # Metrics are logged before each prune, so the value of the next line holds from the step of this line on.
        weights = [*told[:1], *((before[0], after[1]) for before, after in itertools.pairwise(told)), *told[-1:]]
        left.append(Series("weights", svg.thinned(weights), 1, "steps"))
    figures = []
    titles = {
        "Accuracy over steps": (accuracy, "accuracy", None),
        "What is left over steps": (left, "left, of dense", (0.0, 1.0)),
    }
    for title, (series, y, y_range) in titles.items():
        series = [each for each in series if each.points]
        kinds = [(kind, svg.mark_sign(kind)) for kind in dict.fromkeys(mark.kind for mark in marks)]
        picture = svg.chart(f"{run.name}: {title}", series, x="step", y=y, marks=marks, y_range=y_range)
        signs = svg.legend([*((each.label, svg.sign(each)) for each in series), *kinds])
        figures.append(_figure(picture, title + ".", signs))
    return element("div", *figures, class_="figures")


def _neurons(run: Recorded) -> list[svg.Point]:
    """Returns the fraction of neurons left, by step."""
    dense = sum(run.dense_widths.values())
    return [(step, sum(widths.values()) / dense) for step, widths in run.history] if dense else []


def _layers(run: Recorded) -> Element:
    marks = _marks(run)
    dense = run.dense_widths
    panels = []
    for site, units in dense.items():
        kept = [(step, widths[site]) for step, widths in run.history]
        if run.dead:
            live = [(line["step"], line["width"][site] - line["dead"][site]) for line in run.dead]
        else:
            live = [(line["step"], line["active"][site]) for line in run.metrics if site in line.get("active", {})]
        title = f"{site}: {units} units at first, {run.widths[site]} in the end"
        picture = svg.small(title, kept, svg.thinned(live), units, run.step, marks)
        name = element("span", site, class_="site", title=site)
        panels.append(element("div", element("p", name, f" {units} → {run.widths[site]}"), picture))
    line = "alive on the death set" if run.dead else "active on the last batch before a line was logged"
    said = f"Area: units in the network. Line: units {line}. Below: prunes. The y axis is from 0 to the dense width."
    return element("figure", element("div", *panels, class_="panels"), element("figcaption", said))


def _marks(run: Recorded) -> list[Mark]:
    kinds = [(cut, outcome(cut)) for cut in run.cuts]
    return [Mark(cut["step"], kind, f"step {cut['step']:,}: {_happened(cut)}") for cut, kind in kinds if kind]


def _happened(cut: Mapping[str, Any]) -> str:
    if cut["refused"]:
        return f"refused: {cut['refused']}"
    if cut["removed"]:
        return f"{sum(cut['removed'].values()):,} units cut ({cut['why']})"
    return f"{cut['waiting']:,} units wait"


def _cuts(run: Recorded) -> Element:
    headers = ["step", "why", "units cut", "where", "neurons", "FLOPs saved", "waiting", "dead but kept", "refused"]
    headers += ["seconds", "of which"]
    rows = []
    for cut in run.cuts:
        neurons, flops, seconds = cut["neurons"], cut["flops"], cut["seconds"]
        why = cut["why"] + (f", since step {cut['since']:,}" if "since" in cut else "")
        where: Element | str = ", ".join(f"{site}\N{NO-BREAK SPACE}{units}" for site, units in cut["removed"].items())
        if len(cut["removed"]) > _FEW:
            where = element("details", element("summary", f"{len(cut['removed'])} sites"), where)
        waiting = f"{cut['waiting']:,}, which would save {_percent(cut['saves'])}" if cut["waiting"] else ""
        kept = [f"{sum(cut[kind].values()):,} {kind}" for kind in ("protected", "needed") if cut[kind]]
        kept += [f"spared: {', '.join(cut['spared'])}"] if cut["spared"] else []
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
        rows.append(
            [
                f"{cut['step']:,}",
                why,
                f"{sum(cut['removed'].values()):,}",
                where,
                f"{neurons[0]:,} → {neurons[1]:,}",
                _percent(1 - flops[1] / max(flops[0], 1)),
                waiting,
                "; ".join(kept),
                cut["refused"] or "",
                f"{sum(seconds.values()):.2f}",
                stages,
            ]
        )
    return _table(f"Cuts of {run.name}", headers, rows, numbers=(0, 2, 4, 5, 9))


def _network(run: Recorded) -> Element:
    dense, live = run.dense_widths, run.widths
    title = f"Widths of {run.name}: " + ", ".join(f"{site} {live[site]} of {dense[site]}" for site in dense)
    said = (
        "A bar for each site, from input to output. The outline is the dense width, drawn by its square root; the "
        "filled part is the fraction of units left."
    )
    return _figure(_scrolled(svg.network(title, dense, live), "The network"), said)


# Pieces.


def _figure(picture: Element, said: str, signs: Element | None = None) -> Element:
    return element("figure", signs, picture, element("figcaption", said))


def _legend(series: Sequence[Series]) -> Element:
    # For several seeds, the legend only shows the mean.
    series = [each for each in series if not each.faint]
    first = {each.label: each for each in reversed(series)}
    return svg.legend([(label, svg.sign(first[label])) for label in dict.fromkeys(each.label for each in series)])


def _table(
    name: str, headers: Sequence[Element | str], rows: Iterable[Sequence[Element | str]], numbers: Iterable[int] = ()
) -> Element:
    numbers = set(numbers)

    def cell(tag: str, i: int, content: Element | str, **more: str) -> Element:
        return element(tag, content, **({"class": "number"} if i in numbers else {}), **more)

    head = element("tr", *(cell("th", i, header, scope="col") for i, header in enumerate(headers)))
    body = (element("tr", *(cell("td", i, content) for i, content in enumerate(row))) for row in rows)
    table = element("table", element("thead", head), element("tbody", *body), aria_label=name)
    return _scrolled(table, name)


def _scrolled(content: Element, name: str) -> Element:
    return element("div", content, class_="scroll", role="region", aria_label=name, tabindex=0)


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[svg.Point]:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def _percent(part: float | None) -> str:
    return _NONE if part is None or math.isnan(part) else tables.percent([part])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


# The program.


def read(workdirs: Sequence[Path]) -> list[Recorded]:
    """Returns the runs of workdirs without duplicates. Names are folder names, with parents if needed to differ.

    Raises:
      UsageError: if a workdir holds no run.
    """
    found = list({folder.resolve(): folder for folder in workdirs})
    names = [folder.name for folder in found]
    if len(set(names)) < len(names):
        above = os.path.commonpath(found)
        names = [folder.relative_to(above).as_posix() for folder in found]
    return [reader.read(folder, name) for folder, name in zip(found, names, strict=True)]
