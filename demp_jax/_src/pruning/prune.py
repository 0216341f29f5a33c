# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Prunes a network: measures dead units, plans, slices, and proves that the outputs stay the same.

The steps:

1. `_begin` traces the network in evaluation and training mode and finds the groups of units.
2. `_measure` runs the network in both modes, and its copies, on the death set.
3. `planning.make_plan` chooses the groups to remove.
4. `proof.Proof` slices the variables, runs the smaller network, and compares the outputs. Sites that would change them
   keep all units.
5. `_finish` slices the optimizer state and writes the record.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from demp_jax._src.pruning import optimizer_state, passes, planning, proof, slicing
from demp_jax._src.pruning.options import PruneOptions
from demp_jax._src.pruning.record import PruneRecord
from demp_jax._src.tracing import mirror
from demp_jax._src.tracing import trace as trace_lib
from demp_jax._src.tracing.graph import Graph, Site, per_unit
from demp_jax._src.tracing.paths import leaf_paths

# Running statistics count as stale if more than this fraction of the units is dead in only one mode.
_STALE = 0.02


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """The result of a prune.

    Attributes:
      fn: the network, to be called with the smaller variables, `fn(variables, x)`.
      variables: the smaller variables.
      opt_state: the smaller state of the optimizer.
      copies: the smaller copies, by name.
      plan: slices other trees that mirror the variables; `None` if nothing was removed.
      record: counts of removed and kept units, sizes, and differences of the outputs.
    """

    fn: Callable[..., Any]
    variables: Any
    opt_state: Any
    copies: dict[str, Any]
    plan: slicing.Plan | None
    record: PruneRecord

    @property
    def removed(self) -> dict[str, np.ndarray]:
        """By name of a site or branch, `[width]` bool, the removed units. Sites without removed units are absent."""
        return {} if self.plan is None else _units(self.plan.graph, self.plan.removed)


