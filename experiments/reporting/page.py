# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The page about runs: what stands in it, section by section."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from experiments.core.errors import UsageError
from experiments.reporting import svg
from experiments.reporting.svg import Element, Mark, Series, element
from experiments.rundir import reader
from experiments.rundir.reader import Recorded

# What time is spent on, with its color.
_PARTS = {"steps": 0, "data": 1, "compiling": 2, "cuts": 3, "evaluation": 4, "checkpoints": 5, "other": 6, "unknown": 7}
_NONE = "\N{EN DASH}"
# More runs have a row instead of a column each where their configs are compared; more sites of a cut are folded away.
_FEW = 4
# A browser loads nothing for the page, and runs no script.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(runs: Sequence[Recorded]) -> str:
    """Returns the page about runs; one whose records cannot be shown is named."""
    whole, broken = [], []
    for run in runs:
        try:
            _sections([run])
        except Exception as error:  # Whatever edited or foreign records lead to.
            broken.append(f"{run.name} cannot be shown: its records are damaged ({type(error).__name__}: {error}).")
        else:
            whole.append(run)
    if not whole:
        raise UsageError(f"no run can be shown. {broken[0]}")
    notes = [*broken, *(each for run in whole for each in run.damage)]
    return _page(whole, notes)


def _sections(runs: Sequence[Recorded]) -> tuple[list[tuple[str, str, Any]], list[tuple[str, str, Any]]]:
    """Returns the sections about all runs, and those about each: an anchor, a title and the content."""
    sections = [("runs", "Runs", _overview(runs)), ("tradeoff", "Accuracy against sparsity", _tradeoff(runs))]
    if len(runs) > 1:
        sections.append(("training", "Training", _training(runs)))
    sections.append(("time", "Where time went", _time(runs)))
    if len(runs) > 1:
        sections.append(("configs", "What differs between the configs", _differences(runs)))
    each = [(_anchor(i), f"{i} {run.name}" if len(runs) > 1 else run.name, _run(run)) for i, run in _numbered(runs)]
    return sections, each


def _page(runs: Sequence[Recorded], notes: Sequence[str]) -> str:
    sections, each = _sections(runs)
    name = counted(runs) if len(runs) > 1 else runs[0].name
    counts = {status: sum(run.status == status for run in runs) for status in ("finished", "unfinished", "failed")}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    tasks = dict.fromkeys(_task(run) for run in runs if run.config)
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
    """Returns how many runs there are, in words."""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def _numbered(runs: Sequence[Recorded]) -> Iterable[tuple[int, Recorded]]:
    return enumerate(runs, 1)


def _anchor(number: int) -> str:
    return f"run-{number}"


def _entry(section: tuple[str, str, Any]) -> Element:
    return element("li", element("a", section[1], href=f"#{section[0]}", title=section[1]))


def _task(run: Recorded) -> str:
    return f"{run.config['model.name']} on {run.config['data.name']}"


# All runs.


def _overview(runs: Sequence[Recorded]) -> list[Element]:
    headers = ["run", "method", "status", "test accuracy", "neuron sparsity", "weight sparsity", "FLOPs"]
    headers += ["training FLOPs", "step", "cuts", "seconds"]
    rows: list[list[Element | str]] = []
    for i, run in _numbered(runs):
        status = run.status if run.summary else f"{run.status} at step {run.step:,}"
        rows.append(
            [
                _link(i, run),
                run.method,
                element("span", status, class_=run.status),
                _percent(run.test_accuracy),
                _percent(run.neuron_sparsity),
                _percent(run.weight_sparsity),
                *(_ratio(run.summary.get(f"{key}_ratio")) for key in ("inference_flops", "train_flops", "step_time")),
                str(sum(bool(cut["removed"]) for cut in run.cuts)),
                _NONE if run.seconds_total is None else f"{run.seconds_total:,.1f}",
            ]
        )
    note = (
        "Weight sparsity counts weights that were cut or are held at zero. FLOPs are those of a forward pass, training "
        "FLOPs are summed over the run, step is the time of a training step at the end of the run, all relative to "
        "plain dense training. Of a run that has not ended, accuracy and sparsity are the last on record, and seconds "
        "those until its newest checkpoint."
    )
    return [_table("Runs", headers, rows, numbers=range(3, 11)), element("p", note, class_="note")]


