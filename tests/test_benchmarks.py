"""The benchmarks: what they compute from times, that every suite works, that their tables come from records."""

import itertools
import json
import re
import types
from pathlib import Path

import pytest

from benchmarks import paddings, run, step, timing
from experiments import tables
from experiments.records import read_lines

ROOT = Path(__file__).resolve().parent.parent
RECORDS = sorted((ROOT / "results" / "benchmarks").glob("*.jsonl"))


def test_ratios_are_taken_within_rounds(monkeypatch):
    """A machine that gets slower round by round does not change them, and the first round does not count."""
    clock, calls = itertools.count(), []
    now = {"seconds": 0.0}

    def program(name, seconds):
        def call():
            now["seconds"] += seconds * (100 if len(calls) < 2 else 1 + len(calls) // 2)
            calls.append(name)
            return next(clock)

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now["seconds"])
    found = timing.interleaved({"dense": program("dense", 2.0), "cut": program("cut", 0.5)}, 4)
    assert found["dense"].ratio == 1
    assert found["cut"].ratio == pytest.approx(0.25)
    assert found["cut"].spread == pytest.approx((0.25, 0.25))
    assert found["cut"].seconds == pytest.approx(0.5 * 3.5)
    assert calls.count("cut") == calls.count("dense") == 5
    calls.clear()
    of_ten = timing.interleaved({"dense": program("dense", 2.0), "cut": program("cut", 0.5)}, 4, 10)
    assert of_ten["cut"].ratio == pytest.approx(0.25)
    assert of_ten["cut"].seconds == pytest.approx(0.5 * 3.5 / 10)


def test_records_are_written_as_they_come(tmp_path, monkeypatch, capsys):
    class Suite:
        CASES = types.MappingProxyType({"tiny": [("resnet18", 2), ("vgg16", 3)]})

        @staticmethod
        def rows(scale, cases):
            yield {"cases": cases, "asked": scale}
            raise RuntimeError("out of memory")

    monkeypatch.setitem(run.SUITES, "step", Suite)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.main(["step", "--scale=tiny", f"--out={tmp_path / 'new'}", "--only=vgg"])
    [record] = read_lines(tmp_path / "new" / "step.jsonl")
    assert (record["benchmark"], record["asked"], record["cases"]) == ("step", "tiny", [["vgg16", 3]])
    assert {"command", "commit", "versions", "device"} <= set(record)
    wrong = {
        "step": r"error: --only=vit is in no case of step at the scale tiny; .*\('vgg16', 3\)$",
        "gpu": r"error: --only=vit is for one suite; .*name one of step, ",
    }
    for suite, message in wrong.items():
        with pytest.raises(SystemExit):
            run.main([suite, "--scale=tiny", f"--out={tmp_path}", "--only=vit"])
        assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


def test_widths_that_demp_left():
    """From a record of results/: every site keeps a part of its width, fewer where more weights are gone."""
    parts = [step._left_by_demp(sparsity) for sparsity in (0.8, 0.95)]
    assert all(0 < part <= 1 for left in parts for part in left.values())
    assert sum(parts[1].values()) < sum(parts[0].values())


def test_ways_are_compared_to_the_best_of_each_convolution():
    seconds = [{"XLA": 4.0, "ours": 1.0, "8, 8": 2.0}, {"XLA": 1.0, "ours": 2.0, "8, 8": 0.5}]
    few = [{"inputs": 3, "outputs": 16, "seconds": each} for each in seconds]
    many = [{"inputs": 3, "outputs": 17, "seconds": seconds[0]}]
    records = [{"image": 8, "convolutions": few[:1]}, {"image": 8, "convolutions": few[1:] + many}]
    assert paddings.table(records)[1:] == [
        ("8 x 8", "3 to 16", "2", "x 2.83", "x 4.00", "x 2.00", "x 4.00"),
        ("8 x 8", "17 to 64", "1", "x 4.00", "x 4.00", "x 1.00", "x 1.00"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("suite", sorted(run.SUITES))
def test_a_suite_works(suite, tmp_path, capsys):
    run.main([suite, "--scale=tiny", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    records = read_lines(tmp_path / f"{suite}.jsonl")
    assert records
    assert all(json.dumps(record) for record in records)
    assert run.markdown(suite, records) in printed
    run.main([suite, "--table", f"--out={tmp_path}"])
    assert run.markdown(suite, records) in capsys.readouterr().out


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.name)
def test_tables_come_from_records(path):
    records = read_lines(path)
    for record in records:
        assert {"command", "commit", "versions", "device"} <= set(record)
        assert record["scale"] != "tiny"
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert tables.fill(text, path.name, run.markdown(path.stem, records)) == text
