# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Prunes a small character-level GPT while it trains, and compares it with dense networks.

    python -m experiments.examples.char_gpt --seeds=3 --out=results/examples
    python -m experiments.examples.char_gpt --out=results/examples --fill=docs/char_gpt.md

The first command trains, for each seed, a dense network, one pruned network per strength of the regularizer, and for
each of these a dense network of its final widths. It writes a record per run to OUT/char_gpt.jsonl and the tables to
OUT/char_gpt.md. The second command trains nothing and writes the tables of the records into a page.

The text is the reference of the Python language that comes with Python (`pydoc_data.topics`). All networks see the same
batches in the same order, for the same number of steps and with the same learning rates.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pydoc_data import topics
from typing import Any, NamedTuple

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import demp_jax
import demp_jax.nnx
from experiments.core import timing
from experiments.examples import study
from experiments.figures import judging
from experiments.reporting import tables

WIDTH, HEAD_SIZE, CONTEXT, BATCH = 64, 16, 64, 16
HIDDEN = (256, 256, 256, 256)  # Hidden units of each block.
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.1
STRENGTHS = (0.25, 0.4)
SPAN = 0.6  # Fraction of the steps in which units die.
PRUNES = 10  # Every tenth of the steps.
STEPS = 800
TIMED_SECONDS = 2.0


class Text(NamedTuple):
    """A text as numbers.

    Attributes:
      train: the characters of the first 90%, as indices into the vocabulary.
      validation: the characters of the rest.
      facts: length, number of different characters, checksum, Python version, and the fraction of the sequences of 50
        characters of the validation text that also occur in the training text.
    """

    train: np.ndarray
    validation: np.ndarray
    facts: dict[str, Any]


@functools.cache
def text() -> Text:
    """Returns the reference of the Python language, with every paragraph once.

    Topics repeat paragraphs of other topics. With these, 11% of the sequences of 50 characters of the validation text
    of Python 3.11 would occur in the training text.
    """
    whole = "\n\n".join(dict.fromkeys("\n\n".join(topics.topics.values()).split("\n\n")))
    vocabulary = {character: i for i, character in enumerate(sorted(set(whole)))}
    indices = np.array([vocabulary[character] for character in whole], np.int32)
    split = len(whole) * 9 // 10
    seen = {whole[i : i + 50] for i in range(split - 49)}
    starts = range(split, len(whole) - 49)
    facts = {
        "length": len(whole),
        "characters": len(vocabulary),
        "sha256": hashlib.sha256(whole.encode()).hexdigest(),
        "python": platform.python_version(),
        "validation_seen": round(sum(whole[i : i + 50] in seen for i in starts) / len(starts), 4),
    }
    return Text(indices[:split], indices[split:], facts)


def training_batch(seed: int, step: int, count: int = BATCH) -> tuple[jax.Array, jax.Array]:
    """Returns random windows of the training text `[count, CONTEXT]`, and the next character at each position."""
    train = text().train
    starts = np.random.default_rng((seed, step)).integers(0, train.size - CONTEXT, count)
    windows = train[starts[:, None] + np.arange(CONTEXT + 1)]
    return jnp.asarray(windows[:, :-1]), jnp.asarray(windows[:, 1:])


def validation_batch() -> tuple[jax.Array, jax.Array]:
    """Returns the validation text as windows that do not overlap, and the next characters."""
    whole = text().validation
    count = (whole.size - 1) // CONTEXT
    x, y = (jnp.asarray(whole[i : i + count * CONTEXT].reshape(count, CONTEXT)) for i in (0, 1))
    return x, y