def _units(graph: Graph, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Returns, by name of a site or branch, `[width]` bool, the units in `groups`. Sites without any are absent."""
    units = {site.name: per_unit(groups, site.groups) for site in (*graph.sites, *graph.branches)}
    return {name: bits for name, bits in units.items() if bits.any()}


def prune(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    opt_state: Any = None,
    tx: Any = None,
    params: mirror.Params = None,
    copies: Mapping[str, Any] | None = None,
    train_fn: Callable[..., Any] | None = None,
    calls: Sequence[Callable[..., Any]] = (),
    remove: Mapping[str, np.ndarray] | None = None,
    at_most: Mapping[str, np.ndarray] | None = None,
    options: PruneOptions | None = None,
) -> PruneResult:
    """Removes dead units from a network, from copies of it, and from the state of its optimizer.

    A unit is removed only if it is dead in evaluation and in training mode, and in every copy. A consumer with weights
    W may read dead units D as nonzero constants c, for example if a BatchNorm follows the ReLU. The constants are then
    folded into the bias that is added next: `b_i <- b_i + sum_{j in D} W_ij c_j`. The outputs of the smaller network on
    the death set are compared with those before.

    Example:
      >>> import jax.numpy as jnp
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
      >>> result = prune(network, params, [jnp.array([[1.0], [2.0]])])  # The second unit is dead.
      >>> result.variables["hidden"].shape, result.record.removed, result.record.difference
      ((1, 2), {'hidden': 1}, 0.0)

    Args:
      fn: the network in evaluation mode, `fn(variables, x)`. It may have these methods: `resized(variables)` returns
        the network for smaller variables, if its shapes do not follow from its arguments; `training(variables, x)`
        returns the network in training mode, like `train_fn`, or `None`; `updating()` returns one of `calls`.
      variables: its variables, a tree of arrays.
      batches: the death set, a list of batches of one shape, each an array or a tree of arrays with at least two
        examples. The paper takes 512 training examples, and 2048 for ImageNet (appendix F.3).
      opt_state: the state of an optimizer over `params(variables)`. For several optimizers, a dict or list of states.
      tx: the optimizer, or a dict or list of optimizers like `opt_state`. It is needed to fold constants into copies of
        parameters inside the state, and to initialize again state that cannot be sliced.
      params: picks the trained part of the variables, such as `lambda v: v["params"]`; by default all of them. For
        several optimizers, a dict or list like `opt_state`.
      copies: by name, other values of the variables or of a part of them, such as an average of weights, a target
        network or a teacher. Each is measured, folded and compared in evaluation mode with its own values. Variables
        that a copy lacks are taken from the network.
      train_fn: the network in training mode, `train_fn(variables, x)`: batch statistics in BatchNorm, no dropout, and
        the same outputs. Only needed if training mode differs and `fn` has no method `training`.
      calls: further functions `call(variables, x)` that use the variables, such as an auxiliary head, counters of
        units, or a teacher that follows its student. Each returns a pair: its outputs, and the new values of all
        variables or `None`. Variables that they read are pruned along. A unit is removed only if it is dead in each
        call, too. Their outputs are not compared. Calls are only needed for variables that neither `fn` nor its
        training mode reads, and if `fn` has no method `updating`. The record lists variables that nothing reads.
      remove: by name of a site, `[width]` bool: the units to remove, instead of those that a criterion calls dead. The
        result computes the outputs of the network with these units masked. A group is removed if all of its units are
        named.
      at_most: by name of a site or branch, `[width]` bool, such as `PruneResult.removed` of a trial some steps earlier.
        At most as many units are removed from each site as are named, and named units are removed before others.
        Nothing is removed from absent sites. Channels of a branch that nothing reads any more are always removed. If as
        many units are still dead as in the trial, the widths equal those of the trial, and a step that was compiled for
        these widths can be used.
      options: the criterion, the units to keep, and the tolerance.

    Returns:
      The smaller network, or the same one if nothing is dead or the prune was refused. If only some sites would change
      the outputs beyond the tolerance, the others are pruned.

    Raises:
      ValueError: if the network has no prunable unit, which can also be the result of earlier prunes (see
        `trace(...).prunable`); if it cannot run at smaller widths; if `batches` is empty or a batch has fewer than two
        examples; if a site, shape or path in another argument does not fit the network.
    """
    options = options or PruneOptions()
    started = time.perf_counter()
    batches = _death_set(batches, options.batch_axis)
    _require_arrays(variables, batches)
    subject, graph = _begin(fn, variables, batches[0], copies or {}, params, train_fn, calls, options)
    graph.require_prunable()
    chosen = None if remove is None else _chosen(graph, remove)
    if at_most is not None:
        _check_bits("at_most", at_most, (*graph.sites, *graph.branches))
        at_most = {name: np.asarray(bits, bool) for name, bits in at_most.items()}
    evidence = _measure(subject, graph, batches, options, chosen)
    plan = planning.make_plan(evidence, options, chosen=chosen, at_most=at_most)
    if chosen is not None and (chosen & ~plan.removed).any():
        # Some of the units have to be kept. Measure the network again with only the others masked.
        first, chosen = plan, chosen & plan.removed
        evidence = _measure(subject, graph, batches, options, chosen)
        plan = planning.make_plan(evidence, options, chosen=chosen, at_most=at_most)
        plan = dataclasses.replace(plan, protected=first.protected, needed=first.needed, needed_by=first.needed_by)
    given: dict[str, Any] = {"chosen": chosen, "at_most": at_most}
    state = _State(graph, variables, params, evidence, plan, {"measure": time.perf_counter() - started})

    unchanged = PruneResult(fn, variables, opt_state, dict(copies or {}), None, state.record(nothing=True))
    blind = _blind(evidence)
    if blind:
        return dataclasses.replace(unchanged, record=state.record(refused=blind))
    if not plan.removed.any() or graph.flops(plan.removed) > (1 - options.least_gain) * graph.flops():
        return dataclasses.replace(unchanged, record=state.record(waits=True))

    exact = chosen is not None or _exact(graph, options.criterion)
    trial = proof.Proof(subject, evidence, batches, options, exact=exact)
    attempt, spared, unfit = _prove(trial, plan, evidence, options, given)
    state.seconds.update(trial.seconds)
    state.unfit.update(unfit)
    if attempt.complaint is not None:
        return dataclasses.replace(unchanged, record=state.record(attempt, spared, refused=attempt.complaint))
    return _finish(attempt, spared, state, opt_state, tx, copies or {})


def _death_set(batches: Iterable[Any], batch_axis: int) -> list[Any]:
    """Returns the batches of a death set as a list, checked."""
    shape = getattr(batches, "shape", None)
    if shape is not None:
        raise ValueError(f"batches must be a list of batches; got one array of shape {shape}: give [batch].")
    found = list(batches)
    if not found:
        raise ValueError("the death set is empty: give at least one batch of training inputs.")
    for x in found:
        if trace_lib.examples_of(x, batch_axis) < 2:
            shapes = ", ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(x))
            raise ValueError(
                f"a batch of the death set must hold at least two examples along batch_axis={batch_axis}; got the "
                f"shape {shapes}. Give training inputs with an axis of examples."
            )
    return found


def _require_arrays(*trees: Any) -> None:
    """Raises `ValueError` inside of a transformation such as `jax.jit`, where arrays have no values."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise ValueError(
            "a prune changes shapes and cannot run inside jax.jit or another transformation: call it between steps."
        )


