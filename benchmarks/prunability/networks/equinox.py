# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
# mypy: ignore-errors
"""Architectures in Equinox, written as users write them: for one example, to be mapped over a batch."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn

from benchmarks.prunability.cases import Case, features, several, tokens


def _keys(key):
    while True:
        key, each = jax.random.split(key)
        yield each


class _ResBlock(eqx.Module):
    conv1: Any
    conv2: Any
    skip: Any
    norm1: Any
    norm2: Any

    def __init__(self, inputs, outputs, key):
        k1, k2, k3 = jax.random.split(key, 3)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, use_bias=False, key=k1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, use_bias=False, key=k2)
        self.skip = nn.Conv2d(inputs, outputs, 1, key=k3) if inputs != outputs else None
        self.norm1, self.norm2 = (nn.BatchNorm(outputs, "batch", mode="ema") for _ in range(2))

    def __call__(self, x, state):
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        return jax.nn.relu(y + (x if self.skip is None else self.skip(x))), state


class _ResNet(eqx.Module):
    stem: Any
    norm: Any
    blocks: list
    head: Any

    def __init__(self, key):
        keys = _keys(key)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, key=next(keys)), nn.BatchNorm(8, "batch", mode="ema")
        self.blocks = [_ResBlock(8, 8, next(keys)), _ResBlock(8, 12, next(keys))]
        self.head = nn.Linear(12, 4, key=next(keys))

    def __call__(self, x, state):
        x, state = self.norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state


class _Autoencoder(eqx.Module):
    down: list
    up: list
    code: Any
    decode: Any

    def __init__(self, key):
        keys = _keys(key)
        self.down = [nn.Conv2d(1, 8, 3, 2, 1, key=next(keys)), nn.Conv2d(8, 12, 3, 2, 1, key=next(keys))]
        self.code, self.decode = nn.Linear(48, 6, key=next(keys)), nn.Linear(6, 48, key=next(keys))
        self.up = [
            nn.ConvTranspose2d(12, 8, 4, 2, padding=1, key=next(keys)),
            nn.ConvTranspose2d(8, 1, 4, 2, padding=1, key=next(keys)),
        ]

    def __call__(self, x):
        for conv in self.down:
            x = jax.nn.relu(conv(x))
        x = jax.nn.relu(self.decode(self.code(x.reshape(-1)))).reshape(12, 2, 2)
        return jax.nn.sigmoid(self.up[1](jax.nn.relu(self.up[0](x))))


class _Recurrent(eqx.Module):
    """A classifier on a GRU, as in Equinox's example."""

    cell: Any
    embed: Any
    hidden: Any
    out: Any

    def __init__(self, key):
        keys = _keys(key)
        self.cell, self.embed = nn.GRUCell(10, 12, key=next(keys)), nn.Linear(3, 10, key=next(keys))
        self.hidden, self.out = nn.Linear(12, 14, key=next(keys)), nn.Linear(14, 2, key=next(keys))

    def __call__(self, x):
        x = jax.nn.relu(jax.vmap(self.embed)(x))
        h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(self.cell.hidden_size), x)
        return self.out(jax.nn.relu(self.hidden(h)))


class _Block(eqx.Module):
    norm1: Any
    norm2: Any
    attention: Any
    up: Any
    down: Any

    def __init__(self, key):
        k1, k2, k3 = jax.random.split(key, 3)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(2, 16, key=k1)
        self.up, self.down = nn.Linear(16, 28, key=k2), nn.Linear(28, 16, key=k3)

    def __call__(self, x):
        h = jax.vmap(self.norm1)(x)
        x = x + self.attention(h, h, h)
        h = jax.vmap(self.norm2)(x)
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(h)))


class _ViT(eqx.Module):
    patches: Any
    positions: jax.Array
    blocks: Any
    head: Any
    scanned: bool = eqx.field(static=True)

    def __init__(self, key, scanned=False):
        keys = _keys(key)
        self.patches = nn.Conv2d(3, 16, 4, 4, key=next(keys))
        self.positions = jax.random.normal(next(keys), (4, 16)) * 0.02
        self.scanned = scanned
        each = jax.random.split(next(keys), 2)
        self.blocks = eqx.filter_vmap(_Block)(each) if scanned else [_Block(k) for k in each]
        self.head = nn.Linear(16, 4, key=next(keys))

    def __call__(self, image):
        x = self.patches(image).reshape(16, -1).T + self.positions
        if self.scanned:
            arrays, static = eqx.partition(self.blocks, eqx.is_array)
            x, _ = jax.lax.scan(lambda x, layer: (eqx.combine(layer, static)(x), None), x, arrays)
        else:
            for block in self.blocks:
                x = block(x)
        return self.head(x.mean(0))


