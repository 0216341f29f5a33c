"""Figures of the paper: the walks by formula, sets and means by hand, sweeps that reuse, go on and list failures."""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import special

from experiments import command, keys, methods, optimizers, problem, reproduce, sweep, workdir
from experiments.figures import FIGURES, deaths, mnist_noise, tradeoffs, walks
from experiments.figures.figure import SCALES, Mean, Point, at, averaged
from experiments.sweep import Run
from tests import image_files
from tests.runs import SHORT, needs_tfds

ROOT = Path(__file__).resolve().parent.parent


def test_survival_is_that_of_brownian_motion():
    """P(w_t > 0) = erf(w0 / sqrt(2 eta t)), at few steps, too: crossings between steps count."""
    for eta, w0, steps in ((0.05, 1.0, 200), (0.2, 0.5, 20)):
        parts = walks.survival(jax.random.key(0), eta, w0=w0, time=10.0, walkers=20_000, steps=steps)
        times = np.linspace(0, 10, steps + 1)[1:]
        np.testing.assert_allclose(parts[1:], special.erf(w0 / np.sqrt(2 * eta * times)), atol=0.015)


def test_growth_and_its_bound():
    """The exponent by its definition, on drawn noise; the bound of equation (15) lies above it."""
    signs = np.random.default_rng(0).choice((-1.0, 1.0), 200_000)
    for eta in (0.05, 0.3):
        drawn = np.log1p(-eta * (-0.02 + signs)).mean()
        assert walks.growth(np.array(eta)) == pytest.approx(drawn, abs=0.002)
        assert walks.growth(np.array(eta)) <= walks.bound(np.array(eta))


def test_overlap_of_sets():
    pack = lambda *units: np.packbits(np.isin(np.arange(10), units)).tobytes().hex()  # noqa: E731
    one, other = {"a": pack(1, 2), "b": pack(0)}, {"a": pack(2, 3), "b": pack(0, 4)}
    assert deaths.overlap(one, other) == pytest.approx(2 / 3)
    assert np.isnan(deaths.overlap(one, {"a": pack(), "b": pack()}))


def test_means_and_gaps():
    points = [Point(0, "ours", 1.0, seed, 80.0 + seed, 90.0 + seed) for seed in (0, 2)]
    points += [Point(0, "ours", 2.0, 0, 90.0, 80.0), Point(0, "theirs", 1.0, 0, 70.0, 95.0)]
    points += [Point(0, "theirs", 2.0, 0, 90.0, 75.0), Point(0, "far", 1.0, 0, 10.0, 99.0)]
    means = averaged(points)
    assert means[0] == Mean(0, "ours", 1.0, 2, 81.0, 91.0, pytest.approx(np.sqrt(2)))
    assert at(means, 0, "theirs", 80.0) == 85.0
    assert np.isnan(at(means, 0, "theirs", 60.0))
    # From 87 to 90 ours falls from 83.67 to 80, theirs from 78 to 75.
    assert tradeoffs.lead(means, 0, "ours", ["theirs", "far"]) == pytest.approx((16 / 3, 87.0, 90.0))
    assert np.isnan(tradeoffs.lead(means, 0, "far", ["theirs"])[0])
    assert tradeoffs.mean_gap(means, 0, "ours", "theirs") == pytest.approx((7 + 5 + 5) / 3)
    assert np.isnan(tradeoffs.mean_gap(means, 0, "ours", "far"))


def _made_up(figure, height):
    """Means of all lines of a figure, at heights by line and level."""
    cases = figure.cases("cpu", [0])
    points = [Point(c.panel, c.series, c.level, 0, 60.0 + 1000 * c.level, height(c.series, c.level)) for c in cases]
    return averaged(points)