def _styles(runs: Sequence[Recorded]) -> list[tuple[str, int]]:
    """Returns a label and a style of each run: its own where there are few, else its method's."""
    keys = [run.name if len(runs) <= svg.COLORS else run.method for run in runs]
    known = list(dict.fromkeys(keys))
    return [(key, known.index(key)) for key in keys]


def _tradeoff(runs: Sequence[Recorded]) -> list[Element]:
    figures = []
    kinds = {"weight sparsity": lambda run: run.weight_sparsity, "neuron sparsity": lambda run: run.neuron_sparsity}
    for what, sparsity in kinds.items():
        series, missing = [], []
        for (i, run), (label, style) in zip(_numbered(runs), _styles(runs), strict=True):
            x, y = sparsity(run), run.test_accuracy
            if x is None or y is None:
                missing.append(str(i))
                continue
            told = f"{i} {run.name}: test accuracy {_percent(y)}, {what} {_percent(x)}"
            shown = {"labels": [str(i)], "links": [f"#{_anchor(i)}"], "titles": [told]}
            hollow = run.status != "finished"
            series.append(Series(label, [(x, y)], style, "markers", hollow, **shown))
        title = f"Test accuracy against {what}"
        picture = svg.chart(title, series, x=what, y="test accuracy", x_text=svg.percent, x_range=(0.0, 1.0))
        said = title + "; numbers are those of the table."
        if any(each.hollow for each in series):
            said += " Hollow: not finished."
        if missing:
            said += f" Not known of {', '.join(missing)}."
        figures.append(_figure(picture, said, _legend(series)))
    return [element("div", *figures, class_="figures")]


def _training(runs: Sequence[Recorded]) -> list[Element]:
    accuracy, neurons = [], []
    for (i, run), (label, style) in zip(_numbered(runs), _styles(runs), strict=True):
        titles = [f"{i} {run.name}"]
        accuracy.append(Series(label, _points(run.metrics, "test_accuracy"), style, titles=titles))
        neurons.append(Series(label, _neurons(run), style, "steps", titles=titles))
    pictures = {
        "Test accuracy over training": svg.chart("Test accuracy over training", accuracy, x="step", y="test accuracy"),
        "Neurons left over training": svg.chart(
            "Neurons left over training", neurons, x="step", y="neurons left", y_range=(0.0, 1.0)
        ),
    }
    known = [each for each in neurons if each.points]
    figures = (_figure(picture, title + ".", _legend(known)) for title, picture in pictures.items())
    return [element("div", *figures, class_="figures")]


def _time(runs: Sequence[Recorded]) -> list[Element]:
    known = [part for part in _PARTS if any(part in run.seconds for run in runs)]
    rows: list[list[Element | str]] = []
    for i, run in _numbered(runs):
        if run.seconds_total is None:
            continue
        seconds = {part: run.seconds[part] for part in known if part in run.seconds}
        parts = [(f"{part}: {value:,.1f} s", value, _PARTS[part]) for part, value in seconds.items()]
        title = f"Time of {run.name}: " + ", ".join(told for told, _, _ in parts)
        cells = (f"{seconds[part]:,.1f}" if part in seconds else _NONE for part in known)
        rows.append([_link(i, run), svg.bar(title, parts), f"{run.seconds_total:,.1f}", *cells])
    if not rows:
        return [element("p", "No run has saved its times yet.")]
    note = (
        "In seconds; every moment counts once. Steps: the loop gives the device work and waits for it. Data: it waits "
        "for a batch, while the device may still be at work. Compiling: whatever for. Cuts: measuring, slicing, "
        "proving, and waiting for what a thread prepares. Evaluation: also looks at who is dead. Checkpoints: saving "
        "them."
    )
    if "unknown" in known:
        note += " Unknown: an older version of the program did not tell it apart."
    signs = svg.legend([(part, svg.color_sign(_PARTS[part])) for part in known])
    table = _table("Where time went", ["run", "", "total", *known], rows, numbers=range(2, 3 + len(known)))
    return [signs, table, element("p", note, class_="note")]