def rotate(x: jax.Array) -> jax.Array:
    """Returns queries or keys `[batch, time, head, feature]` with rotary positions.

    With half the features as real and half as imaginary parts, feature k at time t is multiplied by exp(i t f_k), with
    frequencies f_k from 1 down to about 1e-4. The product of a query and a key then only depends on their distance.

    References:
      Su et al., 2021, RoFormer: Enhanced Transformer with Rotary Position Embedding.
    """
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * 10_000.0 ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.cos, np.sin))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Block(nnx.Module):
    """Causal attention and an MLP with squared ReLU, each after an RMSNorm and beside a skip.

    No layer has a bias. A hidden unit whose incoming weights are zero is zero, and so are the gradients of all its
    weights: it stays dead.

    References:
      Zhang and Sennrich, 2019, Root Mean Square Layer Normalization.
      So et al., 2021, Primer: Searching for Efficient Transformers for Language Modeling (squared ReLU).
    """

    def __init__(self, hidden: int, blocks: int, rngs: nnx.Rngs):
        """Makes one of `blocks` blocks, with `hidden` hidden units."""
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        small = nnx.initializers.normal(0.02 / (2 * blocks) ** 0.5)  # As in GPT-2.
        self.norm1, self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.query, self.key, self.value = (linear(WIDTH, WIDTH) for _ in range(3))
        self.merge = linear(WIDTH, WIDTH, kernel_init=small)
        self.up, self.down = linear(WIDTH, hidden), linear(hidden, WIDTH, kernel_init=small)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `[batch, time, feature]`."""
        h = self.norm1(x)
        q, k, v = (each(h).reshape(*x.shape[:2], -1, HEAD_SIZE) for each in (self.query, self.key, self.value))
        attended = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.merge(attended.reshape(x.shape))
        return x + self.down(jnp.square(nnx.relu(self.up(self.norm2(x)))))


class GPT(nnx.Module):
    """A decoder-only transformer with a tied embedding.

    References:
      Radford et al., 2019, Language Models are Unsupervised Multitask Learners.
    """

    def __init__(self, hidden: Sequence[int], rngs: nnx.Rngs):
        """Makes a network with one block per number of hidden units."""
        characters = text().facts["characters"]
        self.embed = nnx.Embed(characters, WIDTH, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.blocks = nnx.List([Block(units, len(hidden), rngs) for units in hidden])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits of the next character at each position, `[batch, time, character]`."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.embed.attend(self.norm(h))


@nnx.jit
def loss_of(model: GPT, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy in nats per character."""
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model: GPT, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array, extra: dict[str, Any]) -> jax.Array:
    """Updates the model in place and returns the loss before the update."""
    loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
    optimizer.update(model, grads, **extra)
    return loss


def transformation(steps: int, strength: float | None) -> optax.GradientTransformation:
    """Returns AdamW with clipping, warmup and a cosine schedule; with a strength, wrapped so that hidden units die.

    The proximal operator of a group Lasso follows each update. It shrinks the incoming weights of each hidden unit
    together, and makes them exactly zero. Its strength is scaled with the learning rate.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, steps // 20, steps, LEARNING_RATE / 10)
    adamw = optax.adamw(rate, b2=0.99, weight_decay=WEIGHT_DECAY, mask=functools.partial(jax.tree.map, _is_matrix))
    base = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    if strength is None:
        return base
    cycle = demp_jax.one_cycle(strength, int(SPAN * steps))
    return demp_jax.demp(base, strength=lambda step: cycle(step) * rate(step), kind="proximal_group")


def _is_matrix(leaf: jax.Array) -> bool:
    return leaf.ndim > 1


def groups_of(model: GPT) -> dict[str, Any]:
    """Returns what the update of a group Lasso needs: the weights of each unit, computed again after a prune."""
    graph = demp_jax.nnx.trace(model, jnp.zeros((2, CONTEXT), jnp.int32))
    return {"groups": demp_jax.weight_groups(graph, nnx.as_pure(nnx.state(model, nnx.Param)))}


class Trained(NamedTuple):
    """A network after its training.

    Attributes:
      model, optimizer: their states after training.
      extra: extra arguments of the optimizer's update.
      flops: mean FLOPs of an evaluation of the network on one example, over the steps.
      prunes: a record per prune that removed units.
    """

    model: GPT
    optimizer: nnx.Optimizer
    extra: dict[str, Any]
    flops: float
    prunes: list[dict[str, Any]]


def train(hidden: Sequence[int], seed: int, steps: int, strength: float | None = None) -> Trained:
    """Trains a network, and with a strength prunes it.

    Args:
      hidden: the hidden units of each block.
      seed: seed of the initial weights and the batches.
      steps: the number of updates, a multiple of `PRUNES`.
      strength: the peak of the strength of the regularizer; `None` for dense training.
    """
    model = GPT(hidden, nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, transformation(steps, strength), wrt=nnx.Param)
    extra = {} if strength is None else groups_of(model)
    every = steps // PRUNES
    death_set = [training_batch(seed, steps + i, 64)[0] for i in range(4)]
    pruner = demp_jax.nnx.Pruner(model, optimizer, death_set, every=every)
    now, flops, prunes = flops_of(model), 0.0, []
    for step in range(1, steps + 1):
        train_step(model, optimizer, *training_batch(seed, step), extra)
        if step % every:
            pruner.step()
            continue
        flops += now / PRUNES
        if strength is None:
            continue
        before = float(loss_of(model, *validation_batch()))
        record = pruner.step()
        if record is not None and record.removed:
            now, extra = flops_of(model), groups_of(model)
            after = float(loss_of(model, *validation_batch()))
            change = {"largest_change": record.difference, "validation_loss": [before, after]}
            prunes.append({"step": step, "hidden": hidden_of(model), **change})
    return Trained(model, optimizer, extra, flops, prunes)


def hidden_of(model: GPT) -> list[int]:
    """Returns the hidden units of each block."""
    return [block.up.kernel.shape[-1] for block in model.blocks]


def parameters_of(model: GPT) -> int:
    """Returns the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def flops_of(model: GPT) -> float:
    """Returns the FLOPs of an evaluation on one example."""
    return float(demp_jax.nnx.trace(model, jnp.zeros((2, CONTEXT), jnp.int32)).flops())


