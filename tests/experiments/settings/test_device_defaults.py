"""What a config leaves to the device: which values it has there, and that a run keeps them."""

import json

import jax
import pytest

from experiments.core.errors import UsageError
from experiments.recipe.problem import pose
from experiments.rundir import workdir
from experiments.settings import device_defaults
from tests.runs import short_config


@pytest.mark.parametrize(("backend", "own", "lengths"), [("cpu", 1, ("50", "100")), ("gpu", 8, ("500", "3000"))])
def test_a_gpu_rounds_widths_up_and_prepares_cuts_for_longer(backend, own, lengths, monkeypatch):
    """Where the config does not say."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    left = short_config(**{"pruning.multiple": 0, "pruning.cut_cost": "", "pruning.ahead": ""})
    said = short_config(**{"pruning.multiple": 4, "pruning.cut_cost": "0", "pruning.ahead": "3%"})
    for config, taken in ((left, (own, *lengths)), (said, (4, "0", "3%"))):
        section = device_defaults.settled(config, 10**5).pruning
        assert (section.multiple, section.cut_cost, section.ahead) == taken
    assert device_defaults.settled(left, 9000).pruning.ahead == ("100" if backend == "cpu" else "900")
    assert (left.pruning.multiple, left.pruning.ahead) == (0, "")


@pytest.mark.parametrize(("backend", "fast", "taken"), [("cpu", False, 1), ("cpu", True, 7), ("gpu", False, 7)])
def test_convolutions_as_xla_has_them_are_in_no_loop_on_a_cpu(backend, fast, taken, monkeypatch):
    """Where their gradients would be computed by plain code."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = short_config(steps_per_call=7, fast_convolutions=fast)
    assert device_defaults.settled(config, 100).steps_per_call == taken
    assert config.steps_per_call == 7


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
