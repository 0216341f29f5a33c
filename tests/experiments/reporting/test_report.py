"""The page about runs: its numbers are those of the records, whatever the runs came to, and a browser shows it."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments import report
from experiments.core.errors import UsageError
from experiments.reporting import curves, svg
from experiments.reporting import seeds as seeds_lib
from experiments.rundir import reader
from experiments.training.loop import train_and_evaluate
from tests.runs import lines, short_config

ROOT = Path(__file__).resolve().parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
VOID = {"meta", "wbr"}
NAME = "demp <b>&amp; 'x'"
LOG = "ValueError: no <script>alert(1)</script> & no 'quotes'"


class Page(HTMLParser):
    """What a page holds: elements with their texts, and tables by their labels."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.tables = [], {}
        self._open = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(self.elements[-1])
        if tag == "table":
            self.tables[dict(attrs)["aria-label"]] = []
        rows = next(reversed(self.tables.values()), None)
        if tag == "tr":
            rows.append([])
        elif tag in ("th", "td"):
            rows[-1].append(self.elements[-1][2])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def table(self, label):
        """Returns the rows of a table, each by its headers."""
        header, *rows = ([" ".join("".join(cell).split()) for cell in row] for row in self.tables[label])
        return [dict(zip(header, row, strict=True)) for row in rows]

    def texts(self, tag, **attributes):
        """Returns the texts of the elements of a kind."""
        wanted = attributes.items()
        return ["".join(texts) for name, found, texts in self.elements if name == tag and wanted <= found.items()]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Runs of every kind: three that ended, one that was stopped, three that failed or have only begun."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        NAME: {"optimizer.learning_rate": 0.3, "pruning.cut_cost": "2", "pruning.every": "8", "watch.every": "10"},
        "dense": {"method.name": "dense", "log_every": "10"},
        "masked": {"method.name": "static"},
    }
    for name, changes in kinds.items():
        train_and_evaluate(short_config(**changes), folder / name)
    stopped = folder / "stopped"
    shutil.copytree(folder / NAME, stopped)
    (stopped / "summary.json").unlink()
    shutil.rmtree(stopped / "checkpoints" / "30")
    for name in ("metrics", "cuts", "dead"):
        kept = [line for line in lines(stopped / f"{name}.jsonl") if line["step"] <= 25]
        if name == "cuts":
            kept.append({**kept[-1], "removed": {}, "refused": "outputs differ & <more>", "waiting": 0})
        (stopped / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept) + '{"step": 26, "lo')
    for name, log in (("broken", LOG), ("begun", None)):
        (folder / name).mkdir()
        shutil.copy(folder / "dense" / "config.json", folder / name)
        if log:
            (folder / name / "log.txt").write_text(f"step 3\n{log}\n")
    (folder / "failed").mkdir()
    (folder / "failed" / "log.txt").write_text("error: config.method.name must be one of ...\x1b[0m\n")
    return [folder / name for name in (*kinds, "stopped", "broken", "begun", "failed")]


@pytest.fixture(scope="module")
def page(workdirs):
    return Page(report.page(report.read(workdirs)))


def _summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def test_the_table_of_runs_has_the_numbers_of_their_summaries(workdirs, page):
    rows = page.table("Runs")
    assert [row["run"] for row in rows] == [f"{i} {folder.name}" for i, folder in enumerate(workdirs, 1)]
    for row, workdir in zip(rows[:3], workdirs, strict=False):
        summary = _summary(workdir)
        assert row["status"] == "finished"
        assert row["method"] == summary["method"]
        assert row["test accuracy"] == f"{100 * summary['test_accuracy']:.1f}%"
        assert row["neuron sparsity"] == f"{100 * summary['neuron_sparsity']:.1f}%"
        assert row["weight sparsity"] == f"{100 * summary['weight_sparsity']:.1f}%"
        assert row["FLOPs"] == f"x {summary['inference_flops_ratio']:.2f}"
        assert row["training FLOPs"] == f"x {summary['train_flops_ratio']:.2f}"
        assert row["step"] == f"x {summary['step_time_ratio']:.2f}"
        assert row["cuts"] == str(summary["cuts"])
        assert float(row["seconds"]) == pytest.approx(summary["seconds_total"], abs=0.051)
    last = [line for line in lines(workdirs[0] / "metrics.jsonl") if line["step"] <= 25]
    stopped = rows[3]
    assert stopped["status"] == "unfinished at step 25"
    assert stopped["test accuracy"] == f"{100 * [m for m in last if 'test_accuracy' in m][-1]['test_accuracy']:.1f}%"
    left = [m for m in last if "neurons" in m][-1]
    assert stopped["neuron sparsity"] == f"{100 - 100 * left['neurons'] / 40:.1f}%"
    assert (
        stopped["weight sparsity"]
        == f"{100 - 100 * left['parameters'] / _summary(workdirs[0])['dense_parameters']:.1f}%"
    )
    assert [row["status"] for row in rows[4:]] == ["failed at step 0", "unfinished at step 0", "failed at step 0"]
    assert rows[-1]["test accuracy"] == rows[-1]["seconds"] == "\N{EN DASH}"


