# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Models as pure functions of their variables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from demp_jax import models
from demp_jax import nnx as demp_nnx
from experiments.core import named
from experiments.core.errors import UsageError, require
from experiments.settings.schema import Model

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Network:
    """The structure of a model, without its variables. Hashable.

    Variables are `{"params": ..., "state": ...}`, nested dicts of arrays.

    Attributes:
      graphdef: the structure, including static attributes.
    """

    graphdef: nnx.GraphDef

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Cached, because every call of a step hashes its network, and hashing a graphdef takes a millisecond.
        return hash(self.graphdef)

    def __call__(self, variables: Any, x: jax.Array) -> jax.Array:
        """Returns logits in evaluation mode."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"])
        model.eval()
        return model(x)

    def train(self, variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        """Returns logits in training mode and the new state."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"], copy=True)
        model.train()
        logits = model(x)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    def training(self, variables: Any, x: Any) -> TrainingNetwork:
        """Returns the network in training mode, for `demp_jax.prune`."""
        del variables, x
        return TrainingNetwork(self)

    def model(self, variables: Any) -> nnx.Module:
        """Returns the model as an `nnx.Module` in evaluation mode."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"])
        model.eval()
        return model

    def resized(self, variables: Any) -> Network:
        """Returns the network for variables of other widths."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"])
        demp_nnx.refit(model)
        return Network(nnx.split(model, nnx.Param, ...)[0])


@dataclasses.dataclass(frozen=True)
class TrainingNetwork:
    """A network in training mode as a function of its variables and a batch, `fn(variables, x)`."""

    network: Network

    def __call__(self, variables: Any, x: jax.Array) -> jax.Array:
        """Returns logits, normalized with the statistics of the batch."""
        return self.network.train(variables, x)[0]


def build(section: Model, seed: int | jax.Array, input_shape: tuple[int, ...], classes: int) -> nnx.Module:
    """Returns a new model.

    Args:
      section: the section `model` of a config.
      seed: seed or PRNG key of the initialization.
      input_shape: `(H, W, C)`.
      classes: number of classes.

    Raises:
      UsageError: for an unknown name, or a model that does not fit the shape of the images.
    """
    builder = named.find("config.model.name", section.name, MODELS)
    try:
        return builder(section, input_shape, classes, common_arguments(section, seed))
    except ValueError as error:
        raise UsageError(f"config.model.name={section.name!r}, for images of {input_shape}: {error}") from error


def common_arguments(section: Model, seed: int | jax.Array) -> dict[str, Any]:
    """Returns the arguments that all models have: activation, dtype and rngs.

    Args:
      section: the section `model` of a config.
      seed: seed or PRNG key of the initialization.
    """
    return {"activation": section.activation, "dtype": jnp.dtype(section.dtype), "rngs": nnx.Rngs(params=seed)}