class _Decoder(eqx.Module):
    """A block of a Llama."""

    norm1: Any
    norm2: Any
    q: Any
    k: Any
    v: Any
    o: Any
    gate: Any
    up: Any
    down: Any

    def __init__(self, key):
        keys = _keys(key)
        self.norm1, self.norm2 = nn.RMSNorm(16), nn.RMSNorm(16)
        linear = lambda i, o: nn.Linear(i, o, use_bias=False, key=next(keys))  # noqa: E731
        self.q, self.k, self.v, self.o = linear(16, 32), linear(16, 16), linear(16, 16), linear(32, 16)
        self.gate, self.up, self.down = linear(16, 24), linear(16, 24), linear(24, 16)

    def __call__(self, x):
        h = jax.vmap(self.norm1)(x)
        q, k, v = (jax.vmap(layer)(h).reshape(len(x), -1, 8) for layer in (self.q, self.k, self.v))
        rope = nn.RotaryPositionalEmbedding(8)
        q, k = jax.vmap(rope, 1, 1)(q), jax.vmap(rope, 1, 1)(k)
        k, v = jnp.repeat(k, 2, 1), jnp.repeat(v, 2, 1)
        scores = jnp.einsum("thd,shd->hts", q, k) / jnp.sqrt(8.0)
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -jnp.inf)
        mixed = jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), v)
        x = x + jax.vmap(self.o)(mixed.reshape(len(x), -1))
        h = jax.vmap(self.norm2)(x)
        return x + jax.vmap(lambda h: self.down(jax.nn.silu(self.gate(h)) * self.up(h)))(h)


class _Llama(eqx.Module):
    embed: Any
    blocks: list
    norm: Any

    def __init__(self, key):
        keys = _keys(key)
        self.embed, self.norm = nn.Embedding(20, 16, key=next(keys)), nn.RMSNorm(16)
        self.blocks = [_Decoder(next(keys)) for _ in range(2)]

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x) @ self.embed.weight.T


class _ConvNeXt(eqx.Module):
    stem: Any
    depthwise: list
    norms: list
    up: list
    down: list
    head: Any

    def __init__(self, key):
        keys = _keys(key)
        self.stem = nn.Conv2d(3, 12, 2, 2, key=next(keys))
        self.depthwise = [nn.Conv2d(12, 12, 5, padding=2, groups=12, key=next(keys)) for _ in range(2)]
        self.norms = [nn.LayerNorm(12) for _ in range(2)]
        self.up = [nn.Conv2d(12, 24, 1, key=next(keys)) for _ in range(2)]
        self.down = [nn.Conv2d(24, 12, 1, key=next(keys)) for _ in range(2)]
        self.head = nn.Linear(12, 4, key=next(keys))

    def __call__(self, x):
        x = self.stem(x)
        for depthwise, norm, up, down in zip(self.depthwise, self.norms, self.up, self.down, strict=True):
            h = jax.vmap(jax.vmap(norm, 1, 1), 1, 1)(depthwise(x))
            x = x + down(jax.nn.gelu(up(h)))
        return self.head(x.mean((1, 2)))


class _UNet(eqx.Module):
    """A one-dimensional U-Net."""

    down: list
    middle: Any
    up: list
    merge: list
    out: Any

    def __init__(self, key):
        keys = _keys(key)
        conv = lambda i, o: nn.Conv1d(i, o, 3, padding=1, key=next(keys))  # noqa: E731
        self.down, self.middle = [conv(2, 8), conv(8, 12)], conv(12, 16)
        self.up = [nn.ConvTranspose1d(16, 12, 2, 2, key=next(keys)), nn.ConvTranspose1d(12, 8, 2, 2, key=next(keys))]
        self.merge, self.out = [conv(24, 12), conv(16, 8)], conv(8, 1)

    def __call__(self, x):
        skips = []
        for conv in self.down:
            x = jax.nn.relu(conv(x))
            skips.append(x)
            x = nn.MaxPool1d(2, 2)(x)
        x = jax.nn.relu(self.middle(x))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = jax.nn.relu(merge(jnp.concatenate([up(x), skips.pop()])))
        return self.out(x)


class _SAC(eqx.Module):
    """An actor and two critics of soft actor-critic."""

    actor: Any
    critics: list

    def __init__(self, key):
        k1, k2, k3 = jax.random.split(key, 3)
        self.actor = nn.MLP(6, 4, 20, 2, key=k1)
        self.critics = [nn.MLP(8, 1, 20, 2, key=k) for k in (k2, k3)]

    def __call__(self, batch):
        mean, logstd = jnp.split(self.actor(batch["state"]), 2)
        action = jnp.tanh(mean + jnp.exp(jnp.clip(logstd, -5.0, 2.0)) * batch["noise"])
        inputs = jnp.concatenate([batch["state"], action])
        return action, jnp.minimum(*(critic(inputs) for critic in self.critics))


class _Ensemble(eqx.Module):
    """An ensemble of MLPs, made and run by `filter_vmap`."""

    members: Any

    def __init__(self, key):
        self.members = eqx.filter_vmap(lambda k: nn.MLP(6, 2, 16, 2, key=k))(jax.random.split(key, 3))

    def __call__(self, x):
        return eqx.filter_vmap(lambda member: member(x))(self.members).mean(0)


