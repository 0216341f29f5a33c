# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The fraction of a step that is spent in convolutions, for dense and pruned networks.

FLOPs only count convolutions and products, and fall with the square of the widths. All else, mostly BatchNorm and ReLU
with their gradients, falls in proportion to the widths. Even if the time of convolutions fell as their FLOPs do, that
of the step would not. The step is timed interleaved with a program of only its convolutions and products with their
gradients. All else is the difference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import programs, step
from benchmarks.timing import interleaved
from experiments.fast_convolutions import compiler_options, with_fast_convolutions

# By scale: model, shape of an image, batch, and names of prunes as in the suite `step`.
_EVEN = tuple(f"{sparsity:.0%}, even" for sparsity in step.SPARSITIES)
_BY_DEMP = tuple(f"{sparsity:.0%}, DemP" for sparsity in step.SPARSITIES[:2])
_RESNET = {"name": "resnet18", "stem_stride": 1}
CASES: dict[str, list[tuple[dict[str, Any], tuple[int, int, int], int, tuple[str, ...]]]] = {
    "tiny": [({**_RESNET, "base_width": 8, "stem_stride": 2}, (16, 16, 3), 8, ("80%, even",))],
    "cpu": [
        ({**_RESNET, "base_width": 16, "stem_stride": 2}, (32, 32, 3), 128, (*_EVEN, *_BY_DEMP)),
        ({**_RESNET, "base_width": 32}, (32, 32, 3), 64, (*_EVEN, *_BY_DEMP)),
        ({**_RESNET, "base_width": 64}, (32, 32, 3), 16, (*_EVEN, *_BY_DEMP)),
        ({"name": "vgg16", "base_width": 64, "hidden": 512}, (32, 32, 3), 16, _EVEN),
    ],
}
# By scale: steps per call, and rounds.
_ROUNDS = {"tiny": (2, 2), "cpu": (4, 7)}


def rows(scale: str, cases: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yields a record per network: times of the step and of its convolutions alone, dense and with each prune."""
    together, rounds = _ROUNDS[scale]
    for model, shape, batch, names in cases:
        dense = programs.built(*programs.initial(model, shape), shape, batch, together=together)
        steps = {"dense": dense}
        kinds = step.kinds(dense, (1,))
        for name in names:
            cut = programs.narrowed(dense.net, dense.variables, shape, *kinds[name])
            steps[name] = programs.built(*cut, shape, batch, together=together)
        calls: dict[str, Callable[[], Any]] = dict(steps)
        for name, program in steps.items():
            calls[f"{name}: convolutions"] = convolutions(program)
        timings = interleaved(calls, rounds, together)
        cuts = {}
        for name, program in steps.items():
            cuts[name] = {
                "weight_sparsity": round(1 - program.parameters / dense.parameters, 4),
                "flops_ratio": round(program.step_flops / dense.step_flops, 4),
                **timings[name].record(),
                "convolutions": timings[f"{name}: convolutions"].record(),
            }
        yield {"model": model, "image": list(shape), "batch": batch, "steps_per_call": together, "steps": cuts}
        jax.clear_caches()


def convolutions(program: programs.Program) -> Callable[[], Any]:
    """Returns a function that only computes the convolutions and products of a step, with their gradients.

    Operands are random. The function loops over as many steps as a call of the program. As in a step, the gradient of
    the network's input is not computed.
    """
    shape = program.graph.program.avals[program.graph.program.inputs[-1]].shape[1:]
    x = jax.ShapeDtypeStruct((program.batch, *shape), jnp.float32)
    ops = [_bound(eqn) for eqn in programs.products(jax.make_jaxpr(program.net)(program.variables, x).jaxpr)]
    rng = np.random.default_rng(0)
    given = []
    for fn, left, right in ops:
        # Scaled so that results have the variance of their inputs at every width: subnormal numbers would be slow.
        scale = (right.size / right.shape[-1]) ** -0.5
        result = jax.eval_shape(fn, left, right)
        # Drawn by NumPy, because compiling a program per shape would take longer than the measurement.
        made = [
            rng.standard_normal(each.shape, np.float32) * by for each, by in ((left, 1), (right, scale), (result, 1))
        ]
        given.append(tuple(jnp.asarray(a, each.dtype) for a, each in zip(made, (left, right, result), strict=True)))

    def gradients(operands: Any) -> Any:
        found = []
        for index, ((fn, *_), (left, right, g)) in enumerate(zip(ops, operands, strict=True)):
            if index:
                result, pull = jax.vjp(fn, left, right)
                to_left, to_right = pull(g)
            else:
                result, pull = jax.vjp(functools.partial(fn, left), right)
                to_left, (to_right,) = left, pull(g)
            # Every array changes in each iteration, so that XLA cannot move a computation out of the loop.
            found.append((to_left, right + 0 * to_right, result))
        return found

    fast = with_fast_convolutions(gradients, platform=jax.default_backend())

    @functools.partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))
    def rounds(operands: Any) -> Any:
        return lax.fori_loop(0, program.together, lambda _, carried: fast(carried), operands)

    return functools.partial(rounds, given)


def _bound(eqn: Any) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], Any, Any]:
    """Returns a convolution or product as a function, and the shapes of its operands."""

    def fn(left: jax.Array, right: jax.Array) -> jax.Array:
        found: jax.Array = eqn.primitive.bind(left, right, **eqn.params)
        return found

    left, right = (jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars)
    return fn, left, right


def table(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the header and the rows of the table of records."""
    header = ("model", "batch", "cut", "FLOPs", "convolutions", "all else", "time", "efficiency")
    found: list[tuple[str, ...]] = [(*header, "of convolutions", "at best")]
    for record in records:
        model = record["model"]
        name = f"{model['name']}, width {model['base_width']}"
        name += ", half-size maps" if model.get("stem_stride") == 2 else ""
        dense = record["steps"]["dense"]
        # All columns are fractions of the dense step.
        share = dense["convolutions"]["ratio"]
        for cut, row in record["steps"].items():
            flops, taken = row["flops_ratio"], row["convolutions"]["ratio"]
            rest = row["ratio"] - taken
            cells = [name, str(record["batch"]), cut, f"x {flops:.3f}", f"{taken:.3f}", f"{rest:.3f}"]
            cells += [f"{row['ratio']:.3f}", f"{flops / row['ratio']:.2f}", f"{flops * share / taken:.2f}"]
            found.append((*cells, f"{flops / (flops * share + rest):.2f}"))
    return found
