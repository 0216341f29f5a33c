# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Structured pruning by scores: units are scored, ranked and masked in stages, and removed at the end."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

import demp_jax
from baselines import selection
from baselines.subject import Score, Subject, by_site

FEEDBACK = ("planned", "measured")


@dataclasses.dataclass(frozen=True)
class Pruned:
    """The result of pruning by scores.

    Attributes:
      cut: the smaller network, see `demp_jax.PruneResult`.
      stages: for each stage, the planned and the measured neuron sparsity, relative to the given network.
    """

    cut: demp_jax.PruneResult
    stages: tuple[tuple[float, float], ...]


def prune(
    fn: Callable[[Any, Any], Any],
    variables: Any,
    batches: Sequence[tuple[Any, Any]],
    score: Score,
    sparsity: float,
    *,
    scored: Any = None,
    steps: int = 1,
    feedback: str = "planned",
    rule: str = "exact",
    min_units: int | Mapping[str, int] = 1,
    unranked: Sequence[str] = (),
    key: jax.Array | int = 0,
    opt_state: Any = None,
    tx: optax.GradientTransformation | None = None,
    params: Callable[[Any], Any] | None = None,
    exclude: Sequence[str] = (),
    extra_units: Sequence[str] | str = (),
) -> Pruned:
    """Removes the units with the smallest scores.

    With several stages, units are scored again after each stage, with the units of earlier stages masked. The scores
    are those of the pruned network, without compiling for its shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from baselines import l1_norm
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, 3.0, 2.0, 4.0]]), "out": jnp.ones((4, 2))}
      >>> batch = (jnp.ones((2, 1)), jnp.array([0, 1]))
      >>> prune(network, params, [batch], l1_norm.score, 0.5).cut.variables["hidden"].tolist()
      [[3.0, 4.0]]

    Args:
      fn: the network in evaluation mode, `fn(variables, x) -> logits`.
      variables: its variables.
      batches: inputs and labels, batches of one size, on which units are scored and outputs are compared.
      score: the score of groups, such as `snap.score`.
      sparsity: the fraction of the removable units to remove, in [0, 1).
      scored: the variables to compute scores with, for example with calibrated statistics; by default `variables`.
      steps: the number of steps of iterative pruning, >= 1, see `selection.stages`.
      feedback: whether a stage continues from the `"planned"` or the `"measured"` sparsity of the stage before.
      rule, min_units: see `selection.select`. With `min_units=0`, sites are emptied if the outputs stay connected.
      unranked: patterns of names of sites whose units are not ranked, and kept.
      key: random key or seed of random scores.
      extra_units: extra units, see `demp_jax.trace`.
      opt_state, tx, params, exclude: see `demp_jax.prune`.

    Raises:
      ValueError: for a bad argument, or if the network has no prunable unit.
    """
    if feedback not in FEEDBACK:
        raise ValueError(f"feedback must be one of {', '.join(FEEDBACK)}; got {feedback=}.")
    floor = min(min_units.values()) if isinstance(min_units, Mapping) else min_units
    if floor < 0:
        raise ValueError(f"min_units must be at least 0; got {min_units=}.")
    exclude = tuple(exclude)
    graph = demp_jax.trace(fn, variables, batches[0][0], exclude=exclude, extra_units=extra_units)
    graph.require_prunable()
    ranks = _ranked_groups(graph, unranked)
    key = jax.random.key(key) if isinstance(key, int) else key
    subject = Subject(
        fn, variables if scored is None else scored, graph, batches, np.ones(graph.num_groups, bool), key, exclude
    )
    ranked = _units(graph, ranks)
    reached, done = 0.0, []
    for number, target in enumerate(selection.stages(sparsity, steps)):
        subject = subject._replace(key=jax.random.fold_in(key, number))
        values = np.where(subject.live, np.where(ranks, score(subject), np.nan), -np.inf)
        fraction = selection.fraction_of_rest(target, reached)
        leave = selection.select(by_site(graph, values), fraction, rule=rule, min_units=min_units)
        # A group is removed if all of its units are.
        live = np.zeros(graph.num_groups, bool)
        for site in graph.sites:
            live[site.groups[~leave[site.name] & (site.groups >= 0)]] = True
        subject = subject._replace(live=live)
        measured = 1 - _units(graph, live & ranks) / max(ranked, 1)
        done.append((target, measured))
        reached = target if feedback == "planned" else measured
    gone = {s.name: ~demp_jax.tracing.per_unit(subject.live, s.groups, True) for s in graph.sites}
    result = demp_jax.prune(
        fn,
        variables,
        [x for x, _ in batches],
        remove=gone,
        opt_state=opt_state,
        tx=tx,
        params=params,
        options=demp_jax.PruneOptions(exclude=exclude, extra_units=extra_units, min_units=min(floor, 1)),
    )
    return Pruned(result, tuple(done))


def ranked_units(graph: demp_jax.Graph, unranked: Sequence[str] = ()) -> dict[str, int]:
    """Returns the number of ranked units of each site: removable units of sites that `unranked` does not match."""
    ranks = np.append(_ranked_groups(graph, unranked), False)
    counts = {site.name: int(ranks[site.groups].sum()) for site in graph.sites}
    return {name: count for name, count in counts.items() if count}


def unranked_groups(graph: demp_jax.Graph, patterns: Sequence[str]) -> np.ndarray:
    """Returns `[num_groups]` bool, the groups with units in sites whose names match a pattern.

    Raises:
      ValueError: if a pattern matches no site.
    """
    found = np.zeros(graph.num_groups, bool)
    for pattern in patterns:
        matched = [site for site in graph.sites if fnmatch.fnmatch(site.name, pattern)]
        if not matched:
            names = ", ".join(site.name for site in graph.sites)
            raise ValueError(f"no site is named {pattern!r}. The sites are: {names}.")
        for site in matched:
            found[site.groups[site.groups >= 0]] = True
    return found


def _ranked_groups(graph: demp_jax.Graph, unranked: Sequence[str]) -> np.ndarray:
    return (graph.fed == np.arange(graph.num_groups)) & ~unranked_groups(graph, unranked)


def _units(graph: demp_jax.Graph, live: np.ndarray) -> int:
    """Returns the number of removable units in the groups of a mask, `[num_groups]` bool."""
    return sum(int(demp_jax.tracing.per_unit(live, site.groups).sum()) for site in graph.sites)
