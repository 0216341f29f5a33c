"""An interrupted and resumed run ends as one that was never interrupted, bit for bit."""

import json
import signal

import pytest

from experiments.training import hooks, loop
from experiments.training.loop import train_and_evaluate
from experiments.training.prune_hook import Prune
from tests.image_files import SMALL, drawn_folder
from tests.runs import last_digests, lines, short_config, without_times

PLAIN = {"method.strength": 0.0, "method.noise": 0.0, "ranking.batch_size": 128, "ranking.batches": 2}
MASKED = {**PLAIN, "masking.every": "5", "masking.start": "0"}
# Of each case: what differs from the short run, and the steps of its prunes at which it is killed.
CASES = {
    "demp": ({}, (10, 20)),
    "demp, prepared": ({"pruning.ahead": "4"}, (10, 14, 20)),
    "demp, waiting": ({"pruning.cut_cost": "5", "pruning.ahead": "3"}, (10, 13)),
    "target": (
        {"method.target.neuron_sparsity": 0.5, "method.target.every": "5", "method.strength": 0.3},
        (10, 20),
    ),
    "accumulate": ({"accumulate": 4}, (10,)),
    "several steps in a call": ({"steps_per_call": 7}, (10, 20)),
    "adamw, clipped": (
        {"optimizer.name": "adamw", "optimizer.clip_norm": 30.0, "optimizer.weight_decay": 0.01},
        (20,),
    ),
    "earlycrop": ({"method.name": "earlycrop", "ranking.latest": "15", **PLAIN}, (15,)),
    "earlysnap": (
        {"method.name": "earlysnap", "ranking.early_rule": "released", "ranking.latest": "15", **PLAIN},
        (15,),
    ),
    "slimming": ({"method.name": "slimming", "ranking.when": "50%", **PLAIN, "method.strength": 0.1}, (15,)),
    "rigl": ({"method.name": "rigl", **MASKED}, ()),
    "srigl": ({"method.name": "srigl", **MASKED}, ()),
    "chase": (
        {"method.name": "chase", "ranking.every": "10", "ranking.until": "20", "masking.end": "20", **MASKED},
        (10, 20),
    ),
    "demp_rigl": ({"method.name": "demp_rigl", "masking.sparsity": 0.5, "masking.every": "5"}, (10, 20)),
    "streamed": ({**SMALL, "method.strength": 0.0, "method.noise": 0.0, "pruning.examples": 16}, (10,)),
    "streamed, processes": (
        {**SMALL, "data.workers": 2, "method.strength": 0.0, "method.noise": 0.0, "pruning.examples": 16},
        (10,),
    ),
}
QUICK = ("demp, prepared", "target", "chase")


class _KilledError(Exception):
    """Leaves as little as a kill does: nothing in the program catches it."""


def _killed_after(hook, step, config, workdir):
    """Runs until a hook was called at a step."""
    real = hook.__call__

    def call(self, at):
        real(self, at)
        if at == step:
            raise _KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hook, "__call__", call)
        with pytest.raises(_KilledError):
            train_and_evaluate(config, workdir)


def _stopped_at(step, config, workdir):
    """Runs until a signal at a step, or at the next one at which the loop looks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_stopped", lambda run, at, stop: signal.SIGTERM if at >= step else None)
        assert train_and_evaluate(config, workdir).stopped_by == signal.SIGTERM


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in CASES])
def test_interrupted_and_resumed_is_uninterrupted(name, tmp_path):
    """Killed between each prune and its checkpoint, after a checkpoint, and stopped by signals between them."""
    changes, prunes = CASES[name]
    folder = {"data.dir": str(drawn_folder(tmp_path / "images", images=9))} if name.startswith("streamed") else {}
    config = short_config(**changes | folder)
    whole = train_and_evaluate(config, tmp_path / "whole").summary
    parts = tmp_path / "parts"
    for step in prunes:
        _killed_after(Prune, step, config, parts)
    _stopped_at(17, config, parts)
    _killed_after(hooks.Save, 24, config, parts)
    _stopped_at(25, config, parts)
    _killed_after(hooks.Evaluate, 30, config, parts)
    train_and_evaluate(config, parts)
    assert last_digests(parts) == last_digests(tmp_path / "whole")
    found = json.loads((parts / "summary.json").read_text())
    for key in ("test_accuracy", "parameters", "widths", "train_flops", "cuts", "target"):
        assert found[key] == whole[key], key
    records = [without_times(lines(run / "cuts.jsonl")) for run in (parts, tmp_path / "whole")]
    for record in (*records[0], *records[1]):
        record.pop("step_bytes")
    assert records[0] == records[1]
    assert prunes == () or whole["cuts"] >= 1 or "streamed" in name