def _begin(
    fn: Callable[..., Any],
    variables: Any,
    x: Any,
    copies: Mapping[str, Any],
    params: mirror.Params,
    train_fn: Callable[..., Any] | None,
    calls: Sequence[Callable[..., Any]],
    options: PruneOptions,
    graph: Graph | None = None,
) -> tuple[proof.Subject, Graph]:
    """Returns the network and its copies, and the graph, which is traced if it is not given."""
    fns = {"evaluation": fn}
    follows = train_fn is None
    if options.modes == "both":
        train_fn = train_fn or proof.training_of(fn, variables, x)
        if train_fn is not None:
            fns["training"] = train_fn
    for name in copies:
        if name in ("evaluation", "training"):
            raise ValueError(f"copies: {name!r} is the name of a mode. Give the copy another name.")
    graph = graph or traced(fn, variables, x, options, fns.get("training"), calls)
    if not calls and graph.calls:
        calls = (fn.updating(),)  # type: ignore[attr-defined]
    trained = mirror.trained_leaves(params, variables)
    owned = {name: _places(graph, trained, name, copy) for name, copy in copies.items()}
    trees = {"evaluation": variables}
    for name, copy in copies.items():
        leaves = jax.tree.leaves(variables)
        for i, leaf in zip(owned[name], jax.tree.leaves(copy), strict=True):
            leaves[i] = leaf
        trees[name] = jax.tree.unflatten(jax.tree.structure(variables), leaves)
    fns = {mode: fns[mode] for mode, _ in zip(fns, graph.views, strict=False)}
    named = {f"call {i}": call for i, call in enumerate(calls)}
    return proof.Subject(fns, follows, named, trees, owned), graph


def traced(
    fn: Callable[..., Any],
    variables: Any,
    x: Any,
    options: PruneOptions,
    train_fn: Callable[..., Any] | None = None,
    calls: Sequence[Callable[..., Any]] = (),
) -> Graph:
    """Returns the graph of a network. Passes over a death set run its traced programs.

    If some variables are not read, the call in which the network updates its variables in training is traced, too.
    """
    if options.modes == "both":
        train_fn = train_fn or proof.training_of(fn, variables, x)
    # Matrix products of lower precision would make the outputs differ by more than the tolerance.
    given: dict[str, Any] = {"batch_axis": options.batch_axis, "exclude": options.exclude, "train_fn": train_fn}
    given["extra_units"] = options.extra_units
    with jax.default_matmul_precision("highest"):
        graph = trace_lib.trace(fn, variables, x, **given, calls=calls)
        if calls or not hasattr(fn, "updating") or not _unread(graph):
            return graph
        return trace_lib.trace(fn, variables, x, **given, calls=(fn.updating(),))


def _unread(graph: Graph) -> list[int]:
    """Returns the indices of the variables that nothing reads, except single numbers and random keys."""
    unread = set(graph.unread)
    return [i for i, path in enumerate(graph.paths) if path in unread and np.prod(graph.shapes[i], dtype=np.int64) > 1]


def _places(graph: Graph, trained: Sequence[mirror.Leaf], name: str, copy: Any) -> list[int]:
    """Returns the index of the variable of each leaf of a copy, matched by its full path."""
    places = []
    for path, leaf, variable in zip(leaf_paths(copy), jax.tree.leaves(copy), graph.match(copy, trained), strict=True):
        if variable is None:
            raise ValueError(
                f"copies[{name!r}]: no variable has the path {path!r} and the shape {np.shape(leaf)}. A copy must have "
                "the structure and the widths of the variables, or of a part of them."
            )
        places.append(variable)
    return places