def _mlp(section: Model, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    sizes = {"widths": section.widths, "norm": section.norm}
    return {"features": int(np.prod(input_shape)), "classes": classes, **sizes}


def _resnet18(section: Model, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    if min(input_shape[:2]) < 8:
        raise ValueError("a ResNet-18 needs images of at least 8 x 8.")
    sizes = {"channels": input_shape[-1], "classes": classes, "base_width": section.base_width}
    return {**sizes, "stem_stride": section.stem_stride, "coupled": section.coupled}


def _resnet50(section: Model, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    if min(input_shape[:2]) < 32:
        raise ValueError("a ResNet-50 needs images of at least 32 x 32.")
    sizes = {"channels": input_shape[-1], "classes": classes, "base_width": section.base_width}
    return {**sizes, "blocks": section.blocks, "coupled": section.coupled}


def _vgg16(section: Model, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    sizes = {"base_width": section.base_width, "hidden": section.hidden}
    return {"input_shape": _image(input_shape), "classes": classes, **sizes}


def _vit(section: Model, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    sizes = {name: getattr(section, name) for name in ("patch", "features", "depth", "heads", "hidden")}
    divides = section.features % section.heads == 0
    require(divides, "config.model.heads", section.heads, f"a divisor of config.model.features={section.features}")
    return {"input_shape": _image(input_shape), "classes": classes, **sizes}


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape
    return height, width, channels


# Function of the section `model`, the input shape, the number of classes and `common_arguments` that returns a model.
Builder = Callable[[Model, tuple[int, ...], int, dict[str, Any]], nnx.Module]


@dataclasses.dataclass(frozen=True)
class LibraryModel:
    """A builder of a model of `demp_jax.models`, so that `demp_jax.models.load` can rebuild it.

    Attributes:
      name: name of the constructor in `demp_jax.models`.
      arguments: function of the section `model`, the input shape and the number of classes that returns the arguments
        of the constructor, without `common_arguments`.
    """

    name: str
    arguments: Callable[[Model, tuple[int, ...], int], dict[str, Any]]

    def __call__(
        self, section: Model, input_shape: tuple[int, ...], classes: int, common: dict[str, Any]
    ) -> nnx.Module:
        """Returns a new model."""
        return getattr(models, self.name)(**self.arguments(section, input_shape, classes), **common)


MODELS: dict[str, Builder] = {
    "mlp": LibraryModel("MLP", _mlp),
    "resnet18": LibraryModel("ResNet", _resnet18),
    "resnet50": LibraryModel("resnet50", _resnet50),
    "vgg16": LibraryModel("VGG", _vgg16),
    "vit": LibraryModel("ViT", _vit),
}


def description(section: Model, input_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """Returns the description of a model that `demp_jax.models.load` reads from `model.json`.

    Args:
      section: the section `model` of a config.
      input_shape: `(H, W, C)`.
      classes: number of classes.

    Returns:
      The `name` of a constructor of `demp_jax.models` and its `arguments`. For a builder that is not a `LibraryModel`,
      `section.name` and the section.
    """
    builder = named.find("config.model.name", section.name, MODELS)
    if not isinstance(builder, LibraryModel):
        return {"name": section.name, "arguments": dataclasses.asdict(section)}
    common = {"activation": section.activation, "dtype": section.dtype}
    return {"name": builder.name, "arguments": {**builder.arguments(section, input_shape, classes), **common}}


def calibrated(network: Network, variables: Any, x: jax.Array) -> Any:
    """Returns variables whose running statistics are replaced by the statistics of a batch.

    Training updates a running statistic to `m old + (1 - m) batch`. Two updates from different values of `old`
    determine `m` and `batch`. Other state is unchanged.
    """

    @jax.jit  # The batch is an argument: a constant could not be sharded over devices of other processes.
    def after(variables: Any, state: Any, x: jax.Array) -> Any:
        return network.train({**variables, "state": state}, x)[1]

    before = variables["state"]
    once = after(variables, before, x)
    moves = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, once)
    raised = jax.tree.map(lambda a, moved: a + 1 if moved else a, before, moves)

    def batch(old: jax.Array, one: jax.Array, other: jax.Array, moved: bool) -> jax.Array:
        if not moved:
            return old
        momentum = jnp.mean(other - one)
        return (one - momentum * old) / (1 - momentum)

    return {**variables, "state": jax.tree.map(batch, before, once, after(variables, raised, x), moves)}


def initial(section: Model, seed: int, input_shape: tuple[int, ...], classes: int) -> tuple[Network, Any]:
    """Returns a network and its initial variables."""
    graphdef, _ = _abstract(section, input_shape, classes)

    # One compiled program instead of a small one per array. At the default optimization level, XLA compiles the
    # initialization of a ResNet-18 for a minute or two; at this one, for seconds. The values are bitwise the same.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
    def variables(key: jax.Array) -> Any:
        split: Any = nnx.split(build(section, key, input_shape, classes), nnx.Param, ...)
        _, params, state = split
        return {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}

    return Network(graphdef), variables(jax.random.key(seed))  # The seed is an argument: one program for all seeds.


def abstract(section: Model, input_shape: tuple[int, ...], classes: int) -> tuple[Network, Any]:
    """Returns a network and the shapes of its initial variables, without computing them."""
    graphdef, variables = _abstract(section, input_shape, classes)
    return Network(graphdef), variables


def _abstract(section: Model, input_shape: tuple[int, ...], classes: int) -> tuple[nnx.GraphDef, Any]:
    model = nnx.eval_shape(lambda: build(section, 0, input_shape, classes))
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, state = split
    return graphdef, {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}
