"""Figures by one command: what it leaves, judges again and says."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import reproduce, sweep
from experiments.cli.launch import Outcome
from experiments.figures import FIGURES, pages, walks
from experiments.figures.figure import Point
from experiments.figures.judging import Claim, Verdict
from tests import image_files
from tests.runs import needs_tfds

ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_a_table():
    runs = [
        {"series": series, "level": level, "test_accuracy": accuracy, "neuron_sparsity": 0.5, "weight_sparsity": 0.8}
        | {"train_flops_ratio": 0.6, "inference_flops_ratio": 0.5, "gpu_flops_ratio": 0.75}
        | {"seconds_steps": steps, "seconds_data": 1.0, "seconds_cuts": 2.0}
        for series, level, accuracy, steps in (("Dense", 0.0, 0.9, 97), ("RigL", 0.8, 0.7, 47), ("RigL", 0.8, 0.8, 67))
    ]
    dense, rigl = FIGURES["table2"].table(runs)
    assert (dense["time"], dense["std"]) == (1.0, None)
    assert (rigl["method"], rigl["source"], rigl["time"]) == ("RigL at 0.8", "measured, 2 seeds", pytest.approx(0.6))
    assert (rigl["accuracy"], rigl["std"]) == (pytest.approx(75), pytest.approx(np.sqrt(50)))
    assert (rigl["flops"], rigl["gpu_flops"]) == (0.5, 0.75)
    # Of older runs it is not known.
    assert FIGURES["table2"].table([{**run, "gpu_flops_ratio": None} for run in runs])[1]["gpu_flops"] is None
    assert pages.cells(rigl) == (
        "RigL at 0.8", "75.00% ± 7.07", "50.00%", "80.00%", "x 0.60", "x 0.60", "x 0.50", "x 0.75", "measured, 2 seeds",
    )  # fmt: skip


def test_one_figure_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    def broken(scale, seeds):
        raise ZeroDivisionError("no data")

    fig9 = dataclasses.replace(FIGURES["fig9"], simulate=broken)
    monkeypatch.setitem(reproduce.FIGURES, "fig9", fig9)
    monkeypatch.setitem(walks._SIZES, "cpu", (5_000, 200))
    assert reproduce.main(["fig9", "propB1", f"--out={tmp_path}"]) == 1
    assert "failed: fig9: ZeroDivisionError: no data" in capsys.readouterr().err
    assert (tmp_path / "cpu" / "propB1.md").exists()


def test_ctrl_c_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "execute", interrupted)
    monkeypatch.setattr(sweep, "execute", interrupted)
    assert reproduce.main(["propB1", f"--out={tmp_path}"]) == 130
    assert sweep.main(["--config=configs/quickstart.py", "--grid=seed=0", f"--out={tmp_path}"]) == 130
    assert capsys.readouterr().err.count("give the same command to continue") == 2


def test_what_is_said_of_a_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(walks._SIZES, "cpu", (5_000, 200))
    assert reproduce.main(["propB1", f"--out={tmp_path}"]) == 0
    written = json.loads((tmp_path / "cpu" / "propB1.json").read_text())
    assert {v["outcome"] for v in written["verdicts"]} == {"holds"}
    assert written["commit"]
    text = (tmp_path / "cpu" / "propB1.md").read_text()
    assert text.startswith("**propB1**")
    assert "**Holds**: largest difference" in text
    assert written["seeds"] == 3
    assert (tmp_path / "cpu" / "propB1.png").read_bytes().startswith(b"\x89PNG")
    assert reproduce.main(["fig99"]) == 2
    assert "name must be list, all, or one of fig1" in capsys.readouterr().err
    assert reproduce.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in FIGURES)


@pytest.fixture(scope="session")
def smoke_folder(tmp_path_factory):
    """Of all figures, which share runs."""
    return tmp_path_factory.mktemp("smoke")


@needs_tfds
@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_at_the_size_of_a_smoke_run(name, smoke_folder, monkeypatch):
    """Every point of it is run, for seconds."""
    # That of the tests has many devices; this compiles as fast.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert reproduce.main([name, "--smoke", "--seeds=1", f"--out={smoke_folder}"]) == 0
    assert (smoke_folder / "smoke" / f"{name}.png").exists()
    text = (smoke_folder / "smoke" / f"{name}.md").read_text()
    assert "no claim is tested" in text
    assert "Holds" not in text


@pytest.mark.slow
def test_figures_on_images(tmp_path, monkeypatch):
    """The tables of ImageNet and the ViT's figure, on a few made-up images; no claim is tested by them."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # Of the tests, which see many devices.
    image_files.drawn_folder(tmp_path / "images")
    names = ["table3", "fig17"]
    arguments = [
        *names,
        f"--imagenet={tmp_path / 'images'}",
        f"--out={tmp_path}",
        "--scale=gpu",
        "--smoke",
        "--seeds=1",
    ]
    assert reproduce.main(arguments) == 0
    for name in names:
        assert "no claim is tested" in (tmp_path / "smoke" / f"{name}.md").read_text()
    rows = json.loads((tmp_path / "smoke" / "table3.json").read_text())["paper"]
    assert [row["accuracy"] for row in rows] == [78.75, 71.38, 77.62]


