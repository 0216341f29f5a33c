# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Summaries of runs: the content of `summary.json`, and tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

import demp_jax
from experiments.recipe.problem import Problem
from experiments.rundir import records
from experiments.training.totals import Counters


def of_run(
    problem: Problem,
    counters: Counters,
    graph: demp_jax.Graph,
    *,
    steps: int,
    parameters: int,
    flops: int,
    step_time_ratio: float | None,
    target: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns the summary of a run.

    Args:
      problem: dataset, initial network and method, as configured.
      counters: totals of the run.
      graph: the removable units of the final network.
      steps: number of steps that were run.
      parameters: number of parameters of the final network, without masked weights.
      flops: FLOPs of its forward pass per example, without masked weights.
      step_time_ratio: step time relative to plain dense training; `None` if not measured.
      target: requested and reached size; `None` without a target.
    """
    settings, dense = problem.settings, problem.dense
    dense_train_flops = 3.0 * dense.flops() * settings.batch_size * steps
    return {
        "method": problem.method.name,
        "dataset": settings.data.name,
        "model": settings.model.name,
        "seed": settings.seed,
        "steps": steps,
        "target": target,
        "test_accuracy": counters.test_accuracy,
        "dense_parameters": problem.dense_parameters,
        "parameters": parameters,
        "dense_neurons": dense.neurons,
        "neurons": graph.neurons,
        "neuron_sparsity": 1 - graph.neurons / max(dense.neurons, 1),
        "weight_sparsity": 1 - parameters / problem.dense_parameters,
        "dense_inference_flops": dense.flops(),
        "inference_flops_ratio": flops / dense.flops(),
        # The FLOPs of hardware that cannot skip masked weights.
        "gpu_flops_ratio": graph.flops() / dense.flops(),
        "train_flops": counters.train_flops,
        "train_flops_ratio": counters.train_flops / max(dense_train_flops, 1.0),
        "step_time_ratio": step_time_ratio,
        "seconds_total": round(counters.seconds_total, 2),
        "seconds_compiling": round(counters.seconds_compiling, 2),
        **{f"seconds_{part}": round(seconds, 2) for part, seconds in counters.seconds.items()},
        "cuts": counters.cuts,
        "widths": graph.widths,
        **_regime(problem),
        **records.provenance(),
    }


def _regime(problem: Problem) -> dict[str, float | None]:
    """Returns how far a scale or a weight can move in this run.

    `rate_sum` is the sum of the learning rates over the span of the regularizer. An update of Adam is about as large as
    the learning rate, so this is the distance that a scale can move; 1 suffices to shrink a scale from 1 to 0.
    `decay_sum` is the sum of learning rate times weight decay. Without a gradient, weights shrink by a factor of
    exp(-decay_sum).
    """
    settings = problem.settings
    steps = jnp.arange(settings.steps)
    rates = np.asarray(jax.vmap(lambda step: jnp.asarray(problem.rate(step), jnp.float32))(steps))
    return {
        "rate_sum": round(float(rates[: settings.method.strength_span].sum()), 6),
        "decay_sum": round(float(rates.sum() * settings.optimizer.weight_decay), 6),
        "constant": settings.pruning.constant,
    }


def one_line(summary: Mapping[str, Any]) -> str:
    """Returns the result of a run as one line of text."""
    return (
        f"{summary['method']} on {summary['dataset']}, step {summary['steps']}, "
        f"test accuracy {_percent(summary['test_accuracy'])}, "
        f"neuron sparsity {_percent(summary['neuron_sparsity'])}, "
        f"weight sparsity {_percent(summary['weight_sparsity'])}, "
        f"FLOPs x {summary['inference_flops_ratio']:.3f}"
        + (f", step time x {summary['step_time_ratio']:.2f}" if summary["step_time_ratio"] is not None else "")
    )


def comparison(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table with one row per run, from summaries by name."""
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