class _GraphNet(eqx.Module):
    """Message passing with an MLP on every edge, aggregated by segments."""

    edge: Any
    node: Any
    out: Any

    def __init__(self, key):
        k1, k2, k3 = jax.random.split(key, 3)
        self.edge, self.node, self.out = (
            nn.MLP(10, 12, 16, 1, key=k1),
            nn.MLP(17, 10, 14, 1, key=k2),
            nn.Linear(10, 2, key=k3),
        )

    def __call__(self, graph):
        nodes, edges = graph["nodes"], graph["edges"]
        messages = jax.vmap(self.edge)(jnp.concatenate([nodes[edges[:, 0]], nodes[edges[:, 1]]], -1))
        received = jax.ops.segment_sum(messages, edges[:, 1], len(nodes))
        return self.out(jax.vmap(self.node)(jnp.concatenate([nodes, received], -1)).mean(0))


def _edges(rng, examples):
    return jnp.asarray(rng.integers(0, 6, (examples, 9, 2)), jnp.int32)


class _NeuralODE(eqx.Module):
    """A neural ODE, integrated by Euler's method in a loop."""

    field: Any
    out: Any

    def __init__(self, key):
        k1, k2 = jax.random.split(key)
        self.field, self.out = nn.MLP(4, 4, 16, 2, jax.nn.silu, key=k1), nn.Linear(4, 2, key=k2)

    def __call__(self, x):
        return self.out(jax.lax.fori_loop(0, 4, lambda _, x: x + 0.25 * self.field(x), x))


class _Flow(eqx.Module):
    """A normalizing flow of affine couplings."""

    layers: list

    def __init__(self, key):
        self.layers = [nn.MLP(3, 6, 16, 1, key=k) for k in jax.random.split(key, 3)]

    def __call__(self, x):
        logdet = 0.0
        for layer in self.layers:
            a, b = jnp.split(x, 2)
            scale, shift = jnp.split(layer(a), 2)
            scale = jnp.tanh(scale)
            x, logdet = jnp.concatenate([b * jnp.exp(scale) + shift, a]), logdet + scale.sum()
        return x, logdet


_IMAGE = features(3, 8, 8)

CASES = [
    Case(
        "MLP, eqx.nn",
        "Equinox",
        lambda key: nn.MLP(10, 4, 20, 3, key=key),
        features(10),
        ["layers/0", "layers/1", "layers/2"],
    ),
    Case(
        "ResNet, BatchNorm",
        "Equinox",
        lambda key: eqx.nn.make_with_state(_ResNet)(key),
        _IMAGE,
        ["blocks/#/norm1", "norm + blocks/0/norm2", "blocks/1/norm2 + blocks/1/skip"],
    ),
    Case(
        "convolutional autoencoder",
        "Equinox",
        _Autoencoder,
        features(1, 8, 8),
        # Each channel of the last map is flattened to four features, and the decoder reshapes four features to one.
        ["down/#", "code", "up/0"],
    ),
    Case(
        "GRU classifier",
        "Equinox",
        _Recurrent,
        features(7, 3),
        ["embed", "hidden"],
        states=["cell/weight_hh@1"],
    ),
    Case("ViT, eqx.nn", "Equinox", _ViT, _IMAGE, ["blocks/#/up"], heads=["blocks/#/attention/query_proj/weight@0/8"]),
    Case(
        "ViT, lax.scan over filter_vmap",
        "Equinox",
        lambda key: _ViT(key, scanned=True),
        _IMAGE,
        ["stack: blocks/up@1"],
        heads=["stack: blocks/attention/query_proj/weight@1/8"],
    ),
    Case(
        "Llama, eqx.nn",
        "Equinox",
        _Llama,
        tokens(8, 20),
        ["blocks/#/gate + blocks/#/up"],
        heads=["blocks/#/q/weight@0/8"],
    ),
    Case("ConvNeXt, eqx.nn", "Equinox", _ConvNeXt, _IMAGE, ["up/#"]),
    Case("U-Net, 1D", "Equinox", _UNet, features(2, 16), ["down/#", "middle", "up/#", "merge/#"]),
    Case(
        "soft actor-critic, MLPs",
        "Equinox",
        _SAC,
        several(state=features(6), noise=features(2)),
        ["actor/layers/0", "actor/layers/1", "critics/#/layers/0", "critics/#/layers/1"],
    ),
    Case("ensemble, filter_vmap", "Equinox", _Ensemble, features(6), ["members/layers/0@1", "members/layers/1@1"]),
    Case(
        "message passing, segment_sum",
        "Equinox",
        _GraphNet,
        several(nodes=features(6, 5), edges=_edges),
        ["edge/layers/#", "node/layers/#"],
    ),
    Case("neural ODE, fori_loop", "Equinox", _NeuralODE, features(4), ["field/layers/0", "field/layers/1"]),
    Case("normalizing flow", "Equinox", _Flow, features(6), ["layers/#/layers/0"]),
]
