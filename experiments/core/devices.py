# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Data parallelism: batches are sharded over all devices, everything else is replicated.

The training step is written for the global batch, and `jax.jit` partitions it over a mesh. The loss, BatchNorm
statistics, gradients and alive masks are therefore those of the global batch, for any number of devices and processes.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.core.errors import UsageError
from experiments.core.peers import HEARTBEAT


class Devices:
    """The devices of all processes of a run.

    Attributes:
      mesh: mesh with one axis, `batch`.
      replicated: sharding of arrays that are replicated on every device.
      process: index of this process.
      processes: number of processes.
    """

    def __init__(self, count: int = 0):
        """Uses the first `count` devices, or all devices if `count` is 0.

        Raises:
          UsageError: if there are fewer devices, or several processes are to use only some of theirs.
        """
        here = jax.device_count()
        if count and count != here and (jax.process_count() > 1 or not 0 < count < here):
            allowed = f"between 1 and {here}" if jax.process_count() == 1 else f"{here} for several processes"
            raise UsageError(f"config.devices must be {allowed}, or 0 for all; got {count}.")
        devices = jax.devices()[: count or here]
        self.mesh: Mesh = jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.process, self.processes = jax.process_index(), jax.process_count()

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes records."""
        return self.process == 0

    def everywhere(self, tree: Any) -> Any:
        """Replicates a tree of arrays on every device. The tree must be the same in every process."""
        if self.processes == 1:
            return jax.device_put(tree, self.replicated)
        return jax.tree.map(self._from_host, tree)

    def _from_host(self, leaf: Any) -> Any:
        # `jax.device_put` to devices of other processes only accepts host arrays.
        if isinstance(leaf, jax.Array) and leaf.sharding == self.replicated:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._from_host(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.device_put(np.asarray(leaf), self.replicated)

    def share(self, rows: np.ndarray, axis: int = 0) -> np.ndarray:
        """Returns this process's part of the rows of a batch along `axis`."""
        return np.array_split(rows, self.processes, axis)[self.process]

    def spread(self, tree: Any, axis: int = 0) -> Any:
        """Shards a tree of batches over all devices along `axis`; each process passes its own part."""
        split = NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, "batch"))
        if self.processes == 1:
            return jax.device_put(tree, split)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(split, leaf), tree)

    def gather(self, share: np.ndarray) -> np.ndarray:
        """Returns the rows of the global batch; each process passes its own part."""
        return share if self.processes == 1 else np.asarray(multihost_utils.process_allgather(share, tiled=True))

    def any(self, flag: bool) -> bool:
        """Returns whether a flag is set in any process. A collective: every process must call it."""
        return flag if self.processes == 1 else bool(np.any(multihost_utils.process_allgather(np.array(flag))))

    def firsts(self, number: float) -> float:
        """Returns the number that the first process passed. A collective: every process must call it."""
        return number if self.processes == 1 else float(multihost_utils.broadcast_one_to_all(np.float32(number)))

    def agree(self, what: str, value: Any) -> None:
        """Raises `AssertionError` unless the `repr` of a value is the same in every process."""
        if self.processes > 1:
            digest = np.int32(zlib.crc32(repr(value).encode()) & 0x7FFFFFFF)
            multihost_utils.assert_equal(digest, f"the processes of this run differ in {what}")

    def wait(self, name: str) -> None:
        """Blocks until all processes have reached this point."""
        if self.processes > 1:
            multihost_utils.sync_global_devices(name)

    def require_divides(self, field: str, batch: int, parts: int = 1) -> None:
        """Raises `UsageError` unless a batch splits evenly into `parts` parts on each device."""
        unit = self.count * parts
        if batch % unit:
            what = f"{self.count} device{'s' if self.count > 1 else ''}"
            what += f" x {parts} parts (config.accumulate)" if parts > 1 else ""
            raise UsageError(
                f"{field} must be a multiple of {unit}, for {what}; got {batch}. Change it, or use fewer devices by "
                "config.devices."
            )


def join_processes(asked: str) -> None:
    """Initializes JAX's distributed runtime in this process.

    Args:
      asked: "" for a run of one process; `auto` on a cluster that JAX detects (SLURM, Open MPI, Kubernetes, Cloud TPU);
        otherwise `HOST:PORT,PROCESSES,PROCESS`, with the address of the first process.

    Raises:
      UsageError: for any other text, or if JAX detects no cluster.
    """
    if not asked:
        return
    try:
        if asked == "auto":
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
        else:
            address, processes, process = asked.split(",")
            jax.distributed.initialize(address, int(processes), int(process), heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            "--distributed must be auto, on a cluster that JAX knows, or HOST:PORT,PROCESSES,PROCESS as in "
            f"--distributed=10.0.0.1:1234,2,0; got {asked!r} ({reason})."
        ) from error


def processors() -> int:
    """Returns the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> int:
    """Returns the available memory of the machine, or of its cgroup if that is less, in bytes.

    Reclaimable page cache counts as available. If the system reports neither, returns the machine's total memory.

    Args:
      root: root of the file system that `/proc` and `/sys` are read from.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # Without a limit, `memory.max` is not a number.
        group = root / "sys/fs/cgroup"
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        # The page cache counts as used, but is reclaimed on demand.
        used -= sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        found.append(int((group / "memory.max").read_text()) - used)
    return max(min(found), 0)