def test_a_claim_holds_where_it_does_and_not_where_it_does_not():
    for figure in (FIGURES["fig4"], FIGURES["fig5"]):
        ours = {"fig4": "One Cycle", "fig5": "Lasso(gamma)"}[figure.name]
        good = figure.judge(_made_up(figure, lambda series, level, ours=ours: 90.0 - (series != ours)))
        bad = figure.judge(_made_up(figure, lambda series, level, ours=ours: 90.0 - (series == ours)))
        assert {v.outcome for v in good} == {"holds"}
        assert {v.outcome for v in bad} == {"does not hold"}
    rising = FIGURES["fig11"].judge(_made_up(FIGURES["fig11"], lambda series, level: 1e4 * level))
    assert {v.outcome for v in rising} == {"does not hold"}
    # Of runs that all failed nothing can be said.
    assert {v.outcome for v in FIGURES["fig7"].judge([])} == {"not tested"}


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_of_every_figure_is_a_config(scale):
    """Every field exists, at every scale; the runs that figures have in common are the same."""
    for figure in FIGURES.values():
        for smoke in (False, True):
            for case in reproduce.cases_of(figure, scale, [0], smoke=smoke)[:: 1 if scale == "cpu" else 4]:
                path, _, variant = case.run.config.partition(":")
                module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
                config = module.get_config(variant).copy_and_resolve_references().unlock()
                known = config.to_dict()
                for key, _ in case.run.changes:
                    section, _, field = key.rpartition(".")
                    assert field in (known[section] if section else known), (figure.name, key)
                assert 0 <= case.panel < len(figure.panels)
                config.update_from_flattened_dict(dict(case.run.changes))
                _check_durations(config)
    shared = [{case.run for case in FIGURES[name].cases(scale, [0])} for name in ("fig3", "fig4", "speed")]
    assert shared[0] & shared[1]
    assert shared[0] & shared[2]


def _check_durations(config):
    """Raises where a span does not fit into its run, and the like."""
    examples = {"cifar10": 50_000, "imagenet": 1_281_167}[config.data.name]
    lengths = problem._lengths(config, config.data.train_examples or examples)
    rate = optimizers.learning_rate(config, epoch=lengths.epoch, run=lengths.run)
    base = optimizers.base_optimizer(config, rate)
    methods.build(config, base, epoch=lengths.epoch, run=lengths.run)


def test_the_paper_cuts_at_once():
    """Its algorithm waits for nothing; and noise on the dead must not come before their cut, at any scale."""
    for scale, names in (("paper", FIGURES), ("cpu", ["fig13"])):
        for name in names:
            for case in FIGURES[name].cases(scale, [0]):
                fields = dict(case.run.changes)
                assert (fields["pruning.cut_cost"], fields["pruning.ahead"]) == ("0", "0"), (name, case)


def test_one_figure_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    def broken(scale, seeds):
        raise ZeroDivisionError("no data")

    fig9 = dataclasses.replace(FIGURES["fig9"], made=broken)
    monkeypatch.setitem(reproduce.FIGURES, "fig9", fig9)
    monkeypatch.setitem(walks._SIZES, "cpu", (5_000, 200))
    assert reproduce.main(["fig9", "propB1", f"--out={tmp_path}"]) == 1
    assert "failed: fig9: ZeroDivisionError: no data" in capsys.readouterr().err
    assert (tmp_path / "cpu" / "propB1.md").exists()


def test_what_is_judged_at_the_papers_size_alone():
    means = averaged([Point(1, "DemP", 0.0, 0, 90.0, 70.0)])
    [cpu] = reproduce._judged(FIGURES["table3"], means, "cpu")
    [paper] = reproduce._judged(FIGURES["table3"], means, "paper")
    assert (cpu.outcome, paper.outcome) == ("not tested", "holds")


def test_a_claim_without_runs_has_no_numbers():
    means = averaged([Point(0, "0", 0.0, 0, 50.0, 70.0)])
    *_, on_resnet50 = reproduce._judged(FIGURES["fig6"], means, "cpu")
    assert (on_resnet50.outcome, on_resnet50.why) == ("not tested", "there are no runs at this scale that tell")