def test_what_was_run_is_told(workdirs, page):
    sections = [text for tag, found, texts in page.elements if found.get("class") == "run" for text in ["".join(texts)]]
    assert len(sections) == len(workdirs)
    for workdir, text in zip(workdirs[:3], sections, strict=False):
        summary = _summary(workdir)
        for fact in (summary["command"], summary["commit"], summary["device"], f"jax {summary['versions']['jax']}"):
            assert fact in text
    assert LOG in sections[4]
    assert "None on record." in sections[1]


def test_points_lie_where_accuracy_and_sparsity_say(workdirs, page):
    shown = {
        "weight_sparsity": "Test accuracy against weight sparsity",
        "neuron_sparsity": "Test accuracy against neuron sparsity",
    }
    for key, label in shown.items():
        start = next(i for i, (_, found, _) in enumerate(page.elements) if found.get("aria-label") == label)
        places = []
        for tag, found, _ in page.elements[start + 1 :]:
            if tag == "svg" and found["class"] != "sign":
                break
            if "transform" in found:
                places.append([float(n) for n in re.findall(r"[\d.]+", found["transform"])])
        summaries = [_summary(workdir) for workdir in workdirs[:3]]
        at = np.array(places)[:3]
        for axis, values in enumerate(([s[key] for s in summaries], [s["test_accuracy"] for s in summaries])):
            assert np.ptp(values) > 0
            slope, offset = np.polyfit(values, at[:, axis], 1)
            np.testing.assert_allclose(slope * np.array(values) + offset, at[:, axis], atol=0.11)
            assert slope > 0 if axis == 0 else slope < 0
        assert (at[:, 0] > 0).all()


def test_the_table_of_cuts_has_the_records(workdirs, page):
    for workdir in (workdirs[0], workdirs[3]):
        rows, cuts = page.table(f"Cuts of {workdir.name}"), reader.read_lines(workdir / "cuts.jsonl")
        assert len(rows) == len(cuts) > 2
        for row, cut in zip(rows, cuts, strict=True):
            assert row["step"] == str(cut["step"])
            assert row["why"].startswith(cut["why"])
            assert row["units cut"] == str(sum(cut["removed"].values()))
            assert row["where"] == ", ".join(f"{site} {units}" for site, units in cut["removed"].items())
            assert row["neurons"] == "{} → {}".format(*cut["neurons"])
            assert row["FLOPs saved"] == f"{100 - 100 * cut['flops'][1] / cut['flops'][0]:.1f}%"
            assert row["waiting"].startswith(str(cut["waiting"] or ""))
            assert row["refused"] == (cut["refused"] or "")
            assert float(row["seconds"]) == pytest.approx(sum(cut["seconds"].values()), abs=0.0051)
    waits = [cut for cut in lines(workdirs[0] / "cuts.jsonl") if cut["waiting"]]
    assert waits
    titles = page.texts("title")
    for cut in waits:
        assert f"step {cut['step']}: {cut['waiting']} units wait" in titles
    assert any(title.endswith("refused: outputs differ & <more>") for title in titles)