def _differences(runs: Sequence[Recorded]) -> list[Element]:
    told = [(i, run) for i, run in _numbered(runs) if run.config]
    fields = dict.fromkeys(field for _, run in told for field in run.config)
    values = {field: [_value(run.config, field) for _, run in told] for field in fields}
    differ = {field: each for field, each in values.items() if len(set(each)) > 1}
    if len(told) < 2:
        return [element("p", "Not known: no two of the runs have a config on record.")]
    if not differ:
        return [element("p", "Nothing: the runs have the same config.")]
    table: list[Sequence[Element | str]] = [["", *(_link(i, run) for i, run in told)]]
    for field, each in differ.items():
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


def _link(number: int, run: Recorded) -> Element:
    return element("a", f"{number} {run.name}", href=f"#{_anchor(number)}")


def _broken(field: str) -> Element:
    """Returns the name of a field that may be broken between lines behind its section."""
    section, dot, name = field.rpartition(".")
    return element("span", section + dot, element("wbr"), name)


def _value(config: Mapping[str, Any], field: str) -> str:
    if field not in config:
        return _NONE  # The config is of a version that did not have it.
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
        facts |= {"task": _task(run), "method": run.method, "seed": str(run.config["seed"]), "steps": taken}
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
    # The first ones are short, and stand side by side.
    short = len(facts) if not summary else list(facts).index("result")
    rows = (
        element("div", element("dt", name), element("dd", fact), **({} if i < short else {"class": "wide"}))
        for i, (name, fact) in enumerate(facts.items())
    )
    return element("dl", *rows)


def _command(text: str) -> Element:
    """Returns a command whose flags are not broken between lines."""
    return element(
        "code", *(each for word in text.split(" ") for each in (element("span", word), " ")), class_="command"
    )


def _history(run: Recorded) -> Element:
    marks = _marks(run)
    accuracy = [
        Series("train (augmented)", svg.thinned(_points(run.metrics, "train_accuracy")), 1),
        Series("test", _points(run.metrics, "test_accuracy"), 0, "both"),
    ]
    left = [Series("neurons", _neurons(run), 0, "steps")]
    if run.dense_parameters:
        told = [(step, value / run.dense_parameters) for step, value in _points(run.metrics, "parameters")]
        # A line is written before each cut: what the next one tells is so from then on.
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
    """Returns which part of the neurons is left, by step."""
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
            live = [(line["step"], line["active"][site]) for line in run.metrics if "active" in line]
        title = f"{site}: {units} units at first, {run.widths[site]} in the end"
        picture = svg.small(title, kept, svg.thinned(live), units, run.step, marks)
        name = element("span", site, class_="site", title=site)
        panels.append(element("div", element("p", name, f" {units} → {run.widths[site]}"), picture))
    line = "alive on the death set" if run.dead else "active on the last batch before a line was logged"
    said = f"Area: units that are in the network. Line: those {line}. Below: cuts. Each from 0 to the dense width."
    return element("figure", element("div", *panels, class_="panels"), element("figcaption", said))


def _marks(run: Recorded) -> list[Mark]:
    kinds = [(cut, _kind(cut)) for cut in run.cuts]
    return [Mark(cut["step"], kind, f"step {cut['step']:,}: {_happened(cut)}") for cut, kind in kinds if kind]


def _kind(cut: Mapping[str, Any]) -> str:
    """Returns what came of a cut: it was refused, made or waits; "" where there was nothing to cut."""
    if cut["refused"]:
        return "refused"
    return "cut" if cut["removed"] else "waiting" if cut["waiting"] else ""


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
        "From input to output, a bar for each site: the outline is the dense width (its height is the square root), "
        "the filled part is what is left."
    )
    return _figure(_scrolled(svg.network(title, dense, live), "The network"), said)


# Pieces.


def _figure(picture: Element, said: str, signs: Element | None = None) -> Element:
    return element("figure", signs, picture, element("figcaption", said))


def _legend(series: Sequence[Series]) -> Element:
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
    return _NONE if part is None or math.isnan(part) else f"{100 * part:.1f}%"


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"x {value:.2f}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


# The program.


def read(workdirs: Sequence[Path]) -> list[Recorded]:
    """Returns the runs of workdirs, each once, named by their folders as far as is needed to tell them apart.

    Raises:
      UsageError: when one of them holds no run.
    """
    found = list({folder.resolve(): folder for folder in workdirs})
    names = [folder.name for folder in found]
    if len(set(names)) < len(names):
        above = os.path.commonpath(found)
        names = [folder.relative_to(above).as_posix() for folder in found]
    return [reader.read(folder, name) for folder, name in zip(found, names, strict=True)]
