"""The PPO agent: estimates and loss against NumPy, a prune changes nothing, and dead units are followed over time."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from experiments.examples import ppo, study

HIDDEN = {"actor": (9, 8), "critic": (8, 10)}
PLACES, LIMIT = 5, 12


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(ppo, "PRUNES", 3)
    monkeypatch.setattr(ppo, "ACTORS", 16)
    monkeypatch.setattr(ppo, "STEPS", 8)
    monkeypatch.setattr(ppo, "MINIBATCHES", 4)


def _corridor():
    """A corridor of `PLACES` places. Moving right (action 1) beyond the last gives 1; an episode ends after `LIMIT`."""

    def see(state):
        return jax.nn.one_hot(state[0], PLACES)

    def reset(key):
        state = jnp.int32(0), jnp.int32(0)
        return see(state), state

    def step(key, state, action):
        place, time = state[0] + jnp.where(action == 1, 1, -1), state[1] + 1
        won = place >= PLACES
        moved = jnp.clip(place, 0, PLACES - 1), time
        truncated = ~won & (time >= LIMIT)
        _, start = reset(key)
        following = jax.tree.map(lambda new, old: jnp.where(won | truncated, new, old), start, moved)
        return ppo.Transition(see(following), see(moved), jnp.float32(won), won, truncated), following

    return ppo.Environment(reset, step, PLACES, 2)


ENV = _corridor()


def _started(seed=0):
    params = ppo.init_params(jax.random.key(seed), ENV, HIDDEN)
    world = ppo.begin(ENV, jax.random.key(seed), 16)
    return params, *ppo.collect(ENV, params, world, jax.random.key(seed + 1), 40)


def test_advantages_are_those_of_a_loop():
    params, _, rollout = _started()
    gain, target = (np.asarray(each) for each in ppo.advantages(params, rollout))
    now, after = (np.asarray(ppo._values(params, x)) for x in (rollout.observation, rollout.transition.final))
    reward, terminated, truncated = (
        np.asarray(getattr(rollout.transition, name)) for name in ("reward", "terminated", "truncated")
    )
    assert terminated.any()
    assert truncated.any()
    for actor in range(16):
        expected = 0.0
        for t in reversed(range(40)):
            if terminated[t, actor]:
                expected = reward[t, actor] - now[t, actor]
            else:
                carried = 0.0 if truncated[t, actor] else 0.99 * 0.95 * expected
                expected = reward[t, actor] + 0.99 * after[t, actor] - now[t, actor] + carried
            np.testing.assert_allclose(gain[t, actor], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(target, gain + now, rtol=1e-5, atol=1e-6)


def test_the_loss_is_that_of_numpy():
    rng = np.random.default_rng(0)
    params = ppo.init_params(jax.random.key(0), ENV, HIDDEN)
    batch = {
        "observation": rng.normal(size=(30, PLACES)).astype(np.float32),
        "action": rng.integers(0, 2, 30),
        "log_probability": np.log(rng.uniform(0.2, 0.9, 30)).astype(np.float32),
        "advantage": rng.normal(size=30).astype(np.float32),
        "target": rng.normal(size=30).astype(np.float32),
    }
    logits, value = (np.asarray(each, np.float64) for each in ppo.network(params, batch["observation"]))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ratio = p[np.arange(30), batch["action"]] / np.exp(batch["log_probability"])
    assert (abs(ratio - 1) > 0.2).any()
    advantage = (batch["advantage"] - batch["advantage"].mean()) / batch["advantage"].std()
    gain = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage).mean()
    expected = -gain + 0.01 * (p * np.log(p)).sum(1).mean() + 0.5 * ((value - batch["target"]) ** 2).mean()
    np.testing.assert_allclose(ppo.loss_of(params, batch), expected, rtol=1e-5)


def test_rollouts_record_returns_and_probabilities():
    params, _, rollout = _started()
    logits = np.asarray(ppo.network(params, rollout.observation.reshape(-1, PLACES))[0]).reshape(40, 16, 2)
    p = np.exp(logits - np.logaddexp(*np.moveaxis(logits, -1, 0))[..., None])
    chosen = np.take_along_axis(p, np.asarray(rollout.action)[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(np.exp(rollout.log_probability), chosen, rtol=1e-5)
    won, truncated = (np.asarray(each) for each in rollout.transition[3:])
    episode = np.asarray(rollout.episode)
    assert (episode[won] == 1).all()
    assert (episode[truncated] == 0).all()
    assert np.isnan(episode[~won & ~truncated]).all()


def test_an_agent_learns_and_units_die():
    dense, pruned = (ppo.train(ENV, HIDDEN, 0, 30, rule, 1.0) for rule in (None, "recent"))
    assert ppo.evaluate(ENV, dense.params, jax.random.key(0), 64) > 0.9
    assert ppo.evaluate(ENV, ppo.init_params(jax.random.key(0), ENV, HIDDEN), jax.random.key(0), 64) < 0.7
    assert ppo.hidden_of(dense.params) == {name: list(widths) for name, widths in HIDDEN.items()}
    assert ppo.parameters_of(pruned.params) < ppo.parameters_of(dense.params)
    assert pruned.flops < dense.flops
    assert pruned.largest_change < 1e-5


def test_a_pruned_agent_learns_as_the_masked_one():
    params, _, rollout = _started()
    for name, (
        _,
        width,
    ) in HIDDEN.items():  # In the last hidden layers, as the strength grows with the number of inputs.
        units = np.arange(width) % 3 == 0
        layer = params[name][1]
        layer |= {key: leaf * (~units if leaf.ndim == 1 else ~units[None]) for key, leaf in layer.items()}
    tx = ppo.transformation(30, 0.5)
    opt_state = tx.init(params)
    seen = rollout.observation.reshape(-1, PLACES)
    zero = ppo.zero_units(params, seen)
    result = demp_jax.prune(ppo.network, params, [seen], opt_state=opt_state, tx=tx, remove=zero)
    small, small_state = result.variables, result.opt_state
    assert ppo.hidden_of(small) == {"actor": [9, 5], "critic": [8, 6]}
    for i in range(2):
        key = jax.random.key(i)
        params, opt_state = ppo.learn(tx, params, opt_state, rollout, key, ppo.groups_of(params))
        small, small_state = ppo.learn(tx, small, small_state, rollout, key, ppo.groups_of(small))
    for wide, narrow in zip(*(ppo.network(each, seen) for each in (params, small)), strict=True):
        np.testing.assert_allclose(wide, narrow, rtol=1e-4, atol=1e-5)


def test_hindsight_counts_units_that_wake_up():
    def layers(bias):
        return [{"kernel": jnp.eye(5), "bias": jnp.asarray(bias)}, {"kernel": jnp.ones((5, 1)), "bias": jnp.zeros(1)}]

    first, second = np.eye(5, dtype=np.float32)[:2], np.eye(5, dtype=np.float32)[:3]
    params = {"actor": layers([0.0] * 5), "critic": layers([0.0, 0.0, 0.0, -1.0, 0.0])}
    params["critic"][0] |= {"kernel": jnp.eye(5).at[:, 3].set(0.0)}
    later = {"actor": layers([0.0, 0.0, -2.0, 1.0, 0.0]), "critic": params["critic"]}
    [found] = ppo.hindsight([ppo.Snapshot(1, params, first), ppo.Snapshot(2, later, second)])
    # Units 2, 3 and 4 of both networks are dead on the first two inputs. Unit 2 wakes on the third input. In the actor,
    # training then kills unit 2 and revives unit 3; in the critic, unit 2 is alive at the end.
    assert found == {"update": 1, "units": 10, "dead": 6, "dormant": 6, "zero": 1, "awake": 2, "revived": 2}


def test_a_rule_removes_only_units_that_are_dead_on_any_observation():
    run = ppo.train(ENV, HIDDEN, 0, 42, "any", 3.0)
    before, after = (each["units"] for each in run.units)
    assert before - after == run.units[0]["zero"] > 0
    assert run.units[0]["dead"] > run.units[0]["zero"]


def test_records_become_tables_and_verdicts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ppo, "gymnax_environment", lambda name: ENV)
    monkeypatch.setattr(ppo, "_version", lambda: "none")
    monkeypatch.setattr(ppo, "TIMED_SECONDS", 0.01)
    monkeypatch.setattr(ppo, "HIDDEN", HIDDEN)
    monkeypatch.setattr(ppo, "RULES", ("any",))
    monkeypatch.setattr(ppo.compare, "__defaults__", (HIDDEN,))
    main = functools.partial(study.main, ppo.STUDY._replace(multiple=3), "Compares agents.")
    assert main(["--updates=3", "--seeds=1", f"--out={tmp_path}"]) == 0
    written = (tmp_path / "ppo.md").read_text()
    assert capsys.readouterr().out.count("seed 0, ") == 3
    assert main(["--updates=3", "--seeds=1", f"--out={tmp_path}"]) == 0
    assert "seed 0" not in capsys.readouterr().out  # Recorded before.
    assert (tmp_path / "ppo.md").read_text() == written
    assert all(part in written for part in ("| dense | 1 | ", "| pruned, any | 33% | 35 | ", "undecided"))
    (tmp_path / "page.md").write_text(
        "".join(f"<!-- table ppo.jsonl {of} -->\n" for of in ("results", "units", "claims"))
    )
    assert main([f"--fill={tmp_path / 'page.md'}", f"--out={tmp_path}"]) == 0
    assert "| dense | 1 | " in (tmp_path / "page.md").read_text()


def test_what_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    assert ppo.main([f"--out={tmp_path}"]) == 2
    assert "gymnax is not installed. Install it: pip install gymnax." in capsys.readouterr().err
    assert ppo.main(["--updates=15", f"--out={tmp_path}"]) == 2
    assert "--updates must be a positive multiple of 10" in capsys.readouterr().err


def test_environments_of_gymnax():
    pytest.importorskip("gymnax")
    env = ppo.gymnax_environment(ppo.ENVIRONMENT)
    params = ppo.init_params(jax.random.key(0), env, HIDDEN)
    _, rollout = ppo.collect(env, params, ppo.begin(env, jax.random.key(0), 4), jax.random.key(1), 100)
    assert rollout.observation.shape == (100, 4, env.features)
    ended = np.asarray(rollout.transition.terminated | rollout.transition.truncated)
    assert ended.any()
    assert (np.isnan(rollout.episode) == ~ended).all()
    with pytest.raises(ppo.UsageError, match="--environment must be an environment of gymnax"):
        ppo.gymnax_environment("Chess")
