# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
# mypy: ignore-errors
"""Architectures in Flax Linen, written as users write them."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.prunability.cases import Case, features, several, tokens


class _MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(24, name="hidden0")(x))
        x = nn.Dropout(0.1, deterministic=True)(x)
        x = nn.gelu(nn.Dense(18, name="hidden1")(x))
        return nn.Dense(4, name="out")(x)


class _BasicBlock(nn.Module):
    width: int
    strides: int = 1

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        conv = functools.partial(nn.Conv, use_bias=False)
        y = nn.relu(norm(name="bn1")(conv(self.width, (3, 3), self.strides)(x)))
        y = norm(name="bn2")(conv(self.width, (3, 3))(y))
        if x.shape != y.shape:
            x = norm(name="bn_skip")(conv(self.width, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class _Bottleneck(nn.Module):
    width: int
    strides: int = 1

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        conv = functools.partial(nn.Conv, use_bias=False)
        y = nn.relu(norm(name="bn1")(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm(name="bn2")(conv(self.width, (3, 3), self.strides)(y)))
        y = norm(name="bn3", scale_init=nn.initializers.constant(0.3))(conv(2 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = norm(name="bn_skip")(conv(2 * self.width, (1, 1), self.strides)(x))
        return nn.relu(x + y)


class _ResNet(nn.Module):
    block: Any

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="bn")(x))
        for i, (width, strides) in enumerate(((8, 1), (12, 2), (12, 1))):
            x = self.block(width, strides, name=f"block{i}")(x, train)
        return nn.Dense(4)(x.mean((1, 2)))


class _DenseNet(nn.Module):
    growth: int = 6

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        for stage in range(2):
            for layer in range(2):
                y = nn.relu(norm(name=f"stage{stage}_{layer}_bn1")(x))
                y = nn.Conv(2 * self.growth, (1, 1), use_bias=False)(y)
                y = nn.relu(norm(name=f"stage{stage}_{layer}_bn2")(y))
                x = jnp.concatenate([x, nn.Conv(self.growth, (3, 3), use_bias=False)(y)], -1)
            if stage == 0:
                x = nn.relu(norm(name="transition")(x))
                x = nn.avg_pool(nn.Conv(10, (1, 1), use_bias=False)(x), (2, 2), (2, 2))
        x = nn.relu(norm(name="last")(x))
        return nn.Dense(4)(x.mean((1, 2)))


class _UNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        def double(x, width, name):
            for i in range(2):
                x = nn.Conv(width, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"{name}_bn{i}")(x))
            return x

        skips = []
        for i, width in enumerate((6, 10)):
            x = double(x, width, f"down{i}")
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = double(x, 14, "middle")
        for i, width in enumerate((10, 6)):
            x = nn.ConvTranspose(width, (2, 2), (2, 2), name=f"up{i}")(x)
            x = double(jnp.concatenate([x, skips.pop()], -1), width, f"merge{i}")
        return nn.Conv(2, (1, 1), name="out")(x)


class _VAE(nn.Module):
    @nn.compact
    def __call__(self, batch):
        h = nn.relu(nn.Dense(24, name="encoder")(batch["x"]))
        mean, logvar = nn.Dense(6, name="mean")(h), nn.Dense(6, name="logvar")(h)
        z = mean + jnp.exp(0.5 * logvar) * batch["noise"]
        return nn.Dense(12, name="out")(nn.relu(nn.Dense(20, name="decoder")(z))), mean, logvar


class _TransformerBlock(nn.Module):
    """A transformer block with the norm after the sum, as in BERT, or before."""

    hidden: int = 28
    before: bool = True

    @nn.compact
    def __call__(self, x, mask=None):
        attention = nn.MultiHeadDotProductAttention(2, name="attention")
        if not self.before:
            x = nn.LayerNorm()(x + attention(x, mask=mask))
            return nn.LayerNorm()(x + nn.Dense(x.shape[-1], name="down")(nn.gelu(nn.Dense(self.hidden, name="up")(x))))
        x = x + attention(nn.LayerNorm()(x), mask=mask)
        h = nn.gelu(nn.Dense(self.hidden, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], name="down")(h)


class _BERT(nn.Module):
    @nn.compact
    def __call__(self, batch):
        embed = nn.Embed(20, 16, name="tokens")
        x = embed(batch["tokens"]) + nn.Embed(2, 16, name="types")(batch["types"])
        x = nn.LayerNorm()(x + self.param("positions", nn.initializers.normal(0.02), (8, 16)))
        mask = nn.make_attention_mask(batch["tokens"] > 0, batch["tokens"] > 0)
        for i in range(2):
            x = _TransformerBlock(before=False, name=f"block{i}")(x, mask)
        pooled = jnp.tanh(nn.Dense(16, name="pooler")(x[:, 0]))
        words = nn.LayerNorm()(nn.gelu(nn.Dense(16, name="transform")(x)))
        return embed.attend(words), nn.Dense(2, name="classes")(pooled)


class _T5Layer(nn.Module):
    cross: bool = False

    @nn.compact
    def __call__(self, x, memory=None, mask=None):
        def attend(name, x, memory, mask=None):
            h = nn.RMSNorm()(x)
            q = nn.DenseGeneral((2, 8), use_bias=False, name=f"{name}_q")(h)
            source = h if memory is None else memory
            k = nn.DenseGeneral((2, 8), use_bias=False, name=f"{name}_k")(source)
            v = nn.DenseGeneral((2, 8), use_bias=False, name=f"{name}_v")(source)
            bias = self.param(f"{name}_bias", nn.initializers.normal(0.1), (2, q.shape[1], k.shape[1]))
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias[None]
            if mask is not None:
                scores = jnp.where(mask, scores, -1e9)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
            return x + nn.DenseGeneral(x.shape[-1], (-2, -1), use_bias=False, name=f"{name}_o")(mixed)

        x = attend("self", x, None, mask)
        if self.cross:
            x = attend("cross", x, memory)
        h = nn.RMSNorm()(x)
        gated = nn.gelu(nn.Dense(24, use_bias=False, name="gate")(h)) * nn.Dense(24, use_bias=False, name="up")(h)
        return x + nn.Dense(x.shape[-1], use_bias=False, name="down")(gated)


class _T5(nn.Module):
    @nn.compact
    def __call__(self, batch):
        embed = nn.Embed(20, 16)
        memory, x = embed(batch["source"]), embed(batch["target"])
        for i in range(2):
            memory = _T5Layer(name=f"encoder{i}")(memory)
        memory = nn.RMSNorm()(memory)
        causal = nn.make_causal_mask(batch["target"], dtype=bool)
        for i in range(2):
            x = _T5Layer(cross=True, name=f"decoder{i}")(x, memory, causal)
        return embed.attend(nn.RMSNorm()(x))


class _ScanMLP(nn.Module):
    """Layers of an MLP stacked by `nn.scan`, each with a hidden width of its own stream."""

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                h = nn.relu(nn.Dense(20, name="up")(x))
                return x + nn.Dense(12, name="down")(h), None

        x = nn.relu(nn.Dense(12, name="first")(x))
        scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = scanned(name="blocks")(x, None)
        return nn.Dense(4, name="out")(x)


class _ScanViT(nn.Module):
    """A ViT whose blocks are rematerialized and stacked by `nn.scan`."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), (4, 4), padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, 16)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], 16))

        def body(block, x, _):
            return block(x), None

        block = nn.remat(_TransformerBlock)(name="blocks")
        x, _ = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)(block, x, None)
        return nn.Dense(4, name="head")(nn.LayerNorm()(x).mean(1))


