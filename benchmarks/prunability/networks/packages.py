# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
# mypy: ignore-errors
"""Architectures that other packages define: Haiku, Jraph, Equimo, PDEquinox, mamba2-jax."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.prunability.cases import Case, features, several, tokens


def _haiku_mlp():
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([20, 16, 4])(x)))
    return net.apply, net.init(jax.random.key(0), jnp.ones((2, 6)))


def _haiku_resnet():
    import haiku as hk

    def forward(x, train):
        options = {"channels_per_group": (8, 8, 12, 12), "strides": (1, 2, 1, 1), "bottleneck": False}
        stem = {"output_channels": 8, "kernel_shape": 3, "stride": 1}
        return hk.nets.ResNet((1, 1, 1, 1), 4, initial_conv_config=stem, **options)(x, train)

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = net.init(jax.random.key(0), jnp.ones((2, 16, 16, 3)), True)

    def evaluate(variables, x):
        return net.apply(variables["params"], variables["state"], x, False)[0]

    def train(variables, x):
        return net.apply(variables["params"], variables["state"], x, True)[0]

    # Haiku initializes the logits of its networks to zero.
    logits = {"w": jax.random.normal(jax.random.key(1), (12, 4)), "b": jnp.zeros(4)}
    return evaluate, {"params": {**params, "res_net/~/logits": logits}, "state": state}, train


def _haiku_lstm():
    import haiku as hk

    def forward(x):
        core = hk.LSTM(12)
        h, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(3, name="out")(jax.nn.relu(hk.Linear(16, name="hidden")(h[:, -1])))

    net = hk.without_apply_rng(hk.transform(forward))
    return net.apply, net.init(jax.random.key(0), jnp.ones((2, 5, 6)))


def _graph_network():
    """A graph network of Jraph on a batch of graphs, with MLPs in plain JAX as updates."""
    import jraph

    def mlp(p, *xs):
        h = jnp.concatenate(xs, -1)
        return jax.nn.relu(h @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]

    def forward(params, batch):
        def one(nodes, senders, receivers):
            count = lambda x: jnp.array([len(x)])  # noqa: E731
            graph = jraph.GraphsTuple(
                nodes, jnp.ones((len(senders), 1)), receivers, senders, jnp.zeros((1, 2)), count(nodes), count(senders)
            )
            net = jraph.GraphNetwork(
                lambda edges, sent, received, g: mlp(params["edge"], edges, sent, received, g),
                lambda nodes, sent, received, g: mlp(params["node"], nodes, sent, received, g),
                lambda nodes, edges, g: mlp(params["globals"], nodes, edges, g),
            )
            return net(graph).globals[0]

        return jax.vmap(one)(batch["nodes"], batch["senders"], batch["receivers"])

    keys = jax.random.split(jax.random.key(0), 3)
    sizes = {"edge": (13, 16, 10), "node": (27, 18, 12), "globals": (24, 14, 3)}
    return forward, {name: _mlp_params(key, *size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}


def _mlp_params(key, inputs, hidden, outputs):
    k0, k1 = jax.random.split(key)
    w0, w1 = jax.random.normal(k0, (inputs, hidden)), jax.random.normal(k1, (hidden, outputs))
    return {"w0": w0 / inputs**0.5, "b0": jnp.zeros(hidden), "w1": w1 / hidden**0.5, "b1": jnp.zeros(outputs)}


def _nodes(rng, examples):
    return jnp.asarray(rng.integers(0, 6, (examples, 9)), jnp.int32)


def _equimo_vit(key):
    from equimo.models.vit import VisionTransformer

    options = {"dim": 16, "patch_size": 4, "num_heads": 2, "depths": [2], "mlp_ratio": 2.0, "reg_tokens": 1}
    return VisionTransformer(img_size=8, in_channels=3, num_classes=4, key=key, **options)


def _equimo_mobilenet(key):
    import equinox as eqx
    from equimo.models.mobilenet import MobileNetv3

    # Its norms are GroupNorms. They have one group per channel if the number of channels is a power of two.
    layers = [(8, 8, 3, 2, True, "relu"), (8, 16, 3, 1, False, "relu"), (16, 32, 5, 1, True, "hard_swish")]
    return eqx.nn.make_with_state(MobileNetv3)(3, layers, last_channels=32, num_classes=4, key=key)


def _equimo_convnext(key):
    from equimo.models.convnext import ConvNeXt

    return ConvNeXt(3, depths=[1, 1], dims=[8, 12], layer_scale_init_value=0.5, num_classes=4, key=key)


def _with_key(model, x, state):
    return jax.vmap(lambda x: model(x, key=jax.random.key(0)))(x)


def _pde_unet(key):
    import pdequinox

    return pdequinox.arch.ClassicUNet(1, 1, 1, hidden_channels=8, num_levels=2, use_norm=False, key=key)


def _pde_resnet(key):
    import pdequinox

    return pdequinox.arch.ClassicResNet(1, 1, 1, hidden_channels=10, num_blocks=2, key=key)


def _pde_fno(key):
    import pdequinox

    return pdequinox.arch.ClassicFNO(1, 1, 1, hidden_channels=8, num_modes=4, num_blocks=2, key=key)


def _mamba2(rngs):
    import mamba2_jax

    sizes = {"vocab_size": 20, "hidden_size": 16, "state_size": 4, "head_dim": 8, "chunk_size": 8}
    return mamba2_jax.Mamba2ForCausalLM(mamba2_jax.Mamba2Config(**sizes, num_hidden_layers=2), rngs=rngs)


def _logits(model, x):
    return model(x)["logits"]


_GROUP = "res_net/~/block_group_{}/~/block_0/~/{}"

CASES = [
    Case("Haiku MLP", "plain JAX", _haiku_mlp, features(6), ["mlp/~/linear_0", "mlp/~/linear_1"], package="dm-haiku"),
    Case(
        "Haiku ResNet",
        "plain JAX",
        _haiku_resnet,
        features(16, 16, 3),
        [
            "res_net/~/initial_batchnorm",
            *(_GROUP.format(i, "batchnorm_0") for i in range(4)),
            *(f"{_GROUP.format(i, 'batchnorm_1')} + {_GROUP.format(i, 'shortcut_batchnorm')}" for i in range(4)),
        ],
        package="dm-haiku",
    ),
    Case(
        "Haiku LSTM",
        "plain JAX",
        _haiku_lstm,
        features(5, 6),
        ["hidden"],
        states=["lstm/linear/w@0[6:]"],
        package="dm-haiku",
    ),
    Case(
        "Jraph GraphNetwork",
        "plain JAX",
        _graph_network,
        several(nodes=features(6, 5), senders=_nodes, receivers=_nodes),
        ["#/w0 + #/b0", "edge/w1 + edge/b1", "node/w1 + node/b1"],
        package="jraph",
    ),
    Case(
        "Equimo ViT",
        "Equinox",
        _equimo_vit,
        features(3, 8, 8),
        ["blocks/0/blocks/#/mlp/fc1"],
        heads=["blocks/0/blocks/#/attn/proj/weight@1/8"],
        call=_with_key,
        package="equimo",
    ),
    Case(
        "Equimo MobileNet v3",
        "Equinox",
        _equimo_mobilenet,
        features(3, 16, 16),
        [
            "layers/#/inverted_conv/norm + layers/#/depth_conv/norm",
            "layers/#/se_conv/fc1",
            "conv1/norm",
            "layers/#/point_conv/norm",
        ],
        call=_with_key,
        package="equimo",
    ),
    Case(
        "Equimo ConvNeXt",
        "Equinox",
        _equimo_convnext,
        features(3, 16, 16),
        ["blocks/#/blocks/0/pwconv1"],
        call=_with_key,
        package="equimo",
    ),
    Case(
        "PDEquinox U-Net",
        "Equinox",
        _pde_unet,
        features(1, 16),
        [
            "lifting/#",
            "down_sampling_blocks/#",
            "up_sampling_blocks/#",
            *(f"{side}_arc_blocks/#/0/conv_{i}" for side in ("left", "right") for i in (1, 2)),
        ],
        package="pdequinox",
    ),
    Case(
        "PDEquinox ResNet",
        "Equinox",
        _pde_resnet,
        features(1, 16),
        ["blocks/#/conv_1", "lifting + blocks/0/conv_2 + blocks/1/conv_2"],
        package="pdequinox",
    ),
    Case(
        "PDEquinox FNO",
        "Equinox",
        _pde_fno,
        features(1, 16),
        [
            "lifting",
            "blocks/#/spectral_conv/weights_real@1 + blocks/#/spectral_conv/weights_imag@1 + blocks/#/by_pass_conv",
        ],
        package="pdequinox",
    ),
    Case(
        "Mamba-2",
        "NNX",
        _mamba2,
        tokens(8, 20),
        # The features of a head share their step size, and a norm over all features couples the others.
        [],
        states=["backbone/layers/#/mixer/conv1d/conv/bias[32:36]"],
        call=_logits,
        package="mamba2-jax",
    ),
]
