"""The benchmark of architectures: what it counts, that a wrong prune shows, that its page comes from its records."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.prunability import __main__ as program
from benchmarks.prunability import check
from benchmarks.prunability.cases import Case, features, find
from benchmarks.prunability.networks import CASES
from benchmarks.prunability.subjects import Subject
from experiments.rundir.records import read_lines
from tests import pages

PAGE = pages.ROOT / "docs" / "prunability.md"
RECORDS = {record["name"]: record for record in read_lines(program.RESULTS)}
SAMPLE = ("MLP", "MLP, lax.scan over layers", "MLP, dropout", "MLP, eqx.nn")


def _measured(case):
    # Users' code relies on JAX's default.
    with jax.numpy_rank_promotion("allow"):
        return check.measure(case)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_passes(name):
    [case] = [case for case in CASES if case.name == name]
    record = _measured(case)
    assert record["found"] == record["expected"]
    assert record["removed"] == record["killed"] > 0
    assert record["wrong"] == 0
    assert program.passes(record)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in SAMPLE], ids=lambda case: case.name)
def test_no_architecture_gets_worse(case):
    # Slow tests run with XLA's optimizations. Without them it computes the gradient of a maximum from other roundings
    # of the same value, and steps of PointNet differ.
    if case.missing:
        pytest.skip(f"needs the package {case.package}")
    record, stored = _measured(case), RECORDS[case.name]
    assert record["expected"] == stored["expected"]
    assert record["found"] >= stored["found"]
    assert record["removed"] >= stored["removed"]
    assert record["removed"] == 0 or program.exact(record)
    assert program.passes(record) >= program.passes(stored)


def test_the_units_that_entries_name():
    shapes = {"params/stem/kernel": (5, 4), "params/stem/bias": (4,), "params/blocks/0/up/kernel": (4, 8)}
    shapes |= {"params/blocks/1/up/kernel": (4, 8), "params/fused": (6, 12)}
    paths = list(shapes)

    def found(entry, axis=-1):
        units = find([entry], paths, list(shapes.values()), axis)
        return [([paths[a.variable].removeprefix("params/") for a in u.axes], u.width) for u in units]

    kernels = ["blocks/0/up/kernel", "blocks/1/up/kernel"]
    assert found("stem") == [(["stem/kernel", "stem/bias"], 4)]
    assert found("blocks/#/up") == [([kernels[0]], 8), ([kernels[1]], 8)]
    assert found("blocks/*/up") == [(kernels, 8)]
    assert found("stem + blocks/*/up@0") == [(["stem/kernel", "stem/bias", *kernels], 4)]
    assert found("fused[4:8] + stem/bias") == [(["fused", "stem/bias"], 4)]
    assert found("fused@0/3") == [(["fused"], 2)]
    [units] = find(["fused@1/3"], paths, list(shapes.values()), -1)
    assert units.positions(np.array([True, False, False, False])).tolist() == [True] * 3 + [False] * 9
    assert units.members(np.arange(12) != 4).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="'other' names no variable"):
        found("other")
    with pytest.raises(ValueError, match=r"names axes of \[4, 8\] positions"):
        found("stem + blocks/*/up")


def _network(p, x):
    return jax.nn.relu(x @ p["w"]) @ p["v"]


def _case(units=("w",)):
    params = {"w": jax.random.normal(jax.random.key(0), (5, 9)), "v": jnp.ones((9, 2))}
    return Case("network", "plain JAX", lambda: (_network, params), features(5), units)


def test_a_wrong_prune_shows(monkeypatch):
    """Removed units that are not dead, and an optimizer state that is not sliced with the parameters."""
    right = check.measure(_case())
    assert program.passes(right)
    prune = Subject.prune

    def with_other_weights(self, *args):
        smaller, state, record = prune(self, *args)
        smaller.variables["v"] = smaller.variables["v"] * 1.01
        return smaller, state, record

    def with_other_moments(self, *args):
        smaller, state, record = prune(self, *args)
        moments = jax.tree.map(lambda leaf: leaf * 1.5, state[0][0].mu)
        return smaller, ((state[0][0]._replace(mu=moments), *state[0][1:]), *state[1:]), record

    for wrong, differs in ((with_other_weights, "difference"), (with_other_moments, "steps")):
        monkeypatch.setattr(Subject, "prune", wrong)
        record = check.measure(_case())
        assert not program.passes(record)
        assert max(np.ravel(list(record["difference"].values()) if differs == "difference" else record[differs])) > 1e-3


def test_units_that_are_not_found_fail():
    record = check.measure(_case(["w", "v"]))
    assert (record["found"], record["expected"], record["missed"]) == (9, 11, ["v"])
    assert record["removed"] == record["killed"] == 3
    assert program.exact(record)
    assert not program.passes(record)


def test_what_the_library_raises_is_a_reason():
    case = Case("sum", "plain JAX", lambda: (lambda p, x: x @ p, jnp.ones((5, 2))), features(5), [])
    record = check.measure(case)
    assert record["reason"].startswith("no prunable unit found")
    assert record["removed"] == 0


def test_there_are_enough_architectures():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 60
    assert min(collections.Counter(case.framework for case in CASES).values()) >= 8
    assert list(RECORDS) == names


def test_a_record_takes_the_place_of_an_older_one(tmp_path, capsys):
    out = tmp_path / "records.jsonl"
    out.write_text("".join(json.dumps({"name": name, "found": -1}) + "\n" for name in ("Llama", "VAE")))
    with jax.numpy_rank_promotion("allow"):
        program.main(["VAE", f"--out={out}"])
    assert [(r["name"], r["found"]) for r in read_lines(out)] == [("Llama", -1), ("VAE", 44)]
    assert "VAE: passes, 44 of 44 units" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        program.main(["Perceiver", f"--out={out}"])
    assert "Perceiver: no architecture has this in its name" in capsys.readouterr().err


def test_the_page_comes_from_the_records():
    text, records = PAGE.read_text(), list(RECORDS.values())
    assert program.fill(text, records) == text
    assert program.fill(text, records[:-1]) != text