def test_the_picture_of_the_network(workdirs, page):
    summary = _summary(workdirs[0])
    groups = [i for i, (tag, _, texts) in enumerate(page.elements) if tag == "g" and "units are left" in "".join(texts)]
    for start, (site, width), dense in zip(groups[:2], summary["widths"].items(), (24, 16), strict=True):
        told, outline, filled = (page.elements[start + i] for i in (1, 2, 3))
        assert "".join(told[2]) == f"{site}: {width} of {dense} units are left"
        assert float(filled[1]["height"]) == pytest.approx(float(outline[1]["height"]) * width / dense, abs=0.1)
        assert float(filled[1]["y"]) + float(filled[1]["height"]) == pytest.approx(
            float(outline[1]["y"]) + float(outline[1]["height"]), abs=0.11
        )


def test_layers_over_time(workdirs, page):
    """The area steps down where a cut says, the line ends with who was alive when last looked at."""
    cuts, looks = (lines(workdirs[0] / f"{name}.jsonl") for name in ("cuts", "dead"))
    panels = [i for i, (_, found, _) in enumerate(page.elements) if found.get("class") == "small"]
    for start, site, dense in zip(panels, ("norm/0", "norm/1"), (24, 16), strict=False):
        area, line = (
            next(f["d"] for _, f, _ in page.elements[start:] if f.get("class") == c) for c in ("area", "line live")
        )
        steps = [tuple(map(float, at)) for at in re.findall(r"H([\d.]+)V([\d.]+)", area)]
        left, expected = dense, []
        for cut in cuts:
            left -= cut["removed"].get(site, 0)
            expected.append((160 * cut["step"] / 30, 50 - 48 * left / dense))
        np.testing.assert_allclose(steps[: len(cuts)], expected, atol=0.051)
        assert left < dense
        alive = looks[-1]["width"][site] - looks[-1]["dead"][site]
        assert float(line.split()[-1]) == pytest.approx(50 - 48 * alive / dense, abs=0.051)


def test_widths_are_known_at_any_moment_of_a_run(workdirs):
    """Dense widths and present ones, from whatever part of its lines a run has written."""
    run = reader.read(workdirs[0], "run")
    assert run.history[0][1] == {"norm/0": 24, "norm/1": 16}
    assert run.widths == run.summary["widths"]
    assert sum(run.dense_widths.values()) == run.summary["dense_neurons"]
    told = [i for i, line in enumerate(run.metrics) if "width" in line]
    for i in told:
        step = run.metrics[i]["step"]
        for cuts in ([c for c in run.cuts if c["step"] < step], [c for c in run.cuts if c["step"] <= step]):
            now = dataclasses.replace(run, summary={}, metrics=run.metrics[: i + 1], cuts=cuts)
            if cuts and cuts[-1]["neurons"][1] > run.metrics[i]["neurons"]:
                continue  # The line is from after a cut that is written later.
            assert now.dense_widths == run.dense_widths
            assert sum(now.widths.values()) == (cuts[-1]["neurons"][1] if cuts else 40)


def test_the_time_of_a_run_is_told_apart(workdirs, page):
    rows = page.table("Where time went")
    names = [row["run"].partition(" ")[2] for row in rows]
    assert names == [workdir.name for workdir in workdirs[:4]]
    for row, workdir in zip(rows, workdirs, strict=False):
        run = reader.read(workdir, "run")
        seconds = {
            part: float(row[part]) for part in ("steps", "data", "compiling", "cuts", "evaluation", "checkpoints")
        }
        if run.summary:
            for part, value in seconds.items():
                assert value == pytest.approx(run.summary[f"seconds_{part}"], abs=0.051)
        assert sum(run.seconds.values()) <= run.seconds_total + 0.05
        assert seconds["compiling"] > 0
        assert "unknown" not in row
    older = {"seconds_total": 10.0, "seconds_compiling": 4.0}
    assert dataclasses.replace(run, summary={}, counters=older).seconds == {"compiling": 4.0, "unknown": 6.0}