def test_the_page_of_claims_comes_from_the_records():
    folder = ROOT / "results" / "figures"
    assert (ROOT / "results" / "README.md").read_text() == pages.page(folder)
    for path in folder.glob("*/*.json"):
        found = json.loads(path.read_text())
        assert not found["smoke"]
        assert {"command", "commit", "versions", "device"} <= set(found)
        assert not found["failed"]
        # Judged by the rules as they are.
        figure = FIGURES[found["figure"]]
        points = [Point(**point) for point in found["points"]]
        verdicts = pages.judged(figure, points, {run["device"] for run in found["runs"]})
        assert [Verdict.load(each) for each in found["verdicts"]] == verdicts, path
        text = pages.summary(figure, verdicts, found["scale"], found["seeds"], 0)
        assert path.with_suffix(".md").read_text().startswith(text)
    # As many columns in every row of a table.
    lines = pages.page(folder).splitlines()
    for above, below in itertools.pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.replace(r"\|", "").count("|") == below.replace(r"\|", "").count("|")


def test_a_claim_with_several_effects_has_a_table():
    lines = pages.page(ROOT / "results" / "figures").splitlines()
    headings = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    anchors = [heading.lower().replace(",", "").replace(" ", "-") for heading in headings]  # As GitHub makes them.
    [row] = [line for line in lines if "| A stronger regularizer kills more neurons" in line]
    assert "| [8 effects](#fig2-scale-cpu-claim-1) | undecided |" in row
    assert re.findall(r"\(#(.*?)\)", "".join(lines)) == anchors
    start = lines.index("### fig2, scale cpu, claim 1")
    table = lines[start + 4 : lines.index("", start + 4)]
    assert table[0] == "| effect | range | mean | 90% bounds | required | outcome |"
    assert len(table) == 2 + 8
    assert table[2].endswith("L2-AdamW |  | +12.1% of the neurons |  | above 1 | undecided |")


def test_figures_are_judged_again_without_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(walks._SIZES, "cpu", (5_000, 200))
    assert reproduce.main(["propB1", "--seeds=2", f"--out={tmp_path}"]) == 0
    path = tmp_path / "cpu" / "propB1.json"
    written = json.loads(path.read_text())
    assert [v["outcome"] for v in written["verdicts"]] == ["undecided"] * 3
    monkeypatch.setattr(walks, "survival", None)  # Nothing is simulated.
    harsh = dataclasses.replace(FIGURES["propB1"], judge=lambda means: [Claim("Else.", "9", (), "so")])
    monkeypatch.setitem(reproduce.FIGURES, "propB1", harsh)
    assert reproduce.main(["all", "--again", f"--out={tmp_path}"]) == 0
    again = json.loads(path.read_text())
    assert again["verdicts"][0]["claim"] == "Else."
    same = set(written) - {"verdicts"}
    assert {key: again[key] for key in same} == {key: written[key] for key in same}
    assert "**Not tested**: so." in path.with_suffix(".md").read_text()
    assert reproduce.main(["fig3", "--again", f"--out={tmp_path}"]) == 2
    assert f"name must be with --again a figure that {tmp_path / 'cpu'} holds" in capsys.readouterr().err


