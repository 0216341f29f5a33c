# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Updates static attributes of Flax NNX modules to the shapes of their variables.

NNX layers store their widths twice: in their arrays, and as attributes that `__call__` reads. For example, `Conv`
checks `feature_group_count`, and `MultiHeadAttention` compares its input with `in_features`. A prune slices the arrays.
The functions here set the attributes to those of a layer that is built with the smaller widths. `nnx.split` then
returns the same graphdef for both layers, so that they share compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
from flax.core import FrozenDict

# Layers of `flax.nnx` without widths as attributes. Every other layer has an entry in `FITS`.
WITHOUT_WIDTHS: tuple[type, ...] = (
    nnx.Bidirectional,
    nnx.Dropout,
    nnx.PReLU,
    nnx.RNN,
    nnx.SpectralNorm,
    nnx.WeightNorm,
    # From Flax 0.12.12 on. Features are rotated in pairs, so they are not removed.
    *(getattr(nnx, name) for name in ("RoPE",) if hasattr(nnx, name)),
)


def refit(model: nnx.Module) -> None:
    """Sets the static attributes of every module to the shapes of its variables, in place.

    All layers of `flax.nnx` are supported. For a module of your own that has widths as attributes, define a method
    `refit()`, which updates them in place and is called here. A normalization layer without scale and bias has no
    variable with its width. A `GroupNorm` then gets `num_groups=-1`, so that the number of groups follows from the
    input. Other norms keep their `num_features`, which they do not read.

    Example:
      >>> layer = nnx.Linear(2, 8, rngs=nnx.Rngs(0))
      >>> layer.kernel, layer.bias = nnx.Param(layer.kernel[:, :3]), nnx.Param(layer.bias[:3])
      >>> refit(layer)
      >>> layer.out_features
      3

    Args:
      model: the model.
    """
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "refit"):
            module.refit()
        for kind, fit in FITS.items():
            if isinstance(module, kind):
                fit(module)


def _fit_linear(m: Any) -> None:
    *_, m.in_features, m.out_features = m.kernel.shape


def _fit_linear_general(m: Any) -> None:
    batch, inputs, outputs = len(m.batch_axis), len(m.axis), len(m.out_features)
    shape = m.kernel.shape[-(batch + inputs + outputs) :]
    m.batch_axis = FrozenDict(zip(m.batch_axis, shape[:batch], strict=True))
    m.in_features, m.out_features = tuple(shape[batch : batch + inputs]), tuple(shape[batch + inputs :])


def _fit_attention(m: Any) -> None:
    *_, m.in_features, m.num_heads, m.head_dim = m.query.kernel.shape
    *_, m.in_kv_features, m.num_kv_heads, _ = m.key.kernel.shape
    m.qkv_features, m.out_features = m.num_heads * m.head_dim, m.out.kernel.shape[-1]


def _fit_conv(m: Any) -> None:
    *_, inputs, outputs = m.kernel.shape
    groups = m.feature_group_count
    if groups > 1 and inputs == m.in_features // groups:
        # Pruning removes whole groups. If the width per group differs, the layer was built with this many groups.
        groups = outputs // (m.out_features // groups)
    m.in_features, m.out_features, m.feature_group_count = inputs * groups, outputs, groups
    m.kernel_shape = _own_shape(m)


def _own_shape(m: Any) -> tuple[int, ...]:
    """Returns the shape of a kernel without leading axes of stacked layers."""
    return tuple(m.kernel.shape[-len(m.kernel_shape) :])


def _fit_conv_transpose(m: Any) -> None:
    m.kernel_shape = _own_shape(m)
    inputs, outputs = m.kernel.shape[-2:]
    m.in_features, m.out_features = (outputs, inputs) if m.transpose_kernel else (inputs, outputs)


def _fit_einsum(m: Any) -> None:
    m.kernel_shape = _own_shape(m)
    if m.bias_shape is not None:
        m.bias_shape = tuple(m.bias.shape[-len(m.bias_shape) :])


def _fit_lora(m: Any) -> None:
    m.in_features, m.out_features = m.lora_a.shape[-2], m.lora_b.shape[-1]


def _fit_embed(m: Any) -> None:
    *_, m.num_embeddings, m.features = m.embedding.shape


def _fit_norm(m: Any) -> None:
    for name in ("scale", "bias", "mean"):
        variable = getattr(m, name, None)
        if isinstance(variable, nnx.Variable):
            m.num_features = variable.shape[-1]


def _fit_group_norm(m: Any) -> None:
    variable = next((v for v in (m.scale, m.bias) if isinstance(v, nnx.Variable)), None)
    m.num_groups = -1 if variable is None else variable.shape[-1] // m.group_size


def _fit_lstm(m: Any) -> None:
    m.in_features, m.hidden_features = m.ii.kernel.shape[-2], m.hi.kernel.shape[-2]


def _fit_cell(m: Any) -> None:
    m.in_features, m.hidden_features = m.dense_i.kernel.shape[-2], m.dense_h.kernel.shape[-2]


FITS: dict[type, Callable[[Any], None]] = {
    nnx.Linear: _fit_linear,
    nnx.LinearGeneral: _fit_linear_general,
    nnx.Conv: _fit_conv,
    nnx.ConvTranspose: _fit_conv_transpose,
    nnx.Einsum: _fit_einsum,
    nnx.MultiHeadAttention: _fit_attention,
    nnx.LoRA: _fit_lora,
    nnx.LoRALinear: _fit_linear,
    nnx.Embed: _fit_embed,
    nnx.BatchNorm: _fit_norm,
    nnx.LayerNorm: _fit_norm,
    nnx.RMSNorm: _fit_norm,
    nnx.InstanceNorm: _fit_norm,
    nnx.GroupNorm: _fit_group_norm,
    nnx.LSTMCell: _fit_lstm,
    nnx.OptimizedLSTMCell: _fit_cell,
    nnx.SimpleCell: _fit_cell,
    nnx.GRUCell: _fit_cell,
}
