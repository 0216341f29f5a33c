"""The character-level GPT: causal, with rotary positions; dead units stay dead, and their removal changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import demp_jax.nnx
from experiments.examples import char_gpt

HIDDEN = (12, 10)
DEAD = {"blocks/0/up": np.arange(12) % 3 == 0, "blocks/1/up": np.arange(10) < 4}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(char_gpt, "WIDTH", 16)
    monkeypatch.setattr(char_gpt, "HEAD_SIZE", 8)
    monkeypatch.setattr(char_gpt, "CONTEXT", 12)
    monkeypatch.setattr(char_gpt, "PRUNES", 3)


def _started(killed=True):
    """Returns a network whose units in `DEAD` have no incoming weights, its optimizer, and what the latter takes."""
    model = char_gpt.GPT(HIDDEN, nnx.Rngs(0))
    for block, dead in zip(model.blocks, DEAD.values(), strict=True):
        block.up.kernel.set_value(block.up.kernel[...] * (~dead | (not killed))[None])
    optimizer = nnx.Optimizer(model, char_gpt.transformation(40, 0.05), wrt=nnx.Param)
    return model, optimizer, char_gpt.groups_of(model)


def _params(model):
    return jax.tree.map(np.asarray, nnx.as_pure(nnx.state(model, nnx.Param)))


def test_the_pruned_network_trains_as_the_masked_one():
    masked, smaller = _started(), _started()
    death_set = [char_gpt.training_batch(0, 99, 32)[0]]
    before = char_gpt.loss_of(smaller[0], *char_gpt.training_batch(0, 50))
    record = demp_jax.nnx.prune(smaller[0], death_set, smaller[1])
    assert record.removed == {site: int(dead.sum()) for site, dead in DEAD.items()}
    assert char_gpt.hidden_of(smaller[0]) == [8, 6]
    np.testing.assert_allclose(char_gpt.loss_of(smaller[0], *char_gpt.training_batch(0, 50)), before, rtol=1e-6)

    smaller = (*smaller[:2], char_gpt.groups_of(smaller[0]))
    for step in range(5):
        losses = [char_gpt.train_step(*run[:2], *char_gpt.training_batch(0, step), run[2]) for run in (masked, smaller)]
        np.testing.assert_allclose(*losses, rtol=1e-5)
    for i, dead in enumerate(DEAD.values()):
        wide, narrow = (_params(run[0])["blocks"][i] for run in (masked, smaller))
        assert not wide["up"]["kernel"][:, dead].any()  # Dead units stay dead.
        np.testing.assert_allclose(wide["up"]["kernel"][:, ~dead], narrow["up"]["kernel"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(wide["down"]["kernel"][~dead], narrow["down"]["kernel"], rtol=1e-4, atol=1e-5)


def test_removing_alive_units_is_masking_them():
    masked, smaller = _started()[0], _started(killed=False)[0]
    x, y = char_gpt.training_batch(0, 99, 32)
    demp_jax.nnx.prune(smaller, [x], remove=DEAD)
    assert char_gpt.hidden_of(smaller) == [8, 6]
    np.testing.assert_allclose(char_gpt.loss_of(smaller, x, y), char_gpt.loss_of(masked, x, y), rtol=1e-6)


def test_units_die_in_training_and_a_seed_gives_the_same_run_again():
    runs = [char_gpt.train(HIDDEN, 1, 9, 30.0) for _ in range(2)]
    assert 2 < sum(char_gpt.hidden_of(runs[0].model)) < sum(HIDDEN)  # Some died, and some did not.
    for prune in runs[0].prunes:
        np.testing.assert_allclose(*prune["validation_loss"], rtol=1e-5)
    assert runs[0].prunes == runs[1].prunes
    jax.tree.map(np.testing.assert_array_equal, *(_params(run.model) for run in runs))


def test_the_network_is_causal_and_rotary_products_depend_on_the_distance():
    model = char_gpt.GPT(HIDDEN, nnx.Rngs(0))
    x, _ = char_gpt.training_batch(0, 0, 2)
    changed = x.at[:, 7].add(1)
    first, second = model(x), model(changed)
    np.testing.assert_array_equal(first[:, :7], second[:, :7])
    assert (np.asarray(first[:, 7:]) != np.asarray(second[:, 7:])).any((0, 2)).all()

    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    rotated = [np.asarray(char_gpt.rotate(jnp.asarray(np.repeat(each, 12, 1))))[0, :, 0] for each in (q, k)]
    products = rotated[0] @ rotated[1].T
    as_complex = [each[0, 0, 0, :4] + 1j * each[0, 0, 0, 4:] for each in (q, k)]
    for i, j in np.ndindex(12, 12):
        turned = as_complex[0] * np.conj(as_complex[1]) * np.exp(1j * (i - j) * 10_000.0 ** (-np.arange(4) / 4))
        np.testing.assert_allclose(products[i, j], turned.sum().real, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_one_line(tmp_path, capsys):
    assert char_gpt.main(["--steps=15", f"--out={tmp_path}"]) == 2
    assert "--steps must be a positive multiple of 10" in capsys.readouterr().err
    assert char_gpt.main(["--steps=20", f"--fill={tmp_path / 'page.md'}", f"--out={tmp_path}"]) == 2
    assert "--out must be a folder with char_gpt.jsonl" in capsys.readouterr().err
