# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Programs compiled for a GPU on a machine without one, to count the operations that they launch.

XLA compiles for a description of a device. This needs JAX's CUDA plugin (`pip install "jax[cuda12]"`) and, without an
installed driver, the environment variable `JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1`. XLA does not autotune convolutions and
products without a device, so counts can differ from those on a GPU.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import programs
from experiments.training.step import train_step

# An H200, from NVIDIA's data sheet and the limits of compute capability 9.0 in the CUDA programming guide.
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 150000000000
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H200"
"""
# Instructions that launch nothing: they name values, or end an asynchronous operation, which is counted at its start.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "async-done", "after-all")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%[\w.-]+ = (.*?[\])}]) ([a-z][a-z0-9-]*)\(")
_SHAPE = re.compile(r"[a-z]\w*\[([\d,]*)\]")
_CALLED = re.compile(r"(?:to_apply|body|calls|true_computation|false_computation)=%([\w.-]+)")


@functools.cache
def _device() -> NamedSharding:
    device = topologies.get_topology_desc(platform="cuda", topology_name="", target_config=_H200, topology="1x1x1")
    return NamedSharding(topologies.make_mesh(device, (1,), ("device",)), PartitionSpec())


def available() -> bool:
    """Returns whether programs can be compiled for a GPU here."""
    try:
        _device()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def operations_of(program: programs.Program) -> dict[str, int]:
    """Returns the number of operations that a training step launches on a GPU, by kind; see `operations`."""
    sharding = _device()
    task = dataclasses.replace(program.task, replicated=sharding, fast_convolutions=False)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), program.arguments
    )
    lowered: Any = train_step.lower(*arguments, task=task)
    return operations(lowered.compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text())


def operations(text: str) -> dict[str, int]:
    """Returns the number of operations of a compiled program by kind: fusions, library calls (cuDNN), copies.

    Operations in the body of a loop and in each branch of a conditional count once. Operations whose results are empty
    arrays launch nothing and do not count.

    Args:
      text: the HLO of the program after compilation.
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{") and "%" in line:
            name = line.split("%", 1)[1].split(" ", 1)[0]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    return dict(sorted(_count(bodies, entry).items()))


def _count(bodies: Mapping[str, list[str]], name: str) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for line in bodies[name]:
        match = _INSTRUCTION.match(line)
        if not match or match[2] in _FREE:
            continue
        shapes = _SHAPE.findall(match[1])
        if match[2] in ("call", "while", "conditional", "async-start"):
            for called in _CALLED.findall(line):
                found += _count(bodies, called)
        elif not shapes or any("0" not in shape.split(",") for shape in shapes):
            found[match[2].removesuffix("-start")] += 1
    return found