_RUN = {"panel": 0, "series": "Dense", "test_accuracy": 0.8, "weight_sparsity": 0.0, "steps": 10}


def test_runs_of_a_record_are_not_repeated(tmp_path, monkeypatch):
    """A record is continued without the folders of its runs: one seed, and then two more."""
    summary = {"test_accuracy": 0.7, "weight_sparsity": 0.8, "steps": 9, "device": "a", "commit": "1" * 40}
    made = []

    def execute(runs, folder, **options):
        made.append(len(runs))
        return {run: Outcome(run, folder / run.name, {**summary, "seed": 0}, None) for run in runs}

    monkeypatch.setattr(reproduce, "execute", execute)
    command = ["length", "--scale=paper", f"--out={tmp_path}"]
    assert reproduce.main([*command, "--seeds=1"]) == 0
    one = json.loads((tmp_path / "paper" / "length.json").read_text())
    assert reproduce.main([*command, "--seeds=1"]) == 0
    again = json.loads((tmp_path / "paper" / "length.json").read_text())
    assert (again["points"], again["runs"]) == (one["points"], one["runs"])
    summary["commit"] = "2" * 40
    assert reproduce.main([*command, "--seeds=3"]) == 0
    three = json.loads((tmp_path / "paper" / "length.json").read_text())
    assert made == [14, 0, 28]
    assert len(three["points"]) == 3 * len(one["points"]) == 42
    assert [run["commit"][0] for run in three["runs"]] == ["1", "2", "2"] * 14
    flags = three["runs"][0]["flags"]
    three["runs"][0]["flags"] = [*flags, "--config.pruning.examples=3"]  # A run of another config.
    (tmp_path / "paper" / "length.json").write_text(json.dumps(three))
    assert reproduce.main([*command, "--seeds=3"]) == 0
    assert made[-1] == 1


def test_a_damaged_record_is_one_line(tmp_path, capsys):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "propB1.json").write_text('{"runs": [')
    assert reproduce.main(["propB1", f"--out={tmp_path}"]) == 2
    shown = capsys.readouterr().err
    assert "propB1.json is damaged (JSONDecodeError" in shown
    assert "Restore it, or delete it" in shown


def test_times_of_different_devices_are_not_compared(tmp_path):
    cases = FIGURES["speed"].cases("cpu", [0, 1, 2])
    points = [Point(c.panel, c.series, c.level, c.seed, 100.0 - c.level, 90.0) for c in cases]
    content = {"scale": "cpu", "smoke": False, "seeds": 3, "failed": [], "figure": "speed"}
    content["points"] = [dataclasses.asdict(point) for point in points]
    for devices, outcome in ((("one", "one"), "holds"), (("one", "another"), "not tested")):
        pages.finish(FIGURES["speed"], content | {"runs": [{**_RUN, "device": d} for d in devices]}, tmp_path)
        found = json.loads((tmp_path / "speed.json").read_text())["verdicts"]
        assert {verdict["outcome"] for verdict in found} == {outcome}
    assert {v["why"] for v in found} == {"times are of different devices: another, one"}


def test_a_reason_is_given_where_a_claim_does_not_hold():
    figure = dataclasses.replace(FIGURES["fig3"], caveat="It was short.")
    bad, good = Verdict("A.", "1", "does not hold"), Verdict("A.", "1", "holds")
    assert "Likely reason: It was short." in pages.summary(figure, [bad, good], "cpu", 1, 0)
    assert "Likely" not in pages.summary(figure, [good], "cpu", 1, 0)
    assert "Likely" not in pages.summary(figure, [bad], "paper", 1, 0)
