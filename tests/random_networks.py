"""Random networks for property tests: drawn layers, and plain JAX code that reads widths off its parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import demp_jax

_DIMS = ("NHWC", "HWIO", "NHWC")


class Builder:
    """Draws layers and makes their parameters; `widths` follow along so that shapes fit."""

    def __init__(self, draw, seed):
        self.draw = draw
        self.rng = np.random.default_rng(seed)
        self.params = {}
        self.spec = []

    def chance(self, part=0.5):
        """Draws a yes or no."""
        return self.draw(st.floats(0, 1)) < part

    def normal(self, *shape):
        """Makes a parameter."""
        return self.rng.normal(size=shape).astype(np.float32) / np.sqrt(max(np.prod(shape[:-1]), 1))

    def layer(self, name, image, width, out=None, relu=None):
        """Draws a dense or convolutional layer with or without bias, norm and activation; some units are dead."""
        out = out or self.draw(st.integers(2, 6))
        p, options = {}, {"kind": "dense", "relu": self.chance(0.8) if relu is None else relu}
        if image:
            size = self.draw(st.sampled_from([1, 3]))
            depthwise = out == width and self.chance(0.3)
            options |= {"kind": "conv", "stride": self.draw(st.sampled_from([1, 1, 2])), "depthwise": depthwise}
            options["dilation"] = self.draw(st.sampled_from([1, 2]))
            p["kernel"] = self.normal(size, size, 1 if depthwise else width, out)
        else:
            p["kernel"] = self.normal(width, out)
        dead = self.rng.random(out) < 0.4
        norm = self.draw(
            st.sampled_from(["none", "none", "batch", "layer", "group"] if out % 2 == 0 else ["none", "batch"])
        )
        options["norm"] = norm
        if norm == "none":
            p["kernel"] = np.where(dead, 0, p["kernel"])
        else:
            p["scale"] = np.where(dead, 0, 1 + 0.1 * self.normal(out)).astype(np.float32)
            p["offset"] = np.where(dead, -1, 0.1).astype(np.float32)
            p["mean"], p["var"] = 0.1 * self.normal(out), np.ones(out, np.float32)
        if norm == "none" and self.chance():
            p["bias"] = np.where(dead, -1, 0.1).astype(np.float32)
        self.params[name] = p
        return ("layer", name, options), out


@st.composite
def networks(draw):
    """Draws `(apply, params, x)`: a network with dead units, and inputs for it."""
    b = Builder(draw, draw(st.integers(0, 2**31)))
    image = draw(st.booleans())
    width = draw(st.integers(2, 4))
    shape = (6, 6, 6, width) if image else (6, width)
    first, width = b.layer("first", image, width)
    spec = [first]
    for i in range(draw(st.integers(1, 4))):
        kinds = ["layer", "residual", "routed", "concat", "split", "gate"]
        kinds += ["pool", "flatten", "mean"] if image else []
        kind = draw(st.sampled_from(kinds))
        name = f"{kind}{i}"
        if kind == "layer":
            layer, width = b.layer(name, image, width)
            spec.append(layer)
        elif kind in ("residual", "routed"):
            inner, hidden = b.layer(name + "a", image, width)
            outer, _ = b.layer(name + "b", image, hidden, out=width, relu=False)
            for layer in (inner, outer):
                layer[2]["stride"] = 1
            if kind == "routed":
                b.params[name] = {
                    part: {"index": np.arange(width, dtype=np.int32), "fill": np.zeros(width, np.float32)}
                    for part in ("branch", "skip")
                }
            spec.append((kind, name, [inner, outer], b.chance()))
        elif kind == "concat":
            left, a = b.layer(name + "a", image, width)
            right, c = b.layer(name + "b", image, width)
            for layer in (left, right):
                layer[2]["stride"] = 1
            spec.append((kind, left, right, b.chance()))
            width = a + c + (width if spec[-1][3] else 0)
        elif kind in ("split", "gate"):
            if width % 2 or width < 4:
                continue
            spec.append((kind,))
            width = width // 2 if kind == "gate" else width
        elif kind == "pool":
            spec.append((kind, draw(st.sampled_from(["max", "mean"]))))
        else:
            # How many places there are is known once the strides are: read off a dry run.
            spec.append((kind,))
            places = jax.eval_shape(lambda p, x: _run(spec, p, x), b.params, jnp.zeros(shape)).shape
            width, image = places[-1], False
    if image:
        spec.append(("mean",))
    head, _ = b.layer("head", False, width, out=3, relu=False)
    head[2]["norm"] = "none"
    b.params["head"] = {"kernel": b.normal(width, 3), "bias": np.zeros(3, np.float32)}
    spec.append(head)
    params = jax.tree.map(jnp.asarray, b.params)
    return Network(spec), params, jnp.asarray(b.rng.normal(size=shape), jnp.float32)


class Network:
    """A drawn network as a function `(params, x)`."""

    def __init__(self, spec):
        self.spec = spec

    def __call__(self, params, x):
        return _run(self.spec, params, x)

    def __repr__(self):
        return f"Network({self.spec})"


def _run(spec, params, x):
    for item in spec:
        x = _apply(item, params, x)
    return x


def _apply(item, params, x):
    kind = item[0]
    if kind == "layer":
        return _layer(params[item[1]], item[2], x)
    if kind in ("residual", "routed"):
        y = x
        for layer in item[2]:
            y = _layer(params[layer[1]], layer[2], y)
        if kind == "routed":
            p = params[item[1]]
            y, x = (demp_jax.select(v, p[n]["index"], p[n]["fill"]) for v, n in ((y, "branch"), (x, "skip")))
        return jax.nn.relu(x + y) if item[3] else x + y
    if kind == "concat":
        parts = [_layer(params[layer[1]], layer[2], x) for layer in item[1:3]]
        return jnp.concatenate([*parts, x] if item[3] else parts, -1)
    if kind == "split":
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([b, a], -1)
    if kind == "gate":
        a, b = jnp.split(x, 2, axis=-1)
        return a * jax.nn.sigmoid(b)
    if kind == "pool":
        if min(x.shape[1:3]) < 2:
            return x
        start, op = (-jnp.inf, jax.lax.max) if item[1] == "max" else (0.0, jax.lax.add)
        return jax.lax.reduce_window(x, start, op, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(x.shape[0], -1) if kind == "flatten" else x.mean((1, 2))


def _layer(p, options, x):
    if options["kind"] == "conv":
        x = jax.lax.conv_general_dilated(
            x,
            p["kernel"],
            (options["stride"],) * 2,
            "SAME",
            rhs_dilation=(options["dilation"],) * 2,
            dimension_numbers=_DIMS,
            feature_group_count=x.shape[-1] if options["depthwise"] else 1,
        )
    else:
        x = x @ p["kernel"]
    along = (1,) * (x.ndim - 1)
    if "bias" in p:
        x = x + p["bias"].reshape(*along, -1)
    if options["norm"] != "none":
        x = _norm(p, options["norm"], x, along)
    return jax.nn.relu(x) if options["relu"] else x


def _norm(p, norm, x, along):
    if norm == "batch":
        x = (x - p["mean"].reshape(*along, -1)) / jnp.sqrt(p["var"] + 1e-5).reshape(*along, -1)
    else:
        # Layer norm over all units, or group norm over pairs of them.
        grouped = x.reshape(*x.shape[:-1], 1, -1) if norm == "layer" else x.reshape(*x.shape[:-1], -1, 2)
        mean, var = grouped.mean(-1, keepdims=True), grouped.var(-1, keepdims=True)
        x = ((grouped - mean) / jnp.sqrt(var + 1e-3)).reshape(x.shape)
    return x * p["scale"].reshape(*along, -1) + p["offset"].reshape(*along, -1)
