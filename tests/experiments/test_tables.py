"""Lines of records compared at equal size."""

import json
import statistics

import numpy as np
import pytest

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
