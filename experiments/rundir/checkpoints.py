# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of networks whose shapes change: arrays in Orbax, metadata in JSON.

The metadata hold the shapes, the config and the counters, so that a checkpoint can be read on its own. Arrays are
never truncated or padded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from experiments import settings
from experiments.core.errors import UsageError
from experiments.recipe import network as network_lib
from experiments.settings import schema

FORMAT = 3


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(
        self, folder: Path, keep: int | None, place: jax.sharding.Sharding | None = None, *, trusts: bool = False
    ):
        """Opens a folder.

        Args:
          folder: the folder of the checkpoints.
          keep: number of newest checkpoints to keep; `None` keeps all and requires that the folder exists.
          place: sharding of restored arrays; the first device by default.
          trusts: whether to accept metadata that were edited or are in the folder of another step.
        """
        # Orbax logs every stage of a save, and also the errors that it raises.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder, self._place, self._trusts = folder.resolve(), place, trusts
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=keep is not None)
        self._manager = ocp.CheckpointManager(self._folder, item_names=("arrays", "meta"), options=self._options)

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, or `None`."""
        return self._manager.latest_step()

    def where(self, step: int) -> str:
        """Returns the folder of the checkpoint of a step."""
        return str(self._folder / str(step))

    def save(self, step: int, arrays: Any, meta: Mapping[str, Any]) -> None:
        """Saves a tree of arrays with metadata. On return, the checkpoint is complete on disk.

        Raises:
          OSError: if it cannot be written, for example because the disk is full.
        """
        meta = {**meta, "format": FORMAT, "step": step, "shapes": _shapes(arrays), "digests": _digests(arrays)}
        meta["checksum"] = _checksum(meta)
        saved = ocp.args.StandardSave(jax.tree.map(_filled, arrays))
        args = ocp.args.Composite(arrays=saved, meta=ocp.args.JsonSave(meta))
        # After a failed write, Orbax prints a traceback by this hook for every pending write.
        hook = sys.unraisablehook
        sys.unraisablehook = lambda raised: None if "Event loop is closed" in str(raised.exc_value) else hook(raised)
        try:
            self._manager.save(step, args=args, force=True)
            self._manager.wait_until_finished()
        except ValueError as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))  # As TensorStore reports it.
            if code is None:
                raise
            number = int(code[1])
            raise OSError(number, os.strerror(number), str(self._folder / str(step))) from error
        sys.unraisablehook = hook

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the metadata of the checkpoint of a step.

        Raises:
          UsageError: if it is damaged, or was not written by this program.
        """
        try:
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        except Exception as error:
            raise self._damaged(step, error) from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            found = meta.get("format") if isinstance(meta, dict) else meta
            raise UsageError(
                f"checkpoint {self._folder / str(step)} must be of format {FORMAT}; got {found!r}. It was not written "
                "by this program: choose another --workdir."
            )
        if not self._trusts:
            self._require_unchanged(step, meta)
        return meta

    def _require_unchanged(self, step: int, meta: Mapping[str, Any]) -> None:
        where = self._folder / str(step)
        remedy = "Put back what was saved, or go on regardless with --config.resume=anyway."
        if meta.get("checksum") != _checksum(meta):
            raise UsageError(f"checkpoint {where}: its metadata were changed after it was saved. {remedy}")
        if meta["step"] != step:
            raise UsageError(f"checkpoint {where} holds step {meta['step']}: its folder was renamed. {remedy}")

    def restore(self, step: int, abstract: Any) -> Any:
        """Returns the arrays of a step, bit for bit.

        Args:
          step: the step of the checkpoint.
          abstract: a tree of `jax.ShapeDtypeStruct`s with the structure and shapes that were saved.

        Raises:
          UsageError: if the checkpoint is damaged or holds other arrays.
        """
        meta = self.meta(step)
        wanted = _shapes(abstract)
        if wanted != meta["shapes"]:
            odd = sorted(k for k in wanted.keys() | meta["shapes"].keys() if wanted.get(k) != meta["shapes"].get(k))
            name = odd[0]
            raise UsageError(
                f"checkpoint {self._folder / str(step)} holds other arrays than this run: {name} has "
                f"{meta['shapes'].get(name)} there and {wanted.get(name)} here. Choose another --workdir."
            )
        # The arrays may have been saved from other devices, such as a GPU.
        here = self._place or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(_filled_shape(leaf.shape), leaf.dtype, sharding=here), abstract
        )
        item = ocp.args.Composite(arrays=ocp.args.StandardRestore(placed))

        def read() -> Any:
            arrays = self._manager.restore(step, args=item)["arrays"]
            empty = lambda leaf, array: array if leaf.size else jnp.zeros(leaf.shape, leaf.dtype, device=here)  # noqa: E731
            return jax.tree.map(empty, abstract, arrays)

        return self._read(step, meta, read)

    def restore_all(self, step: int) -> Any:
        """Returns the arrays of a step as nested dicts of NumPy arrays, with the saved shapes.

        Raises:
          UsageError: if the checkpoint is damaged.
        """

        def read() -> Any:
            folder = self._folder / str(step) / "arrays"
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                tree = checkpointer.metadata(folder).item_metadata.tree
                kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                arrays = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
            abstract = shaped_like(arrays, meta["shapes"])
            return jax.tree.map(
                lambda leaf, array: array if leaf.size else np.zeros(leaf.shape, leaf.dtype), abstract, arrays
            )

        meta = self.meta(step)
        return self._read(step, meta, read)

    def _read(self, step: int, meta: Mapping[str, Any], read: Callable[[], Any]) -> Any:
        try:
            arrays = read()
        except Exception as error:
            raise self._damaged(step, error) from error
        if _digests(arrays) != meta["digests"]:
            raise self._damaged(step, ValueError("the arrays are not those that were saved"))
        return arrays

    def _damaged(self, step: int, error: Exception) -> UsageError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        others = [s for s in self._manager.all_steps() if s != step]
        remedy = f"continue from step {max(others)}" if others else "start again from step 0"
        folder = self._folder / str(step)
        return UsageError(f"checkpoint {folder} is damaged ({reason}). Delete it to {remedy}.")

    def close(self) -> None:
        """Closes the folder."""
        with contextlib.suppress(ValueError):  # Orbax raises the error of a failed save again.
            self._manager.close()


