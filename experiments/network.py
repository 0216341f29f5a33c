# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A model as pure functions of its variables."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from demp_jax import models
from demp_jax import nnx as demp_nnx
from experiments.errors import UsageError, require, require_choice

MODELS = ("mlp", "resnet18")


@dataclasses.dataclass(frozen=True)
class Network:
    """A model's structure. Its variables are `{"params": ..., "state": ...}`, nested dicts of arrays. Hashable.

    Attributes:
      graphdef: the structure, static attributes included.
    """

    graphdef: nnx.GraphDef

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # A step hashes its network at every call, and a graphdef takes a millisecond.
        return hash(self.graphdef)

    def __call__(self, variables: Any, x: jax.Array) -> jax.Array:
        """Returns logits in evaluation mode."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"])
        model.eval()
        return model(x)

    def train(self, variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        """Returns logits in training mode, and the new state."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"], copy=True)
        model.train()
        logits = model(x)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    def model(self, variables: Any) -> nnx.Module:
        """Returns the model itself, in evaluation mode."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"])
        model.eval()
        return model

    def resized(self, variables: Any) -> Network:
        """Returns the network for variables of other widths."""
        model = nnx.merge(self.graphdef, variables["params"], variables["state"])
        demp_nnx.refit(model)
        return Network(nnx.split(model, nnx.Param, ...)[0])


def build(config: Any, input_shape: tuple[int, ...], classes: int) -> nnx.Module:
    """Returns a new model.

    Args:
      config: the `model` section of a config, and `seed`.
      input_shape: `[H, W, C]`.
      classes: number of classes.

    Raises:
      UsageError: for a bad field.
    """
    section = config.model
    require_choice("config.model.name", section.name, MODELS)
    require_choice("config.model.activation", section.activation, models.ACTIVATIONS)
    rngs = nnx.Rngs(params=config.seed)
    if section.name == "mlp":
        widths = tuple(section.widths)
        good = bool(widths) and all(isinstance(w, int) and w >= 1 for w in widths)
        require(good, "config.model.widths", widths, "one or more whole numbers of at least 1, as in (300,100)")
        features = int(np.prod(input_shape))
        return models.MLP(features, classes, widths=widths, activation=section.activation, norm=section.norm, rngs=rngs)
    require(section.base_width >= 1, "config.model.base_width", section.base_width, "at least 1")
    require_choice("config.model.stem_stride", str(section.stem_stride), ("1", "2"))
    if len(input_shape) != 3 or min(input_shape[:2]) < 8:
        raise UsageError(f"config.model.name='resnet18' needs images of at least 8 x 8; the data has {input_shape}.")
    return models.ResNet(
        input_shape[-1],
        classes,
        base_width=section.base_width,
        stem_stride=section.stem_stride,
        activation=section.activation,
        coupled=section.coupled,
        rngs=rngs,
    )


def initial(config: Any, input_shape: tuple[int, ...], classes: int) -> tuple[Network, Any]:
    """Returns a network and its initial variables."""
    graphdef, _ = _abstract(config, input_shape, classes)

    @jax.jit  # One compiled program instead of a small one per array.
    def variables() -> Any:
        split: Any = nnx.split(build(config, input_shape, classes), nnx.Param, ...)
        _, params, state = split
        return {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}

    return Network(graphdef), variables()


def abstract(config: Any, input_shape: tuple[int, ...], classes: int) -> tuple[Network, Any]:
    """Returns a network and the shapes of its initial variables, without computing anything."""
    graphdef, variables = _abstract(config, input_shape, classes)
    return Network(graphdef), variables


def _abstract(config: Any, input_shape: tuple[int, ...], classes: int) -> tuple[nnx.GraphDef, Any]:
    model = nnx.eval_shape(lambda: build(config, input_shape, classes))
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, state = split
    return graphdef, {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}