class _GRUClassifier(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.relu(nn.Dense(14, name="project")(nn.Embed(20, 10)(tokens)))
        forward = nn.RNN(nn.GRUCell(12, name="forward"))(x)
        backward = nn.RNN(nn.GRUCell(12, name="backward"), reverse=True, keep_order=True)(x)
        h = jnp.concatenate([forward[:, -1], backward[:, 0]], -1)
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(16, name="hidden")(h)))


class _Seq2Seq(nn.Module):
    """An LSTM encoder, and an LSTM decoder with attention to it."""

    @nn.compact
    def __call__(self, batch):
        embed = nn.Embed(20, 10)
        cell = nn.OptimizedLSTMCell(12, name="encoder")
        carry, memory = nn.RNN(cell, return_carry=True)(embed(batch["source"]))
        h = nn.RNN(nn.OptimizedLSTMCell(12, name="decoder"))(embed(batch["target"]), initial_carry=carry)
        scores = nn.softmax(jnp.einsum("btd,bsd->bts", nn.Dense(12, name="query")(h), memory))
        h = jnp.concatenate([h, jnp.einsum("bts,bsd->btd", scores, memory)], -1)
        return nn.Dense(20, name="out")(nn.relu(nn.Dense(16, name="hidden")(h)))


class _Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(12, (2, 2), (2, 2), name="patches")(x)
        x = x.reshape(x.shape[0], -1, 12)
        for i in range(2):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            y = nn.Dense(16, name=f"token_down{i}")(nn.gelu(nn.Dense(10, name=f"token_up{i}")(y)))
            x = x + y.swapaxes(1, 2)
            y = nn.gelu(nn.Dense(24, name=f"channel_up{i}")(nn.LayerNorm()(x)))
            x = x + nn.Dense(12, name=f"channel_down{i}")(y)
        return nn.Dense(4, name="head")(nn.LayerNorm()(x).mean(1))


