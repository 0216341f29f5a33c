# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruned networks for other programs: safetensors, StableHLO by `jax.export`, ONNX by jax2onnx.

All of them hold what is left of a network and nothing of what was cut: no mask is to be applied, and no architecture
to be found that the arrays fit into. Networks are functions in evaluation mode, `fn(variables, x)`, with examples along
the first axis of `x` and of what they return; `demp_jax.nnx.forward(model)` makes one of a Flax NNX model.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export

from demp_jax._src.bundling import bundle as bundle
from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing.axes import SELECT
from demp_jax._src.tracing.paths import leaf_paths
from demp_jax.nnx import resize

__all__ = ["PLATFORMS", "bundle", "load_tensors", "read_tensors", "serialize", "to_onnx", "write_tensors"]

# Where what `serialize` returns runs.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Of safetensors (https://huggingface.co/docs/safetensors), all little-endian. JAX brings NumPy's bfloat16.
_DTYPES: dict[str, Any] = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": jnp.bfloat16,
    "F32": "<f4",
    "F64": "<f8",
}


def write_tensors(path: str | Path, variables: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a tree of arrays as a safetensors file; their names are their paths, such as `blocks/0/conv1/kernel`.

    Needs the package safetensors; to read it, NumPy is enough (`read_tensors`).

    Args:
      path: of the file.
      variables: a tree of arrays; of a Flax NNX model `nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngState)))`.
      metadata: further texts by name.

    Raises:
      ValueError: when two arrays have one name, or one is a random key.
    """
    from safetensors.numpy import save

    names, leaves = leaf_paths(variables), jax.tree.leaves(variables)
    arrays = {}
    for name, leaf in zip(names, leaves, strict=True):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"write_tensors: {name} is a random key, which evaluation does not need: leave it out, of Flax NNX by "
                "nnx.state(model, nnx.Not(nnx.RngState))."
            )
        arrays[name] = np.asarray(leaf)
    if len(arrays) != len(leaves):
        raise ValueError(f"write_tensors: several arrays are called {next(n for n in names if names.count(n) > 1)}.")
    Path(path).write_bytes(save(arrays, dict(metadata or {})))


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name, read-only.

    The file is the length of its header in 8 bytes, the header in JSON (dtype, shape and place of every array), and
    the arrays.

    Args:
      path: of the file.

    Raises:
      ValueError: when it is no such file, or not whole.
    """
    raw = Path(path).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8:start])
        header.pop("__metadata__", None)
        data = memoryview(raw)[start:]
        arrays = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            arrays[name] = np.frombuffer(data[first:last], np.dtype(_DTYPES[entry["dtype"]])).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error
    return arrays


def load_tensors(model: nnx.Module, path: str | Path) -> None:
    """Gives a model the variables of a safetensors file, in place, at the widths they have there.

    Args:
      model: of the same architecture at any widths; one of `nnx.eval_shape` is enough.
      path: of the file; its names are the paths of the model's variables, such as `blocks/0/conv1/kernel`.

    Raises:
      ValueError: when the variables are not those of the model.
    """
    # The steps of a path are names, or numbers of lists.
    steps = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(nnx.as_pure(nnx.state(model)))}
    arrays = {steps.get(name, tuple(name.split("/"))): jnp.asarray(each) for name, each in read_tensors(path).items()}
    try:
        resize(model, nnx.as_pure(nnx.from_flat_state(arrays.items())))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def serialize(fn: Callable[[Any, Any], Any], variables: Any, x: Any) -> bytes:
    """Returns a network as StableHLO with its weights, for batches of any size, on any of `PLATFORMS`.

    `jax.export.deserialize(bytearray(data)).call(x)` runs it; that needs JAX, of this version or a newer one, as JAX
    promises for half a year (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). To write and
    to read it, JAX needs the package flatbuffers.

    Args:
      fn: the network, `fn(variables, x)`.
      variables: its variables.
      x: a batch of inputs, or its shape and dtype.
    """
    exported = jax_export.export(jax.jit(functools.partial(fn, variables)), platforms=PLATFORMS)(_any_batch(x))
    return bytes(exported.serialize())


def to_onnx(fn: Callable[[Any, Any], Any], variables: Any, x: Any) -> Any:
    """Returns a network as an `onnx.ModelProto` with its weights, for batches of any size.

    Its input is called `x`, its output `y` (where there are several, `y_0`, `y_1`, ...).
    Needs the package jax2onnx, and converts what that can convert. It is given the network as plain operations, with
    what depends on weights alone computed beforehand.

    Args:
      fn: the network, `fn(variables, x)`.
      variables: its variables.
      x: a batch of inputs, or its shape and dtype.
    """
    program = program_lib.trace(functools.partial(fn, variables), _any_batch(x))

    def flat(x: jax.Array) -> Any:
        return jax.tree.unflatten(program.out_tree, program_lib.run_flat(program, [x], _ONNX_RULES))

    with _quiet("jax2onnx", "onnx_ir"):
        import jax2onnx

        names = ["y"] if len(program.outputs) == 1 else [f"y_{i}" for i in range(len(program.outputs))]
        example = program.avals[program.inputs[0]]
        shape = jax.ShapeDtypeStruct(example.shape, example.dtype)
        return jax2onnx.to_onnx(flat, [shape], model_name="network", input_names=["x"], output_names=names)


def _any_batch(x: Any) -> jax.ShapeDtypeStruct:
    (batch,) = jax_export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keeps loggers from telling of plugins for packages and versions that are not in use here."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _select_rule(op: program_lib.Op, operands: Sequence[Any]) -> Any:
    """Channels by numbers that are known: nothing to do, or a plain gather."""
    x, index, fill = operands[0], np.asarray(operands[1]), np.asarray(operands[2])
    if np.array_equal(index, np.arange(x.shape[-1])):
        return x
    held, last = index < x.shape[-1], x.ndim - 1
    # Functions of `jax.numpy` would be calls again.
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(last)), collapsed_slice_dims=(last,), start_index_map=(last,)
    )
    channels = np.where(held, index, 0).astype(np.int32)[:, None]
    taken = jax.lax.gather(x, channels, numbers, slice_sizes=(*x.shape[:-1], 1), mode="clip")
    if held.all():
        return taken

    def everywhere(values: np.ndarray) -> jax.Array:
        return jax.lax.broadcast_in_dim(values, taken.shape, (last,))

    return jax.lax.select(everywhere(held), taken, everywhere(np.where(held, 0, fill).astype(x.dtype)))


def _pool_rule(op: program_lib.Op, operands: Sequence[Any]) -> Any | None:
    """Pooling of images by the functions of Flax, which jax2onnx knows to be pooling in ONNX as well."""
    x, params = operands[0], op.params
    window, strides = tuple(params["window_dimensions"]), tuple(params["window_strides"])
    images = len(window) == 4 and window[0] == window[3] == strides[0] == strides[3] == 1
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if not images or dilated:
        return None
    for padding in ("VALID", "SAME"):
        pairs = jax.lax.padtype_to_pads((1, *x.shape[1:]), window, strides, padding)
        if tuple(map(tuple, params["padding"])) == tuple(map(tuple, pairs)):
            shape: dict[str, Any] = {"window_shape": window[1:3], "strides": strides[1:3], "padding": padding}
            if op.name == "reduce_window_max":
                return nnx.max_pool(x, **shape)
            if padding == "VALID":
                return nnx.avg_pool(x, **shape) * math.prod(window)
    return None


_ONNX_RULES = {SELECT: _select_rule, "reduce_window_max": _pool_rule, "reduce_window_sum": _pool_rule}
