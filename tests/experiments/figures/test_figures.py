"""The figures of the paper: their runs, and what points say of the claims."""

import importlib
import json
import re

import jax
import numpy as np
import pytest
from scipy import special

from experiments import reproduce
from experiments.cli.launch import Outcome
from experiments.figures import FIGURES, deaths, lines, mnist_noise, pages, persistence, scales, tradeoffs, walks
from experiments.figures.drawing import draw
from experiments.figures.figure import SCALES, Mean, Point, averaged
from experiments.figures.judging import decide
from experiments.recipe import methods, optimizers
from tests.runs import needs_tfds, settings_of


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
    units = lambda *dead: np.isin(np.arange(20), dead)  # noqa: E731
    assert persistence.overlap(units(1, 2, 10), units(2, 3, 10, 14)) == pytest.approx(2 / 3)
    assert np.isnan(persistence.overlap(units(1), units()))


def test_who_stays_dead(tmp_path, monkeypatch):
    """Of three who die, one after the other, one comes back: the paper's ratio at each look, and 2 of 3 at the end."""
    pack = lambda *dead: np.packbits(np.isin(np.arange(10), dead)).tobytes().hex()  # noqa: E731

    monkeypatch.setattr(persistence, "_FEWEST", 1)

    def points(*looks):
        lines = [
            {"step": i, "dead": {"a": len(units)}, "bits": {"a": pack(*units)}, "width": {"a": 10}}
            for i, units in enumerate(looks)
        ]
        (tmp_path / "dead.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        case = FIGURES["fig8"].cases("cpu", [0])[0]
        return case, FIGURES["fig8"].points(case, Outcome(case.run, tmp_path, {}, None))

    case, found = points((), (1,), (1, 2), (2, 3), (2, 3))
    assert [(p.panel, p.x) for p in found] == [(0, 2), (0, 3), (0, 4), (2, case.level)]
    # {1, 2} with {1}; {2, 3} with {1, 2}; {2, 3} with {1, 2, 3}.
    assert [p.y for p in found] == pytest.approx([1.0, 0.5, 1.0, 2 / 3])
    assert _judged("fig8", averaged(found)) == ["does not hold", "not tested"]  # Nothing was run with SGDM.
    # All come back: that is the end, and not the look before it.
    _, found = points((1, 2), (1, 2), ())
    assert [(p.panel, p.y) for p in found] == [(0, 1.0), (2, 0.0)]
    # A part of one neuron is no part.
    monkeypatch.setattr(persistence, "_FEWEST", 4)
    assert points((), (1,), (1, 2), (2, 3), (2, 3))[1] == []


def test_means():
    points = [Point(0, "ours", 1.0, seed, 80.0 + seed, 90.0 + seed) for seed in (0, 2)]
    points += [Point(0, "ours", 2.0, 0, 90.0, 80.0)]
    root = pytest.approx(np.sqrt(2))
    assert averaged(points) == [
        Mean(0, "ours", 1.0, 2, 81.0, 91.0, root, root),
        Mean(0, "ours", 2.0, 1, 90.0, 80.0, None, None),
    ]


def test_lines_are_compared_by_their_envelopes_where_both_have_runs():
    ours = {(0, "ours"): [(50, 70), (60, 72), (80, 60)], (0, "theirs"): [(40, 70), (60, 66), (90, 60)]}
    means = _drawn(ours)
    # Of the run at 50% nobody would take the network: that at 60% is sparser and better.
    assert lines.envelope(means, 0, ["ours"], 55.0) == 72
    assert lines.envelope(means, 0, ["ours"], 70.0) == 66
    assert np.isnan(lines.envelope(means, 0, ["ours"], 85.0))
    assert lines.envelope(means, 0, ["ours", "theirs"], 85.0) == pytest.approx(61)
    value, over = lines.lead(means, 0, ["ours"], ["theirs"])
    assert over == (50.0, 80.0)
    xs = np.linspace(50, 80, 20)
    expected = np.interp(xs, [60, 80], [72, 60]) - np.interp(xs, [40, 60, 90], [70, 66, 60])
    assert value == pytest.approx(expected.mean())
    # From a floor on, which may leave no range.
    assert lines.lead(means, 0, ["ours"], ["theirs"], 70.0)[1] == (70.0, 80.0)
    apart = _drawn({(0, "ours"): [(50, 70), (60, 68)], (0, "theirs"): [(70, 60), (80, 50)]})
    assert np.isnan(lines.lead(apart, 0, ["ours"], ["theirs"])[0])
    # Runs within five points of each other are compared as they are.
    close = _drawn({(0, "ours"): [(50, 70), (66, 68)], (0, "theirs"): [(70, 60), (80, 50)]})
    assert lines.lead(close, 0, ["ours"], ["theirs"]) == (8.0, (66.0, 70.0))


def test_figure_5_is_compared_where_both_have_runs():
    """L2 on all weights has runs up to 61%, and a collapsed one beyond: as once measured with one seed."""
    measured = {
        (0, "Lasso(gamma)"): [(15, 59), (46, 58.9), (63, 58), (78, 55.3)],
        (0, "L2"): [(10, 60), (50, 61.5), (61.2, 61.1), (77.7, 10.0)],
        (0, "Dense"): [(0, 60)],
    }
    points = [Point(p, name, i, 0, x, y) for (p, name), xy in measured.items() for i, (x, y) in enumerate(xy)]
    kept, collapsed = FIGURES["fig5"].without_collapsed(points)
    assert collapsed == 1
    [effect] = FIGURES["fig5"].judge(averaged(kept))[0].effects
    assert effect.over == pytest.approx((50, 61.2))
    assert effect.value < -2


def test_collapsed_runs_are_left_out_by_the_dense_ones_of_their_panel():
    points = [Point(p, "Dense", 0, s, 0, 80) for p in (0, 1) for s in (0, 1)]
    points += [Point(0, "One Cycle", 1, 0, 90, 39), Point(1, "One Cycle", 1, 0, 90, 41)]
    kept, collapsed = FIGURES["fig4"].without_collapsed(points)
    assert (len(kept), collapsed) == (5, 1)


def test_seeds_are_paired():
    """What seeds have in common is no doubt: a lead of each of them counts, however far they are apart."""

    def outcome(leads, starts=(80.0, 90.0, 70.0)):
        points = [
            Point(0, c.series, c.level, seed, 60.0 + 1000 * c.level, start + lead * (c.series == "True"))
            for seed, (start, lead) in enumerate(zip(starts, leads, strict=True))
            for c in FIGURES["fig7"].cases("cpu", [0])
            if c.panel == 0
        ]
        return FIGURES["fig7"].verdicts(points)[0].outcome

    assert outcome([0.1, 0.2, -0.1]) == "holds"
    assert outcome([-4.0, -4.2, -3.9]) == "does not hold"
    assert outcome([-4.0, 3.0, -1.5]) == "undecided"
    assert outcome([5.0], [80.0]) == "undecided"


def _judged(name, means):
    """What three seeds with the same means say of the claims of a figure."""
    return [decide([claim] * 3).outcome for claim in FIGURES[name].judge(means)]


def _made_up(figure, height):
    """Means of all lines of a figure, at heights by line and level."""
    cases = figure.cases("cpu", [0])
    points = [Point(c.panel, c.series, c.level, 0, 60.0 + 1000 * c.level, height(c.series, c.level)) for c in cases]
    return averaged(points)


def test_a_claim_holds_where_it_does_and_not_where_it_does_not():
    for name, places, ours in (("fig4", (0, 1), "One Cycle"), ("fig6", (0,), "5e-05")):
        good = _judged(name, _made_up(FIGURES[name], lambda series, level, ours=ours: 90.0 - (series != ours)))
        bad = _judged(name, _made_up(FIGURES[name], lambda series, level, ours=ours: 90.0 - (series == ours)))
        assert {good[i] for i in places} == {"holds"}
        assert {bad[i] for i in places} == {"does not hold"}
    rising = _judged("fig11", _made_up(FIGURES["fig11"], lambda series, level: 1e4 * level))
    assert set(rising[:2]) == {"does not hold"}


def _drawn(lines):
    """Means of lines, by panel and name: points `(x, y)`, whose levels are their numbers or their `x`."""
    points = [
        Point(panel, series, level, 0, x, y)
        for (panel, series), values in lines.items()
        for level, (x, y) in (values.items() if isinstance(values, dict) else enumerate(values))
    ]
    return averaged(points)


def _outcomes(name, lines):
    return _judged(name, _drawn(lines))


def _labels(picture):
    [legend] = picture.legends
    return [text.get_text() for text in legend.get_texts()]


def test_accuracy_is_drawn_with_its_spread_and_dense_training():
    points = [
        Point(panel, name, level, seed, 90 * level, 80 + seed - 10 * level)
        for panel in (0, 1)
        for name, levels in ((lines.DENSE, (0.0,)), (lines.DEMP, (0.5, 1.0)), ("RigL", (0.5, 1.0)))
        for level in levels
        for seed in (0, 1, 2)
    ]
    picture = draw(FIGURES["fig16"], averaged(points), scale="cpu", seeds=3)
    assert picture.get_suptitle().endswith("(scale cpu, 3 seeds); error bars: std over seeds")
    assert _labels(picture) == [lines.DEMP, "RigL", lines.DENSE]
    for axis in picture.axes:
        assert axis.get_legend() is None
        [dense] = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert set(dense.get_ydata()) == {81.0}
        assert [(band.get_y(), band.get_height()) for band in axis.patches] == [(80.0, 2.0)]
        # Both lines have bars of one standard deviation.
        ends = [bars.lines[2][-1].get_segments()[0][:, 1] for bars in axis.containers]
        assert [list(end) for end in ends] == [[75.0, 77.0]] * 2
    alone = draw(FIGURES["fig16"], averaged([p for p in points if p.seed == 0]), scale="gpu", seeds=1)
    assert alone.get_suptitle().endswith("(scale gpu, 1 seed)")
    # Against time, dense training has a place along the axis, too.
    timed = draw(FIGURES["speed"], _drawn({(0, lines.DENSE): [(90.0, 70.0)]}), scale="cpu", seeds=1)
    assert [list(line.get_xdata()) for line in timed.axes[0].lines if line.get_marker() == "o"] == [[90.0]]


def test_lines_are_told_apart_and_fractions_are_percentages():
    names = [f"{name}-{optimizer}" for name in scales.REGULARIZERS for optimizer in ("AdamW", "SGDM")]
    picture = draw(
        FIGURES["fig2"], _drawn({(0, name): [(0.001, 0.1), (0.01, 0.125)] for name in names}), scale="cpu", seeds=1
    )
    [left] = picture.axes  # The other panel has no runs.
    looks = {(line.get_color(), line.get_linestyle()) for line in left.lines}
    assert (len(looks), len({color for color, _ in looks})) == (8, 4)
    assert _labels(picture) == [*scales.REGULARIZERS, "AdamW", "SGDM"]
    assert left.yaxis.get_major_formatter()(0.125, 0) == "12.5"
    nothing = draw(FIGURES["fig2"], [], scale="cpu", seeds=1).axes
    assert [[text.get_text() for text in axis.texts] for axis in nothing] == [["no runs at this scale"]] * 2
    # There are more methods than colors.
    methods = {case.series for case in FIGURES["table2"].cases("cpu", [0])}
    many = {(0, name): [(80.0, 70.0), (90.0, 60.0)] for name in methods - {lines.DENSE}}
    drawn = draw(FIGURES["table2"], _drawn(many), scale="cpu", seeds=1).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == len(many) > 10


def test_figures_of_deaths_judge_what_they_say():
    yes, no, unknown = "holds", "does not hold", "not tested"
    rising, falling = [(0, 0.0), (30, 0.2), (100, 0.3)], [(0, 0.3), (30, 0.1), (100, 0.0)]
    late = [(0, 0.0), (30, 0.1), (100, 0.3)]
    names = [f"{name} - {rate}" for name in ("Swish", "Leaky ReLU", "ReLU") for rate in (0.05, 0.01)]
    fig1 = dict(zip([(0, name) for name in names], [rising, falling, falling, rising, rising, falling], strict=True))
    assert _outcomes("fig1", fig1) == [yes, no, yes, yes]
    assert _outcomes("fig1", fig1 | {(0, "ReLU - 0.05"): late})[-1] == no

    kinds = [f"{name}-{optimizer}" for name in scales.REGULARIZERS for optimizer in ("AdamW", "SGDM")]
    fig2 = {(0, name): [(0, 0.0), (1, 0.5 if "Adam" in name else 0.1)] for name in kinds}
    noise = {(1, f"{v:g}"): [(0, i / 10)] for i, v in enumerate(scales.VARIANCES)}
    assert _outcomes("fig2", fig2 | noise) == [yes, yes, yes]
    flat = {(0, name): [(0, 0.3), (1, 0.3)] for name in kinds}
    dip = noise | {(1, "0.0001"): [(0, 0.0)]}
    assert _outcomes("fig2", flat | dip) == [no, no, no]
    fig2.pop((0, "L2-SGDM"))
    assert _outcomes("fig2", fig2 | noise) == ["undecided", unknown, yes]

    fig8 = {(2, "Adam"): [(0.001, 0.95), (0.01, 0.99)], (2, "SGDM"): [(0.001, 0.95), (0.01, 0.4)]}
    assert _outcomes("fig8", fig8) == [yes, no]

    wide = {(0, name): [(4, 0.9), (16, 0.6)] for name in deaths.BY_WIDTH}
    rates, batches = {(1, "Adam"): [(0.01, 0.5), (0.1, 2.0)]}, {(2, "Adam - 0.05"): [(64, 1.5), (256, 0.5)]}
    assert _outcomes("fig10", wide | rates | batches) == [yes, yes, yes, yes]
    narrow = {(0, name): [(4, 0.5), (16, 0.6)] for name in deaths.BY_WIDTH}
    fewer = {(0, name): [(4, 0.9), (16, 0.1)] for name in deaths.BY_WIDTH}
    swapped = {(1, "Adam"): [(0.01, 2.0), (0.1, 0.5)], (2, "Adam - 0.05"): [(64, 0.5), (256, 1.5)]}
    assert _outcomes("fig10", narrow | swapped) == [no, yes, no, no]
    assert _outcomes("fig10", fewer | rates) == [yes, no, yes, unknown]
    nobody = {(0, name): [(4, 1.0), (16, 1.0)] for name in deaths.BY_WIDTH}
    assert _outcomes("fig10", nobody)[:2] == [unknown, unknown]

    fig11 = {(0, "0.01"): [(1e-10, 5.0), (1e-4, 0.0)], (0, "0.05"): [(1e-10, 12.0), (1e-4, 13.0)]}
    assert _outcomes("fig11", fig11) == [yes, no, yes]
    none = {(0, "0.01"): [(1e-10, 0.0), (1e-4, 0.0)], (0, "0.05"): [(1e-10, 0.0), (1e-4, 0.0)]}
    assert _outcomes("fig11", none) == [unknown, unknown, unknown]
    fig11.pop((0, "0.05"))  # As many claims when a line is missing, and none of a single point.
    assert _outcomes("fig11", fig11) == [yes, unknown, unknown]
    assert _outcomes("fig11", {(0, "0.01"): [(1e-10, 5.0)], (0, "0.05"): [(1e-10, 9.0)]}) == [unknown] * 3

    def fig12(some):
        lines = {}
        for panel in (0, 1):
            lines[panel, "512 examples"] = [(0, 0), (1, some[0]), (2, some[1])]
            lines[panel, "Entire dataset"] = [(0, 0), (1, 100), (2, 100)]
        return _outcomes("fig12", lines)[:2]

    assert fig12((106, 101)) == [yes, no]
    assert fig12((104, 103)) == [no, yes]

    def fig17(first, last):
        lines = {(0, "Dense"): first, (1, "Dense"): first, (2, "Dense"): last}
        return _outcomes("fig17", lines)

    falls, comes_back = [(0, 3072), (1, 300), (2, 300)], [(0, 3072), (1, 300), (2, 2000)]
    assert fig17(falls, comes_back) == [yes, yes, yes]
    assert fig17(comes_back, falls) == [no, no, no]


def test_the_numbers_of_dead_go_by_the_base():
    points = [Point(0, "ADAM - 0.05", 4, 0, 4, 0.5), Point(2, "Adam - 0.05", 64, 0, 64, 9.0)]
    points += [Point(1, "Adam", rate, seed, rate, dead) for seed in (0, 1) for rate, dead in ((0.01, 3.0), (0.05, 6.0))]
    found = FIGURES["fig10"].normalize(points)
    # Nobody died at a base that was not run.
    assert [(p.panel, p.seed, p.y) for p in found] == [(0, 0, 0.5), (1, 0, 0.5), (1, 0, 1.0), (1, 1, 0.5), (1, 1, 1.0)]


def test_the_figure_of_noises_judges_its_last_third():
    def lines(pure, gaussian, plain):
        found = {}
        for i, level in enumerate(mnist_noise.LEVELS):
            ends = {(0, ""): pure[i], (1, " asymmetric"): gaussian + 2, (1, " symmetric"): gaussian, (2, ""): plain[i]}
            for (panel, kind), end in ends.items():
                steps = (0, 5, 8, 10) if end is not None else (0, 5)
                # The look before the last third does not count.
                found[panel, f"{level:g}{kind}"] = [(x, 0 if x == 0 else 400 if x == 5 else end) for x in steps]
        return found

    yes, no, unknown = "holds", "does not hold", "not tested"
    assert _outcomes("fig9", lines([30] * 5, 5, [40, 40, 40, 40, 50])) == [yes, yes, yes, yes, yes]
    assert _outcomes("fig9", lines([10] * 5, 25, [40, 40, 40, 40, 30])) == [no, no, no, yes, no]
    # Of levels that diverged nothing is known.
    assert _outcomes("fig9", lines([30, None, None, None, None], 5, [40] * 5))[:2] == [unknown, unknown]


def test_tradeoffs_with_noise_and_masks():
    yes, no = "holds", "does not hold"
    both = lambda lines: {(p, name): xy for p in (0, 1) for name, xy in lines.items()}  # noqa: E731
    noise = {"asymmetric": [(2, 80), (40, 70)], "symmetric": [(2, 80), (40, 71)], lines.DEMP: [(5, 82), (60, 80)]}
    assert _outcomes("fig13", both(noise)) == [yes, yes, yes] * 2
    noise["symmetric"], noise[lines.DEMP] = [(2, 80), (40, 60)], [(5, 72), (60, 60)]
    assert _outcomes("fig13", both(noise)) == [no, yes, no] * 2
    assert _outcomes("fig13", both({"asymmetric": [(0, 80), (3, 79)]}))[1] == no
    # Noise that prunes so much more that there is no equal sparsity costs an accuracy that nobody knows.
    panel = {"0": {1: (10, 70), 2: (30, 69)}, "5e-05": {1: (60, 68), 2: (80, 67)}}
    assert _outcomes("fig6", {(1, name): xy for name, xy in panel.items()})[1] == "undecided"
    panel["0"] = {1: (10, 70), 2: (65, 68), 3: (70, 67)}  # One of the noisy runs failed.
    assert _outcomes("fig6", {(1, name): xy for name, xy in panel.items()})[1] == yes
    panel["0"].pop(1)  # And one without noise.
    assert lines.sparser(_drawn({(1, name): xy for name, xy in panel.items()}), 1, "5e-05", "0") == 15
    # Scales against weights by the better penalty of either.
    alone = {(0, "L2(gamma)"): [(0, 60), (12, 60)], (0, "Lasso(gamma)"): [(50, 58), (80, 56)], (0, "Lasso"): [(50, 50)]}
    assert _outcomes("fig5", alone | {(0, "L2"): [(50, 61), (62, 61)]})[0] == no
    assert _outcomes("fig5", alone | {(0, "L2"): [(50, 51), (62, 51)]})[0] == yes
    # Behind one of them is not behind them.
    vgg = {(3, name): [(60, 90), (96, 80)] for name in lines.STRUCTURED} | {(3, lines.DEMP): [(60, 90), (96, 75)]}
    assert _outcomes("fig14", vgg)[2] == yes
    assert _outcomes("fig14", vgg | {(3, "SNAP"): [(60, 90), (96, 70)]})[2] == no
    masks = {name: [(60, 80), (90, 70)] for name in tradeoffs.UNSTRUCTURED}
    assert _outcomes("fig16", both({**masks, lines.DEMP: [(60, 80.5), (90, 70.5)]})) == [yes, yes]
    assert _outcomes("fig16", both({**masks, lines.DEMP: [(60, 78), (90, 68)]})) == [no, no]
    # Above three of four is not above all.
    ahead = {**masks, "RigL": [(60, 82), (90, 72)], lines.DEMP: [(60, 80.5), (90, 70.5)]}
    assert _outcomes("fig16", both(ahead)) == [no, no]


def test_tables_are_judged_at_the_sparsities_that_they_name():
    yes, no = "holds", "does not hold"

    def lines(ours, theirs, early_time, masked_time):
        found = {}
        heights = {"DemP-Lasso(gamma)": ours, "EarlySNAP": theirs, "EarlyCroP-S": (60, 60), "SNAP": (30, 29)}
        heights["CroPit-S"] = (31, 30)
        for name, pair in heights.items():
            time = {"DemP-Lasso(gamma)": 0.7, "EarlySNAP": early_time}.get(name, 0.9 if "Early" in name else 0.5)
            found[0, name] = {1: (80.5, pair[0]), 2: (89.0, pair[1]), 3: (40.0, 99.0)}
            found[4, name] = {1: (time, 0), 2: (time - 0.1, 0), 3: (0.1, 0)}
        found[0, "Dense"], found[4, "Dense"] = {0: (0.0, 75.0)}, {0: (1.0, 75.0)}
        for name in ("Mag", "Sal", "SET", "RigL (ERK)"):
            found[0, name], found[5, name] = {0.8: (80, 75), 0.9: (90, 70)}, {0.8: (1.0, 75), 0.9: (masked_time, 70)}
        return found

    assert _outcomes("table2", lines((72, 68), (71, 67), 0.9, 1.0)) == [yes, yes, yes, yes]
    [first, *_] = FIGURES["table2"].judge(_drawn(lines((72, 68), (71, 67), 0.9, 1.0)))
    assert [effect.value for effect in first.effects] == [1.0, 1.0]
    # Ahead at 80% alone is not ahead at both.
    assert _outcomes("table2", lines((72, 66), (71, 67), 0.65, 0.8)) == [no, yes, no, no]
    # DemP that prunes less is not above the others where they are.
    far = lines((72, 68), (71, 67), 0.9, 1.0)
    far[0, "DemP-Lasso(gamma)"] = {1: (50.0, 74), 2: (55.0, 73), 3: (40.0, 75)}
    assert _outcomes("table2", far) == ["not tested", yes, "not tested", yes]
    vit = {(1, "Dense"): [(0, 78)], (1, "DemP"): [(91, 71)], (1, "DemP + ReLU"): [(43, 77)]}
    assert _outcomes("table3", vit) == [yes, yes]
    assert _outcomes("table3", vit | {(1, "DemP + ReLU"): [(43, 70)]}) == [yes, no]


def test_a_run_that_cut_nothing_is_not_faster_for_a_smaller_network(tmp_path):
    """It may have been faster by chance."""

    def judged(sparsity):
        points = []
        for case in FIGURES["speed"].cases("cpu", [0, 1, 2]):
            demp = case.level > 0
            summary = {"test_accuracy": 0.9, "weight_sparsity": sparsity if demp else 0.0}
            summary |= {"seconds_steps": 90.0 if demp else 100.0, "seconds_data": 0.0, "seconds_cuts": 0.0}
            points += FIGURES["speed"].points(case, Outcome(case.run, tmp_path, summary, None))
        return {verdict.outcome for verdict in FIGURES["speed"].verdicts(points)}

    assert judged(0.3) == {"holds"}
    assert judged(0.04) == {"not tested"}


@pytest.mark.parametrize("name", FIGURES)
def test_of_no_runs_there_are_the_claims(name):
    verdicts = FIGURES[name].verdicts([])
    assert verdicts
    for verdict in verdicts:
        assert verdict.outcome == "not tested"
        assert not re.search(r"nan|inf", verdict.why)
        assert verdict.claim


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_of_every_figure_is_a_config(scale):
    """Every field exists, at every scale; the runs that figures have in common are the same."""
    for figure in FIGURES.values():
        for smoke in (False, True):
            for case in reproduce.cases_of(figure, scale, [0], smoke=smoke)[:: 2 if scale == "cpu" else 8]:
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
    runs = {name: {case.run for case in FIGURES[name].cases(scale, [0])} for name in FIGURES}
    assert runs["fig4"] & runs["fig5"]
    assert runs["fig16"] & runs["speed"]
    assert runs["fig17"] == runs["table3"]


def test_a_grid_is_lines_times_levels():
    lines = {"plain": {}, "at {:g}": {"method.name": "dense"}}
    cases = scales.grid("resnet18", "cpu", lines, {"seed": 3}, field="model.base_width", levels=(4, 16), panel=1)
    assert [(c.series, c.level, c.panel) for c in cases] == [
        ("plain", 4, 1),
        ("plain", 16, 1),
        ("at 4", 4, 1),
        ("at 16", 16, 1),
    ]
    changes = {"seed": 3, "model.base_width": 16, "method.name": "dense"}
    assert cases[-1].run == scales.run_of("resnet18", "cpu", changes)
    assert dict(cases[-1].with_seed(5).run.changes)["seed"] == 5


def test_a_run_is_one_however_it_is_asked_for():
    one = scales.run_of("resnet18", "paper", {"method.strength": 0.0, "method.regularizer": "l2"})
    assert one == scales.run_of("resnet18", "paper", {"method.strength": 0.0, "method.noise": 5e-5})
    assert "method.regularizer" not in dict(one.changes)
    other = scales.run_of("resnet18", "paper", {"method.strength": 0.1, "method.regularizer": "l2"})
    assert dict(other.changes)["method.regularizer"] == "l2"
    # At the paper's size the noise is on unless it is turned off.
    length = {(c.panel, c.series, c.level): c.run for c in FIGURES["length"].cases("paper", [0])}
    assert len(set(length.values())) == len(length)
    # A warmup of 30% of the one cycle's 85,000 steps there.
    spans = {
        dict(c.run.changes)["method.strength_span"]
        for c in FIGURES["fig4"].cases("paper", [0])
        if c.series == "Warmup" and c.level > 0
    }
    assert spans == {"25500"}
    # A span that fits into a short run stays, with a regularizer or without.
    assert dict(scales.run_of("resnet18", "cpu", {"method.strength": 0.0}).changes)["method.strength_span"] == "60%"


def _check_durations(config):
    """Raises where a span does not fit into its run, and the like."""
    examples = {"cifar10": 50_000, "imagenet": 1_281_167}[config.data.name]
    settings = settings_of(config, config.data.train_examples or examples)
    methods.build(settings, optimizers.base_optimizer(settings, optimizers.learning_rate(settings)))


def test_the_paper_cuts_at_once():
    """Its algorithm waits for nothing; and noise on the dead must not come before their cut, at any scale."""
    for scale, names in (("paper", FIGURES), ("cpu", ["fig13"])):
        for name in names:
            for case in FIGURES[name].cases(scale, [0]):
                fields = dict(case.run.changes)
                assert (fields["pruning.cut_cost"], fields["pruning.ahead"]) == ("0", "0"), (name, case)


def test_a_claim_without_runs_has_no_numbers():
    *_, on_resnet50 = pages.judged(FIGURES["fig6"], [Point(0, "0", 0.0, 0, 50.0, 70.0)], ["one"])
    assert (on_resnet50.outcome, on_resnet50.why) == ("not tested", "no runs at this scale")


def test_whether_demp_fares_better_in_longer_training():
    def outcomes(shortest, longest):
        found = {(0, lines.DEMP): [(75, 70 + shortest), (90, 70 + shortest)], (2, lines.DEMP): [(75, 80 + longest)] * 2}
        found[2, lines.DEMP][1] = (90, 80 + longest)
        for name in ("EarlyCroP-S", "EarlySNAP"):
            found |= {(0, name): [(75, 70), (90, 70)], (2, name): [(75, 80), (90, 80)]}
        return _outcomes("length", found)

    # The gain, then each length; the middle one has no runs here.
    assert outcomes(-2, 1) == ["holds", "does not hold", "not tested", "holds"]
    assert outcomes(-2, -1) == ["holds", "does not hold", "not tested", "does not hold"]
    assert outcomes(2, 1) == ["does not hold", "holds", "not tested", "holds"]


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