class _GMLP(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 12)(tokens)
        for i in range(2):
            y = nn.gelu(nn.Dense(32, name=f"up{i}")(nn.LayerNorm()(x)))
            u, v = jnp.split(y, 2, -1)
            v = nn.Dense(8, name=f"spatial{i}", bias_init=nn.initializers.ones)(nn.LayerNorm()(v).swapaxes(1, 2))
            x = x + nn.Dense(12, name=f"down{i}")(u * v.swapaxes(1, 2))
        return nn.Dense(4, name="head")(x.mean(1))


class _SSD(nn.Module):
    """Heads for classes and boxes on feature maps of several scales."""

    @nn.compact
    def __call__(self, x, train=False):
        classes, boxes = [], []
        for i, width in enumerate((8, 12, 16)):
            x = nn.Conv(width, (3, 3), 2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"bn{i}")(x))
            classes.append(nn.Conv(2 * 3, (3, 3), name=f"classes{i}")(x).reshape(x.shape[0], -1, 3))
            boxes.append(nn.Conv(2 * 4, (3, 3), name=f"boxes{i}")(x).reshape(x.shape[0], -1, 4))
        return jnp.concatenate(classes, 1), jnp.concatenate(boxes, 1)


class _TCN(nn.Module):
    """Dilated causal convolutions with weight normalization and residual sums."""

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate((10, 10, 12)):
            y = x
            for j in range(2):
                conv = nn.Conv(width, (3,), kernel_dilation=2**i, padding="CAUSAL", name=f"conv{i}_{j}")
                y = nn.relu(nn.WeightNorm(conv, name=f"wn{i}_{j}")(y))
            skip = nn.Conv(width, (1,), name=f"skip{i}")(x) if x.shape != y.shape else x
            x = nn.relu(skip + y)
        return nn.Dense(4, name="out")(x[:, -1])


class _DiffusionUNet(nn.Module):
    """A denoiser: residual blocks with GroupNorm, shifted by the time embedding, and attention in the middle."""

    @nn.compact
    def __call__(self, batch):
        frequencies = jnp.exp(jnp.linspace(0.0, 3.0, 6))
        angles = batch["time"] * frequencies
        time = nn.Dense(16, name="time0")(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))
        time = nn.silu(nn.Dense(16, name="time1")(nn.silu(time)))

        def block(x, width, name):
            h = nn.Conv(width, (3, 3), name=f"{name}_conv1")(nn.silu(nn.GroupNorm(2)(x)))
            h = h + nn.Dense(width, name=f"{name}_time")(time)[:, None, None]
            h = nn.Conv(width, (3, 3), name=f"{name}_conv2")(nn.silu(nn.GroupNorm(2)(h)))
            return h + (nn.Conv(width, (1, 1), name=f"{name}_skip")(x) if x.shape[-1] != width else x)

        x = nn.Conv(8, (3, 3), name="stem")(batch["image"])
        first = block(x, 8, "first")
        x = block(nn.Conv(8, (3, 3), 2, name="down")(first), 12, "low")
        tokens = nn.GroupNorm(2)(x).reshape(x.shape[0], -1, 12)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(tokens).reshape(x.shape)
        x = jax.image.resize(block(x, 12, "middle"), (*first.shape[:3], 12), "nearest")
        x = block(jnp.concatenate([nn.Conv(8, (3, 3), name="up")(x), first], -1), 8, "last")
        return nn.Conv(3, (3, 3), name="out")(nn.silu(nn.GroupNorm(2)(x)))


class _MBConv(nn.Module):
    """A block of EfficientNet: expansion, depthwise convolution, squeeze and excitation, projection."""

    expanded: int
    width: int
    strides: int = 1

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        conv = functools.partial(nn.Conv, use_bias=False)
        h = nn.silu(norm(name="bn_expand")(conv(self.expanded, (1, 1))(x)))
        h = conv(self.expanded, (3, 3), self.strides, feature_group_count=self.expanded)(h)
        h = nn.silu(norm(name="bn_depthwise")(h))
        s = nn.silu(nn.Conv(6, (1, 1), name="squeeze")(h.mean((1, 2), keepdims=True)))
        h = h * nn.sigmoid(nn.Conv(self.expanded, (1, 1), name="excite")(s))
        h = norm(name="bn_project")(conv(self.width, (1, 1))(h))
        return x + h if x.shape == h.shape else h


class _EfficientNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        x = nn.silu(norm(name="bn_stem")(nn.Conv(8, (3, 3), 2, use_bias=False)(x)))
        x = _MBConv(18, 8, name="block0")(x, train)
        x = _MBConv(18, 12, 2, name="block1")(x, train)
        x = nn.silu(norm(name="bn_head")(nn.Conv(20, (1, 1), use_bias=False)(x)))
        return nn.Dense(4)(x.mean((1, 2)))