def test_only_fields_that_differ_are_compared(workdirs, page):
    rows = page.table("What differs between the configs")
    told = [workdir for workdir in workdirs if (workdir / "config.json").exists()]
    configs = [json.loads((workdir / "config.json").read_text()) for workdir in told]
    differ = {
        f"{section}.{key}"
        for section, fields in configs[0].items()
        if isinstance(fields, dict)
        for key in fields
        if len({str(config[section][key]) for config in configs}) > 1
    }
    differ |= {
        key for key in configs[0] if not isinstance(configs[0][key], dict) and len({c[key] for c in configs}) > 1
    }
    assert set(rows[0]) == {"", *differ}
    assert [row["method.name"] for row in rows] == [config["method"]["name"] for config in configs]
    rates = [json.dumps(config["optimizer"]["learning_rate"]) for config in configs]
    assert [row["optimizer.learning_rate"] for row in rows] == rates
    few = Page(report.page(report.read([workdirs[0], workdirs[1]]))).table("What differs between the configs")
    assert {row[""]: (row[f"1 {NAME}"], row["2 dense"]) for row in few}["method.name"] == ("demp", "dense")
    same = Page(report.page(report.read([workdirs[1], workdirs[5]])))
    assert "Nothing: the runs have the same config." in same.texts("p")
    alone = Page(report.page(report.read([workdirs[1], workdirs[6]])))
    assert "Not known: no two of the runs have a config on record." in alone.texts("p")


@pytest.mark.parametrize("content", ["[]", '{"hidden_size": 768}'])
def test_a_config_of_another_program_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"holds no run, or a damaged one \(.*\). Leave it out."):
        report.read([tmp_path])


# A line that is inserted behind the first, or the new content of the file.
DAMAGED_LINES = {
    "metrics.jsonl": [
        b"{",
        b"[1]",
        b'{"loss": 1}',
        b'{"step": "x"}',
        b"\xff",
        b'{"step": 6, "test_accuracy": "high"}',
    ],
    "cuts.jsonl": [
        b"null",
        b'{"step": 3}',
        b'{"step": 3, "removed": 1, "neurons": 2, "parameters": 3, "flops": 4}',
    ],
    "dead.jsonl": [b'{"step": 3, "dead": 1, "width": 2}', b'{"step": 3, "dead": {}, "width": {}}'],
}
DAMAGED_FILES = {
    "metrics.jsonl": [b""],
    "cuts.jsonl": [b""],
    "config.json": [b"[]", b"{", b"", b"\xff", b'{"seed": 1}'],
    "summary.json": [b"[]", b'{"steps": 3}', b"{", b"", b'{"method": "demp", "dataset": "dig', b'{"device": "\xff"}'],
}
DAMAGE = [(file, text, True) for file, texts in DAMAGED_LINES.items() for text in texts]
DAMAGE += [(file, text, False) for file, texts in DAMAGED_FILES.items() for text in texts]


@pytest.mark.parametrize(("file", "text", "inserted"), DAMAGE)
def test_a_damaged_run_is_shown_with_what_can_be_read(file, text, inserted, workdirs, tmp_path):
    shutil.copytree(workdirs[0], tmp_path / "damaged")
    path = tmp_path / "damaged" / file
    if inserted:
        first, *others = path.read_bytes().splitlines(keepends=True)
        text = b"".join([first, text + b"\n", *others])
    path.write_bytes(text)
    shown = Page(report.page(report.read([workdirs[1], tmp_path / "damaged"])))
    [note] = shown.texts("p", **{"class": "damage"})
    assert file in note
    assert "damaged" in note
    summary, row = _summary(workdirs[0]), shown.table("Runs")[1]
    assert row["status"].startswith("unfinished" if file == "summary.json" else "finished")
    assert row["test accuracy"] == f"{100 * summary['test_accuracy']:.1f}%"
    assert row["weight sparsity"] == f"{100 * summary['weight_sparsity']:.1f}%"
    assert row["method"] == ("unknown" if file == "config.json" else "demp")


def test_files_of_a_damaged_run_that_are_none(workdirs, tmp_path):
    shutil.copytree(workdirs[0], tmp_path / "damaged")
    (tmp_path / "damaged" / "dead.jsonl").unlink()
    (tmp_path / "damaged" / "dead.jsonl").mkdir()
    for metadata in (tmp_path / "damaged" / "checkpoints").glob("*/meta/metadata"):
        metadata.write_text('{"counters": [1]}')
    run = reader.read(tmp_path / "damaged", "run")
    assert not run.counters
    [damage] = run.damage
    assert damage == f"{tmp_path / 'damaged' / 'dead.jsonl'} cannot be read (Is a directory)"