def _measure(
    subject: proof.Subject,
    graph: Graph,
    batches: Sequence[Any],
    options: PruneOptions,
    chosen: np.ndarray | None = None,
) -> list[planning.Evidence]:
    """Returns the observations of the network in its modes, and of its copies, on the death set."""

    def observed(fn: Callable[..., Any], variables: Any, view: Graph, with_outputs: bool = True) -> passes.Observation:
        masked = None
        if chosen is not None:
            sites = (*view.sites, *view.branches)
            masked = [np.where(per_unit(chosen, s.groups), 0.0, np.nan).astype(np.float32) for s in sites]
        return passes.observe(
            fn,
            variables,
            batches,
            graph=view,
            consumers=planning.needed_consumers(view, options.constant),
            masked=masked,
            batch_axis=options.batch_axis,
            exclude=tuple(options.exclude),
            criterion=_judged(graph, options.criterion),
            with_outputs=with_outputs,
        )

    evidence = []
    for name, mode, whose in subject.runs:
        view = graph.training if mode == "training" else graph
        assert view is not None
        observation = observed(subject.fns[mode], subject.variables[whose], view)
        evidence.append(planning.Evidence(name, view, observation, own=mode != "training"))
    for (name, call), view in zip(subject.calls.items(), graph.calls, strict=True):
        observation = observed(call, subject.variables["evaluation"], view, with_outputs=False)
        evidence.append(planning.Evidence(name, view, observation, own=False))
    return evidence


def _blind(evidence: Sequence[planning.Evidence]) -> str | None:
    """Returns why the outputs cannot be compared, or `None`."""
    for name, _, observation, _ in evidence:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(observation.outputs)]
        if name == "evaluation" and not any(leaf.size for leaf in leaves):
            return f"the outputs ({name}) are empty, so nothing can be compared. Return the outputs of the network"
        if any(np.isnan(leaf).any() for leaf in leaves if np.issubdtype(leaf.dtype, np.inexact)):
            return f"the outputs ({name}) are NaN, so nothing can be compared. Check the death set and the weights"
    return None


def _prove(
    trial: proof.Proof,
    plan: slicing.Plan,
    evidence: list[planning.Evidence],
    options: PruneOptions,
    given: dict[str, Any],
) -> tuple[proof.Attempt, list[str], dict[str, proof.WidthError]]:
    """Returns the best attempt, and the sites that keep all units in it.

    The list has the sites that would change the outputs. The dict has the sites with fewer units of which the network
    cannot run, with the errors.

    Raises:
      ValueError: if the network cannot run with fewer units of any site.
    """
    graph = evidence[0].graph
    attempt = trial(plan)
    if attempt.complaint is not None and any(plan.folds.values()) and not attempt.plan.folds_exactly:
        # Zero padding makes some folds inexact: keep those units and try once more.
        evidence = [each._replace(observation=_without_padded_folds(each)) for each in evidence]
        attempt = trial(planning.make_plan(evidence, options, **given))
    if attempt.complaint is None:
        return attempt, [], {}
    unfit = {}

    def only(names: Sequence[str]) -> proof.Attempt:
        some = np.zeros(graph.num_groups, bool)
        for site in (*graph.sites, *graph.branches):
            if site.name in names:
                some[site.groups[site.groups >= 0]] = True
        tried = trial(planning.make_plan(evidence, options, only=some, **given))
        if tried.error is not None and len(names) == 1:
            unfit[names[0]] = tried.error
        return tried

    names = [s.name for s in (*graph.sites, *graph.branches) if per_unit(plan.removed, s.groups).any()]
    good, best = proof.largest_good(names, only)
    if best is not None and best.plan.removed.any():
        attempt = best
    if attempt.error is not None:
        raise attempt.error
    return attempt, [name for name in names if name not in (*good, *unfit)], unfit


def _finish(
    attempt: proof.Attempt, spared: list[str], state: _State, opt_state: Any, tx: Any, copies: Mapping[str, Any]
) -> PruneResult:
    """Slices the optimizer state and the copies, and writes the record."""
    smaller, made = attempt.subject, attempt.plan
    variables = smaller.variables["evaluation"]
    made = dataclasses.replace(made, trained=mirror.trained_leaves(state.params, state.variables))
    reset: list[str] = []
    if opt_state is not None:
        trained = mirror.picked(state.params, variables)
        opt_state, reset, _ = optimizer_state.slice_state(made, opt_state, state.variables, state.params, trained, tx)
    own_copies = {}
    for name, copy in copies.items():
        leaves = jax.tree.leaves(smaller.variables[name])
        own_copies[name] = jax.tree.unflatten(jax.tree.structure(copy), [leaves[i] for i in smaller.owned[name]])
    record = dataclasses.replace(state, plan=made).record(attempt, spared, reset=reset)
    return PruneResult(smaller.fns["evaluation"], variables, opt_state, own_copies, made, record)