def _filled_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape in which an array is saved; Orbax does not support arrays of size 0."""
    return tuple(shape) if math.prod(shape) else (1,) * len(shape)


def _filled(leaf: Any) -> Any:
    return leaf if leaf.size else jnp.zeros(_filled_shape(leaf.shape), leaf.dtype, device=leaf.sharding)


def all_finite(tree: Any) -> bool:
    """Returns whether all entries of a tree of arrays are finite. Runs on the host, where a save needs them anyway."""
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))


def _checksum(meta: Mapping[str, Any]) -> int:
    """Returns a checksum of metadata, after conversion to JSON and back."""
    kept = {name: value for name, value in meta.items() if name != "checksum"}
    return zlib.crc32(json.dumps(json.loads(json.dumps(kept)), sort_keys=True).encode())


def _named(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def _shapes(tree: Any) -> dict[str, str]:
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in _named(tree).items()}


def _digests(tree: Any) -> dict[str, int]:
    def digest(leaf: Any) -> int:
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return zlib.crc32(np.asarray(data).tobytes())

    return {name: digest(leaf) for name, leaf in _named(tree).items()}


def shaped_like(abstract: Any, shapes: Mapping[str, str], prefix: str = "") -> Any:
    """Returns a tree of `jax.ShapeDtypeStruct`s with the shapes of a checkpoint.

    Args:
      abstract: the tree, at any widths.
      shapes: shapes by path, from the checkpoint metadata, such as `"float32[3,4]"`.
      prefix: path of this tree in the checkpoint.
    """

    def resize(path: Any, leaf: Any) -> Any:
        text = shapes.get(prefix + jax.tree_util.keystr(path, simple=True, separator="/"))
        if text is None or "[" not in text:
            return leaf
        sizes = text[text.rindex("[") + 1 : -1]
        return jax.ShapeDtypeStruct(tuple(int(s) for s in sizes.split(",") if s), leaf.dtype)

    return jax.tree_util.tree_map_with_path(resize, abstract)


@dataclasses.dataclass(frozen=True)
class Saved:
    """Content of a checkpoint.

    Attributes:
      step: the step of the checkpoint.
      meta: the metadata, see `experiments.training.hooks.Save`.
      config: the config of the run.
      network: the network at the widths of the checkpoint.
      variables: variables of `network`.
    """

    step: int
    meta: dict[str, Any]
    config: ml_collections.ConfigDict
    network: network_lib.Network
    variables: Any


def read(workdir: str | Path, step: int | None = None) -> Saved:
    """Reads a checkpoint of a run. Reads no other file, and no pickled data.

    Args:
      workdir: the workdir of a run, or its `checkpoints` folder.
      step: the step of the checkpoint; the newest by default.

    Raises:
      UsageError: if there is no checkpoint, or it is damaged.
    """
    folder = Path(workdir)
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    if not folder.is_dir():
        raise UsageError(f"workdir must be a run directory; got {str(workdir)!r}, which does not exist.")
    checkpoints = Checkpoints(folder, keep=None)
    try:
        found = step if step is not None else checkpoints.latest()
        if found is None:
            raise UsageError(f"workdir must hold a checkpoint; {str(folder)!r} has none.")
        meta = checkpoints.meta(found)
        config = ml_collections.ConfigDict(meta["config"])
        section = settings.section(schema.Model, config.model)
        network, variables = network_lib.abstract(section, tuple(meta["input_shape"]), meta["classes"])
        arrays = _named(checkpoints.restore_all(found))
        leaves = [jnp.asarray(arrays[f"variables/{name}"]) for name in _named(variables)]
        variables = jax.tree.unflatten(jax.tree.structure(variables), leaves)
        return Saved(found, meta, config, network.resized(variables), variables)
    finally:
        checkpoints.close()


def load_pruned(workdir: str | Path, step: int | None = None) -> nnx.Module:
    """Returns the pruned network of a checkpoint, in evaluation mode.

    Args:
      workdir: the workdir of a run, or its `checkpoints` folder.
      step: the step of the checkpoint; the newest by default.

    Raises:
      UsageError: if there is no checkpoint, or it is damaged.
    """
    saved = read(workdir, step)
    return saved.network.model(saved.variables)
