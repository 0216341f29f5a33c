# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Prunes the networks of a PPO agent while it learns, and compares it with dense agents.

    python -m experiments.examples.ppo --seeds=3 --out=results/examples
    python -m experiments.examples.ppo --out=results/examples --fill=docs/ppo.md

The first command trains, for each seed, a dense agent, one pruned agent per rule for which units to remove, and for
each of these a dense agent of its final widths. It writes a record per agent to OUT/ppo.jsonl and the tables to
OUT/ppo.md. The second command trains nothing and writes the tables of the records into a page.

The environment is MinAtar's Breakout in gymnax, `pip install gymnax`. Agents of a seed start from the same state of the
environment and act for the same number of steps.
"""

from __future__ import annotations

import collections
import functools
import importlib.metadata
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

import jax
import jax.numpy as jnp
import numpy as np
import optax

import demp_jax
from experiments.core import timing
from experiments.core.errors import UsageError, require
from experiments.examples import study
from experiments.figures import judging
from experiments.reporting import tables

ENVIRONMENT = "Breakout-MinAtar"
HIDDEN = {"actor": (128, 128), "critic": (128, 128)}  # Hidden units of each layer.
ACTORS, STEPS = 64, 32  # Environments, and steps in each per update.
EPOCHS, MINIBATCHES = 4, 8
DISCOUNT, TRACE_DECAY, CLIP, ENTROPY, VALUE = 0.99, 0.95, 0.2, 0.01, 0.5
LEARNING_RATE = 1e-3
STRENGTH = 0.03
RULES = ("recent", "any")  # Which units a prune removes; see `train`.
SPAN = 0.6  # Fraction of the updates in which units die.
PRUNES = 10  # Every tenth of the updates.
PRUNED, SMALL = "pruned, {rule}", "dense, widths of: pruned, {rule}"  # Settings.
RECENT = 4  # Updates whose observations are the death set.
UPDATES = 1000
EPISODES = 256  # For the evaluation.
DORMANT = 0.025  # Largest score of a dormant unit, as in Sokar et al., 2023.
TIMED_SECONDS = 3.0


class Environment(NamedTuple):
    """An environment with discrete actions, as pure functions of a state.

    Attributes:
      reset: `reset(key)` returns an observation and a state.
      step: `step(key, state, action)` returns a `Transition` and the state from which the next step starts.
      features: the length of an observation.
      actions: the number of actions.
    """

    reset: Callable[[jax.Array], tuple[jax.Array, Any]]
    step: Callable[[jax.Array, Any, jax.Array], tuple[Transition, Any]]
    features: int
    actions: int


class Transition(NamedTuple):
    """What a step of an environment returns.

    Attributes:
      observation: of the state from which the next step starts; after the end of an episode, that of a new one.
      final: of the state that the step led to.
      reward: of the step.
      terminated: whether the episode ended in a state without future rewards.
      truncated: whether the episode ended because of its length.
    """

    observation: jax.Array
    final: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


def gymnax_environment(name: str) -> Environment:
    """Returns an environment of gymnax with flat observations.

    Raises:
      UsageError: if gymnax is not installed or has no such environment.
    """
    try:
        import gymnax
    except ImportError:
        raise UsageError("gymnax is not installed. Install it: pip install gymnax.") from None
    require(name in gymnax.registered_envs, "--environment", name, "an environment of gymnax, such as Acrobot-v1")
    env, env_params = gymnax.make(name)
    spaces = env.observation_space(env_params), env.action_space(env_params)
    require(hasattr(spaces[1], "n"), "--environment", name, "an environment with discrete actions")

    def reset(key: jax.Array) -> tuple[jax.Array, Any]:
        observation, state = env.reset(key, env_params)
        return jnp.ravel(observation), state

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Transition, Any]:
        observation, state, reward, terminated, truncated, info = env.step(key, state, action, env_params)
        both = jnp.ravel(observation), jnp.ravel(info["final_observation"])
        return Transition(*both, jnp.float32(reward), terminated, truncated & ~terminated), state

    return Environment(reset, step, int(np.prod(spaces[0].shape)), int(spaces[1].n))


def init_params(key: jax.Array, env: Environment, hidden: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
    """Returns the layers of an actor and a critic, with orthogonal kernels and biases of zero.

    References:
      Engstrom et al., 2020, Implementation Matters in Deep Policy Gradients.
    """
    last = {"actor": (env.actions, 0.01), "critic": (1, 1.0)}
    params: dict[str, list[Any]] = {}
    for name, (outputs, gain) in last.items():
        widths = [env.features, *hidden[name], outputs]
        gains = [2**0.5] * len(hidden[name]) + [gain]
        params[name] = []
        for before, after, scale in zip(widths, widths[1:], gains, strict=False):
            key, subkey = jax.random.split(key)
            kernel = jax.nn.initializers.orthogonal(scale)(subkey, (before, after))
            params[name].append({"kernel": kernel, "bias": jnp.zeros(after)})
    return params


def network(params: dict[str, list[Any]], observations: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the logits of the actions `[example, action]` and the values `[example]`."""
    outputs = []
    for name in ("actor", "critic"):
        x = observations
        *layers, last = params[name]
        for layer in layers:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
        outputs.append(x @ last["kernel"] + last["bias"][None])
    return outputs[0], outputs[1][:, 0]