def test_whether_claims_fare_better_in_longer_training():
    figure = FIGURES["length"]

    def verdicts(gains, l2=(0.0, 30.0)):
        """Of lines that are, in the longer runs, `gains` points of accuracy above where they are in the shorter."""
        points = []
        for c in figure.cases("cpu", [0]):
            x = l2[c.panel] if c.series == "L2" else 70.0 + 1000 * c.level if c.series.startswith("DemP") else 75.0
            points.append(Point(c.panel, c.series, c.level, 0, x, 80.0 + c.panel * gains.get(c.series, 0.0)))
        return {v.claim: v for v in figure.judge(averaged(points))}.values()

    demp, noise, deviation, l2, l2_scales = verdicts({tradeoffs.DEMP: 3.0, tradeoffs._AS_DEVIATION: 2.5})
    assert (demp.outcome, demp.why) == (
        "holds",
        "mean lead over the best of them +0.0 points in the shorter runs, +3.0 in the longer",
    )
    assert (noise.outcome, noise.why) == (
        "does not hold",
        "mean lead over no noise +0.0 points in the shorter runs, -3.0 in the longer",
    )
    assert (deviation.outcome, deviation.why) == ("holds", "mean lead over no noise +0.0, -0.5 points")
    assert (l2.outcome, l2.why) == ("holds", "weights cut +0.0 % in the shorter runs, +30.0 in the longer")
    assert l2_scales.outcome == "does not hold"  # No more than before.
    _, noise, deviation, *_ = verdicts({tradeoffs._AS_VARIANCE: 1.0, tradeoffs._AS_DEVIATION: -1.5})
    assert (noise.outcome, deviation.outcome) == ("holds", "does not hold")
    assert {v.outcome for v in figure.judge([])} == {"not tested"}


def test_a_grid_and_the_names_of_its_runs():
    assert sweep.grid(["a=1,2", "config.b=(3,4),(5,)"]) == [
        {"a": x, "b": y} for x in ("1", "2") for y in ("(3,4)", "(5,)")
    ]
    with pytest.raises(sweep.UsageError, match="--grid must be KEY=VALUE"):
        sweep.grid(["a"])
    run = Run.of("configs/quickstart.py", {"seed": 1, "data.flip": True}, {"model.widths": (3, 4), "seed": 2})
    assert run.flags() == ["--config.data.flip=true", "--config.model.widths=(3,4,)", "--config.seed=2"]
    assert run.name == Run.of("configs/quickstart.py", dict(run.changes)).name
    assert run.name != Run.of("configs/quickstart.py", dict(run.changes), {"seed": 3}).name


def test_a_sweep_lists_failures_and_reuses_what_ended(tmp_path, capsys):
    fixed = {**{k: v for k, v in SHORT.items() if k not in ("devices", "progress")}, "steps": "4", "data.cache": ""}
    fixed |= {"method.strength_span": "4", "method.noise_span": "4"}
    arguments = ["--config=configs/quickstart.py", f"--out={tmp_path}", "--processes=2"]
    arguments += [f"--set={key}={keys.as_text(value)}" for key, value in fixed.items() if value != ""]
    grid = ["--grid=method.name=dense,unknown", "--grid=seed=0"]
    assert sweep.main(arguments + grid) == 1
    shown = capsys.readouterr()
    assert "config.method.name must be one of" in shown.err
    assert "| method.name dense | 1 |" in shown.out
    [record] = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert (record["method"], record["steps"]) == ("dense", 4)
    summary = next(tmp_path.glob("*/summary.json"))
    before = summary.stat().st_mtime_ns
    assert sweep.main([*arguments, "--grid=method.name=dense", "--grid=seed=0"]) == 0
    assert summary.stat().st_mtime_ns == before


def test_a_summary_of_another_config_is_not_reused(tmp_path):
    run = Run.of("configs/quickstart.py", {"seed": 3})
    place = tmp_path / run.name
    place.mkdir()
    config = workdir.as_json(command.config_of(["--config=configs/quickstart.py", "--config.seed=3"]))
    (place / "summary.json").write_text("{}")
    older = {name: value for name, value in config.items() if name != "tracker"}
    for known in (config, older, {**config, "progress": "off"}):
        (place / "config.json").write_text(json.dumps(known))
        assert sweep._ended(run, tmp_path).error is None
    (place / "config.json").write_text(json.dumps({**config, "steps": "1999"}))
    assert "holds the run of another config (steps='1999' there, '2000' here)" in sweep._ended(run, tmp_path).error


@pytest.mark.slow
def test_a_sweep_from_elsewhere_takes_the_files_that_are_there(tmp_path, monkeypatch, capsys):
    """Not those of the same names that are here; ours are known everywhere."""
    (tmp_path / "mine.py").write_text(
        "from configs import quickstart\n\n\ndef get_config(variant=''):\n    config = quickstart.get_config('smoke')\n"
        "    config.seed = 7\n    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    for config in ("mine.py", "configs/quickstart.py:smoke"):
        assert sweep.main([f"--config={config}", "--grid=method.name=dense", f"--out={tmp_path / config[:4]}"]) == 0
    assert json.loads(next(tmp_path.glob("mine/*/summary.json")).read_text())["seed"] == 7


def test_ctrl_c_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "execute", interrupted)
    monkeypatch.setattr(sweep, "execute", interrupted)
    assert reproduce.main(["propB1", f"--out={tmp_path}"]) == 130
    assert sweep.main(["--config=configs/quickstart.py", "--grid=seed=0", f"--out={tmp_path}"]) == 130
    assert capsys.readouterr().err.count("give the same command to continue") == 2