@dataclasses.dataclass(frozen=True)
class _State:
    """The data for the record of a prune."""

    graph: Graph
    variables: Any
    params: mirror.Params
    evidence: list[planning.Evidence]
    plan: slicing.Plan
    seconds: dict[str, float]
    unfit: dict[str, proof.WidthError] = dataclasses.field(default_factory=dict)

    def _unfit_sites(self) -> list[str]:
        """Returns warnings about sites that keep all units because the network cannot run with fewer."""
        by_cause: dict[str, list[str]] = {}
        for name, error in self.unfit.items():
            by_cause.setdefault(f"{error.cause}. {error.remedy}", []).append(name)
        start = "left whole since the network cannot run with fewer units"
        return [f"{start} of {', '.join(names)}: {cause}" for cause, names in by_cause.items()]

    def record(
        self,
        attempt: proof.Attempt | None = None,
        spared: Sequence[str] = (),
        *,
        refused: str | None = None,
        waits: bool = False,
        nothing: bool = False,
        reset: Sequence[str] = (),
    ) -> PruneRecord:
        graph, plan = self.graph, self.plan
        stays = bool(refused) or waits or nothing
        removed = np.zeros_like(plan.removed) if stays else plan.removed
        gone = {s.name: int(per_unit(removed, s.groups).sum()) for s in (*graph.sites, *graph.branches)}
        neurons = sum(gone[site.name] for site in graph.sites)
        count = counter(graph, self.variables, self.params)
        folds = plan.folds["evaluation"]
        folded = {int(g) for fold in folds for g in graph.consumers[fold.consumer].groups[fold.constants != 0]}
        outputs = self.evidence[0].observation.outputs
        return PruneRecord(
            removed={name: units for name, units in gone.items() if units},
            protected=dict(plan.protected),
            needed=dict(plan.needed),
            needed_by=dict(plan.needed_by),
            dead_alone=dict(plan.dead_alone),
            folded=0 if stays else len(folded),
            neurons=(graph.neurons, graph.neurons - neurons),
            parameters=(count(None), count(removed)),
            flops=(graph.flops(), graph.flops(removed)),
            examples=self.evidence[0].observation.examples,
            differences={} if attempt is None else attempt.differences,
            deviation=0.0 if attempt is None else attempt.deviation,
            scale=proof.largest(outputs),
            spared=list(spared),
            refused=refused,
            waiting=int(plan.removed.sum()) if waits else 0,
            saves=round(1 - graph.flops(plan.removed) / max(graph.flops(), 1), 6),
            reset=list(reset),
            unread=[] if stays else _left_wide(graph, removed),
            warnings=[*_warnings(graph, plan), *self._unfit_sites()],
            seconds={stage: round(value, 4) for stage, value in self.seconds.items()},
        )


def _left_wide(graph: Graph, removed: np.ndarray) -> list[str]:
    """Returns the variables that nothing reads and that have the width of a pruned axis."""
    widths = {
        len(groups) for axes in graph.axes for groups in axes if groups is not None and per_unit(removed, groups).any()
    }
    return [graph.paths[i] for i in _unread(graph) if widths & set(graph.shapes[i])]


def _warnings(graph: Graph, plan: slicing.Plan) -> list[str]:
    """Returns the warnings about running statistics."""
    alone = sum(plan.dead_alone.values())
    if alone <= _STALE * graph.neurons:
        return []
    counts = " and ".join(f"{count} in {mode} mode" for mode, count in plan.dead_alone.items())
    return [
        f"BatchNorm's running statistics look stale: {alone} of {graph.neurons} units are dead in one mode alone "
        f"({counts}). Lower its momentum (0.9), or call reestimate_batch_stats before pruning"
    ]