class World(NamedTuple):
    """Environments between two updates.

    Attributes:
      observation, state: of each environment.
      episode: the sum of the rewards of each unfinished episode.
    """

    observation: jax.Array
    state: Any
    episode: jax.Array


class Rollout(NamedTuple):
    """Steps in all environments, `[step, environment, ...]`.

    Attributes:
      observation, action, log_probability: what the actor saw, what it did, and with which probability.
      transition: what the environment returned.
      episode: the return of the episode if it ended at this step; NaN otherwise.
    """

    observation: jax.Array
    action: jax.Array
    log_probability: jax.Array
    transition: Transition
    episode: jax.Array


def begin(env: Environment, key: jax.Array, actors: int = ACTORS) -> World:
    """Returns environments at the start of an episode."""
    observation, state = jax.vmap(env.reset)(jax.random.split(key, actors))
    return World(observation, state, jnp.zeros(actors))


def collect(env: Environment, params: Any, world: World, key: jax.Array, steps: int = STEPS) -> tuple[World, Rollout]:
    """Acts in all environments with the actions that the policy draws."""

    def step(world: World, key: jax.Array) -> tuple[World, Rollout]:
        keys = jax.random.split(key, 1 + world.episode.size)
        logits = network(params, world.observation)[0]
        action = jax.random.categorical(keys[0], logits)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]
        transition, state = jax.vmap(env.step)(keys[1:], world.state, action)
        done, total = transition.terminated | transition.truncated, world.episode + transition.reward
        rollout = Rollout(world.observation, action, chosen, transition, jnp.where(done, total, jnp.nan))
        return World(transition.observation, state, jnp.where(done, 0.0, total)), rollout

    return jax.lax.scan(step, world, jax.random.split(key, steps))


def advantages(params: Any, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
    """Returns generalized advantage estimates and the targets of the values, `[step, environment]`.

    The state in which an episode is truncated has a value, one in which it terminates has none.

    References:
      Schulman et al., 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation.
      Pardo et al., 2018, Time Limits in Reinforcement Learning.
    """
    value, following = (_values(params, each) for each in (rollout.observation, rollout.transition.final))
    terminated, truncated = rollout.transition.terminated, rollout.transition.truncated
    delta = rollout.transition.reward + DISCOUNT * jnp.where(terminated, 0.0, following) - value

    def back(after: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = now[0] + DISCOUNT * TRACE_DECAY * jnp.where(now[1], 0.0, after)
        return advantage, advantage

    _, found = jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, terminated | truncated), reverse=True)
    return found, found + value


def _values(params: Any, observations: jax.Array) -> jax.Array:
    return network(params, observations.reshape(-1, observations.shape[-1]))[1].reshape(observations.shape[:-1])