def compare(seed: int, steps: int, hidden: Sequence[int] = HIDDEN) -> Iterator[dict[str, Any]]:
    """Trains all networks of a seed and yields a record for each.

    A pruned network starts as the dense one, with the same weights. Times and FLOPs are relative to the dense network.
    """
    dense = train(hidden, seed, steps)
    times = {"step_ratio_start": 1.0, "step_ratio_end": 1.0}
    yield {"setting": "dense", "seed": seed, "steps": steps, "strength": None, **_measured(dense, dense), **times}
    for strength in STRENGTHS:
        pruned = train(hidden, seed, steps, strength)
        small = train(hidden_of(pruned.model), seed, steps)
        named = {"pruned": pruned, "dense, widths of the pruned": small}
        for name, run in named.items():
            fields = {"setting": f"{name}, lambda {strength}", "seed": seed, "steps": steps, "strength": strength}
            yield {**fields, **_measured(run, dense), **_times(run, dense, hidden, seed)}


def _measured(run: Trained, dense: Trained) -> dict[str, Any]:
    return {
        "validation_loss": float(loss_of(run.model, *validation_batch())),
        "parameters": parameters_of(run.model),
        "hidden": hidden_of(run.model),
        "flops_ratio": flops_of(run.model) / flops_of(dense.model),
        "training_flops_ratio": run.flops / dense.flops,
        "prunes": run.prunes,
        "text": text().facts,
    }


def _times(run: Trained, dense: Trained, hidden: Sequence[int], seed: int) -> dict[str, float]:
    """Returns the time of a step at the start and at the end, relative to a dense step.

    The steps are interleaved in one process, after the losses were measured, as they train the networks on.
    """
    batch = training_batch(seed, 0)

    def steps_of(model: GPT, optimizer: nnx.Optimizer, extra: dict[str, Any]) -> Callable[[], jax.Array]:
        return lambda: train_step(model, optimizer, *batch, extra)

    programs = {"dense": steps_of(dense.model, dense.optimizer, {}), "end": steps_of(*run[:3])}
    if run.extra:
        model = GPT(hidden, nnx.Rngs(seed))
        programs["start"] = steps_of(model, nnx.Optimizer(model, run.optimizer.tx, wrt=nnx.Param), groups_of(model))
    times = timing.median_seconds(programs, TIMED_SECONDS)
    assert times is not None
    start, end = times.get("start", times["end"]), times["end"]
    return {"step_ratio_start": start / times["dense"], "step_ratio_end": end / times["dense"]}