@pytest.fixture
def seeds(workdirs, tmp_path):
    """A run with three seeds, whose accuracies and sizes differ."""
    folders = []
    for seed in range(3):
        folders.append(tmp_path / f"seed{seed}")
        shutil.copytree(workdirs[0], folders[-1], ignore=shutil.ignore_patterns("checkpoints"))
        config = json.loads((folders[-1] / "config.json").read_text())
        (folders[-1] / "config.json").write_text(json.dumps({**config, "seed": seed}))
        changes = {"seed": seed, "weight_sparsity": 0.5 + 0.1 * seed**2, "seconds_total": 20.0 + seed}
        (folders[-1] / "summary.json").write_text(json.dumps({**_summary(folders[-1]), **changes}))
        told = lines(folders[-1] / "metrics.jsonl")
        for line in told:
            if "test_accuracy" in line:
                line["test_accuracy"] = 0.5 + 0.1 * seed
        (folders[-1] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return folders


def test_runs_that_differ_in_the_seed_alone_are_one_row_and_one_line(seeds, workdirs):
    page = Page(report.page(report.read([*seeds, workdirs[1]])))
    first, second = page.table("Runs")
    assert (first["run"], first["seeds"], second["run"], second["seeds"]) == ("1 demp seeds 0 1 2", "3", "2 dense", "1")
    sparsities = np.array([0.5, 0.6, 0.9])
    assert first["test accuracy"] == "60.0% ± 10.0"
    assert first["weight sparsity"] == f"{100 * sparsities.mean():.1f}% ± {100 * sparsities.std(ddof=1):.1f}"
    assert first["seconds"] == "21.0 ± 1.0"
    assert page.table("Where time went")[0]["total"] == "21.0 ± 1.0"
    shown = [found.get("title") for _, found, _ in page.elements]
    assert "seed 0: 50.0%, seed 1: 60.0%, seed 2: 90.0%" in shown
    ids = [found.get("id") for _, found, _ in page.elements]
    titles = page.texts("title")
    for i, folder in enumerate(seeds):
        assert f"run-1.{i + 1}" in ids
        told = f"1.{i + 1} {folder.name}: test accuracy {50 + 10 * i:.1f}%, weight sparsity {100 * sparsities[i]:.1f}%"
        assert told in shown  # In the table.
        assert told in titles  # In the chart.
        assert titles.count(f"1.{i + 1} {folder.name}") == 2
    mean = f"1 demp, 3 seeds: test accuracy 60.0% ± 10.0, weight sparsity {first['weight sparsity']}"
    assert mean in titles
    assert titles.count("1 demp: mean of 3 seeds") == 2
    [row] = [row for row in page.table("What differs between the configs") if row[""] == "method.name"]
    assert list(row.values()) == ["method.name", "demp", "dense"]
    alone = Page(report.page(report.read(seeds)))
    assert "Nothing: the runs have the same config, apart from the seed." in alone.texts("p")


def test_a_value_that_not_all_seeds_have_says_of_how_many_it_is(seeds):
    summary = _summary(seeds[2])
    (seeds[2] / "summary.json").write_text(json.dumps({**summary, "step_time_ratio": None}))
    [row] = Page(report.page(report.read(seeds))).table("Runs")
    assert row["step"].endswith("± 0.00 (n = 2)")


def test_which_runs_are_seeds_of_one_config(seeds):
    one, two, three = (reader.read(folder, folder.name) for folder in seeds)
    group = lambda *runs: [(each.name, len(each.runs)) for each in seeds_lib.grouped(runs)]  # noqa: E731
    assert group(one, two, three) == [("demp", 3)]
    assert group(one, dataclasses.replace(one, name="again"), two) == [("demp", 2), ("again", 1)]
    assert group(one, dataclasses.replace(two, summary={}), three) == [("demp", 2), ("seed1", 1)]
    stronger = [dataclasses.replace(run, config={**run.config, "method.strength": 0.7}) for run in (one, two)]
    assert group(one, two, *stronger) == [("demp, method.strength 0.3", 2), ("demp, method.strength 0.7", 2)]
    unknown = [dataclasses.replace(run, config={}) for run in (one, two)]
    assert group(*unknown) == [("seed0", 1), ("seed1", 1)]


def test_means_over_seeds_against_numpy():
    mean, spread = seeds_lib.averaged([[(0, 1.0), (5, 2.0), (9, 4.0)], [(0, 3.0), (9, 1.0)]])
    assert mean == [(0, 2.0), (9, 2.5)]
    np.testing.assert_allclose(spread, [(0, np.std([1, 3], ddof=1)), (0, np.std([4, 1], ddof=1))])
    mean, spread = seeds_lib.averaged([[(0, 1.0), (5, 0.5), (9, 0.5)], [(0, 1.0), (7, 0.1), (9, 0.1)]], steps=True)
    np.testing.assert_allclose(mean, [(0, 1.0), (5, 0.75), (7, 0.3), (9, 0.3)])
    np.testing.assert_allclose(
        [y for _, y in spread],
        [np.std(v, ddof=1) for v in ([1, 1], [0.5, 1], [0.5, 0.1])] + [np.std([0.5, 0.1], ddof=1)],
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: figures.append(figure))
    return figures


def _legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def _has_percent(axes):
    return axes.yaxis.get_major_formatter()(0.5, 0).startswith("50") and "%" in axes.yaxis.get_major_formatter()(0.5, 0)


def test_curves_name_the_run_and_every_kind_of_line(workdirs, drawn):
    run = reader.read(workdirs[0], "run")
    curves.curves(run, Path())
    [figure] = drawn
    assert figure.get_suptitle() == "demp: mlp on digits, seed 0"
    accuracy, units, schedules, _ = figure.axes
    assert {reader.outcome(cut) for cut in run.cuts} == {"cut", "waiting"}
    assert _legend_of(accuracy)[:2] == ["training batches", "test set"]
    assert set(_legend_of(accuracy)[2:]) == {"prune", "prune delayed"}
    assert _has_percent(accuracy)
    assert _legend_of(units) == ["in the network", "active on the last batch", "norm/0", "norm/1"]
    assert _legend_of(schedules) == ["strength", "noise"]
    [first] = [line for line in units.lines if line.get_label() == "norm/0"]
    assert first.get_drawstyle() == "steps-post"
    assert list(first.get_ydata()) == [widths["norm/0"] for _, widths in run.history]
    curves.curves(reader.read(workdirs[1], "dense"), Path())
    assert len(drawn[1].axes) == 2  # It has no schedules.
    curves.curves(dataclasses.replace(run, metrics=[], cuts=[], summary={}), Path())


def test_of_many_sites_the_first_and_the_last_are_in_the_legend(workdirs, drawn):
    run = reader.read(workdirs[1], "run")
    widths = {f"site{i}": 8 for i in range(30)}
    curves.curves(dataclasses.replace(run, summary={}, metrics=[{"step": 5, "width": widths}]), Path())
    assert _legend_of(drawn[0].axes[1])[2:] == ["site0", "site29"]


def test_a_comparison_names_the_task_and_its_methods(workdirs, drawn):
    runs = [reader.read(workdirs[1], "dense"), reader.read(workdirs[0], "demp")]
    curves.comparison(runs, Path())
    [figure] = drawn
    assert figure.get_suptitle() == "dense and demp: mlp on digits, seed 0"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "demp"]
    assert all(map(_has_percent, figure.axes))
    accuracy, units, bars = figure.axes
    assert [line.get_drawstyle() for line in units.lines] == ["steps-post"] * 2
    assert units.lines[1].get_ydata()[-1] == pytest.approx(1 - runs[1].summary["neuron_sparsity"])
    colors = [line.get_color() for line in figure.legends[0].get_lines()]
    assert colors == [line.get_color() for line in accuracy.lines]
    assert [to_hex(each.patches[0].get_facecolor()) for each in bars.containers] == [to_hex(c) for c in colors]


