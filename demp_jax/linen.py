# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""DemP for Flax Linen models, whose widths are written in the module and not read from its parameters."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

__all__ = ["Forward", "widths_from_variables"]


@contextlib.contextmanager
def widths_from_variables() -> Iterator[None]:
    """Lets Linen modules take their widths from the variables they are applied to.

    A Linen module checks its parameters against the widths it was written with, so it refuses variables that a cut made
    smaller. Within this context `nn.Dense`, `nn.DenseGeneral`, `nn.Conv`, `nn.ConvTranspose` and
    `nn.MultiHeadDotProductAttention` take the widths of their variables instead.
    BatchNorm and LayerNorm follow their input anyway, and so does a GroupNorm written with `group_size`; one written
    with `num_groups` cannot know the size of its groups once they are fewer, and a cut through it is refused.
    Initialising is not affected.

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
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **kwargs)
        changes = next((fit(module, *args) for kind, fit in _FITS.items() if isinstance(module, kind)), {})
        before = {name: getattr(module, name) for name in changes}
        # Modules are frozen dataclasses, made anew by each `apply`.
        for name, value in changes.items():
            object.__setattr__(module, name, value)
        try:
            return call(*args, **kwargs)
        finally:
            for name, value in before.items():
                object.__setattr__(module, name, value)

    with nn.intercept_methods(fitted):
        yield


@dataclasses.dataclass(frozen=True)
class Forward:
    """A Linen model as a function of its variables and an input, `forward(variables, x)`, at any widths.

    Attributes:
      model: the module.
      options: further arguments of its call in evaluation mode, as in `(("train", False),)`.
    """

    model: nn.Module
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, variables: Any, x: Any) -> Any:
        """Returns the model's output for `x`."""
        with widths_from_variables():
            return self.model.apply(variables, x, **dict(self.options))


def _kernel_shape(module: nn.Module) -> tuple[int, ...] | None:
    return module.get_variable("params", "kernel").shape if module.has_variable("params", "kernel") else None


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
    *_, heads, size = module.get_variable("params", "query")["kernel"].shape
    return {"qkv_features": heads * size, "out_features": module.get_variable("params", "out")["kernel"].shape[-1]}


_FITS: dict[type, Callable[..., dict[str, Any]]] = {
    nn.DenseGeneral: _fit_dense_general,
    nn.Dense: _fit_dense,
    nn.Conv: _fit_conv,
    nn.ConvTranspose: _fit_conv_transpose,
    nn.MultiHeadDotProductAttention: _fit_attention,
}
