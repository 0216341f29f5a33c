# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Time of a prune by stage: measuring, slicing, proving, retracing and recompiling the step.

A third of the units inside residual blocks is made dead by a large negative bias. The prune and the first step after it
are timed in a process that compiles everything (`cold`), and again with the persistent cache that it wrote (`warm`).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import demp_jax
from benchmarks import programs
from experiments.recipe.network import Network

# Timeout of a process.
_SECONDS = 300
_ROOT = Path(__file__).resolve().parent.parent

CASES: dict[str, list[tuple[dict[str, Any], int, int]]] = {
    "tiny": [({"base_width": 4, "stem_stride": 2}, 8, 16)],
    "cpu": [({"base_width": 16, "stem_stride": 2}, 128, 512), ({"base_width": 16}, 128, 512)],
    "gpu": [({"base_width": 64, "dtype": "bfloat16"}, 512, 512)],
}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per network with a cold cache, and one with a warm cache: seconds by stage.

    Raises:
      RuntimeError: if a process fails.
    """
    for case in cases:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                command = [sys.executable, "-m", "benchmarks.cut", scale, str(CASES[scale].index(case))]
                done = subprocess.run(
                    command,
                    cwd=_ROOT,
                    env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_SECONDS,
                )
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")
                yield {"cache": state, **json.loads(done.stdout.splitlines()[-1])}


def once(model: dict[str, Any], batch: int, examples: int) -> dict[str, Any]:
    """Returns the seconds of one prune by stage, the seconds of a step after it, and the memory before and after."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    model = {"name": "resnet18", **model}
    net, variables = programs.initial(model, (32, 32, 3))
    variables = _with_dead_units(variables)
    before = programs.built(net, variables, (32, 32, 3), batch, strength=1e-3)
    jax.block_until_ready(before())
    death_set = [jax.random.uniform(jax.random.key(0), (examples, 32, 32, 3))]
    started = time.perf_counter()
    opt_state = jax.jit(before.task.tx.init)(variables["params"])
    result = demp_jax.prune(
        net, variables, death_set, params=lambda v: v["params"], opt_state=opt_state, tx=before.task.tx
    )
    cut = time.perf_counter() - started
    assert isinstance(result.fn, Network)
    started = time.perf_counter()
    bytes_before = before.bytes
    after = programs.built(result.fn, result.variables, (32, 32, 3), batch, strength=1e-3)
    traced = time.perf_counter() - started
    started = time.perf_counter()
    jax.block_until_ready(after())
    first = time.perf_counter() - started
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(after())
        taken.append(time.perf_counter() - started)
    step = statistics.median(taken)
    stages = {**result.record.seconds, "retrace": traced, "recompile": first - step}
    return {
        "model": model,
        "batch": batch,
        "examples": examples,
        "neurons": list(result.record.neurons),
        "stages": {stage: round(seconds, 3) for stage, seconds in stages.items()},
        "seconds": round(cut + traced + first - step, 3),
        "step_seconds": round(step, 4),
        "bytes": [bytes_before, after.bytes],
    }


def _with_dead_units(variables: Any) -> Any:
    """Returns variables with a bias of -100 for every third unit of the first normalization layer of every block."""

    def kill(path: Any, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        return jnp.where(np.arange(leaf.size) % 3 == 0, -100.0, leaf) if "bn1" in name and "bias" in name else leaf

    return jax.tree_util.tree_map_with_path(kill, variables)


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    stages = ("measure", "slice", "prove", "retrace", "recompile")
    measured = any("bytes" in record for record in records)
    found: list[tuple[str, ...]] = [("model", "cache", *stages, "whole", "in steps", *(["memory"] if measured else []))]
    for record in records:
        model = record["model"]
        name = f"resnet18, width {model['base_width']}, {model.get('dtype', 'float32')}"
        name += ", half-size maps" if model.get("stem_stride") == 2 else ""
        cells = tuple(f"{record['stages'][stage]:.1f} s" for stage in stages)
        steps = record["seconds"] / record["step_seconds"]
        row = (name, record["cache"], *cells, f"{record['seconds']:.1f} s", f"{steps:.0f}")
        before, after = record.get("bytes", (None, None))
        memory = f"x {after / before:.2f}" if before and after else ""
        found.append((*row, memory) if measured else row)
    return found


if __name__ == "__main__":
    print(json.dumps(once(*CASES[sys.argv[1]][int(sys.argv[2])])))  # noqa: T201
