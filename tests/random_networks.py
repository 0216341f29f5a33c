"""Random networks with known dead units, and checks of their prunes.

A `Builder` draws layers, makes their variables, and knows which units it kills. A `Network` runs the layers in JAX,
with widths taken from its arrays, or in NumPy. With a `Shadow`, a run also records, independently of the tracer, which
units can only be removed together, what reads them, and along which axes of which variables they lie. From this record
and the values on the death set, a `Verdict` derives which units must be removed, and which may be.

    python -m tests.random_networks --count 1000 --seed 0

prints a line for every wrong prune, and a summary. `--count 1 --seed N` repeats one network.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

import demp_jax
from demp_jax._src.tracing.select import NOTHING

_DIMS = ("NHWC", "HWIO", "NHWC")
EXAMPLES, SPACE, SEGMENTS, OUT = 24, 4, 5, 3
# Names that optimizer states and containers of frameworks also use.
NAMES = (
    "value raw_value mu nu 0 1 count params state z trace kernel bias w a a/b inner_state copies evaluation training "
    "scale step grads x0 v_row fill index"
).split()
# Variables that are not trained.
FIXED = {"mean", "var", "index", "fill", "complex_kernel", "complex_bias"}
NORMS = ["none", "none", "batch", "batch", "layer", "group"]
Address = tuple[str, str]  # A layer and a part of it.
FROZEN = 0  # Units that cannot be removed are united with this one.


class Shadow:
    """Follows units through a network: a union-find over numbered units, which unites units of the same group."""

    def __init__(self) -> None:
        self._parent = [FROZEN]
        self._made: dict[Any, np.ndarray] = {}
        self.axes: dict[Address, tuple[np.ndarray | None, ...]] = {}
        self.begin("")

    def begin(self, run: str) -> None:
        """Starts a run, with new lists of sites and reads. The units are shared by all runs."""
        self.run = run
        self.sites: list[tuple[np.ndarray, np.ndarray]] = []
        self.reads: list[Read] = []

    def units(self, name: Any, width: int) -> np.ndarray:
        """Returns the units of a layer, which are created by the first call."""
        if name not in self._made:
            self._made[name] = np.arange(width) + len(self._parent)
            self._parent.extend(self._made[name].tolist())
        return self._made[name]

    def find(self, unit: int) -> int:
        while self._parent[unit] != unit:
            unit = self._parent[unit]
        return unit

    def roots(self, units: np.ndarray) -> np.ndarray:
        return np.array([self.find(int(unit)) for unit in units])

    def unite(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            a, b = sorted((self.find(a), self.find(b)))
            self._parent[b] = a
        return one

    def freeze(self, units: np.ndarray) -> np.ndarray:
        return self.unite(np.zeros_like(units), units)

    def own(self, name: str, **axes: tuple[np.ndarray | None, ...]) -> None:
        """Records the units along the axes of the parts of a layer."""
        self.axes.update({(name, part): units for part, units in axes.items()})

    def site(self, units: np.ndarray, value: Any) -> None:
        self.sites.append((units, np.asarray(value)))

    def read(self, units: np.ndarray, value: Any, weights: Any = None, absorber: Address | None = None, **how) -> None:
        self.reads.append(Read(units, np.asarray(value), weights, absorber, **how))


@dataclasses.dataclass
class Read:
    """A read of units by a layer: their values, its weights `[..., units, out]`, and what can absorb a constant."""

    units: np.ndarray
    value: np.ndarray
    weights: Any
    absorber: Address | None
    sign: int = 1
    padded: bool = False
    centered: bool = False

    @property
    def routed(self) -> bool:
        return self.absorber is not None and self.absorber[1].endswith(".fill")

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        flat = self.value.reshape(-1, self.value.shape[-1])
        return flat.min(0), flat.max(0)


class Network:
    """A drawn network as a function `(variables, x)`, in evaluation mode."""

    def __init__(self, spec: Sequence[Any], paths: dict[Address, tuple[Any, ...]]):
        self.spec, self.paths = spec, paths

    def __call__(self, variables: Any, x: Any) -> Any:
        return self.run(variables, x)

    def run(self, variables: Any, x: Any, train: bool = False, shadow: Shadow | None = None) -> Any:
        """Returns the outputs, in training mode if `train`, and records units in `shadow`, if any."""

        def part(name: str, which: str) -> Any:
            return functools.reduce(lambda node, key: node[key], self.paths[name, which], variables)

        return _Run(part, set(self.paths), train, shadow).all(self.spec, x)


class _Run:
    """One run of the layers, in NumPy if the inputs are NumPy arrays, otherwise in JAX.

    `units` are the units along the last axis of the current value.
    """

    def __init__(self, part: Callable[[str, str], Any], there: set[Address], train: bool, shadow: Shadow | None):
        self.part, self.there, self.train, self.shadow = part, there, train, shadow
        self.units = np.zeros(0, int)
        self.np: Any = jnp

    def all(self, spec: Sequence[Any], x: Any) -> Any:
        self.units = np.zeros(x.shape[-1], int)
        for item in spec:
            x = self.one(item, x)
        if self.shadow:
            self.shadow.freeze(self.units)
        return x

    def one(self, item: Any, x: Any) -> Any:
        self.np = np if isinstance(x, np.ndarray) else jnp
        return getattr(self, "_" + item[0])(item, x)

    def _relu(self, x: Any) -> Any:
        x = self.np.maximum(x, 0)
        if self.shadow:
            self.shadow.site(self.units, x)
        return x

    def _layer(self, item: Any, x: Any) -> Any:
        _, name, options = item
        before, units, kernel, s = x, self.units, self.part(name, "kernel"), self.shadow
        out = kernel.shape[-1]
        conv, depthwise = options["kind"] == "conv", options.get("depthwise", False)
        if conv:
            convolve = _convolve if self.np is np else _lax_convolve
            x = convolve(x, kernel, options["stride"], options["dilation"], depthwise)
        else:
            x = x @ kernel
        bias, norm = (name, "bias") in self.there, options["norm"]
        along = (1,) * (x.ndim - 1)
        if bias:
            x = x + self.part(name, "bias").reshape(*along, -1)
        if s:
            self.units = units if depthwise else s.units(name, out)
            if not depthwise:
                absorber = (name, "bias") if bias else (name, "mean") if norm == "batch" and not self.train else None
                centered, padded = norm == "batch" and self.train, conv and kernel.shape[0] > 1
                s.read(units, before, kernel, absorber, sign=1 if bias else -1, padded=padded, centered=centered)
            s.own(name, kernel=(None, None, None if depthwise else units, self.units)[0 if conv else 2 :])
            s.own(name, **dict.fromkeys(["bias", "scale", "offset", "mean", "var"], (self.units,)))
            if norm == "layer" or (norm == "group" and out == 2):
                s.freeze(self.units)
            elif norm == "group":
                s.unite(self.units[::2], self.units[1::2])
        if norm != "none":
            x = self._norm(name, norm, x, along)
        return self._relu(x) if options["relu"] else x

    def _norm(self, name: str, norm: str, x: Any, along: Any) -> Any:
        if norm == "batch":
            if self.train:
                axes = tuple(range(x.ndim - 1))
                mean, var = x.mean(axes), x.var(axes)
            else:
                mean, var = self.part(name, "mean"), self.part(name, "var")
            x = (x - mean.reshape(*along, -1)) / self.np.sqrt(var.reshape(*along, -1) + 1e-5)
        else:
            # Layer norm over all units, or group norm over pairs of units.
            grouped = x.reshape(*x.shape[:-1], 1, -1) if norm == "layer" else x.reshape(*x.shape[:-1], -1, 2)
            mean, var = grouped.mean(-1, keepdims=True), grouped.var(-1, keepdims=True)
            x = ((grouped - mean) / self.np.sqrt(var + 1e-3)).reshape(x.shape)
        return x * self.part(name, "scale").reshape(*along, -1) + self.part(name, "offset").reshape(*along, -1)

    def _shift(self, item: Any, x: Any) -> Any:
        if self.shadow:
            self.shadow.own(item[1], shift=(self.units,))
        return x + self.part(item[1], "shift").reshape(*(1,) * (x.ndim - 1), -1)

    def _normed(self, item: Any, x: Any) -> Any:
        if self.shadow:
            self.shadow.own(item[1], **dict.fromkeys(["scale", "offset", "mean", "var"], (self.units,)))
        return self._norm(item[1], "batch", x, (1,) * (x.ndim - 1))

    def _residual(self, item: Any, x: Any) -> Any:
        kind, name, layers, relu = item
        y, skipped, s = x, self.units, self.shadow
        for layer in layers:
            y = self.one(layer, y)
        if kind == "routed":
            for branch, units, value in (("branch", self.units, y), ("skip", skipped, x)):
                if s:
                    s.read(units, value, None, (name, branch + ".fill"))
                    s.own(name, **{f"{branch}.{part}": (s.units(name, x.shape[-1]),) for part in ("index", "fill")})
            select = _select if self.np is np else demp_jax.select
            y, x = (
                select(value, self.part(name, f"{branch}.index"), self.part(name, f"{branch}.fill"))
                for branch, value in (("branch", y), ("skip", x))
            )
            self.units = s.units(name, x.shape[-1]) if s else skipped
        elif s:
            self.units = s.unite(skipped, self.units)
        return self._relu(x + y) if relu else x + y

    _routed = _residual

    def _concat(self, item: Any, x: Any) -> Any:
        parts, units, before = [], [], self.units
        for layer in item[1:3]:
            self.units = before
            parts.append(self.one(layer, x))
            units.append(self.units)
        if item[3]:
            parts.append(x)
            units.append(before)
        self.units = np.concatenate(units)
        return self.np.concatenate(parts, -1)

    def _split(self, item: Any, x: Any) -> Any:
        a, b = self.np.split(x, 2, axis=-1)
        if self.shadow:
            first, second = np.split(self.units, 2)
            self.shadow.unite(first, second)
            self.units = np.concatenate([second, first])
        return self.np.concatenate([b, a], -1)

    def _gate(self, item: Any, x: Any) -> Any:
        a, b = self.np.split(x, 2, axis=-1)
        if self.shadow:
            self.units = self.shadow.unite(*np.split(self.units, 2))
        return a / (1 + self.np.exp(-b))

    def _uneven(self, item: Any, x: Any) -> Any:
        a, b = self.np.split(x, [item[1]], axis=-1)
        if self.shadow:
            # The position is a constant of the code, so the units before it and one unit after it cannot be removed.
            self.shadow.freeze(self.units[: item[1] + 1])
            self.units = np.concatenate([self.units[item[1] :], self.units[: item[1]]])
        return self.np.concatenate([b, a], -1)

    def _pool(self, item: Any, x: Any) -> Any:
        if min(x.shape[1:3]) < 2:
            return x
        if self.np is np:
            h, w = (n // 2 * 2 for n in x.shape[1:3])
            windows = x[:, :h, :w].reshape(x.shape[0], h // 2, 2, w // 2, 2, -1)
            return windows.max((2, 4)) if item[1] == "max" else windows.sum((2, 4))
        start, op = (-jnp.inf, jax.lax.max) if item[1] == "max" else (0.0, jax.lax.add)
        return jax.lax.reduce_window(x, start, op, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def _flatten(self, item: Any, x: Any) -> Any:
        self.units = np.tile(self.units, int(np.prod(x.shape[1:-1])))
        return x.reshape(x.shape[0], -1)

    def _mean(self, item: Any, x: Any) -> Any:
        return x.mean((1, 2))

    def _segments(self, item: Any, x: Any) -> Any:
        ids = np.arange(x.shape[0]) % SEGMENTS
        if self.np is np:
            groups = [x[ids == i] for i in range(SEGMENTS)]
            if item[1] == "max":
                return np.stack([group.max(0) for group in groups])[ids]
            return np.float32(0.2) * np.stack([group.sum(0) for group in groups])[ids] + x
        if item[1] == "max":
            return jax.ops.segment_max(x, ids, SEGMENTS)[ids]
        return 0.2 * jax.ops.segment_sum(x, ids, SEGMENTS)[ids] + x

    def _scaled(self, item: Any, x: Any) -> Any:
        """Stacked scales, applied in a `scan`."""
        if self.shadow:
            self.shadow.own(item[1], scales=(None, self.units))
        along = (1,) * (x.ndim - 1)
        if self.np is np:
            return x * np.prod(self.part(item[1], "scales"), 0)
        return jax.lax.scan(lambda h, w: (h * w.reshape(*along, -1), None), x, self.part(item[1], "scales"))[0]

    def _stacked(self, item: Any, x: Any) -> Any:
        """Stacked layers of one width, run by a `scan`. Their units cannot be removed."""
        if self.shadow:
            self.shadow.freeze(self.units)
            self.shadow.own(item[1], stack=(None, None, None))
        if self.np is np:
            return functools.reduce(lambda h, w: np.tanh(h @ w), self.part(item[1], "stack"), x)
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, self.part(item[1], "stack"))[0]

    def _experts(self, item: Any, x: Any) -> Any:
        """A mixture of experts, with one expert per example."""
        name, s = item[1], self.shadow
        router, up, down = (self.part(name, part) for part in ("router", "up", "down"))
        chosen = self.np.argmax(x @ router, -1)
        if s:
            units = self.units
            s.read(units, x)
            s.own(name, router=(units, None), up=(None, units, s.units(name, up.shape[-1])))
        h = self.np.einsum("bi,bio->bo", x, up[chosen])
        if s:
            self.units = s.units(name, up.shape[-1])
        h = self._relu(h)
        if s:
            s.read(self.units, h)
            out = s.units((name, "out"), down.shape[-1])
            s.own(name, down=(None, self.units, out), bias=(out,))
            self.units = out
        return self.np.einsum("bo,boc->bc", h, down[chosen]) + self.part(name, "bias").reshape(1, -1)

    def _complex(self, item: Any, x: Any) -> Any:
        """The squared modulus of a complex layer, made of two real kernels or of fixed complex weights."""
        name, s, fixed = item[1], self.shadow, item[2]
        if fixed:
            kernel, bias = self.part(name, "complex_kernel"), self.part(name, "complex_bias")
        else:
            kernel = self.part(name, "real") + 1j * self.part(name, "imaginary")
        if s:
            out, units = s.units(name, kernel.shape[-1]), self.units
            s.read(units, x, kernel, (name, "complex_bias") if fixed else None)
            s.own(name, **dict.fromkeys(["complex_kernel", "real", "imaginary"], (units, out)), complex_bias=(out,))
            s.own(name, offset=(out,))
            self.units = out
        x = x.astype(np.complex64) @ kernel
        if fixed:
            x = x + bias.reshape(*(1,) * (x.ndim - 1), -1)
        x = (x * x.conj()).real - self.part(name, "offset").reshape(*(1,) * (x.ndim - 1), -1)
        return self._relu(x)


def _lax_convolve(x: Any, kernel: Any, stride: int, dilation: int, depthwise: bool) -> Any:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 2,
        "SAME",
        rhs_dilation=(dilation,) * 2,
        dimension_numbers=_DIMS,
        feature_group_count=x.shape[-1] if depthwise else 1,
    )


def _convolve(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int, depthwise: bool) -> np.ndarray:
    taps, space = kernel.shape[0], x.shape[1]
    out = -(-space // stride)
    border = max((out - 1) * stride + (taps - 1) * dilation + 1 - space, 0)
    x = np.pad(x, ((0, 0), *((border // 2, border - border // 2),) * 2, (0, 0)))
    total = np.zeros((x.shape[0], out, out, kernel.shape[-1]), x.dtype)
    for i, j in np.ndindex(taps, taps):
        (a, c), span = (i * dilation, j * dilation), (out - 1) * stride + 1
        part = x[:, a : a + span : stride, c : c + span : stride]
        total += part * kernel[i, j, 0] if depthwise else part @ kernel[i, j]
    return total


def _select(x: np.ndarray, index: np.ndarray, fill: np.ndarray) -> np.ndarray:
    there = index < x.shape[-1]
    return np.where(there, x[..., np.where(there, index, 0)], fill)


@dataclasses.dataclass
class Config:
    """Mutable settings, which are not hashable."""

    widths: list
    options: dict


@dataclasses.dataclass(frozen=True)
class Holder:
    """Hashes its attributes, one of which is not hashable."""

    network: Network
    config: Config

    def __call__(self, variables: Any, x: Any) -> Any:
        return self.network(variables, x)

    def training(self, variables: Any, x: Any) -> Callable[..., Any]:
        return functools.partial(self.network.run, train=True)


class Unhashable(Holder):
    """Compares its attributes, and is not hashable."""

    __hash__ = None


@dataclasses.dataclass
class Drawn:
    """A network, the arguments of its prune, and its known units.

    Attributes:
      network: the network, which can be run with a `Shadow`.
      fn, train_fn: arguments of `prune`. `fn` may be an unhashable object around the network.
      variables, params, copies, options: arguments of `prune`.
      batches: the death set.
      fresh: other inputs.
      labels: a tree like the variables, of the layer and the part of each variable.
      killed: by layer, the units that its weights make dead.
      optimizer: the name of the optimizer in `test_optax_solvers.SOLVERS`.
      seed: seed of further random numbers.
    """

    network: Network
    fn: Any
    train_fn: Any
    variables: Any
    params: Any
    copies: dict[str, Any]
    options: demp_jax.PruneOptions
    batches: list[Any]
    fresh: list[Any]
    labels: Any
    killed: dict[str, np.ndarray]
    optimizer: str
    seed: int

    def __repr__(self) -> str:
        paths = {" ".join(address): "/".join(map(str, path)) for address, path in self.network.paths.items()}
        return (
            f"Drawn(spec={self.network.spec}, paths={paths}, fn={type(self.fn).__name__}, copies={list(self.copies)}, "
            f"constant={self.options.constant}, optimizer={self.optimizer})"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def trained(self, tree: Any) -> Any:
        return tree if self.params is None else self.params(tree)

    def merged(self, trained: Any, variables: Any) -> Any:
        """Returns the variables with the values of `trained`, a tree of the trained variables or of all variables."""
        if jax.tree.structure(trained) == jax.tree.structure(self.variables):
            return trained
        values = dict(zip(jax.tree.leaves(self.trained(self.labels)), jax.tree.leaves(trained), strict=True))
        return jax.tree.map(lambda label, own: values.get(label, own), self.labels, variables)


class Builder:
    """Draws layers and makes their variables.

    A batch is run through the layers, and biases are chosen so that units that are not killed are alive on it.
    """

    def __init__(self, choose: Callable[[int], int], seed: int):
        self.choose = choose
        self.rng = np.random.default_rng(seed)
        self.values: dict[Address, np.ndarray] = {}
        self.killed: dict[str, np.ndarray] = {}
        self.spec: list[Any] = []

    def chance(self, part: float = 0.5) -> bool:
        """Returns True with probability `part`."""
        return self.choose(100) < 100 * part

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.choose(len(options))]

    def normal(self, *shape: int) -> np.ndarray:
        fan_in = max(np.prod(shape[:-1]), 1) if len(shape) > 1 else 1
        return (self.rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    def put(self, name: str, **parts: Any) -> None:
        for part, value in parts.items():
            dtype = np.complex64 if np.iscomplexobj(value) else np.float32
            value = np.asarray(value)
            self.values[name, part] = value if value.dtype == np.int32 else value.astype(dtype)

    def run(self, item: Any, x: Any) -> Any:
        """Runs an item in evaluation mode."""
        return _Run(lambda name, part: self.values[name, part], set(self.values), False, None).one(item, x)

    def add(self, item: Any, x: Any) -> Any:
        self.spec.append(item)
        return self.run(item, x)

    def layer(self, name: str, x: Any, out: int = 0, relu: bool | None = None, stride: bool = True) -> tuple[Any, Any]:
        """Draws a dense or convolutional layer, with or without bias, norm and activation, with some dead units."""
        width, image = x.shape[-1], x.ndim == 4
        out = out or 2 + self.choose(5)
        options: dict[str, Any] = {"kind": "dense", "relu": self.chance(0.8) if relu is None else relu, "norm": "none"}
        shape: tuple[int, ...] = (width, out)
        if image:
            size = self.one_of([1, 3])
            depthwise = out == width and self.chance(0.3)
            options |= {"kind": "conv", "stride": self.one_of([1, 1, 2]) if stride else 1, "depthwise": depthwise}
            options["dilation"] = self.one_of([1, 2])
            shape = (size, size, 1 if depthwise else width, out)
        self.put(name, kernel=self.normal(*shape))
        item = ("layer", name, options)
        z = np.asarray(self.run(("layer", name, options | {"relu": False}), x))
        z = z.reshape(-1, out)
        if self.chance(0.3):  # The signs of the weights make units alive on most examples, also without a bias.
            self.put(name, kernel=self.values[name, "kernel"] * np.where(np.median(z, 0) < 0, -1, 1))
            z = z * np.where(np.median(z, 0) < 0, -1, 1)
        dead, constant = self.rng.random(out) < 0.4, self.rng.random(out) < 0.1
        self.killed[name] = dead
        options["norm"] = norm = self.one_of(NORMS if out % 2 == 0 and name != "first" else NORMS[:4])
        if norm == "none":
            held = dead | constant
            self.put(name, kernel=np.where(held, 0, self.values[name, "kernel"]))
            if self.chance(0.7):
                lift = 0.7 * z.std(0) + 0.1 - z.mean(0)
                self.put(name, bias=np.where(dead, -1, np.where(constant, 0.7, lift)))
        else:
            self.put(name, scale=np.where(dead | constant, 0, 1 + 0.1 * self.normal(out)))
            self.put(name, offset=np.where(dead, -1, 0.7))
        if norm == "batch":
            self.statistics(name, z, dead)
        return item, self.run(item, x)

    def statistics(self, name: str, z: np.ndarray, dead: np.ndarray) -> None:
        """Makes running statistics. They may be stale, so that some units are dead in one mode only."""
        mean, var = z.mean(0), z.var(0)
        if self.chance(0.4):
            stale = self.rng.random(len(mean)) < 0.3
            if self.chance():
                mean = np.where(stale, 99, mean)  # Dead in evaluation mode.
            else:  # Dead in training mode.
                scale, offset = self.values[name, "scale"], self.values[name, "offset"]
                stale &= ~dead
                mean = np.where(stale, -99, mean)
                self.put(name, scale=np.where(stale, 1e-6, scale), offset=np.where(stale, -1e-5, offset))
                var = np.where(stale, 1, var)
        self.put(name, mean=mean, var=var)

    def body(self) -> None:
        """Draws the layers."""
        image, width = self.chance(0.3), 2 + self.choose(3)
        self.shape = (EXAMPLES, SPACE, SPACE, width) if image else (EXAMPLES, width)
        x = self.input()
        item, _ = self.layer("first", x, relu=True)
        self.batch = x
        x = self.add(item, x)
        for i in range(1 + self.choose(4)):
            x = self.block(i, x)
        if x.ndim == 4:
            x = self.add(("mean",), x)
        item, _ = self.layer("head", x, OUT, relu=False)
        item[2]["norm"] = "none"
        for part in ("scale", "offset", "mean", "var", "bias"):
            self.values.pop(("head", part), None)
        self.killed.pop("head")
        self.put("head", kernel=self.normal(x.shape[-1], OUT), **({"bias": np.zeros(OUT)} if self.chance(0.7) else {}))
        self.spec.append(item)

    def input(self) -> Any:
        return self.rng.normal(size=self.shape).astype(np.float32)

    def block(self, i: int, x: Any) -> Any:
        """Draws some layers and returns their output for `x`."""
        image, width = x.ndim == 4, x.shape[-1]
        kinds = (
            "layer layer residual residual routed concat shift normed normed split gate uneven segments scaled complex"
        )
        kinds += " pool flatten mean" if image else " experts stacked"
        kind = self.one_of(kinds.split())
        name = f"{kind}{i}"
        if kind == "layer":
            item, _ = self.layer(name, x)
        elif kind in ("residual", "routed"):
            inner, y = self.layer(name + "a", x, stride=False)
            outer, _ = self.layer(name + "b", y, width, relu=False, stride=False)
            item = (kind, name, [inner, outer], self.chance())
            if kind == "routed":
                for part in ("branch", "skip"):
                    index = np.arange(width, dtype=np.int32)
                    self.put(name, **{f"{part}.index": index, f"{part}.fill": np.zeros(width)})
        elif kind == "concat":
            left, _ = self.layer(name + "a", x, stride=False)
            right, _ = self.layer(name + "b", x, stride=False)
            item = (kind, left, right, self.chance())
        elif kind == "shift":
            self.put(name, shift=self.normal(width))
            item = (kind, name)
        elif kind == "normed":
            z = np.asarray(x).reshape(-1, width)
            mean = z.mean(0)
            if self.chance(0.3):
                mean = mean + np.where(self.rng.random(width) < 0.3, 0.5, 0)
            var = z.var(0) + np.where(z.var(0) < 1e-6, 1, 0)
            self.put(name, scale=1 + 0.1 * self.normal(width), offset=self.normal(width), mean=mean, var=var)
            item = (kind, name)
        elif kind in ("split", "gate"):
            if width % 2 or width < 4:
                return x
            item = (kind,)
        elif kind == "uneven":
            if width < 3:
                return x
            # Not at the middle: `split` covers that, and a prune keeps equal parts equal.
            item = (kind, self.one_of([k for k in range(1, width) if 2 * k != width]))
        elif kind == "segments":
            item = (kind, self.one_of(["sum", "max"]))
        elif kind == "scaled":
            self.put(name, scales=1 + 0.2 * self.normal(2, width))
            item = (kind, name)
        elif kind == "stacked":
            self.put(name, stack=self.normal(2, width, width))
            item = (kind, name)
        elif kind == "experts":
            item = self.experts(name, width)
        elif kind == "complex":
            item = self.complex(name, x)
        elif kind == "pool":
            item = (kind, self.one_of(["max", "mean"]))
        else:
            item = (kind,)
        return self.add(item, x)

    def experts(self, name: str, width: int) -> Any:
        hidden, out, count = 2 + self.choose(5), 2 + self.choose(3), 2 + self.choose(2)
        dead = self.rng.random(hidden) < 0.4
        up = np.where(dead, 0, self.normal(count, width, hidden))
        self.killed[name] = dead
        self.put(name, router=self.normal(width, count), up=up, down=self.normal(count, hidden, out))
        self.put(name, bias=self.normal(out))
        return ("experts", name)

    def complex(self, name: str, x: Any) -> Any:
        width, out, fixed = x.shape[-1], 2 + self.choose(4), self.chance()
        dead = self.rng.random(out) < 0.4
        real, imaginary = (np.where(dead, 0, self.normal(width, out)) for _ in range(2))
        self.killed[name] = dead
        if fixed:
            bias = np.where(dead, 0, self.normal(out) + 1j * self.normal(out))
            self.put(name, complex_kernel=real + 1j * imaginary, complex_bias=bias)
        else:
            self.put(name, real=real, imaginary=imaginary)
        self.put(name, offset=np.where(dead, 1, -0.1))
        return ("complex", name, fixed)

    def average(self) -> dict[Address, np.ndarray]:
        """Returns the variables of a copy of the network. In it, some more units are dead, and some are alive again."""
        values = {}
        for address, value in self.values.items():
            if value.dtype == np.int32 or address[1] == "var":
                values[address] = value
            else:
                values[address] = (value * (1 + 0.1 * self.rng.normal(size=value.shape))).astype(value.dtype)
        for name, dead in self.killed.items():
            killed, revived = self.rng.random(len(dead)) < 0.15, dead & (self.rng.random(len(dead)) < 0.15)
            parts = ("kernel", "up", "real", "imaginary", "complex_kernel", "complex_bias")
            if (name, "scale") in values:
                parts = ("scale",)
            for part in parts:
                if (name, part) in values:
                    value = values[name, part]
                    fresh = 1 + 0.1 * self.normal(len(dead)) if part == "scale" else self.normal(*value.shape)
                    values[name, part] = np.where(killed, 0, np.where(revived, fresh, value)).astype(value.dtype)
            sign = -1 if (name, "complex_bias") in values or (name, "real") in values else 1
            for part in ("bias", "offset"):
                if (name, part) in values and name not in self.experts_of:
                    value = np.where(killed, -sign, np.where(revived, 0.5 * sign, values[name, part]))
                    values[name, part] = value.astype(np.float32)
        return values

    @functools.cached_property
    def experts_of(self) -> set[str]:
        return {name for name, part in self.values if part == "router"}

    def names(self) -> tuple[dict[Address, tuple[str, ...]], dict[Address, tuple[str, ...]]]:
        """Draws a path for every variable, and returns those of the trained variables and those of the others."""
        trees: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        paths: tuple[dict[Address, tuple[str, ...]], ...] = ({}, {})
        plain = self.chance(0.2)
        for address in self.values:
            which = address[1] in FIXED or address[1].split(".")[-1] in FIXED
            shape = self.values[address].shape
            earlier = [path for other, path in paths[which].items() if self.values[other].shape == shape]
            for attempt in range(100):
                if plain or attempt > 20:
                    path = (address[0] + "_" * (attempt > 30), *address[1].split("."))
                elif earlier and self.chance(0.4):
                    # The path of another variable, behind a name from an optimizer state.
                    path = (self.one_of(["mu", "mu", "nu", "z", "trace", *NAMES]), *self.one_of(earlier))
                else:
                    path = tuple(self.one_of(NAMES) for _ in range(1 + self.choose(2)))
                if self.insert(trees[which], path):
                    paths[which][address] = path
                    break
            else:
                raise AssertionError(f"no name for {address}")
        return paths

    @staticmethod
    def insert(tree: dict[str, Any], path: tuple[str, ...]) -> bool:
        """Adds a path to a tree of names. Returns False if it is a prefix of another path, or the reverse."""
        node = tree
        for n, key in enumerate(path):
            if n == len(path) - 1:
                if key in node:
                    return False
                node[key] = None
                return True
            if node.get(key, {}) is None:
                return False
            node = node.setdefault(key, {})
        return False

    def drawn(self) -> Drawn:
        """Draws a network and the arguments of its prune."""
        from tests.demp_jax.pruning.test_optax_solvers import SOLVERS

        self.body()
        trained, fixed = self.names()
        root: tuple[Any, Any] = ("params", "state")
        params: Any = None
        kind = self.choose(3)
        if kind == 0:
            params = lambda v: v["params"]  # noqa: E731
        elif kind == 1:
            root, params = (0, 1), lambda v: v[0]
        elif self.chance():
            one = self.one_of(NAMES)
            root, params = (one, "state" if one != "state" else "rest"), lambda v, one=one: v[one]
        if not fixed and self.chance():
            root, params = (None, None), None
        elif params is None:
            params = lambda v: v["params"]  # noqa: E731
        paths = {
            address: ((root[n],) if root[n] is not None else ()) + path
            for n, half in enumerate((trained, fixed))
            for address, path in half.items()
        }

        def tree(values: dict[Address, Any], make: Callable[[Any], Any] = jnp.asarray) -> Any:
            nested: Any = {part: {} for part in root} if root[0] is not None else {}
            for address, path in paths.items():
                node = nested
                for key in path[:-1]:
                    node = node.setdefault(key, {})
                node[path[-1]] = make(values[address])
            return tuple(nested[i] for i in root) if root == (0, 1) else nested

        network = Network(self.spec, paths)
        config = Config([*self.shape], {"names": ["a", "b"]})
        train_fn: Any = functools.partial(network.run, train=True)
        fn: Any = self.one_of([network, network, Holder(network, config), Unhashable(network, config)])
        if isinstance(fn, Holder) and self.chance():
            train_fn = None
        variables, copies = tree(self.values), {}
        for name in self.one_of([[], [], ["average"], ["mu", "teacher"]]):
            other = tree(self.average())
            copies[name] = params(other) if params is not None and self.chance() else other
        return Drawn(
            network=network,
            fn=fn,
            train_fn=train_fn,
            variables=variables,
            params=params,
            copies=copies,
            options=demp_jax.PruneOptions(constant=self.one_of([None, None, 1e-6])),
            batches=[self.batch, self.input()],
            fresh=[self.input(), self.input()],
            labels=tree({address: " ".join(address) for address in paths}, str),
            killed=self.killed,
            optimizer=self.one_of(list(SOLVERS)),
            seed=int(self.rng.integers(2**31)),
        )


def random_network(seed: int) -> Drawn:
    """Draws a network from a seed."""
    rng = np.random.default_rng(seed)
    return Builder(lambda n: int(rng.integers(n)), seed).drawn()


@st.composite
def networks(draw: Any) -> Drawn:
    """Draws a network by hypothesis."""
    return Builder(lambda n: draw(st.integers(0, n - 1)), draw(st.integers(0, 2**31))).drawn()


class Verdict:
    """The groups that must be removed and those that may be, from the values of all units in all runs.

    A unit must be removed if it is removable, exactly dead in every run (or constant, if `options.constant` is set),
    and if all its consumers read zero, or a constant that they can absorb exactly. Cases that these rules do not
    decide, such as a constant next to zero padding, are left to the comparison of outputs.

    Attributes:
      required, allowed: the groups that must and may be removed, each represented by its first unit.
      amplified: whether training mode may amplify rounding beyond the tolerance.
      excused: whether some sites may be kept whole, because a constant is absorbed inexactly or rounding is amplified.
    """

    def __init__(self, drawn: Drawn, batches: Sequence[Any]):
        self.shadow = shadow = Shadow()
        self.runs = {"evaluation": (drawn.variables, False), "training": (drawn.variables, True)}
        for name, each in drawn.copies.items():
            self.runs[name] = (drawn.merged(each, drawn.variables), False)
        self.sites: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self.reads: dict[str, list[Read]] = {}
        for name, (variables, train) in self.runs.items():
            seen = []
            variables = jax.tree.map(np.asarray, variables)
            for x in batches:
                shadow.begin(name)
                drawn.network.run(variables, x, train, shadow)
                seen.append((shadow.sites, shadow.reads))
            self.sites[name] = [
                (a[0][0], np.concatenate([v for _, v in a])) for a in zip(*(s for s, _ in seen), strict=True)
            ]
            self.reads[name] = [
                dataclasses.replace(rs[0], value=np.concatenate([r.value for r in rs]))
                for rs in zip(*(r for _, r in seen), strict=True)
            ]
        # A second BatchNorm may divide the rounding error of a constant by the square root of its epsilon.
        self.amplified = sum(repr(drawn.network.spec).count(word) for word in ("'normed'", "'norm': 'batch'")) > 1
        dead, held = self._dead()
        # Channels that a `select` reads are removable, although they may have no activation of their own.
        routed = [self.roots(read.units) for read in self.reads["evaluation"] if read.routed]
        branches = set(np.concatenate([np.empty(0, int), *routed]).tolist()) - held - {FROZEN}
        strict, loose = (self._constant(held | branches, slack) for slack in (1e-8, 1e-4))
        if drawn.options.constant is None:
            strict, loose = set(), set()
        blocked, inexact = self._blocked(drawn)
        self.allowed = (dead | loose) - branches
        self.required = (dead | strict) - blocked - inexact - branches
        self.excused = self.amplified or bool(((dead | loose) - blocked) & inexact)

    def roots(self, units: np.ndarray) -> np.ndarray:
        return self.shadow.roots(units)

    def _dead(self) -> tuple[set[int], set[int]]:
        """Returns the groups that are dead in all runs, and all removable groups."""
        held: set[int] = set()
        alive: set[int] = {FROZEN}
        for sites in self.sites.values():
            for units, value in sites:
                roots = self.roots(units)
                held |= set(roots.tolist())
                alive |= set(roots[(value != 0).reshape(-1, len(units)).any(0)].tolist())
        return held - alive, held - {FROZEN}

    def _constant(self, held: set[int], slack: float) -> set[int]:
        varies: set[int] = set()
        for reads in self.reads.values():
            for read in reads:
                low, high = read.range()
                varies |= set(self.roots(read.units)[high - low > slack].tolist())
        return held - varies

    def _blocked(self, drawn: Drawn) -> tuple[set[int], set[int]]:
        """Returns the groups that a consumer needs, and those that a consumer may absorb inexactly."""
        blocked: set[int] = set()
        inexact: set[int] = set()
        for name, reads in self.reads.items():
            for own, plain in zip(reads, self.reads["evaluation"], strict=True):
                (low, high), roots = own.range(), self.roots(own.units)
                middle = (low + high) / 2
                varies, zero = high - low > 1e-6 * (1 + abs(middle)), (low == 0) & (high == 0)
                usable = np.full(len(roots), own.absorber is not None)
                if name == "training":
                    before = sum(plain.range()) / 2
                    usable = (before == middle) & (plain.absorber is not None) | own.centered
                blocked |= set(roots[varies | ~(zero | usable)].tolist())
                # Zero padding and a fixed variable that copies share do not absorb a constant exactly.
                shared = name in drawn.copies and own.absorber is not None and own.absorber[1].split(".")[-1] in FIXED
                if own.padded or shared or (self.amplified and name == "training"):
                    inexact |= set(roots[~zero].tolist())
                inexact |= set(roots[~zero & (high > low)].tolist())
        return blocked, inexact


def check(drawn: Drawn) -> collections.Counter[str]:
    """Prunes a network and compares the result with its known units.

    Returns:
      The number of times that each kind of event occurred.

    Raises:
      AssertionError: if the prune is wrong.
    """
    with jax.numpy_rank_promotion("allow"), jax.legacy_prng_key("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Check(drawn).events


class _Check:
    def __init__(self, drawn: Drawn):
        self.drawn = drawn
        self.events: collections.Counter[str] = collections.Counter()
        self.verdict = verdict = Verdict(drawn, drawn.batches)
        self._optimizer()
        trouble = self._prune()
        if trouble:
            assert "no prunable unit found" in trouble, trouble
            assert not verdict.required, f"nothing prunable, but {len(verdict.required)} groups are dead: {trouble}"
            self.events["nothing prunable"] += 1
            return
        record = self.result.record
        self.events[f"optimizer {drawn.optimizer}"] += 1
        if record.refused or record.spared:
            assert verdict.excused, f"refused or spared: {record}"
            self.events["spared"] += 1
        self.events["dead in one mode alone"] += bool(sum(record.dead_alone.values()))
        self.events["needed"] += bool(record.needed)
        self.events["protected"] += bool(record.protected)
        self.events["copies"] += bool(drawn.copies)
        self.events["no hash"] += type(drawn.fn) in (Holder, Unhashable)
        if self.result.plan is None:
            self.removed: set[int] = set()
            self._complete()
            self.events["nothing removed"] += 1
            return
        self.events["pruned"] += 1
        self.events["folded"] += bool(record.folded)
        self._removed()
        self._sizes()
        self._outputs()
        self._variables()
        self._steps()

    def _prune(self) -> str:
        """Prunes the network. Returns the message of a `ValueError`, or an empty string."""
        drawn = self.drawn
        try:
            self.result = demp_jax.prune(
                drawn.fn,
                drawn.variables,
                drawn.batches,
                opt_state=self.state,
                tx=self.tx,
                params=drawn.params,
                copies=drawn.copies,
                train_fn=drawn.train_fn,
                options=drawn.options,
            )
        except ValueError as error:
            return str(error)
        return ""

    def _complete(self) -> None:
        """Asserts that all required groups are removed, except for one unit of a site that would be emptied."""
        verdict, record = self.verdict, self.result.record
        missing = verdict.required - self.removed
        if record.spared or record.refused:
            return
        for units, _ in verdict.sites["evaluation"]:
            roots = verdict.roots(units)
            last = [root for root in dict.fromkeys(roots.tolist()) if root not in self.removed]
            if set(roots.tolist()) <= verdict.allowed and len(last) == 1:
                missing -= set(last)
        assert not missing, f"{len(missing)} groups are kept that are dead everywhere: {record}"

    def _removed(self) -> None:
        """Asserts that removed groups are dead and complete, and that no required group is kept."""
        verdict, graph, removed = self.verdict, self.result.plan.graph, self.result.removed
        sites = verdict.sites["evaluation"]
        widths = [[site.width for site in graph.sites], [len(units) for units, _ in sites]]
        assert widths[0] == widths[1], f"sites {graph.widths}, but the layers have {widths[1]}"
        self.removed = set()
        pairs = []
        for site, (units, _) in zip(graph.sites, sites, strict=True):
            bits = removed.get(site.name, np.zeros(site.width, bool))
            roots = verdict.roots(units)
            self.removed |= set(roots[bits].tolist())
            pairs.append((bits, roots))
        for bits, roots in pairs:
            assert (np.isin(roots, list(self.removed)) == bits).all(), "a group was removed in part"
        wrong = self.removed - verdict.allowed
        assert not wrong, (
            f"{len(wrong)} groups are removed that are not dead in every mode and copy: {self.result.record}"
        )
        self._complete()
        # Channels of branches without a consumer are also removed.
        routed = [read for read in verdict.reads["evaluation"] if read.routed]
        for route, read in zip(graph.routes, routed, strict=True):
            for branch in graph.branches:
                if branch.value == route.value:
                    bits = removed.get(branch.name, np.zeros(branch.width, bool))
                    self.removed |= set(verdict.roots(read.units)[bits].tolist())

    def _sizes(self) -> None:
        """Asserts that the sizes in the record are those of the pruned network."""
        drawn, result, record = self.drawn, self.result, self.result.record
        assert record.parameters[1] == sum(leaf.size for leaf in jax.tree.leaves(drawn.trained(result.variables)))
        assert record.flops[1] == demp_jax.trace(result.fn, result.variables, drawn.batches[0]).flops()
        assert sum(record.removed.values()) == sum(int(bits.sum()) for bits in result.removed.values())

    def _outputs(self) -> None:
        """Asserts that outputs on fresh inputs do not change, in every mode and for every copy."""
        drawn, result, verdict = self.drawn, self.result, self.verdict
        now = Verdict(drawn, drawn.fresh)
        gone = np.array(sorted(self.removed))
        for name in verdict.runs:
            for before, after in zip(verdict.reads[name], now.reads[name], strict=True):
                ours = np.isin(verdict.roots(before.units), gone)
                both = np.concatenate([before.value, after.value]).reshape(-1, len(ours))[:, ours]
                if both.size and (both.max(0) - both.min(0) > 1e-5).any():
                    self.events["alive on fresh inputs"] += 1
                    return
        inexact = 2e-2 if verdict.excused and drawn.options.constant else 3e-4
        for name, (variables, train) in verdict.runs.items():
            smaller = result.variables
            if name in drawn.copies:
                smaller = drawn.merged(result.copies[name], smaller)
            for x in drawn.fresh:
                before, after = (drawn.network.run(jax.tree.map(np.asarray, v), x, train) for v in (variables, smaller))
                gap = np.abs(before - after).max()
                assert gap <= inexact * max(np.abs(before).max(), 1), (
                    f"fresh outputs of {name} differ by {gap}: {result.record}"
                )

    def _changes(self, values: dict[str, Any], reads: Sequence[Read]) -> dict[str, np.ndarray]:
        """Returns what the constants of removed units add to each variable that absorbs them, for weights `values`."""
        changes: dict[str, np.ndarray] = {}
        for read in reads:
            low, high = read.range()
            gone = np.isin(self.verdict.roots(read.units), list(self.removed))
            constants = np.where(gone, (low + high) / 2, 0)
            if not constants.any():
                continue
            if read.absorber is None:
                self.elsewhere = True
                continue
            name = " ".join(read.absorber)
            if read.weights is None:
                changes[name] = constants
            else:
                kernels = [values.get(f"{read.absorber[0]} {part}") for part in ("kernel", "complex_kernel")]
                kernel = next(np.asarray(k) for k in kernels if k is not None)
                change = read.sign * np.tensordot(constants, kernel, [0, kernel.ndim - 2])
                changes[name] = changes.get(name, 0) + change.reshape(-1, change.shape[-1]).sum(0)
        return changes

    def _keep(self, label: str, rank: int) -> list[np.ndarray | None]:
        """Returns the kept positions of every axis of a variable, `[size]` bool; `None` for axes without units."""
        axes = self.verdict.shadow.axes[tuple(label.split())]
        assert len(axes) == rank, label
        gone = list(self.removed)
        return [None if units is None else ~np.isin(self.verdict.roots(units), gone) for units in axes]

    def _masked(self, label: str, value: Any) -> Any:
        for axis, keep in enumerate(self._keep(label, np.ndim(value))):
            if keep is not None:
                shape = [-1 if i == axis else 1 for i in range(np.ndim(value))]
                value = np.where(keep.reshape(shape), value, np.zeros_like(value))
        return value

    def _sliced(self, label: str, value: Any) -> np.ndarray:
        value = np.asarray(value)
        for axis, keep in enumerate(self._keep(label, value.ndim)):
            if keep is not None:
                value = np.compress(keep, value, axis)
        return value

    def _folded(self, tree: Any, labels: Any, run: str) -> Any:
        """Returns a tree of variables with removed units masked and constants folded."""
        leaves, names = jax.tree.leaves(tree), jax.tree.leaves(labels)
        values = dict(zip(names, leaves, strict=True))
        # A copy may only have trained variables. The others are those of the network.
        others = dict(zip(*map(jax.tree.leaves, (self.drawn.labels, self.drawn.variables)), strict=True))
        changes = self._changes({**others, **values}, self.verdict.reads[run])
        new = {
            label: self._masked(label, np.asarray(value + changes.get(label, 0), value.dtype))
            for label, value in values.items()
        }
        # In the masked network, the index of a `select` only changes at removed channels.
        for read in self.verdict.reads[run]:
            if not read.routed:
                continue
            label = " ".join(read.absorber).replace(".fill", ".index")
            if label in new:
                gone = np.isin(self.verdict.roots(read.units), list(self.removed))
                new[label] = np.where(gone, NOTHING, values[label]).astype(np.int32)
        return jax.tree.map(new.__getitem__, labels)

    def _variables(self) -> None:
        """Asserts that variables and copies are sliced and folded as expected."""
        drawn, result = self.drawn, self.result
        self.elsewhere = False
        self.wide = self._folded(drawn.variables, drawn.labels, "evaluation")
        expected = [("evaluation", self.wide, result.variables, drawn.labels)]
        for name, each in drawn.copies.items():
            whole = jax.tree.structure(each) == jax.tree.structure(drawn.variables)
            labels = drawn.labels if whole else drawn.trained(drawn.labels)
            expected.append((name, self._folded(each, labels, name), result.copies[name], labels))
        if self.elsewhere:
            self.events["folded elsewhere"] += 1
            return
        for run, wide, small, labels in expected:
            for label, a, b in zip(*map(jax.tree.leaves, (labels, wide, small)), strict=True):
                want = self._sliced(label, a)
                assert want.shape == b.shape, f"{run} {label} has shape {b.shape}, not {want.shape}: {result.record}"
                if label.endswith("index"):
                    continue
                np.testing.assert_allclose(b, want, rtol=1e-4, atol=1e-5, err_msg=f"{run} {label}")

    def _optimizer(self) -> None:
        """Makes the state of the optimizer with a few steps."""
        from tests.demp_jax.pruning import test_optax_solvers

        drawn = self.drawn
        rng = np.random.default_rng(drawn.seed)
        labels = drawn.trained(drawn.labels)
        self.tilt = {
            label: 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
            for label, leaf in zip(
                jax.tree.leaves(labels), jax.tree.leaves(drawn.trained(drawn.variables)), strict=True
            )
        }
        some = jax.tree.map(lambda _: bool(rng.random() < 0.6), labels)
        made = LABELED.get(drawn.optimizer)
        self.tx = test_optax_solvers.SOLVERS[drawn.optimizer]() if made is None else made(some)
        params = drawn.trained(drawn.variables)
        ones = {label: np.ones(np.shape(leaf), bool) for label, leaf in self.tilt.items()}
        _, self.state = self._train(drawn.variables, self.tx.init(params), self.tilt, ones)

    def _train(self, variables: Any, state: Any, tilt: dict[str, Any], masks: dict[str, Any]) -> tuple[Any, Any]:
        """Runs two steps in training mode. A linear term in the loss keeps gradients away from zero."""
        labels = self.drawn.trained(self.drawn.labels)
        tilts, masks = jax.tree.map(tilt.__getitem__, labels), jax.tree.map(masks.__getitem__, labels)
        params = self.drawn.trained(variables)
        for _ in range(2):
            params, state = self.step(params, state, variables, tilts, masks)
        return params, state

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        drawn, x, name = self.drawn, self.drawn.fresh[0], self.drawn.optimizer
        tx = self.tx if isinstance(self.tx, optax.MultiSteps) else optax.with_extra_args_support(self.tx)

        @jax.jit
        def step(params: Any, state: Any, variables: Any, tilts: Any, masks: Any) -> Any:
            def loss(params: Any) -> Any:
                out = drawn.network.run(drawn.merged(params, variables), jnp.asarray(x), train=True)
                return jnp.mean(out**2) + sum(jax.tree.leaves(jax.tree.map(lambda p, t: jnp.sum(p * t), params, tilts)))

            value, grads = jax.value_and_grad(loss)(params)
            grads = jax.tree.map(lambda g, m: jnp.where(m, g, 0), grads, masks)
            extra: dict[str, Any] = {"value": value, "grad": grads, "value_fn": loss}
            if name in ("contrib.sophia", "contrib.hutchinson_estimator_diag_hessian"):
                extra = {"obj_fn": loss}
            if name == "contrib.sam":
                extra = {}
            if name == "contrib.dpsgd":
                grads = jax.tree.map(lambda g: jnp.stack([g, -0.5 * g]), grads)
            updates, state = tx.update(grads, state, params, **extra)
            new = optax.apply_updates(params, updates)
            return jax.tree.map(lambda p, m: jnp.where(m, p, 0), new, masks), state

        return step

    def _masked_state(self) -> Any:
        """Returns the optimizer state of the masked network, with constants folded into copies of parameters.

        To find the parameter of each leaf, the optimizer is initialized with parameters of distinct shapes.
        """
        from tests.demp_jax.pruning.test_optax_solvers import COPIES

        labels = self.drawn.trained(self.drawn.labels)
        names = jax.tree.leaves(labels)
        ranks = {label: np.ndim(tilt) for label, tilt in self.tilt.items()}
        shapes = {label: tuple(1009 + 13 * n + i for i in range(ranks[label])) for n, label in enumerate(names)}
        of_shape = {shape: label for label, shape in shapes.items()}
        shown = jax.eval_shape(
            self.tx.init, jax.tree.map(lambda n: jax.ShapeDtypeStruct(shapes[n], np.float32), labels)
        )
        owner = {
            jax.tree_util.keystr(path): of_shape.get(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(shown)
        }
        owner = {path: label for path, label in owner.items() if label is not None}
        fields: dict[str, dict[str, Any]] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.state):
            if (label := owner.get(jax.tree_util.keystr(path))) and (field := _copied(path, COPIES)):
                fields.setdefault(field, {}).setdefault(label, leaf)
        own = dict(zip(jax.tree.leaves(self.drawn.labels), jax.tree.leaves(self.drawn.variables), strict=True))
        reads = self.verdict.reads["evaluation"]
        changes = {field: self._changes(own | copied, reads) for field, copied in fields.items()}

        def masked(path: Any, leaf: Any) -> Any:
            label, field = owner.get(jax.tree_util.keystr(path)), _copied(path, COPIES)
            if label is None:
                return leaf
            return self._masked(label, np.asarray(leaf + changes.get(field, {}).get(label, 0), leaf.dtype))

        return jax.tree_util.tree_map_with_path(masked, self.state)

    def _steps(self) -> None:
        """Asserts that training steps of the pruned network equal those of the masked network."""
        from tests.demp_jax.pruning.test_optax_solvers import INEXACT

        drawn, result = self.drawn, self.result
        labels = drawn.trained(drawn.labels)
        small = drawn.trained(result.variables)
        wanted = jax.eval_shape(self.tx.init, small)
        shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(result.opt_state):
            name = jax.tree_util.keystr(path)
            assert shapes.get(name, ()) == np.shape(leaf), f"{drawn.optimizer}: state {name} has shape {np.shape(leaf)}"
        if drawn.optimizer in INEXACT or drawn.optimizer == "flatten" or self.elsewhere:
            return
        masks = {label: np.asarray(self._masked(label, np.ones(tilt.shape, bool))) for label, tilt in self.tilt.items()}
        state = self._masked_state()
        tilts = {label: self._sliced(label, tilt) for label, tilt in self.tilt.items()}
        ones = {label: np.ones(tilt.shape, bool) for label, tilt in tilts.items()}
        ours, _ = self._train(result.variables, result.opt_state, tilts, ones)
        theirs, _ = self._train(self.wide, state, self.tilt, masks)
        for label, a, b in zip(*map(jax.tree.leaves, (labels, ours, theirs)), strict=True):
            scale = max(float(np.abs(b).max(initial=0)), 1)
            what = f"{drawn.optimizer}: two steps of {label}"
            np.testing.assert_allclose(a, self._sliced(label, b), rtol=1e-3, atol=1e-3 * scale, err_msg=what)
        self.events["steps compared"] += 1


def _copied(path: Any, fields: set[str]) -> str | None:
    """Returns the field in `fields` that a leaf of a state belongs to, or `None`."""
    names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    return next((name for name in names if name in fields), None)


def _either(some: Any) -> Any:
    return jax.tree.map(lambda each: "x" if each else "y", some)


# Solvers whose arguments select parameters: here a random selection.
LABELED: dict[str, Callable[[Any], Any]] = {
    "freeze": lambda some: optax.chain(optax.adam(0.02), optax.freeze(some)),
    "keep_params_nonnegative": lambda some: optax.chain(
        optax.adam(0.02), optax.masked(optax.keep_params_nonnegative(), some)
    ),
    "masked": lambda some: optax.chain(optax.masked(optax.add_decayed_weights(0.1), some), optax.adam(0.02)),
    "multi_transform": lambda some: optax.multi_transform(
        {"x": optax.adam(0.02), "y": optax.sgd(0.02, momentum=0.9)}, _either(some)
    ),
    "partition": lambda some: optax.partition(
        {"x": optax.contrib.schedule_free_sgd(0.02), "y": optax.contrib.schedule_free_adamw(0.02)}, _either(some)
    ),
    "selective_transform": lambda some: optax.selective_transform(optax.adam(0.02), freeze_mask=some),
    "set_to_zero": lambda some: optax.partition({"x": optax.adam(0.02), "y": optax.set_to_zero()}, _either(some)),
}


def main() -> int:
    """Checks many networks. Returns 1 if any prune is wrong, otherwise 0."""
    parser = argparse.ArgumentParser(description="Prunes random networks and checks the results.")
    parser.add_argument("--count", type=int, default=1000, help="number of networks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first network; others have the next seeds")
    parser.add_argument("--verbose", action="store_true", help="print layers and traceback of every wrong prune")
    args = parser.parse_args()
    import tests.conftest  # noqa: F401  Sets the strict flags of the tests.

    events: collections.Counter[str] = collections.Counter()
    wrong, started = 0, time.perf_counter()
    for seed in range(args.seed, args.seed + args.count):
        drawn = None
        try:
            drawn = random_network(seed)
            events += check(drawn)
        except Exception as error:
            wrong += 1
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"python -m tests.random_networks --count 1 --seed {seed}: {text}", flush=True)  # noqa: T201
            if args.verbose:
                print(drawn)  # noqa: T201
                traceback.print_exc()
        if seed % 50 == 49:
            jax.clear_caches()
    counts = ", ".join(f"{events[name]} {name}" for name in sorted(events) if not name.startswith("optimizer"))
    solvers = sum(name.startswith("optimizer") for name in events)
    seconds = time.perf_counter() - started
    print(f"{args.count} networks, {counts}, {solvers} optimizers, {seconds:.0f} s, {wrong} wrong")  # noqa: T201
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