def counter(graph: Graph, variables: Any, params: mirror.Params) -> Callable[[np.ndarray | None], int]:
    """Returns a function that counts the trained parameters that remain if some groups are removed."""
    leaves = mirror.trained_leaves(params, variables)
    trained = {graph.paths[leaf.variable] for leaf in leaves if leaf.variable is not None}
    return lambda removed: graph.parameters(trained.__contains__, removed)


def _check_bits(what: str, bits_of: Mapping[str, np.ndarray], sites: Sequence[Site]) -> None:
    widths = {site.name: site.width for site in sites}
    for name, bits in bits_of.items():
        if name not in widths:
            raise ValueError(f"{what}: no site is named {name!r}. The sites are: {', '.join(widths)}.")
        if np.shape(bits) != (widths[name],):
            raise ValueError(f"{what}[{name!r}] must be {widths[name]} bools; got the shape {np.shape(bits)}.")


def _chosen(graph: Graph, remove: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns `[num_groups]` bool, the groups whose units are all named in `remove`."""
    _check_bits("remove", remove, graph.sites)
    stay = [~np.asarray(remove.get(site.name, np.zeros(site.width)), bool) for site in graph.sites]
    return planning.dead_groups(graph, stay, [np.zeros(site.width, bool) for site in graph.sites])


def _without_padded_folds(evidence: planning.Evidence) -> passes.Observation:
    """Returns the observation in which units that a padded convolution reads do not count as constant."""
    consumers = {}
    for i, seen in evidence.observation.consumers.items():
        varies = evidence.graph.consumers[i].padded & ((seen.maximum != 0) | (seen.minimum != 0))
        consumers[i] = seen._replace(maximum=np.where(varies, np.inf, seen.maximum))
    return dataclasses.replace(evidence.observation, consumers=consumers)


def _exact(graph: Graph, criterion: str) -> bool:
    """Returns whether every unit that a criterion calls dead is exactly zero."""
    return criterion == "zero" or (criterion == "auto" and all(site.kind == "zero" for site in graph.sites))


def _judged(graph: Graph, criterion: str) -> str | None:
    """Returns the criterion, or `None` if the mid-range values of removed units are needed as well."""
    return criterion if _exact(graph, criterion) else None


@dataclasses.dataclass(frozen=True)
class Preview:
    """The sizes of a network before and after a prune, and the units that it would remove.

    Attributes:
      neurons, parameters, flops: before and after; FLOPs of a forward pass for one example.
      removed: by name of a site or branch, `[width]` bool, the units that would be removed, like `PruneResult.removed`.
    """

    neurons: tuple[int, int]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    removed: dict[str, np.ndarray]


def preview(
    fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    *,
    params: mirror.Params = None,
    copies: Mapping[str, Any] | None = None,
    train_fn: Callable[..., Any] | None = None,
    calls: Sequence[Callable[..., Any]] = (),
    graph: Graph | None = None,
    options: PruneOptions | None = None,
) -> Preview:
    """Returns the sizes of the network after a prune of all dead units, without pruning.

    It evaluates the death set once per mode and copy. Unlike `prune`, it does not compare outputs, and it ignores
    `options.multiple` and `options.least_gain`.

    Example:
      >>> import jax.numpy as jnp
      >>> def network(params, x):
      ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      >>> params = {"hidden": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
      >>> preview(network, params, [jnp.array([[1.0], [2.0]])]).parameters  # The second unit is dead.
      (6, 4)

    Args:
      fn, variables, batches, params, copies, train_fn, calls, options: see `prune`.
      graph: the trace of the network with the same `train_fn` and `calls`; by default it is traced.

    Raises:
      ValueError: if `batches` is empty or a batch has fewer than two examples; if a shape or path in another argument
        does not fit the network.
    """
    options = dataclasses.replace(options or PruneOptions(), multiple=1, least_gain=0.0)
    batches = _death_set(batches, options.batch_axis)
    _require_arrays(variables, batches)
    subject, graph = _begin(fn, variables, batches[0], copies or {}, params, train_fn, calls, options, graph)
    removed = planning.make_plan(_measure(subject, graph, batches, options), options).removed
    count = counter(graph, variables, params)
    gone = sum(int(per_unit(removed, site.groups).sum()) for site in graph.sites)
    return Preview(
        (graph.neurons, graph.neurons - gone),
        (count(None), count(removed)),
        (graph.flops(), graph.flops(removed)),
        _units(graph, removed),
    )
