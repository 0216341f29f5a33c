# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Export of pruned networks: safetensors, StableHLO with `jax.export`, ONNX with jax2onnx.

A pruned network is a smaller dense network, so no format needs masks. Networks are functions in evaluation mode,
`fn(variables, x)`, with examples along the first axis of `x` and of the outputs. `demp_jax.nnx.forward(model)` returns
such a function for a Flax NNX model.
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

from demp_jax._src.tracing import program as program_lib
from demp_jax._src.tracing.axes import SELECT
from demp_jax._src.tracing.paths import leaf_paths
from demp_jax.nnx import resize

__all__ = ["PLATFORMS", "load_safetensors", "read_safetensors", "save_safetensors", "to_onnx", "to_stablehlo"]

# The platforms of `jax.export`.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# The dtypes of safetensors (https://huggingface.co/docs/safetensors), little-endian. NumPy's bfloat16 is from JAX.
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


def save_safetensors(path: str | Path, variables: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Saves a tree of arrays as a safetensors file.

    Each array is named after its path in the tree, such as `blocks/0/conv1/kernel`. Saving requires the package
    safetensors.

    Args:
      path: path of the file; an existing file is overwritten.
      variables: a tree of arrays. For a Flax NNX model, use `nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngState)))`.
      metadata: strings by name, saved in the header of the file.

    Raises:
      ValueError: if two arrays have the same name, or if an array holds PRNG keys.
    """
    from safetensors.numpy import save

    names, leaves = leaf_paths(variables), jax.tree.leaves(variables)
    arrays = {}
    for name, leaf in zip(names, leaves, strict=True):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"save_safetensors: variables must not hold PRNG keys; got one at {name}. For a Flax NNX model, save "
                "nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngState)))."
            )
        arrays[name] = np.asarray(leaf)
    if len(arrays) != len(leaves):
        name = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"save_safetensors: paths of variables must be unique; got {name} twice. Rename one of them.")
    Path(path).write_bytes(save(arrays, dict(metadata or {})))


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name, as read-only NumPy arrays.

    Only NumPy is needed. A safetensors file consists of the length of its header in 8 bytes, the header in JSON (dtype,
    shape and offsets of each array), and the data of the arrays.

    Args:
      path: path of the file.

    Raises:
      ValueError: if the file is incomplete or of another format.
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
        raise ValueError(
            f"read_safetensors: path must name a complete safetensors file; {path} is not ({error}). Save it again."
        ) from error
    return arrays


def load_safetensors(model: nnx.Module, path: str | Path) -> None:
    """Loads the variables of a safetensors file into a model, in place, at the widths of the file.

    Example::

      model = nnx.eval_shape(lambda: MyModel(rngs=nnx.Rngs(0)))  # At the widths before pruning.
      demp_jax.export.load_safetensors(model, "model.safetensors")
      model.eval()

    Args:
      model: a Flax NNX model of the same architecture, at any widths. Its variables may be shapes and dtypes.
        PRNG keys that the file does not hold are kept.
      path: path of the file. The names of its arrays are the paths of the model's variables, as `save_safetensors`
        writes them.

    Raises:
      ValueError: if the file is incomplete, or if its variables are not those of the model.
    """
    # The elements of a path are strings, and integers where the model holds a list.
    paths = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(nnx.as_pure(nnx.state(model)))}
    read = read_safetensors(path).items()
    arrays = {paths.get(name, tuple(name.split("/"))): jnp.asarray(array) for name, array in read}
    try:
        resize(model, nnx.as_pure(nnx.from_flat_state(arrays.items())))
    except ValueError as error:
        raise ValueError(f"load_safetensors: {path}: {error}") from error


def to_stablehlo(
    fn: Callable[[Any, Any], Any], variables: Any, x: Any, *, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """Returns a network with its weights as serialized StableHLO, for batches of any size.

    `jax.export.deserialize(bytearray(data)).call(x)` runs the network. This needs the same version of JAX or a newer
    one; see the compatibility guarantees of `jax.export`
    (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). Serializing and deserializing require
    the package flatbuffers.

    Args:
      fn: the network, `fn(variables, x)`.
      variables: its variables, a tree of arrays.
      x: a batch of inputs `[B, ...]`, or its `jax.ShapeDtypeStruct`; the size of the batch does not matter.
      platforms: the platforms on which the result can run, from `PLATFORMS`.

    Returns:
      The serialized network.

    Raises:
      ValueError: for an unknown platform.
    """
    unknown = [platform for platform in platforms if platform not in PLATFORMS]
    if unknown or not platforms:
        raise ValueError(
            f"to_stablehlo: platforms must be one or more of {', '.join(PLATFORMS)}; got {tuple(platforms)}. "
            "For a GPU, use 'cuda' or 'rocm'."
        )
    exported = jax_export.export(jax.jit(functools.partial(fn, variables)), platforms=platforms)(_any_batch(x))
    return bytes(exported.serialize())


def to_onnx(fn: Callable[[Any, Any], Any], variables: Any, x: Any, *, opset: int | None = None) -> Any:
    """Returns a network with its weights as an `onnx.ModelProto`, for batches of any size.

    The input is named `x` and the output `y`, or `y_0`, `y_1`, ... if there are several. The package jax2onnx is
    required and converts the operations. Before that, calls are inlined and expressions of weights alone are evaluated,
    so that jax2onnx only converts primitive operations on `x`.

    Args:
      fn: the network, `fn(variables, x)`.
      variables: its variables, a tree of arrays.
      x: a batch of inputs `[B, ...]`, or its `jax.ShapeDtypeStruct`; the size of the batch does not matter.
      opset: version of the ONNX operator set; by default that of jax2onnx.

    Returns:
      The `onnx.ModelProto`.
    """
    program = program_lib.trace(lambda _, x: fn(variables, x), (), _any_batch(x))

    def flat(x: jax.Array) -> Any:
        return jax.tree.unflatten(program.out_tree, program_lib.run_flat(program, [x], _ONNX_RULES))

    with _quiet("jax2onnx", "onnx_ir"), _restored(jnp):
        import jax2onnx

        names = ["y"] if len(program.outputs) == 1 else [f"y_{i}" for i in range(len(program.outputs))]
        example = program.avals[program.inputs[0]]
        shape = jax.ShapeDtypeStruct(example.shape, example.dtype)
        options = {} if opset is None else {"opset": opset}
        return jax2onnx.to_onnx(flat, [shape], model_name="network", input_names=["x"], output_names=names, **options)


@contextlib.contextmanager
def _restored(module: Any) -> Iterator[None]:
    """A context that restores the functions of a module at its end. jax2onnx 0.13 does not restore `jnp.cumsum`."""
    before = dict(vars(module))
    try:
        yield
    finally:
        for name, value in before.items():
            if getattr(module, name) is not value:
                setattr(module, name, value)


def _any_batch(x: Any) -> jax.ShapeDtypeStruct:
    (batch,) = jax_export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """A context in which loggers do not warn. The warnings are about plugins that are not used here."""
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
    """Returns `demp_jax.select` with a known index: the operand itself, or a gather."""
    x, index, fill = operands[0], np.asarray(operands[1]), np.asarray(operands[2])
    if np.array_equal(index, np.arange(x.shape[-1])):
        return x
    held, last = index < x.shape[-1], x.ndim - 1
    # Functions of `jax.numpy` are jitted, and jax2onnx only converts primitive operations.
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
    """Returns the result of pooling images by calling Flax, whose pooling jax2onnx converts to pooling in ONNX."""
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
