# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Loading of exported models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from demp_jax.export import load_safetensors
from demp_jax.models.mlp import MLP
from demp_jax.models.resnet import ResNet, resnet50
from demp_jax.models.vgg import VGG
from demp_jax.models.vit import ViT

_CONSTRUCTORS: dict[str, Any] = {"MLP": MLP, "ResNet": ResNet, "VGG": VGG, "ViT": ViT, "resnet50": resnet50}


def load(folder: str | Path) -> nnx.Module:
    """Returns a model that was exported as safetensors, in evaluation mode, at the widths that pruning left.

    The folder contains `model.json` and `model.safetensors`, as written by
    `python -m experiments.export --format=safetensors`. `model.json` has the name of the constructor, one of `MLP`,
    `ResNet`, `VGG`, `ViT` and `resnet50`, and its arguments::

      {"model": {"name": "MLP", "arguments": {"features": 64, "classes": 10, "widths": [128, 128], ...}}, ...}

    The arguments are those of the dense model. The widths are taken from `model.safetensors`.

    Args:
      folder: path of the folder.

    Raises:
      ValueError: if `model.json` names another model or arguments that its constructor does not take, or if the
        variables are not those of the model.
    """
    path = Path(folder) / "model.json"
    try:
        entry = json.loads(path.read_text())["model"]
        name, arguments = entry["name"], dict(entry["arguments"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"models.load: {path} must hold model.name and model.arguments; reading them failed with {error!r}. Export "
            "the run again."
        ) from error
    if name not in _CONSTRUCTORS:
        raise ValueError(
            f"models.load: model.name of {path} must be one of {', '.join(_CONSTRUCTORS)}; got {name!r}. Build the "
            "model yourself and use demp_jax.export.load_safetensors."
        )
    # JSON has no tuples, and no dtypes.
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}

    def build() -> nnx.Module:
        dtype = jnp.dtype(arguments.get("dtype", "float32"))
        return _CONSTRUCTORS[name](**{**arguments, "dtype": dtype}, rngs=nnx.Rngs(0))

    try:
        model = nnx.eval_shape(build)
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"models.load: model.arguments of {path} must be arguments of {name}; got {arguments} ({error}). Export "
            "the run again."
        ) from error
    load_safetensors(model, Path(folder) / "model.safetensors")
    model.eval()
    return model
