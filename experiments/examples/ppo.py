# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Prunes the networks of a PPO agent while it learns, and compares it with dense agents.

    python -m experiments.examples.ppo --seeds=3 --out=results/examples
    python -m experiments.examples.ppo --out=results/examples --fill=docs/ppo.md

The first command trains, for each seed, a dense agent, a pruned agent and a dense agent of its final widths. It writes a
record per run to OUT/ppo.jsonl and the tables to OUT/ppo.md. The second command trains nothing and writes the tables of
the records into a page.

The environment is MinAtar's Breakout in gymnax, `pip install gymnax`. Agents of a seed start from the same state of the
environment and act for the same number of steps.
"""

from __future__ import annotations

import collections
import functools
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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
from experiments.figures import judging
from experiments.reporting import tables
from experiments.rundir import records

ENVIRONMENT = "Breakout-MinAtar"
HIDDEN = {"actor": (128, 128), "critic": (128, 128)}  # Hidden units of each layer.
ACTORS, STEPS = 64, 32  # Environments, and steps in each per update.
EPOCHS, MINIBATCHES = 4, 8
DISCOUNT, TRACE_DECAY, CLIP, ENTROPY, VALUE = 0.99, 0.95, 0.2, 0.01, 0.5
LEARNING_RATE = 1e-3
STRENGTH = 0.2
SPAN = 0.6  # Fraction of the updates in which units die.
PRUNES = 10  # Every tenth of the updates.
RECENT = 4  # Updates whose observations are the death set.
UPDATES = 250
EPISODES = 256  # For the evaluation.
DORMANT = 0.025  # Largest score of a dormant unit, as in Sokar et al., 2023.
TIMED_SECONDS = 3.0
NAME = "ppo"


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
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        outputs.append(x @ last["kernel"] + last["bias"])
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

    The proximal operator of a group Lasso follows each step. It shrinks the incoming weights and the bias of each hidden
    unit together, and makes them exactly zero. Its strength is scaled with the learning rate.
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
    layers = [layer for name in params for layer in params[name][:-1]]
    zero = [~np.any(layer["kernel"], axis=0) & (np.asarray(layer["bias"]) <= 0) for layer in layers]
    return Units(*(np.concatenate(each) for each in (dead, dormant, zero)))


@jax.jit
def _outputs(params: Any, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
    return network(params, observations)


def masked(params: dict[str, list[Any]], dead: np.ndarray) -> dict[str, list[Any]]:
    """Returns the parameters with zeros for the incoming weights and the bias of some hidden units."""
    found: dict[str, list[Any]] = {}
    for name, (*layers, last) in params.items():
        found[name] = []
        for layer in layers:
            kept, dead = ~dead[: layer["bias"].size], dead[layer["bias"].size :]
            found[name].append({key: leaf * kept for key, leaf in layer.items()})
        found[name].append(last)
    return found


class Snapshot(NamedTuple):
    """A network before a prune, and its death set.

    Attributes:
      update: the number of updates so far.
      params: the parameters.
      observations: the death set, `[example, feature]`.
    """

    update: int
    params: Any
    observations: jax.Array


def hindsight(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Returns what the units that were dead at each snapshot but the last do on the observations of later snapshots.

    `dead`, `dormant` and `zero` are counts, see `Units`. `awake` is the number of dead units that are alive on some later
    observation with the weights of the snapshot. `actions` is the fraction of the observations of the last snapshot on
    which removing the dead units changes the most probable action. `revived` is the number of dead units that are alive
    at the last snapshot; `None` if the network has other widths there.
    """
    found, end = [], snapshots[-1]
    for i, snapshot in enumerate(snapshots[:-1]):
        units = units_of(snapshot.params, snapshot.observations)
        later = [units_of(snapshot.params, each.observations).dead for each in snapshots[i + 1 :]]
        pruned = masked(snapshot.params, units.dead)
        choices = [_outputs(params, end.observations)[0].argmax(axis=1) for params in (snapshot.params, pruned)]
        at_end = units_of(end.params, end.observations).dead
        found.append(
            {
                "update": snapshot.update,
                "units": units.dead.size,
                "dead": int(units.dead.sum()),
                "dormant": int(units.dormant.sum()),
                "zero": int((units.dead & units.zero).sum()),
                "awake": int((units.dead & ~np.all(later, axis=0)).sum()),
                "actions": float((choices[0] != choices[1]).mean()),
                "revived": int((units.dead & ~at_end).sum()) if at_end.size == units.dead.size else None,
            }
        )
    return found
