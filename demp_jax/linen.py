# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Pruning of Flax Linen models.

A Linen module stores its widths as attributes, and raises an error for variables of other widths. Wrap it as
`Forward(module)` for `demp_jax.prune`, and apply it inside `widths_from_variables()` in training.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from demp_jax._src.frameworks.batch_stats import batch_averages
from demp_jax._src.tracing.program import describes_call

__all__ = ["Forward", "reestimate_batch_stats", "widths_from_variables"]


@contextlib.contextmanager
def widths_from_variables() -> Iterator[None]:
    """A context in which Linen modules take their widths from the variables that they are applied to.

    Linen modules compare their parameters with the widths of their attributes, so smaller variables raise an error.
    Inside this context, `nn.Dense`, `nn.DenseGeneral`, `nn.Conv`, `nn.ConvTranspose`, `nn.Embed` and
    `nn.MultiHeadDotProductAttention` use the widths of their variables. BatchNorm, LayerNorm, and GroupNorm with
    `group_size` always use the width of their input. A GroupNorm with `num_groups` would change the size of its groups,
    so units before it are kept. Initialization is not affected.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = nn.Dense(8)
      >>> params = {"params": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}
      >>> with widths_from_variables():
      ...     layer.apply(params, jnp.ones((2, 4))).shape
      (2, 3)
    """

    def fitted(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module: Any = context.module
        # `nn.Embed` reads its width in `setup`, other layers in `__call__`.
        if context.method_name not in ("__call__", "setup") or module.scope is None:
            return call(*args, **kwargs)
        if context.method_name == "setup" and not isinstance(module, nn.Embed):
            return call(*args, **kwargs)
        changes = next((fit(module, *args) for kind, fit in _FITS.items() if isinstance(module, kind)), {})
        with _changed(module, changes):
            return call(*args, **kwargs)

    with nn.intercept_methods(fitted):
        yield


@contextlib.contextmanager
def _changed(module: nn.Module, changes: dict[str, Any]) -> Iterator[None]:
    """A context in which a module has other attributes."""
    before = {name: getattr(module, name) for name in changes}
    # Modules are frozen dataclasses. Each `apply` makes new ones.
    for name, value in changes.items():
        object.__setattr__(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)


@contextlib.contextmanager
def _batch_statistics(**changes: Any) -> Iterator[set[tuple[str, ...]]]:
    """A context in which every `nn.BatchNorm` uses batch statistics. Yields the paths of the called BatchNorms."""
    called: set[tuple[str, ...]] = set()

    def normalized(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module: Any = context.module
        if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__":
            return call(*args, **kwargs)
        called.add(module.path)
        kwargs.pop("use_running_average", None)
        # The model is called with the whole batch, outside of any mapped axis.
        local = {"use_running_average": False, "axis_name": None, "axis_index_groups": None}
        with _changed(module, {**local, **changes}):
            return call(*args[:1], **kwargs)

    with nn.intercept_methods(normalized):
        yield called


@dataclasses.dataclass(frozen=True, init=False)
class Forward:
    """A Linen model in evaluation mode as a function, `forward(variables, x)`, for variables of any widths.

    Example:
      >>> import jax.numpy as jnp
      >>> from demp_jax import prune
      >>> model = nn.Sequential([nn.Dense(2), nn.relu, nn.Dense(1)])
      >>> hidden = {"kernel": jnp.ones((3, 2)), "bias": jnp.array([-99.0, 0.0])}  # The first unit is dead.
      >>> out = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
      >>> result = prune(Forward(model), {"params": {"layers_0": hidden, "layers_2": out}}, [jnp.ones((4, 3))])
      >>> result.variables["params"]["layers_0"]["kernel"].shape
      (3, 1)

    Attributes:
      model: the module.
      options: further arguments of its call, as sorted pairs of names and values.
    """

    model: nn.Module
    options: tuple[tuple[str, Any], ...]

    def __init__(self, model: nn.Module, **options: Any):
        """Initializes the function.

        Args:
          model: the module.
          **options: further keyword arguments of its call in evaluation mode, such as `train=False`.
        """
        object.__setattr__(self, "model", model)  # The dataclass is frozen.
        object.__setattr__(self, "options", tuple(sorted(options.items())))

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        return _applied(self, variables, x, mutable=False)

    def training(self, variables: Any, x: Any) -> BatchStatistics | None:
        """Returns the model with batch statistics in its BatchNorms, and without dropout.

        Args:
          variables: the variables of the model, or their shapes and dtypes.
          x: a batch of inputs, or its shape and dtype.

        Returns:
          A function `train(variables, x)` of the same variables. `None` if no `nn.BatchNorm` is called, so that
          training mode does not differ. Modules of your own with running statistics stay in evaluation mode.
        """
        train = BatchStatistics(self)
        with _batch_statistics() as called, describes_call(x):
            jax.eval_shape(lambda variables, x: train(variables, x), variables, x)
        return train if called else None


def _applied(forward: Forward, variables: Any, x: Any, mutable: Any) -> Any:
    with widths_from_variables():
        return forward.model.apply(_unboxed(variables), x, mutable=mutable, **dict(forward.options))


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """A Linen model with batch statistics in its BatchNorms and without dropout, `train(variables, x)`.

    The running statistics that the model would return are discarded.

    Attributes:
      forward: the same model in evaluation mode.
    """

    forward: Forward

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        with _batch_statistics():
            return _applied(self.forward, variables, x, mutable=["batch_stats"])[0]


def reestimate_batch_stats(model: nn.Module | Forward, variables: Any, batches: Iterable[Any]) -> Any:
    """Returns variables with the running statistics of every `nn.BatchNorm` averaged over batches.

    The new mean is the mean over batches of the batch means, and the new variance is the mean over batches of the batch
    variances, for any momentum; see `demp_jax.nnx.reestimate_batch_stats`. A layer that is called several times in one
    pass keeps the statistics of its last call.

    Args:
      model: the model, or a `Forward` if its call in evaluation mode takes options such as `train=False`.
      variables: its variables, at any widths.
      batches: batches of training inputs, with equal weights. Each new shape is compiled.

    Returns:
      The variables with new running statistics.

    Raises:
      ValueError: if the model calls no BatchNorm, or if there is no batch.
    """
    forward = model if isinstance(model, Forward) else Forward(model)

    def statistics(variables: Any, x: Any) -> Any:
        # Zero times a statistic that is not finite is NaN.
        old = jax.tree.map(jnp.nan_to_num, _unboxed(variables.get("batch_stats", {})))
        with _batch_statistics(momentum=0.0) as found:
            _, new = _applied(forward, {**variables, "batch_stats": old}, x, mutable=["batch_stats"])
        return {path: leaf for path, leaf in _steps(new.get("batch_stats", {})) if path[:-1] in found}

    averages = batch_averages(statistics, variables, batches)
    if not averages:
        raise ValueError("reestimate_batch_stats: the model calls no nn.BatchNorm, so there is nothing to estimate.")
    steps = _steps(_unboxed(variables))
    leaves = [averages.get(path[1:], leaf) if path[0] == "batch_stats" else leaf for path, leaf in steps]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _steps(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(tuple(jax.tree_util.keystr((key,), simple=True) for key in path), leaf) for path, leaf in leaves]


def _unboxed(tree: Any) -> Any:
    """Returns a tree without the boxes that hold the names of axes, such as those of `nn.with_partitioning`.

    By default, unboxing in Flax constrains the sharding of the array. The mesh may not divide the shape of a smaller
    array, so the constraint is not applied.
    """

    def value(box: meta.AxisMetadata[Any]) -> Any:
        return _unboxed(box.unbox(apply_constraint=False) if isinstance(box, meta.Partitioned) else box.unbox())

    return meta.map_axis_meta(value, tree)


def _kernel_shape(module: nn.Module) -> tuple[int, ...] | None:
    return _unboxed(module.get_variable("params", "kernel")).shape if module.has_variable("params", "kernel") else None


def _fit_dense(module: Any, *_: Any) -> dict[str, Any]:
    shape = _kernel_shape(module)
    return {} if shape is None else {"features": shape[-1]}


def _fit_dense_general(module: Any, *_: Any) -> dict[str, Any]:
    shape = _kernel_shape(module)
    if shape is None:
        return {}
    if isinstance(module.features, int):
        return {"features": shape[-1]}
    return {"features": tuple(shape[-len(module.features) :])}


def _fit_conv(module: Any, x: Any, *_: Any) -> dict[str, Any]:
    shape = _kernel_shape(module)
    if shape is None:
        return {}
    groups = x.shape[-1] // shape[-2] if module.feature_group_count > 1 else 1
    return {"features": shape[-1], "feature_group_count": groups}


def _fit_conv_transpose(module: Any, *_: Any) -> dict[str, Any]:
    shape = _kernel_shape(module)
    return {} if shape is None else {"features": shape[-2 if module.transpose_kernel else -1]}


def _fit_attention(module: Any, *_: Any) -> dict[str, Any]:
    if not module.has_variable("params", "query"):
        return {}
    query, out = (_unboxed(module.get_variable("params", name)["kernel"]) for name in ("query", "out"))
    *_, heads, size = query.shape
    return {"num_heads": heads, "qkv_features": heads * size, "out_features": out.shape[-1]}


def _fit_embed(module: Any, *_: Any) -> dict[str, Any]:
    if not module.has_variable("params", "embedding"):
        return {}
    return {"features": _unboxed(module.get_variable("params", "embedding")).shape[-1]}


_FITS: dict[type, Callable[..., dict[str, Any]]] = {
    nn.Embed: _fit_embed,
    nn.DenseGeneral: _fit_dense_general,
    nn.Dense: _fit_dense,
    nn.Conv: _fit_conv,
    nn.ConvTranspose: _fit_conv_transpose,
    nn.MultiHeadDotProductAttention: _fit_attention,
}