def test_the_line_of_a_log_that_says_why(tmp_path):
    """JAX says behind the message that it left frames out."""
    program = "import jax\njax.jit(lambda x: x + jax.numpy.ones(3))(jax.numpy.ones(2))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "For simplicity" in done.stderr
    (tmp_path / "log.txt").write_text(done.stderr)
    run = reader.read(tmp_path, "run")
    assert run.log.startswith("TypeError: add got incompatible shapes")
    assert run.status == "failed"


def test_the_page_stands_alone_and_everything_is_escaped(workdirs, page):
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "b"}
    for _, found, _ in page.elements:
        assert not {"src", "srcset", "style", "xlink:href"} & set(found)
        assert found.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import", "".join(page.texts("style")))
    assert page.texts("h2")[-len(workdirs)] == f"1 {NAME}"
    assert "\x1b" not in "".join(page.texts("html"))
    ids = [found["id"] for _, found, _ in page.elements if "id" in found]
    assert len(set(ids)) == len(ids)
    assert {found["href"][1:] for tag, found, _ in page.elements if tag == "a"} <= set(ids)
    for tag, found, _ in page.elements:
        if tag == "svg" and found["class"] != "sign":
            assert found["role"] == "img"
            assert found["aria-label"]


def test_each_run_alone_and_many_together(workdirs, tmp_path):
    for workdir in workdirs:
        alone = Page(report.page(report.read([workdir, workdir])))
        assert alone.texts("h1") == [workdir.name]
        assert "What differs between the configs" not in alone.tables
    folders = []
    for i in range(24):
        folders.append(tmp_path / str(i % 3) / f"run{i // 3}")
        shutil.copytree(workdirs[i % len(workdirs)], folders[-1], ignore=shutil.ignore_patterns("checkpoints"))
    page = Page(report.page(report.read(folders)))
    assert page.texts("h1") == ["24 runs"]
    assert [row["run"] for row in page.table("Runs")] == [f"{i + 1} {i % 3}/run{i // 3}" for i in range(24)]
    entries = [found["href"] for tag, found, _ in page.elements if tag == "a" and "title" in found]
    assert entries[-24:] == [f"#run-{i}" for i in range(1, 25)]
    assert len(page.elements) > 24 * 20