def loss_of(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the clipped loss of PPO with an entropy bonus, plus the squared error of the values.

    References:
      Schulman et al., 2017, Proximal Policy Optimization Algorithms.
    """
    logits, value = network(params, batch["observation"])
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, batch["action"][:, None], axis=1)[:, 0]
    ratio = jnp.exp(chosen - batch["log_probability"])
    advantage = (batch["advantage"] - batch["advantage"].mean()) / (batch["advantage"].std() + 1e-8)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
    entropy = -(jnp.exp(log_probabilities) * log_probabilities).sum(axis=1).mean()
    return -gain - ENTROPY * entropy + VALUE * jnp.square(value - batch["target"]).mean()


def learn(
    tx: optax.GradientTransformation, params: Any, opt_state: Any, rollout: Rollout, key: jax.Array, extra: Any
) -> tuple[Any, Any]:
    """Runs several epochs of minibatches on a rollout, and returns the parameters and the state of the optimizer."""
    advantage, target = advantages(params, rollout)
    fields = rollout._asdict() | {"advantage": advantage, "target": target}
    names = ("observation", "action", "log_probability", "advantage", "target")
    examples = {name: fields[name].reshape(-1, *fields[name].shape[2:]) for name in names}
    update = optax.with_extra_args_support(tx).update

    def step(carry: tuple[Any, Any], indices: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, opt_state = carry
        grads = jax.grad(loss_of)(params, jax.tree.map(lambda x: x[indices], examples))
        updates, opt_state = update(grads, opt_state, params, **extra)
        return (optax.apply_updates(params, updates), opt_state), None

    orders = jax.vmap(lambda key: jax.random.permutation(key, advantage.size))(jax.random.split(key, EPOCHS))
    carry, _ = jax.lax.scan(step, (params, opt_state), orders.reshape(EPOCHS * MINIBATCHES, -1))
    return carry


def update_of(env: Environment, tx: optax.GradientTransformation, steps: int = STEPS) -> Callable[..., Any]:
    """Returns an update of PPO as one compiled function, which is compiled again after a prune.

    The function takes parameters, the state of the optimizer, the environments, a key and what the update of the
    optimizer takes besides the gradients. It returns the first three, the observations of the rollout
    `[example, feature]`, and the mean return of the episodes that ended, NaN if none did.
    """

    @jax.jit
    def update(params: Any, opt_state: Any, world: World, key: jax.Array, extra: Any) -> Any:
        keys = jax.random.split(key)
        world, rollout = collect(env, params, world, keys[0], steps)
        params, opt_state = learn(tx, params, opt_state, rollout, keys[1], extra)
        observations = rollout.observation.reshape(-1, rollout.observation.shape[-1])
        return params, opt_state, world, observations, jnp.nanmean(rollout.episode)

    return update


def transformation(updates: int, strength: float | None) -> optax.GradientTransformation:
    """Returns Adam with clipping and a linear schedule; with a strength, wrapped so that hidden units die.

    The proximal operator of a group Lasso follows each step. It shrinks the incoming weights and the bias of each
    hidden unit together, and makes them exactly zero. Its strength is scaled with the learning rate.
    """
    steps = updates * EPOCHS * MINIBATCHES
    rate = optax.linear_schedule(LEARNING_RATE, 0.0, steps)
    base = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
    if strength is None:
        return base
    cycle = demp_jax.one_cycle(strength, int(SPAN * steps))
    return demp_jax.demp(base, strength=lambda step: cycle(step) * rate(step), kind="proximal_group")


def groups_of(params: Any) -> dict[str, Any]:
    """Returns what the update of a group Lasso needs: the weights of each unit, computed again after a prune."""
    graph = demp_jax.trace(network, params, jnp.zeros((2, params["actor"][0]["kernel"].shape[0])))
    return {"groups": demp_jax.weight_groups(graph, params)}


class Units(NamedTuple):
    """The hidden units of a network on some observations, a bool per unit.

    Attributes:
      dead: zero on every observation.
      dormant: with a mean absolute value of at most `DORMANT` times that of the layer; includes dead units.
      zero: dead on any observation, because the incoming weights are zero and the bias is not positive.
    """

    dead: np.ndarray
    dormant: np.ndarray
    zero: np.ndarray


@jax.jit
def _activity(params: Any, observations: jax.Array) -> dict[str, demp_jax.activity.Activity]:
    return demp_jax.with_activity(network)(params, observations)[1]


def units_of(params: Any, observations: jax.Array) -> Units:
    """Measures the hidden units of all layers.

    References:
      Sokar et al., 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning.
    """
    dead, dormant = [], []
    for each in _activity(params, observations).values():
        magnitude = np.asarray(each.magnitude)
        dead.append(~np.asarray(demp_jax.alive(each)))
        dormant.append(magnitude <= DORMANT * magnitude.mean())
    zero = zero_units(params, observations).values()
    return Units(*(np.concatenate(list(each)) for each in (dead, dormant, zero)))


def zero_units(params: Any, observations: jax.Array) -> dict[str, np.ndarray]:
    """Returns which units are dead on any observation, `[width]` bool for each site."""
    layers = [layer for name in params for layer in params[name][:-1]]
    zero = [~np.any(layer["kernel"], axis=0) & (np.asarray(layer["bias"]) <= 0) for layer in layers]
    return dict(zip(_activity(params, observations), zero, strict=True))


@jax.jit
def _outputs(params: Any, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
    return network(params, observations)


class Snapshot(NamedTuple):
    """A network at a time of training, before a prune.

    Attributes:
      update: the number of updates so far.
      params: the parameters.
      observations: of the last rollouts, `[example, feature]`; the death set of the prune.
    """

    update: int
    params: Any
    observations: jax.Array


def hindsight(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Returns whether the units that were dead at each snapshot would have stayed dead.

    An agent that learns visits other states. A unit that is dead on the states of today may be alive on those of
    tomorrow, even if its weights do not change.

    Returns:
      For each snapshot but the last, its number of hidden units and how many of them are `dead`, `dormant` and `zero`,
      see `Units`. `awake` is the number of dead units that are alive, with the weights of the snapshot, on observations
      of a later snapshot. `revived` is the number of dead units that are alive at the last snapshot; `None` if the
      network has other widths there.
    """
    found, end = [], snapshots[-1]
    for i, snapshot in enumerate(snapshots[:-1]):
        units = units_of(snapshot.params, snapshot.observations)
        later = [units_of(snapshot.params, each.observations).dead for each in snapshots[i + 1 :]]
        at_end = units_of(end.params, end.observations).dead
        found.append(
            {
                "update": snapshot.update,
                "units": units.dead.size,
                "dead": int(units.dead.sum()),
                "dormant": int(units.dormant.sum()),
                "zero": int((units.dead & units.zero).sum()),
                "awake": int((units.dead & ~np.all(later, axis=0)).sum()),
                "revived": int((units.dead & ~at_end).sum()) if at_end.size == units.dead.size else None,
            }
        )
    return found


def evaluate(env: Environment, params: Any, key: jax.Array, episodes: int = EPISODES) -> float:
    """Returns the mean return of the first episode in each of `episodes` environments, with the policy's draws."""

    @jax.jit
    def total(params: Any, key: jax.Array) -> jax.Array:
        def unfinished(carry: tuple[World, jax.Array, jax.Array]) -> jax.Array:
            return jnp.isnan(carry[1]).any()

        def step(carry: tuple[World, jax.Array, jax.Array]) -> tuple[World, jax.Array, jax.Array]:
            world, returns, key = carry
            key, subkey = jax.random.split(key)
            world, rollout = collect(env, params, world, subkey, 1)
            return world, jnp.where(jnp.isnan(returns), rollout.episode[0], returns), key

        keys = jax.random.split(key)
        start = begin(env, keys[0], episodes), jnp.full(episodes, jnp.nan), keys[1]
        return jax.lax.while_loop(unfinished, step, start)[1].mean()

    return float(total(params, key))


class Trained(NamedTuple):
    """An agent after its training.

    Attributes:
      params, opt_state, world: as training left them.
      tx: the optimizer.
      extra: what the update of the optimizer takes besides the gradients.
      flops: mean FLOPs of the networks on one observation, over the updates.
      returns: the mean return of the episodes that ended in each tenth of the training.
      units: what `hindsight` says of the snapshots.
      largest_change: the largest change of an output at a prune, relative to the largest output (at least 1).
    """

    params: Any
    opt_state: Any
    world: World
    tx: optax.GradientTransformation
    extra: dict[str, Any]
    flops: float
    returns: list[float]
    units: list[dict[str, Any]]
    largest_change: float


def train(
    env: Environment,
    hidden: Mapping[str, Sequence[int]],
    seed: int,
    updates: int,
    rule: str | None = None,
    strength: float = STRENGTH,
) -> Trained:
    """Trains an agent, and with a rule prunes its networks.

    Args:
      env: the environment.
      hidden: the hidden units of each layer of `"actor"` and `"critic"`.
      seed: of the weights, the environments and the actions.
      updates: the number of updates, a multiple of `PRUNES`.
      rule: `"recent"` removes units that are dead on the observations of the last updates, `"any"` those that are dead
        on any observation (`Units.zero`); `None` for dense training.
      strength: the peak of the strength of the regularizer.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    params, world = init_params(keys[0], env, hidden), begin(env, keys[1])
    tx = transformation(updates, None if rule is None else strength)
    opt_state, extra = tx.init(params), {} if rule is None else groups_of(params)
    update = update_of(env, tx)
    recent: collections.deque[jax.Array] = collections.deque(maxlen=RECENT)
    snapshots, returns, ended = [], [], []
    every, now, flops, change = updates // PRUNES, flops_of(params), 0.0, 0.0
    for i in range(1, updates + 1):
        params, opt_state, world, observations, episodes = update(
            params, opt_state, world, jax.random.fold_in(keys[2], i), extra
        )
        recent.append(observations)
        ended.append(episodes)
        if i % every:
            continue
        flops += now / PRUNES
        returns.append(float(np.nanmean(ended)))
        ended.clear()
        snapshots.append(Snapshot(i, params, jnp.concatenate(recent)))
        if rule is not None:
            death_set = snapshots[-1].observations
            remove = zero_units(params, death_set) if rule == "any" else None
            pruned = demp_jax.prune(network, params, [death_set], opt_state=opt_state, tx=tx, remove=remove)
            if pruned.record.removed:
                params, opt_state, extra = pruned.variables, pruned.opt_state, groups_of(pruned.variables)
                now, change = flops_of(params), max(change, pruned.record.difference)
    return Trained(params, opt_state, world, tx, extra, flops, returns, hindsight(snapshots), change)


def hidden_of(params: Any) -> dict[str, list[int]]:
    """Returns the hidden units of each layer."""
    return {name: [layer["bias"].size for layer in layers[:-1]] for name, layers in params.items()}


def parameters_of(params: Any) -> int:
    """Returns the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def flops_of(params: Any) -> float:
    """Returns the FLOPs of both networks on one observation."""
    return float(demp_jax.trace(network, params, jnp.zeros((2, params["actor"][0]["kernel"].shape[0]))).flops())


def compare(seed: int, updates: int, hidden: Mapping[str, Sequence[int]] = HIDDEN) -> Iterator[dict[str, Any]]:
    """Trains all agents of a seed and yields a record for each.

    A pruned agent starts as the dense one, with the same weights. Times and FLOPs are relative to the dense agent.
    """
    env = gymnax_environment(ENVIRONMENT)
    facts = {"seed": seed, "updates": updates, "environment": f"{ENVIRONMENT}, gymnax {_version()}"}
    dense = train(env, hidden, seed, updates)
    times = {"update_ratio_start": 1.0, "update_ratio_end": 1.0}
    yield {"setting": "dense", "rule": None, **facts, **_measured(env, dense, dense, seed), **times}
    for rule in RULES:
        pruned = train(env, hidden, seed, updates, rule)
        small = train(env, hidden_of(pruned.params), seed, updates)
        for name, run in {PRUNED: pruned, SMALL: small}.items():
            named = {"setting": name.format(rule=rule), "rule": rule, "strength": STRENGTH, **facts}
            yield {**named, **_measured(env, run, dense, seed), **_times(env, run, dense, hidden, seed)}


def _version() -> str:
    return importlib.metadata.version("gymnax")


def _measured(env: Environment, run: Trained, dense: Trained, seed: int) -> dict[str, Any]:
    return {
        "return": evaluate(env, run.params, jax.random.fold_in(jax.random.key(seed), 1)),
        "training_returns": run.returns,
        "parameters": parameters_of(run.params),
        "hidden": hidden_of(run.params),
        "flops_ratio": flops_of(run.params) / flops_of(dense.params),
        "training_flops_ratio": run.flops / dense.flops,
        "units": run.units,
        "largest_change": run.largest_change,
    }


def _times(
    env: Environment, run: Trained, dense: Trained, hidden: Mapping[str, Sequence[int]], seed: int
) -> dict[str, float]:
    """Returns the time of an update at the start and at the end, relative to a dense update, interleaved."""
    key = jax.random.key(seed)

    def updates_of(
        params: Any, opt_state: Any, world: World, tx: optax.GradientTransformation, extra: Any
    ) -> Callable[[], Any]:
        update = update_of(env, tx)
        return lambda: jax.block_until_ready(update(params, opt_state, world, key, extra))

    programs = {"dense": updates_of(*dense[:5]), "end": updates_of(*run[:5])}
    if run.extra:
        params = init_params(key, env, hidden)
        programs["start"] = updates_of(params, run.tx.init(params), dense.world, run.tx, groups_of(params))
    times = timing.median_seconds(programs, TIMED_SECONDS)
    assert times is not None
    start, end = times.get("start", times["end"]), times["end"]
    return {"update_ratio_start": start / times["dense"], "update_ratio_end": end / times["dense"]}


def claims(records_of_seed: Mapping[str, Mapping[str, Any]]) -> list[judging.Claim]:
    """Returns what is claimed, with the effects of one seed, given its records by setting."""
    dense, found = records_of_seed["dense"], []
    for rule in dict.fromkeys(r["rule"] for r in records_of_seed.values() if r["rule"] is not None):
        pruned, small = (records_of_seed[name.format(rule=rule)] for name in (PRUNED, SMALL))
        effects = {
            "The pruned agent is better than a dense agent of its widths": judging.Effect(
                "return of pruned minus dense of its widths", pruned["return"] - small["return"]
            ),
            "The pruned agent is better than the dense agent": judging.Effect(
                "return of pruned minus dense", pruned["return"] - dense["return"]
            ),
            "An update of the pruned agent is faster": judging.Effect(
                "time of a dense update over a pruned update, at the end",
                1 / pruned["update_ratio_end"],
                above=1.0,
                unit="times",
            ),
        }
        found += [judging.Claim(f"{claim} ({rule}).", "", (effect,)) for claim, effect in effects.items()]
    return found


def results_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table with a row per setting and means over the seeds."""
    rows: list[tuple[str, ...]] = [
        ("agent", "seeds", "return", "parameters", "actor", "critic")
        + ("FLOPs", "training FLOPs", "update at the start", "update at the end")
    ]
    for setting, group in study.settings(found).items():
        ratios = ("flops_ratio", "training_flops_ratio", "update_ratio_start", "update_ratio_end")
        rows.append(
            (
                setting,
                str(len(group)),
                study.mean_and_spread(group, "return", 1),
                f"{study.mean(group, 'parameters'):,.0f}",
                *(_widths(group, name) for name in HIDDEN),
                *(f"x {study.mean(group, name):.2f}" for name in ratios),
            )
        )
    return tables.lines(rows)


def _widths(group: Sequence[Mapping[str, Any]], name: str) -> str:
    layers = zip(*(record["hidden"][name] for record in group), strict=True)
    return ", ".join(f"{statistics.mean(layer):.0f}" for layer in layers)


def units_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of hidden units, means over the seeds, at 10, 50 and 90% of the training."""
    rows: list[tuple[str, ...]] = [
        ("agent", "training", "units", "dormant", "dead", "dead on any observation", "alive later")
    ]
    for setting, group in study.settings(found).items():
        for i in (0, PRUNES // 2 - 1, PRUNES - 2):
            at = [record["units"][i] for record in group]
            counts = (f"{study.mean(at, name):.0f}" for name in ("units", "dormant", "dead", "zero", "awake"))
            rows.append((setting, f"{(i + 1) / PRUNES:.0%}", *counts))
    return tables.lines(rows)


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page of the results."""
    first = found[0]
    return f"""\
# A PPO agent, pruned while it learns

Written by `{found[-1]["command"]}` from the records in `{STUDY.name}.jsonl`. Each agent learned for {first["updates"]}
updates of {ACTORS} x {STEPS} steps ({first["updates"] * ACTORS * STEPS:,} in all) in {first["environment"]}. The return
is the mean over {EPISODES} episodes after the training, with the standard deviation over seeds. FLOPs are those of both
networks on one observation at the end, and training FLOPs their mean over the updates. The time of an update, which
includes the environments, is measured in one process, interleaved with dense updates. FLOPs and times are relative to
the dense agent.

{results_table(found)}

Hidden units on the observations of the last {RECENT} updates, before a prune. A dormant unit has a mean activation of
at most {DORMANT} times that of its layer. A unit is dead on any observation if its incoming weights are zero and its
bias is not positive. The last column counts dead units that are alive, with the weights of that time, on observations
of a later time.

{units_table(found)}

Differences are between agents of the same seed. Bounds are one-sided 90% t-bounds of their mean. A claim holds if the
lower bound is above what is required, and does not hold if the upper bound is below it
(`experiments/figures/judging.py`).

{study.verdicts_table(STUDY, found)}

The largest change of an output at a prune, on the death set, was {max(r["largest_change"] for r in found):.0e} of the
largest output.

Device: {first["device"]}. Commit: {first["commit"]}.
"""


def _summary(record: Mapping[str, Any]) -> str:
    return f"return {record['return']:.2f}, {record['parameters']:,} parameters, hidden units {record['hidden']}"


STUDY = study.Study(
    "ppo", "updates", UPDATES, PRUNES, compare, claims, {"results": results_table, "units": units_table}, page, _summary
)
main = functools.partial(study.main, STUDY, __doc__)

if __name__ == "__main__":
    sys.exit(command.guarded(main))
