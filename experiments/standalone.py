# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The network of a run where this program is not: a module of its own, made of the source of this one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax import nnx

import demp_jax
from demp_jax import export
from demp_jax.export import load_tensors
from experiments.network import Builder, common_arguments

FORMAT = 1  # Of `model.json`.


class Fields(dict[str, Any]):
    """A section of a config, its fields as keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        """Returns a field."""
        if name not in self:
            raise AttributeError(name)
        return self[name]


def load_as(builder: Callable[..., nnx.Module], folder: str | Path) -> nnx.Module:
    """Returns an exported network in evaluation mode.

    Args:
      builder: of its model, as in `experiments.network.MODELS`.
      folder: with `model.json`, for what the builder needs, and `model.safetensors`, for the variables.

    Raises:
      ValueError: when the variables are not those of the model.
    """
    about = json.loads((Path(folder) / "model.json").read_text())
    if about.get("format") != FORMAT:
        raise ValueError(f"{folder}: model.json must be of format {FORMAT}; got {about.get('format')!r}.")
    section, shape = Fields(about["model"]), tuple(about["input"]["shape"][1:])
    # Nothing is computed, and the builder knows nothing of the widths that are left.
    model = nnx.eval_shape(lambda: builder(section, shape, about["classes"], common_arguments(section, 0)))
    load_tensors(model, Path(folder) / "model.safetensors")
    model.eval()
    return model


_MODULE = '''# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The network of this folder, for programs that have NumPy, JAX and Flax and no demp_jax.

    from model import load
    network = load()
    logits = network(x)

`x` is a batch of inputs as model.json describes them. Made of the source of demp_jax {version}.
"""

from __future__ import annotations

{code}

def load(folder: str | Path = Path(__file__).parent) -> nnx.Module:
    """Returns the network in evaluation mode."""
    return load_as({builder}, folder)
'''


def source(builder: Builder) -> str:
    """Returns the source of a module with `load(folder)`, which does what `load_as` does for one builder.

    Args:
      builder: a function at the top level of a module, as what it uses of this program, of demp_jax and of its own
        package has to be.

    Raises:
      ValueError: when it, or something that it uses, is not.
    """
    module, name = builder.__module__, builder.__qualname__
    packages = {"demp_jax", "experiments", module.split(".")[0]}
    code = export.bundle([(module, name), (__name__, "load_as")], packages)
    return _MODULE.format(version=demp_jax.__version__, code=code, builder=name)
