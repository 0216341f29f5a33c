# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Summaries of runs as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table


def one_line(summary: Mapping[str, Any]) -> str:
    """Returns a run's result in one line."""
    return (
        f"{summary['method']} on {summary['dataset']}, step {summary['steps']}, "
        f"test accuracy {_percent(summary['test_accuracy'])}, "
        f"neuron sparsity {_percent(summary['neuron_sparsity'])}, "
        f"weight sparsity {_percent(summary['weight_sparsity'])}, "
        f"FLOPs x {summary['inference_flops_ratio']:.3f}"
        + (f", step time x {summary['step_time_ratio']:.2f}" if summary["step_time_ratio"] is not None else "")
    )


def comparison(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table with one row per run, from their summaries by name."""
    table = Table()
    headers = ("test accuracy", "neuron sparsity", "weight sparsity", "FLOPs ratio", "step-time ratio")
    table.add_column("")
    for header in headers:
        table.add_column(header, justify="right")
    for name, summary in runs.items():
        table.add_row(
            name,
            _percent(summary["test_accuracy"]),
            _percent(summary["neuron_sparsity"]),
            _percent(summary["weight_sparsity"]),
            f"{summary['inference_flops_ratio']:.3f}",
            f"{summary['step_time_ratio']:.2f}",
        )
    return table


def _percent(part: float) -> str:
    return "not measured" if math.isnan(part) else f"{100 * part:.1f}%"