def claims(records_of_seed: Mapping[str, Mapping[str, Any]]) -> list[judging.Claim]:
    """Returns what is claimed, with the effects of one seed, given its records by setting."""
    dense = records_of_seed["dense"]
    found = []
    for strength in sorted({r["strength"] for r in records_of_seed.values() if r["strength"] is not None}):
        pruned = records_of_seed[f"pruned, lambda {strength}"]
        small = records_of_seed[f"dense, widths of the pruned, lambda {strength}"]
        differences = (
            (
                "The pruned network has a lower loss than a dense network of its widths",
                "loss of the dense network of its widths minus pruned",
                small["validation_loss"] - pruned["validation_loss"],
                "nats",
                0.0,
            ),
            (
                "Pruning costs loss",
                "loss of pruned minus dense",
                pruned["validation_loss"] - dense["validation_loss"],
                "nats",
                0.0,
            ),
            (
                "A step of the pruned network is faster",
                "time of a dense step over a pruned step, at the end",
                1 / pruned["step_ratio_end"],
                "times",
                1.0,
            ),
        )
        for claim, what, value, unit, above in differences:
            effect = judging.Effect(what, value, above=above, unit=unit)
            found.append(judging.Claim(f"{claim} (lambda {strength}).", "", (effect,)))
    return found


def results_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table with a row per setting and means over the seeds."""
    rows: list[tuple[str, ...]] = [
        ("network", "seeds", "validation loss", "parameters", "hidden units", "by block")
        + ("FLOPs", "training FLOPs", "step at the start", "step at the end")
    ]
    for setting, group in study.settings(found).items():
        blocks = [statistics.mean(units) for units in zip(*(record["hidden"] for record in group), strict=True)]
        ratios = ("flops_ratio", "training_flops_ratio", "step_ratio_start", "step_ratio_end")
        rows.append(
            (
                setting,
                str(len(group)),
                study.mean_and_spread(group, "validation_loss", 3),
                f"{study.mean(group, 'parameters'):,.0f}",
                f"{sum(blocks):.0f}",
                ", ".join(f"{units:.0f}" for units in blocks),
                *(f"x {study.mean(group, name):.2f}" for name in ratios),
            )
        )
    return tables.lines(rows)


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page of the results."""
    first = found[0]
    facts = first["text"]
    changes = [abs(p["validation_loss"][1] - p["validation_loss"][0]) for record in found for p in record["prunes"]]
    return f"""\
# A character-level GPT, pruned while it trains

Written by `{first["command"]}` from the records in `{STUDY.name}.jsonl`. Each network was trained for
{first["steps"]} steps of {BATCH} sequences of {CONTEXT} characters. The text has {facts["length"]:,} characters,
{facts["characters"]} of them different, and is that of Python {facts["python"]}. Of the sequences of 50 characters in
the validation text, {facts["validation_seen"]:.1%} also occur in the training text. Losses are in nats per character,
with the standard deviation over seeds. FLOPs are those of an evaluation at the end, and training FLOPs their mean over
the steps. The time of a training step is measured in one process, interleaved with dense steps. FLOPs and times are
relative to the dense network.

{results_table(found)}

Differences are between runs of the same seed. Bounds are one-sided 90% t-bounds of their mean. A claim holds if the
lower bound is above what is required, and does not hold if the upper bound is below it
(`experiments/figures/judging.py`).

{study.verdicts_table(STUDY, found)}

The largest change of the validation loss at one of {len(changes)} prunes was {max(changes, default=0.0):.0e} nats.

Device: {first["device"]}. Commit: {first["commit"]}.
"""


def _summary(record: Mapping[str, Any]) -> str:
    loss, parameters, hidden = (record[field] for field in ("validation_loss", "parameters", "hidden"))
    return f"{loss:.4f} nats, {parameters:,} parameters, hidden units {hidden}"


STUDY = study.Study("char_gpt", "steps", STEPS, PRUNES, compare, claims, {"results": results_table}, page, _summary)
main = functools.partial(study.main, STUDY, __doc__)

if __name__ == "__main__":
    sys.exit(command.guarded(main))
