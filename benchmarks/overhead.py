# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""What DemP costs a training step before anything is pruned.

`python -m benchmarks.overhead [--width=16] [--batch=128] [--repeats=15]` times the step of an unpruned ResNet-18 with
the parts of DemP alone and all together, against the plain step of the same program: medians of interleaved repeats.
With `--out=FILE` a record is appended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import demp_jax
from configs.base import variants
from experiments import network, records
from experiments.data import Preparation
from experiments.devices import Devices
from experiments.step import Data, Task, TrainState, train_step

PARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alive bits": {"watch": True},
    "regulariser": {"strength": 5e-3},
    "alive bits and noise": {"watch": True, "noise": 5e-5},
    "everything": {"watch": True, "strength": 5e-3, "noise": 5e-5},
}


def _task(part: dict[str, Any], net: network.Network) -> Task:
    base = optax.adamw(5e-3, weight_decay=5e-4)
    strength, noise = part.get("strength", 0.0), part.get("noise", 0.0)
    if strength or noise:
        span = 10**6
        # At its peak throughout: a schedule's end, where the noise costs nothing, is not what is measured.
        schedules = [demp_jax.constant(amount, span) if amount else 0.0 for amount in (strength, noise)]
        base = demp_jax.demp(base, strength=schedules[0], noise=schedules[1], key=0)
    return Task(
        network=net,
        tx=base,
        preparation=Preparation((0.0,) * 3, (255.0,) * 3, crop=4, flip=True),
        criterion="auto",
        epsilon=0.01,
        classes=10,
        label_smoothing=0.0,
        accumulate=1,
        watch=part.get("watch", False),
        needs_live=bool(noise),
        updater=None,
        replicated=Devices(1).replicated,
    )


def measure(width: int, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Returns seconds per step, seconds to compile, and both as ratios to the plain step, by part."""
    config = variants("overhead", "", {"": {"model.name": "resnet18", "model.base_width": width}})
    net, variables = network.initial(config, (32, 32, 3), 10)
    graph = demp_jax.trace(net, variables, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    members = demp_jax.membership(graph, variables["params"])
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 255, (2 * batch, 32, 32, 3)), jnp.uint8)
    data = Data(images, jnp.asarray(rng.integers(0, 10, 2 * batch)))
    examples = jnp.arange(batch, dtype=jnp.int32)
    states, tasks, compiling = {}, {}, {}
    for name, part in PARTS.items():
        tasks[name] = _task(part, net)
        opt_state = jax.jit(tasks[name].tx.init)(variables["params"])
        states[name] = TrainState(
            jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, variables), opt_state, jax.random.key(0)
        )
        started = time.perf_counter()
        states[name], metrics = train_step(states[name], data, examples, members, task=tasks[name])
        jax.block_until_ready(metrics)
        compiling[name] = time.perf_counter() - started
    times: dict[str, list[float]] = {name: [] for name in PARTS}
    for repeat in range(repeats):
        # In another order each time, so that no part always follows the same one.
        for name in np.random.default_rng(repeat).permutation(list(PARTS)):
            started = time.perf_counter()
            states[name], metrics = train_step(states[name], data, examples, members, task=tasks[name])
            jax.block_until_ready((states[name], metrics))
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {n: statistics.median(a / b for a, b in zip(times[n], times["plain"], strict=True)) for n in PARTS}
    return {
        name: {
            "seconds": medians[name],
            "ratio": ratios[name],
            "compile_seconds": compiling[name],
            "compile_ratio": compiling[name] / compiling["plain"],
        }
        for name in PARTS
    }


def main() -> None:
    """Measures, prints a table, and appends a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options.width, options.batch, options.repeats)
    print(f"{'':12} {'step':>8} {'compiling':>10}   (ratios to the plain step)")  # noqa: T201
    for name, row in found.items():
        print(f"{name:12} {row['ratio']:8.3f} {row['compile_ratio']:10.2f}")  # noqa: T201
    if options.out:
        asked = {"width": options.width, "batch": options.batch, "repeats": options.repeats}
        record = {"benchmark": "overhead", **asked, "parts": found, **records.provenance()}
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
