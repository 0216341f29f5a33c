# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
# mypy: ignore-errors
"""Architectures in Flax NNX, written as users write them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.prunability.cases import Case, features, several, tokens


class _ConvNorm(nnx.Module):
    """A convolution and a BatchNorm, with or without an activation."""

    def __init__(self, inputs, outputs, size=3, *, rngs, act=nnx.relu, **options):
        self.conv = nnx.Conv(inputs, outputs, (size, size), use_bias=False, rngs=rngs, **options)
        self.bn = nnx.BatchNorm(outputs, rngs=rngs)
        self.act = act

    def __call__(self, x):
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)


class _Block(nnx.Module):
    """A residual block of `body` and `skip`, with a ReLU after the sum."""

    def __init__(self, body, skip=None):
        self.body, self.skip = body, skip

    def __call__(self, x):
        return nnx.relu(self.body(x) + (x if self.skip is None else self.skip(x)))


class _Classifier(nnx.Module):
    """A body of convolutions, global average pooling and a linear head."""

    def __init__(self, body, channels, rngs):
        self.body, self.head = body, nnx.Linear(channels, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.body(x).mean((1, 2)))


def _sequential(*layers):
    return nnx.Sequential(*layers)


def _resnext(rngs):
    def block(inputs, outputs, strides):
        conv = functools.partial(_ConvNorm, rngs=rngs)
        body = _sequential(
            conv(inputs, 16, 1),
            conv(16, 16, strides=strides, feature_group_count=4),
            conv(16, outputs, 1, act=None),
        )
        return _Block(body, conv(inputs, outputs, 1, act=None, strides=strides) if inputs != outputs else None)

    layers = [_ConvNorm(3, 8, rngs=rngs), block(8, 16, 1), block(16, 16, 1)]
    return _Classifier(_sequential(*layers), 16, rngs)


class _PreBlock(nnx.Module):
    """A pre-activation block of a wide ResNet, with dropout."""

    def __init__(self, inputs, outputs, rngs):
        self.bn1, self.bn2 = nnx.BatchNorm(inputs, rngs=rngs), nnx.BatchNorm(outputs, rngs=rngs)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.skip = nnx.Conv(inputs, outputs, (1, 1), use_bias=False, rngs=rngs) if inputs != outputs else None

    def __call__(self, x):
        h = nnx.relu(self.bn1(x))
        skip = x if self.skip is None else self.skip(h)
        h = self.dropout(nnx.relu(self.bn2(self.conv1(h))))
        return skip + self.conv2(h)


class _WideResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.blocks = nnx.List([_PreBlock(8, 16, rngs), _PreBlock(16, 16, rngs)])
        self.bn, self.head = nnx.BatchNorm(16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu(self.bn(x)).mean((1, 2)))


def _resnet_d(rngs):
    conv = functools.partial(_ConvNorm, rngs=rngs)

    def pool(x):
        return nnx.avg_pool(x, (2, 2), strides=(2, 2))

    stem = [conv(3, 8), conv(8, 8), conv(8, 12)]
    first = _Block(
        _sequential(conv(12, 8, 1), conv(8, 8, strides=2), conv(8, 16, 1, act=None)),
        _sequential(pool, conv(12, 16, 1, act=None)),
    )
    second = _Block(_sequential(conv(16, 8, 1), conv(8, 8), conv(8, 16, 1, act=None)))
    return _Classifier(_sequential(*stem, first, second), 16, rngs)


class _SqueezeExcite(nnx.Module):
    def __init__(self, channels, hidden, rngs, gate=nnx.sigmoid):
        self.down, self.up = nnx.Linear(channels, hidden, rngs=rngs), nnx.Linear(hidden, channels, rngs=rngs)
        self.gate = gate

    def __call__(self, x):
        s = nnx.relu(self.down(x.mean((1, 2), keepdims=True)))
        return x * self.gate(self.up(s))


def _se_resnet(rngs):
    conv = functools.partial(_ConvNorm, rngs=rngs)
    blocks = [_Block(_sequential(conv(12, 10), conv(10, 12, act=None), _SqueezeExcite(12, 6, rngs))) for _ in range(2)]
    return _Classifier(_sequential(conv(3, 12), *blocks), 12, rngs)


class _VGG(nnx.Module):
    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(i, o, (3, 3), rngs=rngs) for i, o in ((3, 8), (8, 8), (8, 16), (16, 16))])
        self.fc1, self.fc2 = nnx.Linear(16 * 4, 24, rngs=rngs), nnx.Linear(24, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for i, conv in enumerate(self.convs):
            x = nnx.relu(conv(x))
            if i % 2:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = self.dropout(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))
        return self.fc2(x)


def _mobilenet_v1(rngs):
    layers = [_ConvNorm(3, 8, rngs=rngs, strides=2)]
    for inputs, outputs, strides in ((8, 12, 1), (12, 16, 2), (16, 16, 1)):
        layers.append(_ConvNorm(inputs, inputs, rngs=rngs, strides=strides, feature_group_count=inputs))
        layers.append(_ConvNorm(inputs, outputs, 1, rngs=rngs))
    return _Classifier(_sequential(*layers), 16, rngs)


class _InvertedResidual(nnx.Module):
    def __init__(self, inputs, expanded, outputs, rngs, act=nnx.relu6, strides=1, excite=False):
        self.expand = _ConvNorm(inputs, expanded, 1, rngs=rngs, act=act)
        self.depthwise = _ConvNorm(
            expanded, expanded, rngs=rngs, act=act, strides=strides, feature_group_count=expanded
        )
        self.excite = _SqueezeExcite(expanded, 6, rngs, nnx.hard_sigmoid) if excite else None
        self.project = _ConvNorm(expanded, outputs, 1, rngs=rngs, act=None)
        self.residual = strides == 1 and inputs == outputs

    def __call__(self, x):
        h = self.depthwise(self.expand(x))
        if self.excite is not None:
            h = self.excite(h)
        h = self.project(h)
        return x + h if self.residual else h


def _mobilenet_v2(rngs):
    layers = [_ConvNorm(3, 8, rngs=rngs, act=nnx.relu6, strides=2)]
    layers += [_InvertedResidual(8, 24, 8, rngs), _InvertedResidual(8, 24, 12, rngs, strides=2)]
    return _Classifier(_sequential(*layers, _ConvNorm(12, 20, 1, rngs=rngs, act=nnx.relu6)), 20, rngs)


def _mobilenet_v3(rngs):
    layers = [_ConvNorm(3, 8, rngs=rngs, act=nnx.hard_swish, strides=2)]
    layers += [
        _InvertedResidual(8, 18, 8, rngs, nnx.relu, excite=True),
        _InvertedResidual(8, 18, 12, rngs, nnx.hard_swish, 2, excite=True),
    ]
    return _Classifier(_sequential(*layers, _ConvNorm(12, 20, 1, rngs=rngs, act=nnx.hard_swish)), 20, rngs)


class _ShuffleUnit(nnx.Module):
    """A unit of ShuffleNet v2: half of the channels is convolved, the other half is not, and both are shuffled."""

    def __init__(self, channels, rngs):
        half = channels // 2
        self.conv1 = _ConvNorm(half, half, 1, rngs=rngs)
        self.depthwise = _ConvNorm(half, half, rngs=rngs, act=None, feature_group_count=half)
        self.conv2 = _ConvNorm(half, half, 1, rngs=rngs)

    def __call__(self, x):
        left, right = jnp.split(x, 2, -1)
        x = jnp.concatenate([left, self.conv2(self.depthwise(self.conv1(right)))], -1)
        n, h, w, c = x.shape
        return x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c)


def _shufflenet(rngs):
    layers = [_ConvNorm(3, 16, rngs=rngs, strides=2), _ShuffleUnit(16, rngs), _ShuffleUnit(16, rngs)]
    return _Classifier(_sequential(*layers, _ConvNorm(16, 20, 1, rngs=rngs)), 20, rngs)


class _ConvNeXtBlock(nnx.Module):
    def __init__(self, channels, rngs):
        self.depthwise = nnx.Conv(channels, channels, (5, 5), feature_group_count=channels, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.up, self.down = nnx.Linear(channels, 24, rngs=rngs), nnx.Linear(24, channels, rngs=rngs)
        self.gamma = nnx.Param(jnp.full((channels,), 0.5))

    def __call__(self, x):
        return x + self.gamma * self.down(nnx.gelu(self.up(self.norm(self.depthwise(x)))))


def _convnext(rngs):
    layers = [nnx.Conv(3, 12, (2, 2), strides=2, padding="VALID", rngs=rngs), nnx.LayerNorm(12, rngs=rngs)]
    layers += [_ConvNeXtBlock(12, rngs), _ConvNeXtBlock(12, rngs), nnx.LayerNorm(12, rngs=rngs)]
    return _Classifier(_sequential(*layers), 12, rngs)


class _Encoder(nnx.Module):
    """A block of a transformer, with LayerNorm before attention and MLP."""

    def __init__(self, width, hidden, rngs, heads=2, act=nnx.gelu):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)
        self.act = act

    def __call__(self, x, mask=None):
        h = self.norm1(x)
        x = x + self.attention(h, mask=mask)
        return x + self.down(self.act(self.up(self.norm2(x))))


class _ViT(nnx.Module):
    """A ViT, with one token for the class, and in DeiT another one for distillation."""

    def __init__(self, rngs, distilled=False):
        self.patches = nnx.Conv(3, 16, (4, 4), strides=4, padding="VALID", rngs=rngs)
        special = 1 + distilled
        self.tokens = nnx.Param(jax.random.normal(rngs.params(), (1, special, 16)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 4 + special, 16)) * 0.02)
        self.blocks = nnx.List([_Encoder(16, 28, rngs) for _ in range(2)])
        self.norm, self.head = nnx.LayerNorm(16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
        self.distilled = nnx.Linear(16, 4, rngs=rngs) if distilled else None

    def __call__(self, x):
        x = self.patches(x).reshape(x.shape[0], -1, 16)
        x = jnp.concatenate([jnp.broadcast_to(self.tokens[...], (x.shape[0], *self.tokens.shape[1:])), x], 1)
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.distilled is None:
            return self.head(x[:, 0])
        return self.head(x[:, 0]), self.distilled(x[:, 1])


class _WindowBlock(nnx.Module):
    """A block of a Swin transformer: attention within windows that are shifted in every second block."""

    def __init__(self, width, shift, rngs):
        self.encoder, self.shift = _Encoder(width, 24, rngs), shift
        self.bias = nnx.Param(jnp.zeros((2, 4, 4)))

    def __call__(self, x):
        n, h, w, c = x.shape
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        x = self.encoder(x)
        x = x.reshape(n, h // 2, w // 2, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return jnp.roll(x, (self.shift, self.shift), (1, 2))


class _Merge(nnx.Module):
    def __init__(self, width, rngs):
        self.norm = nnx.LayerNorm(4 * width, rngs=rngs)
        self.reduce = nnx.Linear(4 * width, 2 * width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)
        return self.reduce(self.norm(x))


def _swin(rngs):
    layers = [nnx.Conv(3, 12, (2, 2), strides=2, padding="VALID", rngs=rngs)]
    layers += [_WindowBlock(12, 0, rngs), _WindowBlock(12, 1, rngs), _Merge(12, rngs), _WindowBlock(24, 0, rngs)]
    return _Classifier(_sequential(*layers, nnx.LayerNorm(24, rngs=rngs)), 24, rngs)


class _ScannedGPT(nnx.Module):
    """A GPT whose blocks are made by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, rngs, layers=3):
        @nnx.split_rngs(splits=layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return _Encoder(16, 28, rngs)

        self.embed = nnx.Embed(20, 16, rngs=rngs)
        self.blocks, self.norm = make(rngs), nnx.LayerNorm(16, rngs=rngs)

    def __call__(self, tokens):
        mask = nnx.make_causal_mask(tokens)

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x, mask)

        return self.embed.attend(self.norm(run(self.embed(tokens), self.blocks)))


