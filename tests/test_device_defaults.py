"""What a config leaves to the device: which values it has there, and that a run keeps them."""

import json

import jax
import pytest

from experiments import ahead, workdir
from experiments.errors import UsageError
from experiments.methods.method import pruning
from experiments.problem import pose
from tests.runs import short_config


@pytest.mark.parametrize(("backend", "own", "lengths"), [("cpu", 1, ("50", "100")), ("gpu", 8, ("500", "3000"))])
def test_a_gpu_rounds_widths_up_and_prepares_cuts_for_longer(backend, own, lengths, monkeypatch):
    """Where the config does not say."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    for asked, taken in ((0, own), (1, 1), (4, 4)):
        config = short_config(**{"pruning.multiple": asked})
        assert pruning(config, epoch=10.0, run=30)[1]["multiple"] == taken
    config.pruning.cut_cost = config.pruning.ahead = ""
    assert ahead.durations(config.pruning, 10**5) == {"cut_cost": lengths[0], "ahead": lengths[1]}
    assert ahead.durations(config.pruning, 9000)["ahead"] == ("100" if backend == "cpu" else "900")
    config.pruning.cut_cost, config.pruning.ahead = "0", "3%"
    assert ahead.durations(config.pruning, 10**5) == {"cut_cost": "0", "ahead": "3%"}


@pytest.mark.parametrize("missing", [(), ("multiple",)])
def test_a_run_goes_on_with_what_the_device_it_began_on_chose(missing, tmp_path, monkeypatch):
    """On another one, and where it was begun before there was such a field."""
    config = short_config(**{"pruning.cut_cost": "", "pruning.ahead": ""})
    with workdir.claim(tmp_path, pose(config).config):
        kept = json.loads((tmp_path / "config.json").read_text())
    assert [kept["pruning"][name] for name in ("multiple", "cut_cost", "ahead")] == [1, "50", "100"]
    for name in missing:
        del kept["pruning"][name]
    (tmp_path / "config.json").write_text(json.dumps(kept))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    again = workdir.continued(tmp_path, config)
    assert (again.pruning.cut_cost, again.pruning.ahead) == ("50", "100")
    assert again.pruning.multiple == (0 if missing else 1)
    assert config.pruning.ahead == ""
    workdir.require_same(tmp_path, again)
    workdir.require_same(tmp_path, config)
    again.pruning.ahead = "7"
    with pytest.raises(UsageError, match=r"pruning.ahead='100' there, '7' here"):
        workdir.require_same(tmp_path, again)