_IMAGE = features(8, 8, 3)
_TRAIN = {"train": False}
_STAGES = ["block#/bn1", "bn + block0/bn2", "block1/bn2 + block1/bn_skip + block2/bn2"]

CASES = [
    Case("MLP, dropout", "Linen", _MLP, features(10), ["hidden#"]),
    Case("ResNet, basic blocks", "Linen", lambda: (_ResNet(_BasicBlock), _TRAIN), _IMAGE, _STAGES),
    Case(
        "ResNet, bottlenecks",
        "Linen",
        lambda: (_ResNet(_Bottleneck), _TRAIN),
        _IMAGE,
        [
            "bn",
            "block#/bn1",
            "block#/bn2",
            "block0/bn3 + block0/bn_skip",
            "block1/bn3 + block1/bn_skip + block2/bn3",
        ],
    ),
    Case(
        "DenseNet",
        "Linen",
        lambda: (_DenseNet(), _TRAIN),
        _IMAGE,
        # A channel of a concatenation is dead if all norms that read it make it zero.
        [
            "stage#_0_bn2",
            "stage#_1_bn2",
            "stage0_0_bn1 + stage0_1_bn1[:8] + transition[:8]",
            "stage0_1_bn1[8:] + transition[8:14]",
            "transition[14:]",
            "stage1_0_bn1 + stage1_1_bn1[:10] + last[:10]",
            "stage1_1_bn1[10:] + last[10:16]",
            "last[16:]",
        ],
    ),
    Case(
        "U-Net",
        "Linen",
        lambda: (_UNet(), _TRAIN),
        features(8, 8, 3),
        ["down#_bn0", "down#_bn1", "middle_bn#", "up#", "merge#_bn0", "merge#_bn1"],
    ),
    Case(
        "VAE",
        "Linen",
        _VAE,
        several(x=features(12), noise=features(6)),
        ["encoder", "decoder"],
    ),
    Case(
        "BERT",
        "Linen",
        _BERT,
        several(tokens=tokens(8, 20), types=tokens(8, 2)),
        ["block#/up", "pooler"],
        heads=["block#/attention/query/kernel@1"],
    ),
    Case(
        "T5",
        "Linen",
        _T5,
        several(source=tokens(8, 20), target=tokens(6, 20)),
        ["encoder#/gate + encoder#/up", "decoder#/gate + decoder#/up"],
        heads=["#/self_q/kernel@1", "#/cross_q/kernel@1"],
    ),
    Case("residual MLP, nn.scan", "Linen", _ScanMLP, features(10), ["stack: blocks/up"]),
    Case(
        "ViT, nn.scan, nn.remat",
        "Linen",
        _ScanViT,
        _IMAGE,
        ["stack: blocks/up"],
        heads=["stack: blocks/attention/query/kernel@2"],
    ),
    Case(
        "GRU classifier, both directions",
        "Linen",
        _GRUClassifier,
        tokens(7, 20),
        ["project", "hidden"],
        states=["forward/hr/kernel@0", "backward/hr/kernel@0"],
    ),
    Case(
        "seq2seq, LSTM with attention",
        "Linen",
        _Seq2Seq,
        several(source=tokens(7, 20), target=tokens(6, 20)),
        ["hidden"],
        states=["encoder/hi/kernel@0", "decoder/hi/kernel@0"],
    ),
    Case("MLP-Mixer", "Linen", _Mixer, _IMAGE, ["token_up#", "channel_up#"]),
    Case(
        "gMLP",
        "Linen",
        _GMLP,
        tokens(8, 20),
        # Units of the half with a norm over its features cannot be removed, and the other half is multiplied by it.
        [],
    ),
    Case("SSD", "Linen", lambda: (_SSD(), _TRAIN), features(16, 16, 3), ["bn#"]),
    Case(
        "TCN, weight normalization",
        "Linen",
        _TCN,
        features(12, 3),
        # Weight normalization divides by a norm over a kernel's inputs, so only units that the last layer reads can be
        # removed exactly.
        ["wn2_1/conv2_1/kernel/scale + conv2_1/bias + skip2"],
    ),
    Case(
        "diffusion U-Net",
        "Linen",
        _DiffusionUNet,
        several(image=features(8, 8, 3), time=features(1)),
        # Channels that a GroupNorm with several groups normalizes together cannot be removed one by one.
        ["time#"],
        heads=["attention/query/kernel@1"],
    ),
    Case(
        "EfficientNet",
        "Linen",
        lambda: (_EfficientNet(), _TRAIN),
        _IMAGE,
        [
            "block#/bn_expand + block#/bn_depthwise",
            "block#/squeeze",
            "bn_stem + block0/bn_project",
            "block1/bn_project",
            "bn_head",
        ],
    ),
]