@needs_tfds
def test_noise_on_the_dead_is_what_revives():
    """With noise on live neurons alone nobody who is dead comes back; with noise on all some do."""
    x, y = mnist_noise._images(64)
    params = mnist_noise.initial(jax.random.key(0), x.shape[1])
    # Half of the first layer begins dead.
    w, b = params[0]
    params[0] = (w, b.at[::2].set(-100.0))
    first = int(mnist_noise.dead(params, x))
    assert first >= 50
    options = {"looks": 4, "between": 50}
    run = lambda kind, level: np.asarray(  # noqa: E731
        mnist_noise.train(params, x, y, jax.random.key(1), level, kind=kind, **options)
    )
    asymmetric, symmetric = run("asymmetric", 20.0), run("symmetric", 20.0)
    assert (asymmetric >= 50).all()
    assert symmetric[-1] < asymmetric[-1]
    # The noise of a gradient is zero for the dead, and so is the gradient.
    assert (run("SGD noise", 0.05) >= first).all()
    assert (run("SGD", 0.05) >= first).all()
    # Of weights that have diverged nothing is counted.
    assert (run("SGD noise", 1e6) == -1).all()


def test_what_is_said_of_a_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(walks._SIZES, "cpu", (5_000, 200))
    assert reproduce.main(["propB1", f"--out={tmp_path}"]) == 0
    written = json.loads((tmp_path / "cpu" / "propB1.json").read_text())
    assert {v["outcome"] for v in written["verdicts"]} == {"holds"}
    assert written["commit"]
    text = (tmp_path / "cpu" / "propB1.md").read_text()
    assert text.startswith("**propB1**")
    assert "**Holds**: largest difference" in text
    assert (tmp_path / "cpu" / "propB1.png").read_bytes().startswith(b"\x89PNG")
    assert reproduce.main(["fig99"]) == 2
    assert "name must be list, all, or one of fig1" in capsys.readouterr().err
    assert reproduce.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in FIGURES)


@needs_tfds
@pytest.mark.slow
def test_every_figure_at_the_size_of_a_smoke_run(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # Of the tests, which see many devices.
    names = [name for name in FIGURES if name not in ("table1", "table2", "table3", "fig17")]
    assert reproduce.main([*names, "--smoke", f"--out={tmp_path}"]) == 0
    for name in names:
        assert (tmp_path / "smoke" / f"{name}.png").exists()
        text = (tmp_path / "smoke" / f"{name}.md").read_text()
        assert "no claim is tested" in text
        assert "Holds" not in text


@pytest.mark.slow
def test_figures_on_images(tmp_path, monkeypatch):
    """The tables of ImageNet and the ViT's figure, on a few made-up images; no claim is tested by them."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # Of the tests, which see many devices.
    image_files.drawn_folder(tmp_path / "images")
    names = ["table3", "fig17"]
    arguments = [*names, f"--imagenet={tmp_path / 'images'}", f"--out={tmp_path}", "--scale=cpu"]
    assert reproduce.main(arguments) == 0
    for name in names:
        assert "no claim is tested" in (tmp_path / "cpu" / f"{name}.md").read_text()
    rows = json.loads((tmp_path / "cpu" / "table3.json").read_text())["paper"]
    assert [row["accuracy"] for row in rows] == [78.75, 71.38, 77.62]


def test_the_page_of_claims_comes_from_the_records():
    folder = ROOT / "results" / "figures"
    assert (ROOT / "results" / "README.md").read_text() == reproduce.page(folder, "cpu")
    for path in folder.glob("*/*.json"):
        found = json.loads(path.read_text())
        assert not found["smoke"]
        assert {"command", "commit", "versions", "device"} <= set(found)
        assert not found["failed"]
    # As many columns in every row.
    rows = [line for line in reproduce.page(folder, "cpu").splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {7}