class _Generator(nnx.Module):
    """A generator of a DCGAN."""

    def __init__(self, rngs):
        self.linear, self.bn0 = nnx.Linear(6, 4 * 4 * 12, use_bias=False, rngs=rngs), nnx.BatchNorm(12, rngs=rngs)
        self.up = nnx.ConvTranspose(12, 10, (4, 4), (2, 2), use_bias=False, rngs=rngs)
        self.bn1, self.out = nnx.BatchNorm(10, rngs=rngs), nnx.ConvTranspose(10, 3, (4, 4), (2, 2), rngs=rngs)

    def __call__(self, z):
        x = nnx.relu(self.bn0(self.linear(z).reshape(-1, 4, 4, 12)))
        return jnp.tanh(self.out(nnx.relu(self.bn1(self.up(x)))))


class _Discriminator(nnx.Module):
    def __init__(self, rngs):
        self.conv0 = nnx.SpectralNorm(nnx.Conv(3, 8, (4, 4), strides=2, rngs=rngs), rngs=rngs)
        self.conv1 = nnx.Conv(8, 12, (4, 4), strides=2, rngs=rngs)
        self.out = nnx.Linear(12 * 16, 1, rngs=rngs)

    def __call__(self, x):
        x = nnx.leaky_relu(self.conv0(x, update_stats=False), 0.2)
        x = nnx.leaky_relu(self.conv1(x), 0.2)
        return self.out(x.reshape(x.shape[0], -1))