def test_a_folder_without_a_run_is_one_line(tmp_path, workdirs):
    for wrong in (tmp_path, tmp_path / "nowhere", workdirs[0] / "curves.png"):
        with pytest.raises(UsageError, match=r"^WORKDIR must be a run directory .*; \S.* (has no config|is no folder)"):
            report.main([str(workdirs[0]), str(wrong), f"--out={tmp_path / 'report.html'}"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="--out=.* must be a file that can be written"):
        report.main([str(workdirs[-1]), f"--out={tmp_path / 'nowhere' / 'report.html'}"])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="holds no run, or a damaged one .*Leave it out"):
        report.main([str(tmp_path)])


def test_the_same_records_give_the_same_page(workdirs, tmp_path):
    out = tmp_path / "report.html"
    command = [sys.executable, "-m", "experiments.report", *map(str, workdirs), f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{out}: {len(workdirs)} runs\n"
    assert out.read_text() == report.page(report.read(workdirs))
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch("error: WORKDIR must be .*\n", done.stderr)


def test_lines_of_many_points_are_thinned():
    points = [(float(i), float(i % 7)) for i in range(1001)]
    thin = svg.thinned(points)
    assert len(thin) <= 151
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert set(thin) <= set(points)
    assert svg.thinned(points[:3]) == points[:3]
    assert svg.thinned([]) == []


# Measures what is drawn; the page itself allows no script.
MEASURE = """<script>
for (const each of document.querySelectorAll("svg")) {
  const box = each.getBoundingClientRect();
  each.setAttribute("data-size", box.width + " " + box.height);
}
document.body.setAttribute("data-width", document.documentElement.scrollWidth + " " + window.innerWidth);
</script></body>"""


def _browse(path, *flags):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: no chromium, google-chrome or chrome on PATH")
def test_a_browser_shows_it(workdirs, tmp_path):
    """Without an error on its console, with figures of some size, and no wider than its window."""
    html = report.page(report.read(workdirs))
    path = tmp_path / "report.html"
    path.write_text(html)
    shown = tmp_path / "shown.png"
    _browse(path, f"--screenshot={shown}", "--window-size=1400,1000")
    assert shown.read_bytes().startswith(b"\x89PNG")
    measured = tmp_path / "measured.html"
    policy = re.search("<meta [^>]*Content-Security-Policy[^>]*>", html)[0]
    measured.write_text(html.replace(policy, "").replace("</body>", MEASURE))
    for width in (1400, 520):
        page = Page(_browse(measured, "--dump-dom", f"--window-size={width},900"))
        sizes = [
            [float(n) for n in found["data-size"].split()]
            for tag, found, _ in page.elements
            if tag == "svg" and found["class"] != "sign"
        ]
        assert len(sizes) > 20
        assert min(min(size) for size in sizes) > 10
        assert max(size[0] for size in sizes) < width
        [[wide, window]] = [map(int, f["data-width"].split()) for tag, f, _ in page.elements if tag == "body"]
        assert wide <= window <= width
