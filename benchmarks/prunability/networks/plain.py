# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
# mypy: ignore-errors
"""Architectures in plain JAX, written as users write them: functions of dictionaries of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.prunability.cases import Case, features, normal, several, tokens


def _dense(seed, inputs, outputs):
    return normal(seed, w=(inputs, outputs)) | {"b": jnp.zeros(outputs)}


def _linear(p, x):
    return x @ p["w"] + p["b"]


def _layer_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def _rms_norm(scale, x):
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale


def _norm(width):
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def _stacked(make, layers):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(make, range(layers)))


# Fully connected.


def _mlp(p, x):
    for layer in p["hidden"]:
        x = jax.nn.relu(_linear(layer, x))
    return _linear(p["out"], x)


def _mlp_params():
    return {"hidden": [_dense(0, 10, 24), _dense(1, 24, 18)], "out": _dense(2, 18, 4)}


def _scanned_mlp(p, x):
    h = jax.nn.relu(_linear(p["first"], x))
    h, _ = jax.lax.scan(lambda h, layer: (jax.nn.relu(_linear(layer, h)), None), h, p["stack"])
    return _linear(p["out"], h)


def _scanned_mlp_params():
    return {"first": _dense(0, 10, 16), "stack": _stacked(lambda i: _dense(i, 16, 16), 3), "out": _dense(9, 16, 4)}


def _nerf(p, rays):
    x, direction = _frequencies(rays["position"], 4), _frequencies(rays["direction"], 2)
    h = jax.nn.relu(_linear(p["l0"], x))
    h = jax.nn.relu(_linear(p["l1"], h))
    h = jax.nn.relu(_linear(p["l2"], jnp.concatenate([h, x], -1)))
    density = jax.nn.softplus(_linear(p["density"], h))
    h = jnp.concatenate([_linear(p["feature"], h), direction], -1)
    return jax.nn.sigmoid(_linear(p["rgb"], jax.nn.relu(_linear(p["color"], h)))), density


def _frequencies(x, count):
    angles = x[..., None] * 2.0 ** jnp.arange(count)
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    return waves.reshape(*x.shape[:-1], -1)


def _nerf_params():
    sizes = {"l0": (24, 20), "l1": (20, 20), "l2": (44, 20), "density": (20, 1), "feature": (20, 16)}
    sizes |= {"color": (28, 12), "rgb": (12, 3)}
    return {name: _dense(i, *size) for i, (name, size) in enumerate(sizes.items())}


def _dlrm(p, x):
    dense = _linear(p["bottom1"], jax.nn.relu(_linear(p["bottom0"], x["numbers"])))
    looked_up = [table[x["categories"][:, i]] for i, table in enumerate(p["tables"])]
    vectors = jnp.stack([dense, *looked_up], 1)
    pairs = jnp.einsum("bid,bjd->bij", vectors, vectors)
    rows, columns = np.triu_indices(vectors.shape[1], 1)
    h = jnp.concatenate([dense, pairs[:, rows, columns]], -1)
    return _linear(p["top1"], jax.nn.relu(_linear(p["top0"], h)))


def _dlrm_params():
    dense = {"bottom0": (6, 16), "bottom1": (16, 8), "top0": (14, 20), "top1": (20, 1)}
    params = {name: _dense(i, *size) for i, (name, size) in enumerate(dense.items())}
    return params | {"tables": [normal(9 + i, w=(12, 8))["w"] for i in range(3)]}


def _deep_sets(p, x):
    h = jax.nn.relu(_linear(p["phi1"], jax.nn.relu(_linear(p["phi0"], x["elements"]))))
    pooled = (h * x["present"][..., None]).sum(1)
    return _linear(p["rho1"], jax.nn.relu(_linear(p["rho0"], pooled)))


def _deep_sets_params():
    sizes = {"phi0": (3, 16), "phi1": (16, 20), "rho0": (20, 14), "rho1": (14, 2)}
    return {name: _dense(i, *size) for i, (name, size) in enumerate(sizes.items())}


def _present(rng, examples):
    return jnp.asarray(rng.integers(0, 2, (examples, 7)), jnp.float32)


# Graph networks, on a batch of graphs or on one graph whose nodes are the examples.


def _gcn(p, graph):
    adjacency = graph["adjacency"] + jnp.eye(graph["adjacency"].shape[-1])
    root = jax.lax.rsqrt(adjacency.sum(-1))
    adjacency = adjacency * root[..., None, :] * root[..., :, None]
    h = jax.nn.relu(adjacency @ _linear(p["conv0"], graph["nodes"]))
    h = jax.nn.relu(adjacency @ _linear(p["conv1"], h))
    return _linear(p["out"], h.mean(1))


def _gcn_params():
    return {"conv0": _dense(0, 5, 16), "conv1": _dense(1, 16, 12), "out": _dense(2, 12, 3)}


def _adjacency(rng, examples):
    upper = np.triu(rng.integers(0, 2, (examples, 6, 6)), 1)
    return jnp.asarray(upper + upper.transpose(0, 2, 1), jnp.float32)


def _sage(p, graph):
    h, nodes = graph["nodes"], graph["nodes"].shape[0]
    source, target = graph["edges"][:, 0], graph["edges"][:, 1]
    for layer in p["layers"]:
        degree = jax.ops.segment_sum(jnp.ones(source.shape), target, nodes)
        mean = jax.ops.segment_sum(h[source], target, nodes) / jnp.maximum(degree, 1.0)[:, None]
        h = jax.nn.relu(h @ layer["self"] + mean @ layer["neighbors"] + layer["b"])
    return _linear(p["out"], h)


def _sage_params():
    sizes = [(5, 16), (16, 12)]
    layers = [normal(i, self=size, neighbors=size) | {"b": jnp.zeros(size[1])} for i, size in enumerate(sizes)]
    return {"layers": layers, "out": _dense(5, 12, 3)}


def _edges(rng, examples):
    return jnp.asarray(rng.integers(0, examples, (examples, 2)), jnp.int32)


def _gin(p, graph):
    def one(nodes, edges):
        h = nodes
        for layer in p["layers"]:
            received = jnp.zeros_like(h).at[edges[:, 1]].add(h[edges[:, 0]])
            h = (1 + layer["eps"]) * h + received
            h = jax.nn.relu(_linear(layer["b"], jax.nn.relu(_linear(layer["a"], h))))
        return _linear(p["out"], h.sum(0))

    return jax.vmap(one)(graph["nodes"], graph["edges"])


def _gin_params():
    sizes = [(5, 16, 12), (12, 14, 10)]
    layers = [
        {"a": _dense(i, a, b), "b": _dense(i + 5, b, c), "eps": jnp.zeros(())} for i, (a, b, c) in enumerate(sizes)
    ]
    return {"layers": layers, "out": _dense(9, 10, 3)}


def _small_edges(rng, examples):
    return jnp.asarray(rng.integers(0, 6, (examples, 9, 2)), jnp.int32)


# Sequences.


def _lstm(p, tokens):
    x = p["embedding"][tokens]
    hidden = p["recurrent"].shape[0]

    def step(carry, x):
        c, h = carry
        i, f, g, o = jnp.split(x @ p["input"] + h @ p["recurrent"] + p["bias"], 4, -1)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

    zero = jnp.zeros((x.shape[0], hidden))
    (_, h), _ = jax.lax.scan(step, (zero, zero), jnp.swapaxes(x, 0, 1))
    return _linear(p["out"], jax.nn.relu(_linear(p["head"], h)))


def _lstm_params():
    cell = normal(0, embedding=(20, 8), input=(8, 48), recurrent=(12, 48)) | {"bias": jnp.zeros(48)}
    return cell | {"head": _dense(1, 12, 16), "out": _dense(2, 16, 3)}


def _gpt_block(p, x, causal):
    heads = 2
    q, k, v = (
        part.reshape(*part.shape[:-1], heads, -1)
        for part in jnp.split(_linear(p["qkv"], _layer_norm(p["ln1"], x)), 3, -1)
    )
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    scores = jnp.where(causal, scores, -1e9)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    x = x + _linear(p["proj"], mixed.reshape(x.shape))
    return x + _linear(p["down"], jax.nn.gelu(_linear(p["up"], _layer_norm(p["ln2"], x))))


def _gpt(p, tokens):
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    x = p["tokens"][tokens] + p["positions"][:length]
    if isinstance(p["blocks"], list):
        for block in p["blocks"]:
            x = _gpt_block(block, x, causal)
    else:
        x, _ = jax.lax.scan(lambda x, block: (jax.checkpoint(_gpt_block)(block, x, causal), None), x, p["blocks"])
    return _layer_norm(p["norm"], x) @ p["tokens"].T


def _gpt_block_params(seed):
    sizes = {"qkv": (16, 48), "proj": (16, 16), "up": (16, 32), "down": (32, 16)}
    block = {name: _dense(10 * seed + i, *size) for i, (name, size) in enumerate(sizes.items())}
    return block | {"ln1": _norm(16), "ln2": _norm(16)}


def _gpt_params(scanned=False):
    blocks = _stacked(_gpt_block_params, 2) if scanned else [_gpt_block_params(i) for i in range(2)]
    return normal(0, tokens=(20, 16), positions=(8, 16)) | {"blocks": blocks, "norm": _norm(16)}


def _rotary(x):
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 100.0 ** (-jnp.arange(half) / half)
    sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _llama(p, tokens):
    x = p["embedding"][tokens]
    causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    for block in p["blocks"]:
        h = _rms_norm(block["norm1"], x)
        q, k, v = (jnp.einsum("btm,mhd->bthd", h, block[name]) for name in "qkv")
        q, k = _rotary(q), _rotary(k)
        q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])  # Groups of queries, one group per key.
        scores = jnp.einsum("btkgd,bskd->bkgts", q, k) * q.shape[-1] ** -0.5
        mixed = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(jnp.where(causal, scores, -1e9)), v)
        x = x + jnp.einsum("bthd,hdm->btm", mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1]), block["o"])
        h = _rms_norm(block["norm2"], x)
        x = x + (jax.nn.silu(h @ block["gate"]) * (h @ block["up"])) @ block["down"]
    return _rms_norm(p["norm"], x) @ p["embedding"].T


def _llama_params():
    sizes = {"q": (16, 4, 8), "k": (16, 2, 8), "v": (16, 2, 8), "o": (4, 8, 16)}
    sizes |= {"gate": (16, 24), "up": (16, 24), "down": (24, 16)}
    blocks = [normal(i, **sizes) | {"norm1": jnp.ones(16), "norm2": jnp.ones(16)} for i in range(2)]
    return {"embedding": normal(9, e=(20, 16))["e"], "blocks": blocks, "norm": jnp.ones(16)}


def _moe(p, tokens):
    x = p["embedding"][tokens]
    for block in p["blocks"]:
        h = _rms_norm(block["norm"], x)
        probabilities = jax.nn.softmax(h @ block["router"])
        top, chosen = jax.lax.top_k(probabilities, 2)
        weights = jnp.sum(jax.nn.one_hot(chosen, probabilities.shape[-1]) * top[..., None], -2)
        hidden = jax.nn.gelu(jnp.einsum("btm,emh->bteh", h, block["up"]))
        x = x + jnp.einsum("bteh,ehm,bte->btm", hidden, block["down"], weights)
    return x @ p["out"]


def _moe_params():
    blocks = [normal(i, router=(12, 4), up=(4, 12, 20), down=(4, 20, 12)) | {"norm": jnp.ones(12)} for i in range(2)]
    return normal(7, embedding=(20, 12), out=(12, 20)) | {"blocks": blocks}


def _mamba(p, tokens):
    x = p["embedding"][tokens]
    for block in p["blocks"]:
        h, gate = jnp.split(_rms_norm(block["norm"], x) @ block["in"], 2, -1)
        padded = jnp.pad(h, ((0, 0), (3, 0), (0, 0)))
        h = sum(padded[:, i : i + h.shape[1]] * block["conv"][i] for i in range(4)) + block["conv_bias"]
        h = jax.nn.silu(h)
        step = jax.nn.softplus(h @ block["dt"] + block["dt_bias"])
        b, c = h @ block["b"], h @ block["c"]
        decay = jnp.exp(step[..., None] * -jnp.exp(block["log_a"]))
        drive = (step * h)[..., None] * b[:, :, None, :]

        def combine(one, two):
            return one[0] * two[0], one[1] * two[0] + two[1]

        _, state = jax.lax.associative_scan(combine, (decay, drive), axis=1)
        y = jnp.einsum("btds,bts->btd", state, c) + block["d"] * h
        x = x + (y * jax.nn.silu(gate)) @ block["out"]
    return x @ p["embedding"].T


def _mamba_params():
    sizes = {"in": (12, 48), "conv": (4, 24), "dt": (24, 24), "b": (24, 4), "c": (24, 4), "out": (24, 12)}
    vectors = {"norm": jnp.ones(12), "conv_bias": jnp.zeros(24), "dt_bias": jnp.zeros(24), "d": jnp.ones(24)}
    blocks = [normal(i, **sizes) | vectors | {"log_a": jnp.log(jnp.ones((24, 4)) * jnp.arange(1, 5))} for i in range(2)]
    return normal(7, embedding=(20, 12)) | {"blocks": blocks}


# Convolutions.


def _conv(x, kernel, strides=1, padding="SAME", dilation=1, groups=1):
    rank = kernel.ndim - 2
    letters = "DHW"[-rank:]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(
        x, kernel, (strides,) * rank, padding, None, (dilation,) * rank, numbers, groups
    )


def _wavenet(p, x):
    h, skips = _conv(x, p["first"]), 0.0
    for i, layer in enumerate(p["layers"]):
        past = 2**i
        both = _conv(h, layer["dilated"], padding=[(past, 0)], dilation=past) + layer["bias"]
        filtered, gate = jnp.split(both, 2, -1)
        z = jnp.tanh(filtered) * jax.nn.sigmoid(gate)
        skips = skips + _conv(z, layer["skip"])
        h = h + _conv(z, layer["residual"])
    y = jax.nn.relu(skips)
    return _conv(jax.nn.relu(_conv(y, p["end"]) + p["end_bias"]), p["out"])


def _wavenet_params():
    sizes = {"dilated": (2, 8, 24), "skip": (1, 12, 16), "residual": (1, 12, 8)}
    layers = [normal(i, **sizes) | {"bias": jnp.zeros(24)} for i in range(3)]
    ends = normal(9, first=(1, 1, 8), end=(1, 16, 14), out=(1, 14, 4)) | {"end_bias": jnp.zeros(14)}
    return ends | {"layers": layers}


def _nfnet(p, x):
    def standardized(kernel, gain):
        mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
        fan_in = np.prod(kernel.shape[:3])
        return (kernel - mean) * jax.lax.rsqrt(jnp.maximum(var * fan_in, 1e-4)) * gain

    x = _conv(x, standardized(p["stem"]["w"], p["stem"]["gain"])) + p["stem"]["b"]
    for block in p["blocks"]:
        h = jax.nn.relu(x) * 1.7
        h = _conv(h, standardized(block["conv1"]["w"], block["conv1"]["gain"])) + block["conv1"]["b"]
        h = jax.nn.relu(h) * 1.7
        h = _conv(h, standardized(block["conv2"]["w"], block["conv2"]["gain"])) + block["conv2"]["b"]
        x = x + 0.2 * block["skip_gain"] * h
    return _linear(p["out"], jax.nn.relu(x).mean((1, 2)))


def _nfnet_params():
    def conv(seed, *shape):
        return normal(seed, w=shape) | {"gain": jnp.ones(shape[-1]), "b": jnp.zeros(shape[-1]) + 0.1}

    blocks = [
        {"conv1": conv(i, 3, 3, 12, 16), "conv2": conv(i + 5, 3, 3, 16, 12), "skip_gain": jnp.ones(())}
        for i in range(2)
    ]
    return {"stem": conv(8, 3, 3, 3, 12), "blocks": blocks, "out": _dense(9, 12, 4)}


CASES = [
    Case("MLP", "plain JAX", lambda: (_mlp, _mlp_params()), features(10), ["hidden/#"]),
    Case(
        "MLP, lax.scan over layers",
        "plain JAX",
        lambda: (_scanned_mlp, _scanned_mlp_params()),
        features(10),
        ["first", "stack: stack"],
    ),
    Case(
        "NeRF MLP",
        "plain JAX",
        lambda: (_nerf, _nerf_params()),
        several(position=features(3), direction=features(3)),
        ["l0", "l1", "l2", "feature", "color"],
    ),
    Case(
        "DLRM",
        "plain JAX",
        lambda: (_dlrm, _dlrm_params()),
        several(numbers=features(6), categories=tokens(3, 12)),
        # Embeddings are multiplied pairwise, so a dimension is removed from all tables.
        ["bottom0", "top0", "bottom1 + tables/*"],
    ),
    Case(
        "DeepSets",
        "plain JAX",
        lambda: (_deep_sets, _deep_sets_params()),
        several(elements=features(7, 3), present=_present),
        ["phi0", "phi1", "rho0"],
    ),
    Case(
        "GCN, adjacency matrix",
        "plain JAX",
        lambda: (_gcn, _gcn_params()),
        several(nodes=features(6, 5), adjacency=_adjacency),
        ["conv0", "conv1"],
    ),
    Case(
        "GraphSAGE, one graph",
        "plain JAX",
        lambda: (_sage, _sage_params()),
        several(nodes=features(5), edges=_edges),
        ["layers/#/self + layers/#/neighbors + layers/#/b"],
    ),
    Case(
        "GIN, scatter",
        "plain JAX",
        lambda: (_gin, _gin_params()),
        several(nodes=features(6, 5), edges=_small_edges),
        ["layers/#/a", "layers/#/b"],
    ),
    Case(
        "LSTM, lax.scan",
        "plain JAX",
        lambda: (_lstm, _lstm_params()),
        tokens(7, 20),
        ["head"],
        states=["recurrent@0"],
    ),
    Case(
        "GPT",
        "plain JAX",
        lambda: (_gpt, _gpt_params()),
        tokens(8, 20),
        ["blocks/#/up"],
        heads=["blocks/#/proj/w@0/8"],
    ),
    Case(
        "GPT, lax.scan over blocks, remat",
        "plain JAX",
        lambda: (_gpt, _gpt_params(scanned=True)),
        tokens(8, 20),
        ["stack: blocks/up"],
        heads=["stack: blocks/proj/w@1/8"],
    ),
    Case(
        "Llama",
        "plain JAX",
        lambda: (_llama, _llama_params()),
        tokens(8, 20),
        ["blocks/#/gate + blocks/#/up"],
        heads=["blocks/#/q@1"],
    ),
    Case(
        "MoE transformer, top 2 of 4",
        "plain JAX",
        lambda: (_moe, _moe_params()),
        tokens(8, 20),
        ["blocks/#/up"],
    ),
    Case(
        "Mamba",
        "plain JAX",
        lambda: (_mamba, _mamba_params()),
        tokens(8, 20),
        ["blocks/#/conv + blocks/#/conv_bias + blocks/#/in[24:]"],
        states=["blocks/#/b@-1"],
    ),
    Case(
        "WaveNet",
        "plain JAX",
        lambda: (_wavenet, _wavenet_params()),
        features(16, 1),
        [
            "end + end_bias",
            "layers/*/skip",
            "layers/#/dilated[:12] + layers/#/bias[:12] + layers/#/dilated[12:] + layers/#/bias[12:]",
        ],
    ),
    Case(
        "NFNet",
        "plain JAX",
        lambda: (_nfnet, _nfnet_params()),
        features(8, 8, 3),
        # Weights are standardized over their inputs, so no input can be removed exactly.
        [],
    ),
]