class _GAN(nnx.Module):
    def __init__(self, rngs):
        self.generator, self.discriminator = _Generator(rngs), _Discriminator(rngs)


def _gan_call(model, z):
    return model.discriminator(model.generator(z))


class _ActorCritic(nnx.Module):
    """The network of DQN's images with a policy and a value, as for PPO on Atari."""

    def __init__(self, rngs):
        self.conv0 = nnx.Conv(4, 8, (4, 4), strides=2, padding="VALID", rngs=rngs)
        self.conv1 = nnx.Conv(8, 12, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.dense = nnx.Linear(12 * 9, 20, rngs=rngs)
        self.policy, self.value = nnx.Linear(20, 5, rngs=rngs), nnx.Linear(20, 1, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv1(nnx.relu(self.conv0(x))))
        x = nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.policy(x), self.value(x)


class _RecurrentPolicy(nnx.Module):
    """A policy and a value on a GRU over time."""

    def __init__(self, rngs):
        self.encode, self.rnn = nnx.Linear(6, 16, rngs=rngs), nnx.RNN(nnx.GRUCell(16, 12, rngs=rngs), rngs=rngs)
        self.hidden = nnx.Linear(12, 14, rngs=rngs)
        self.policy, self.value = nnx.Linear(14, 3, rngs=rngs), nnx.Linear(14, 1, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.hidden(self.rnn(nnx.relu(self.encode(x)))))
        return self.policy(h), self.value(h)


class _Siamese(nnx.Module):
    def __init__(self, rngs):
        self.conv0 = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.conv1, self.embed = nnx.Conv(8, 12, (3, 3), rngs=rngs), nnx.Linear(12, 6, rngs=rngs)

    def encode(self, x):
        h = nnx.max_pool(nnx.relu(self.conv0(x)), (2, 2), strides=(2, 2))
        h = self.embed(nnx.relu(self.conv1(h)).mean((1, 2)))
        return h / jnp.linalg.norm(h, axis=-1, keepdims=True)

    def __call__(self, pair):
        return jnp.sum(self.encode(pair["left"]) * self.encode(pair["right"]), -1)


class _Inception(nnx.Module):
    def __init__(self, inputs, rngs):
        conv = functools.partial(_ConvNorm, rngs=rngs)
        self.one = conv(inputs, 6, 1)
        self.three = _sequential(conv(inputs, 6, 1), conv(6, 8))
        self.five = _sequential(conv(inputs, 4, 1), conv(4, 6, 5))
        self.pool = conv(inputs, 4, 1)

    def __call__(self, x):
        pooled = nnx.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
        return jnp.concatenate([self.one(x), self.three(x), self.five(x), self.pool(pooled)], -1)


def _googlenet(rngs):
    layers = [_ConvNorm(3, 8, rngs=rngs, strides=2), _Inception(8, rngs), _Inception(24, rngs)]
    return _Classifier(_sequential(*layers), 24, rngs)


class _Tree(nnx.Module):
    """A tree of DLA: two blocks, whose outputs a root aggregates."""

    def __init__(self, inputs, outputs, rngs):
        conv = functools.partial(_ConvNorm, rngs=rngs)
        self.first = _Block(_sequential(conv(inputs, 10), conv(10, inputs, act=None)))
        self.second = _Block(_sequential(conv(inputs, 10), conv(10, inputs, act=None)))
        self.root = conv(2 * inputs, outputs, 1)

    def __call__(self, x):
        first = self.first(x)
        return self.root(jnp.concatenate([first, self.second(first)], -1))


def _dla(rngs):
    layers = [_ConvNorm(3, 8, rngs=rngs), _Tree(8, 12, rngs), _Tree(12, 16, rngs)]
    return _Classifier(_sequential(*layers), 16, rngs)


class _FPN(nnx.Module):
    """A feature pyramid: lateral convolutions, nearest upsampling and sums; a head on every level."""

    def __init__(self, rngs):
        conv = functools.partial(_ConvNorm, rngs=rngs)
        self.stages = nnx.List([conv(3, 8, strides=2), conv(8, 12, strides=2), conv(12, 16, strides=2)])
        self.lateral = nnx.List([nnx.Conv(c, 10, (1, 1), rngs=rngs) for c in (8, 12, 16)])
        self.smooth = nnx.List([nnx.Conv(10, 10, (3, 3), rngs=rngs) for _ in range(3)])
        self.head = nnx.Conv(10, 12, (3, 3), rngs=rngs)
        self.classes, self.boxes = nnx.Conv(12, 3, (1, 1), rngs=rngs), nnx.Conv(12, 4, (1, 1), rngs=rngs)

    def __call__(self, x):
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        top, found = None, []
        for level, lateral, smooth in reversed(list(zip(levels, self.lateral, self.smooth, strict=True))):
            h = lateral(level)
            top = h if top is None else h + top.repeat(2, 1).repeat(2, 2)
            h = nnx.relu(self.head(smooth(top)))
            found.append((self.classes(h), self.boxes(h)))
        return found


class _PointNet(nnx.Module):
    """A PointNet with an input transform."""

    def __init__(self, rngs):
        self.t0, self.t1 = nnx.Linear(3, 10, rngs=rngs), nnx.Linear(10, 9, rngs=rngs)
        self.mlp0, self.bn0 = nnx.Linear(3, 12, rngs=rngs), nnx.BatchNorm(12, rngs=rngs)
        self.mlp1, self.bn1 = nnx.Linear(12, 20, rngs=rngs), nnx.BatchNorm(20, rngs=rngs)
        self.fc, self.out = nnx.Linear(20, 14, rngs=rngs), nnx.Linear(14, 4, rngs=rngs)

    def __call__(self, points):
        turn = self.t1(nnx.relu(self.t0(points)).max(1)).reshape(-1, 3, 3)
        x = points @ (turn + jnp.eye(3))
        x = nnx.relu(self.bn1(self.mlp1(nnx.relu(self.bn0(self.mlp0(x))))))
        return self.out(nnx.relu(self.fc(x.max(1))))


class _GLU(nnx.Module):
    """A mixture of experts that gathers the expert of each token, after a gated MLP."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 12, rngs=rngs)
        self.gate, self.up = nnx.Linear(12, 20, rngs=rngs), nnx.Linear(12, 20, rngs=rngs)
        self.down, self.norm = nnx.Linear(20, 12, rngs=rngs), nnx.RMSNorm(12, rngs=rngs)
        self.router = nnx.Linear(12, 4, rngs=rngs)
        self.experts_in = nnx.Param(jax.random.normal(rngs.params(), (4, 12, 16)) * 0.3)
        self.experts_out = nnx.Param(jax.random.normal(rngs.params(), (4, 16, 12)) * 0.3)
        self.out = nnx.Linear(12, 20, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = self.norm(x + self.down(nnx.gelu(self.gate(x)) * self.up(x)))
        scores = nnx.softmax(self.router(x))
        chosen = scores.argmax(-1)
        weight = jnp.take_along_axis(scores, chosen[..., None], -1)
        h = nnx.relu(jnp.einsum("btm,btmh->bth", x, self.experts_in[chosen]))
        return self.out(x + weight * jnp.einsum("bth,bthm->btm", h, self.experts_out[chosen]))


_IMAGE = features(8, 8, 3)
_HEADS = "blocks/#/attention/query/kernel@1"

CASES = [
    Case(
        "ResNeXt",
        "NNX",
        _resnext,
        _IMAGE,
        [
            "body/layers/0/bn",
            # A unit is a whole feature group of a grouped convolution, with the four channels that it reads.
            "body/layers/#/body/layers/0/bn@0/4 + body/layers/#/body/layers/1/bn@0/4",
            "body/layers/1/body/layers/2/bn + body/layers/1/skip/bn + body/layers/2/body/layers/2/bn",
        ],
    ),
    Case(
        "WideResNet",
        "NNX",
        lambda rngs: _WideResNet(rngs),
        _IMAGE,
        ["blocks/0/bn1", "blocks/#/bn2", "blocks/1/bn1 + bn"],
    ),
    Case(
        "ResNet-D",
        "NNX",
        _resnet_d,
        _IMAGE,
        [
            *(f"body/layers/{i}/bn" for i in range(3)),
            *(f"body/layers/#/body/layers/{i}/bn" for i in range(2)),
            "body/layers/3/body/layers/2/bn + body/layers/3/skip/layers/1/bn + body/layers/4/body/layers/2/bn",
        ],
    ),
    Case(
        "SE-ResNet",
        "NNX",
        _se_resnet,
        _IMAGE,
        [
            "body/layers/0/bn + body/layers/*/body/layers/1/bn",
            "body/layers/#/body/layers/0/bn",
            "body/layers/#/body/layers/2/down",
        ],
    ),
    Case("VGG", "NNX", lambda rngs: _VGG(rngs), _IMAGE, ["convs/#", "fc1"]),
    Case(
        "MobileNet v1",
        "NNX",
        _mobilenet_v1,
        _IMAGE,
        [*(f"body/layers/{2 * i}/bn + body/layers/{2 * i + 1}/bn" for i in range(3)), "body/layers/6/bn"],
    ),
    Case(
        "MobileNet v2",
        "NNX",
        _mobilenet_v2,
        _IMAGE,
        [
            "body/layers/#/expand/bn + body/layers/#/depthwise/bn",
            "body/layers/0/bn + body/layers/1/project/bn",
            "body/layers/2/project/bn",
            "body/layers/3/bn",
        ],
    ),
    Case(
        "MobileNet v3",
        "NNX",
        _mobilenet_v3,
        _IMAGE,
        [
            "body/layers/#/expand/bn + body/layers/#/depthwise/bn",
            "body/layers/#/excite/down",
            "body/layers/0/bn + body/layers/1/project/bn",
            "body/layers/2/project/bn",
            "body/layers/3/bn",
        ],
    ),
    Case(
        "ShuffleNet v2",
        "NNX",
        _shufflenet,
        _IMAGE,
        ["body/layers/#/conv1/bn + body/layers/#/depthwise/bn", "body/layers/3/bn"],
    ),
    Case("ConvNeXt", "NNX", _convnext, _IMAGE, ["body/layers/#/up"]),
    Case("ViT", "NNX", lambda rngs: _ViT(rngs), _IMAGE, ["blocks/#/up"], heads=[_HEADS]),
    Case("DeiT", "NNX", lambda rngs: _ViT(rngs, distilled=True), _IMAGE, ["blocks/#/up"], heads=[_HEADS]),
    Case(
        "Swin",
        "NNX",
        _swin,
        _IMAGE,
        ["body/layers/#/encoder/up"],
        heads=["body/layers/#/encoder/attention/query/kernel@1"],
    ),
    Case(
        "GPT, nnx.scan",
        "NNX",
        lambda rngs: _ScannedGPT(rngs),
        tokens(8, 20),
        ["stack: blocks/up@-1"],
        heads=["stack: blocks/attention/query/kernel@2"],
    ),
    Case(
        "GAN, both networks",
        "NNX",
        lambda rngs: _GAN(rngs),
        features(6),
        # Leaky ReLU is zero if its input is.
        ["generator/bn#", "discriminator/conv1", "discriminator/conv0/layer_instance"],
        call=_gan_call,
    ),
    Case("actor-critic, CNN", "NNX", lambda rngs: _ActorCritic(rngs), features(16, 16, 4), ["conv#", "dense"]),
    Case(
        "actor-critic, GRU",
        "NNX",
        lambda rngs: _RecurrentPolicy(rngs),
        features(5, 6),
        ["encode", "hidden"],
        states=["rnn/cell/dense_h/kernel@0"],
    ),
    Case(
        "Siamese CNN",
        "NNX",
        lambda rngs: _Siamese(rngs),
        several(left=features(8, 8, 1), right=features(8, 8, 1)),
        ["conv#", "embed"],
    ),
    Case(
        "Inception",
        "NNX",
        _googlenet,
        _IMAGE,
        [
            "body/layers/0/bn",
            "body/layers/#/one/bn",
            "body/layers/#/pool/bn",
            *(f"body/layers/#/{branch}/layers/{i}/bn" for branch in ("three", "five") for i in range(2)),
        ],
    ),
    Case(
        "DLA",
        "NNX",
        _dla,
        _IMAGE,
        [
            "body/layers/0/bn + body/layers/1/first/body/layers/1/bn + body/layers/1/second/body/layers/1/bn",
            "body/layers/1/root/bn + body/layers/2/first/body/layers/1/bn + body/layers/2/second/body/layers/1/bn",
            "body/layers/#/first/body/layers/0/bn",
            "body/layers/#/second/body/layers/0/bn",
            "body/layers/2/root/bn",
        ],
    ),
    Case(
        "FPN",
        "NNX",
        lambda rngs: _FPN(rngs),
        features(16, 16, 3),
        ["stages/#/bn", "head", "lateral/*", "smooth/*"],
    ),
    Case("PointNet", "NNX", lambda rngs: _PointNet(rngs), features(9, 3), ["t0", "bn#", "fc"]),
    Case(
        "MoE, expert looked up",
        "NNX",
        lambda rngs: _GLU(rngs),
        tokens(8, 20),
        ["gate + up", "experts_in@2"],
    ),
]
