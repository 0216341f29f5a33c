"""Lines of records compared at equal size."""

import json
import statistics

import numpy as np
import pytest
from matplotlib.axes import Axes

from experiments import tables


def _record(setting, seed, size, accuracy):
    return {"setting": setting, "seed": seed, "weight_sparsity": size, "test_accuracy": accuracy}


def test_leads_are_means_over_the_common_range():
    records = []
    for seed, gap in enumerate((0.01, 0.02, 0.06)):
        records += [_record("a 1", seed, 0.5, 0.7 + gap), _record("a 2", seed, 0.9, 0.6 + gap)]
        records += [_record("b 1", seed, 0.6, 0.68), _record("b 2", seed, 0.8, 0.62), _record("b 3", seed, 0.9, 0.1)]
    found = tables.leads(records, "a", "b", "weight_sparsity")
    # On the line of `a` at 0.6 and 0.8: 67.5 and 62.5, plus the gap. The run at 10% has collapsed.
    expected = [np.mean([67.5 - 68, 62.5 - 62]) + 100 * gap for gap in (0.01, 0.02, 0.06)]
    np.testing.assert_allclose([value for value, _ in found.values()], expected, atol=1e-9)
    assert {span for _, span in found.values()} == {(0.6, 0.8)}
    assert tables.leads(records, "a 1", "b", "weight_sparsity") == {}


def test_the_command_says_the_lead_with_its_bounds(tmp_path, capsys):
    records = [
        _record(name, seed, size, accuracy + (0.02 + 0.01 * seed if name == "ours" else 0))
        for name in ("ours", "theirs")
        for seed in range(3)
        for size, accuracy in ((0.5, 0.7), (0.9, 0.6))
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert tables.main([str(path), "--lead", "ours", "theirs"]) == 0
    half = 1.8856 * statistics.stdev([2, 3, 4]) / 3**0.5  # The t-quantile of two degrees of freedom at 90%.
    shown = f"(0.50 to 0.90): +3.00 points [{3 - half:+.2f}, {3 + half:+.2f}]; seeds 0, 1, 2: +2.00, +3.00, +4.00"
    assert shown in capsys.readouterr().out
    assert tables.main([str(path), "--lead", "ours", "theirs", "--by=size"]) == 2
    assert "--by must be a field of the records" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [("ours", "nobody"), ("nobody", "theirs")])
def test_nothing_to_compare_is_said(tmp_path, capsys, settings):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(_record("ours", 0, size, 0.5)) + "\n" for size in (0.1, 0.2)))
    assert tables.main([str(path), "--lead", *settings]) == 0
    assert "no seed has two runs of each" in capsys.readouterr().out


def test_layers_are_drawn_as_means_over_seeds(tmp_path, capsys, monkeypatch):
    """Of two layers of 8 and 4 units, the runs of two seeds keep 6 and 8, and 1 and 3."""
    widths = {"dense": [(8, 4)] * 2, "DemP, lambda 1": [(6, 1), (8, 3)], "SNAP": [(1, 1)] * 2}
    records = [
        {
            "setting": name,
            "seed": seed,
            "weight_sparsity": 0.5 * (name != "dense"),
            "widths": {"a": pair[0], "b": pair[1]},
        }
        for name, pairs in widths.items()
        for seed, pair in enumerate(pairs)
    ]
    path, picture = tmp_path / "records.jsonl", tmp_path / "layers.svg"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, spread, **_: drawn.append((y, spread)))
    monkeypatch.setattr(Axes, "legend", lambda self, **_: None)
    assert tables.main([str(path), f"--layers={picture}", "--only", "DemP*"]) == 0
    [(heights, spreads)] = drawn
    np.testing.assert_allclose(heights, [7 / 8, 0.5])
    np.testing.assert_allclose(spreads, [statistics.stdev([0.75, 1]), statistics.stdev([0.25, 0.75])])
    assert picture.read_text().startswith("<?xml")
    assert tables.main([str(path), f"--layers={picture}", "--only", "Nobody"]) == 2
    assert "--layers needs records of a dense run and of pruned runs" in capsys.readouterr().err
    assert tables.main([str(path), f"--layers={tmp_path / 'layers.txt'}"]) == 2
    assert "--layers must be a PNG or SVG file" in capsys.readouterr().err
