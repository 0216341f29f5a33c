"""Bad input ends in one line that names the field, the value, what is allowed and the remedy, before any compiling."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs import mlp_mnist, quickstart, resnet18_cifar
from experiments import compare
from experiments.core.errors import UsageError
from experiments.data import arrays
from experiments.recipe.problem import pose
from experiments.rundir import workdir
from experiments.rundir import workdir as workdir_lib
from experiments.settings.durations import to_steps
from experiments.training.loop import train_and_evaluate
from tests.runs import config_of, short_config

ROOT = Path(__file__).resolve().parents[3]

BAD = {
    "steps": ("0", "config.steps must be at least one step; got '0'"),
    "batch_size": (2000, "config.batch_size must be between 1 and 1437; got 2000"),
    "eval_batch_size": (0, "config.eval_batch_size must be at least 1; got 0"),
    "label_smoothing": (1.0, r"config.label_smoothing must be in \[0, 1\); got 1.0"),
    "log_every": ("0", "config.log_every must be at least one step; got '0'"),
    "seed": (2**32, "config.seed must be at most 2147483647; got 4294967296"),
    "data.crop": (8, "config.data.crop must be between 0 and 7, the side of an image less one; got 8"),
    "progress": ("lots", "config.progress must be one of auto, bar, lines, off; got 'lots'"),
    "checkpoints_kept": (0, "config.checkpoints_kept must be at least 1; got 0"),
    "data.name": ("svhn", "config.data.name must be one of cifar10, .*, mnist; got 'svhn'"),
    "data.normalize": ("zca", "config.data.normalize must be one of standardize, unit; got 'zca'"),
    "model.name": ("vgg99", "config.model.name must be one of mlp, resnet18, resnet50, vgg16, vit; got 'vgg99'"),
    "model.activation": ("tanh", "config.model.activation must be one of gelu, leaky_relu, relu, swish; got 'tanh'"),
    "model.widths": ((0,), r"config.model.widths must be at least 1; got \(0,\)"),
    "optimizer.name": ("lamb", "config.optimizer.name must be one of adam, adamw, sgdm; got 'lamb'"),
    "optimizer.learning_rate": (-0.1, "config.optimizer.learning_rate must be above 0; got -0.1"),
    "optimizer.schedule": (
        "linear",
        "config.optimizer.schedule must be one of constant, cosine, one_cycle, piecewise, step; got 'linear'",
    ),
    "optimizer.warmup": ("30", "config.optimizer.warmup must be shorter than the run of 30 steps; got 30"),
    "optimizer.warmup_from": (-1.0, "config.optimizer.warmup_from must be at least 0; got -1.0"),
    "optimizer.clip_norm": (-1.0, "config.optimizer.clip_norm must be at least 0; got -1.0"),
    "steps_per_call": (0, "config.steps_per_call must be at least 1; got 0"),
    "accumulate": (0, "config.accumulate must be at least 1; got 0"),
    "devices": (9, "config.devices must be between 1 and 8, or 0 for all; got 9"),
    "data.padding": ("wrap", "config.data.padding must be one of reflect, zero; got 'wrap'"),
    "data.upsample": (-1, "config.data.upsample must be at least 0; got -1"),
    "data.mixup": (-0.1, "config.data.mixup must be at least 0; got -0.1"),
    "data.cutmix": (float("nan"), "config.data.cutmix must be at least 0; got nan"),
    "model.dtype": ("float8", "config.model.dtype must be one of bfloat16, float32; got 'float8'"),
    "optimizer.weight_decay": (-1.0, "config.optimizer.weight_decay must be at least 0; got -1.0"),
    "optimizer.b1": (1.0, r"config.optimizer.b1 must be in \[0, 1\); got 1.0"),
    "method.name": ("snip", "config.method.name must be one of chase, .*; got 'snip'"),
    "method.strength": (float("nan"), "config.method.strength must be at least 0; got nan"),
    "method.noise": (-1e-5, "config.method.noise must be at least 0; got -1e-05"),
    "method.strength_schedule": ("triangle", "config.method.strength_schedule must be one of .*; got 'triangle'"),
    "method.strength_span": (
        "31",
        "config.method.strength_span must be between 1 step and the run's 30 steps; got 31",
    ),
    "method.noise_span": ("0", "config.method.noise_span must be at least one step; got '0'"),
    "method.regularizer": (
        "l0",
        "config.method.regularizer must be one of group, l2, lasso, proximal, proximal_group; got 'l0'",
    ),
    "method.penalized": ("biases", "config.method.penalized must be one of all, scales; got 'biases'"),
    "method.noise_amplitude": ("sigma", "config.method.noise_amplitude must be one of std, variance; got 'sigma'"),
    "pruning.every": ("0", r"config.pruning.every must be at least one step; got '0'"),
    "pruning.start": ("31", "config.pruning.start must be at most the run's 30 steps; got 31"),
    "pruning.examples": (1438, "config.pruning.examples must be between 1 and 1437; got 1438"),
    "pruning.criterion": ("asleep", "config.pruning.criterion must be one of auto, epsilon, .*; got 'asleep'"),
    "pruning.epsilon": (0.0, "config.pruning.epsilon must be above 0; got 0.0"),
    "pruning.min_units": (-1, "config.pruning.min_units must be at least 0; got -1"),
    "pruning.multiple": (-1, "config.pruning.multiple must be at least 0; got -1"),
    "pruning.cut_cost": ("-1", r"config.pruning.cut_cost must be a duration >= 0"),
    "pruning.ahead": ("soon", r"config.pruning.ahead must be a duration in steps"),
    "step_time_seconds": (0.0, "config.step_time_seconds must be above 0; got 0.0"),
    "pruning.constant": (-1.0, "config.pruning.constant must be at least 0; got -1.0"),
}


@pytest.mark.parametrize("field", BAD)
def test_one_line_per_field(field, tmp_path):
    value, message = BAD[field]
    with pytest.raises(UsageError, match=message) as caught:
        train_and_evaluate(short_config(**{field: value}), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning.exclude": ("stem*",)}, r"exclude: no site is named 'stem\*'. The sites are: norm/0, norm/1"),
        ({"model.norm": False}, "norm_scales: no parameter is called 'scale'.*where=demp_jax.regularizers.all_params"),
        ({"model.name": "resnet18", "model.stem_stride": 3}, r"config.model.stem_stride must be in \[1, 2\]; got 3"),
    ],
)
def test_fields_that_do_not_fit_together(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train_and_evaluate(short_config(**changes), tmp_path)


@pytest.mark.parametrize(
    ("text", "steps"), [("0", 0), ("5000", 5000), ("2ep", 781), ("250ep", 97656), ("50%", 500), ("0.5ep", 195)]
)
def test_durations(text, steps):
    assert to_steps("config.x", text, epoch=50_000 / 128, run=1000) == steps


@pytest.mark.parametrize("text", ["-1", "ep", "3 days", "1.5", "nanep", "-2%", ""])
def test_bad_durations(text):
    with pytest.raises(UsageError, match="config.x must be a duration"):
        to_steps("config.x", text, epoch=10.0, run=100)


def test_a_part_of_the_run_needs_a_run():
    with pytest.raises(
        UsageError, match=r'config.steps must be a duration in steps \("5000"\), epochs \("10ep"\); got'
    ):
        to_steps("config.steps", "50%", epoch=10.0)


def test_a_workdir_of_another_run(tmp_path):
    train_and_evaluate(short_config(steps="10", **_spans(10)), tmp_path)
    with pytest.raises(
        UsageError, match=r"holds the run of another config \(seed=0 there, 3 here\). Give its config to"
    ):
        train_and_evaluate(short_config(seed=3, steps="10", **_spans(10)), tmp_path)
    # How often it logs does not make it another run.
    train_and_evaluate(short_config(steps="10", log_every="2", **_spans(10)), tmp_path)


def _spans(steps):
    return {"method.strength_span": str(steps), "method.noise_span": str(steps)}


def test_a_workdir_with_foreign_files(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match=r"has checkpoints but no config.json. Choose another --workdir"):
        train_and_evaluate(short_config(), tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(UsageError, match=r"config.json is not a config of this program"):
        train_and_evaluate(short_config(), tmp_path)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A config and the workdir of its run."""
    workdir = tmp_path_factory.mktemp("short") / "run"
    config = short_config(steps="16", **_spans(16))
    train_and_evaluate(config, workdir)
    return config, workdir


@pytest.fixture
def stopped(short_run, tmp_path):
    """The config, the workdir and the newest checkpoint of a run that was cut short."""
    config, workdir = short_run
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    return config, tmp_path / "run", tmp_path / "run" / "checkpoints" / "16"


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "meta"])
def test_a_damaged_checkpoint_is_named_and_refused(stopped, damage):
    config, workdir, folder = stopped
    largest = max((p for p in (folder / "arrays").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    if damage == "flipped":
        # Some of it stands for nothing.
        content[::32] = bytes(byte ^ 0xFF for byte in content[::32])
        largest.write_bytes(content)
    elif damage == "truncated":
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        largest.unlink()
    else:
        (folder / "meta" / "metadata").write_text("{")
    message = rf"checkpoint {re.escape(str(folder))} is damaged \(.+\). Delete it to continue from step 8"
    with pytest.raises(UsageError, match=message):
        train_and_evaluate(config, workdir)


def test_a_foreign_checkpoint_is_named_and_refused(stopped):
    config, workdir, folder = stopped
    meta = folder / "meta" / "metadata"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(
        UsageError, match=r"checkpoint .* must be of format 3; got 99. It was not written by this program"
    ):
        train_and_evaluate(config, workdir)
    shapes = {**content["shapes"], "variables/params/head/bias": "float32[11]"}
    meta.write_text(json.dumps({**content, "shapes": shapes}))
    with pytest.raises(UsageError, match="checkpoint .*(holds other arrays than this run|is damaged)"):
        train_and_evaluate(_anyway(config), workdir)


def _anyway(config):
    config = config.copy_and_resolve_references()
    config.resume = "anyway"
    return config


def test_changed_metadata_are_named_and_refused(stopped):
    config, workdir, folder = stopped
    meta = folder / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["counters"]["train_flops"] += 1
    meta.write_text(json.dumps(content))
    where = re.escape(str(folder))
    with pytest.raises(
        UsageError, match=rf"checkpoint {where}: its metadata were changed after it was saved. Put back"
    ):
        train_and_evaluate(config, workdir)
    assert train_and_evaluate(_anyway(config), workdir).stopped_by is None


def test_the_checkpoint_of_another_step_is_named_and_refused(stopped):
    config, workdir, folder = stopped
    folder.rename(folder.with_name("12"))
    (folder.with_name("8")).rename(folder.with_name("4"))
    with pytest.raises(UsageError, match=r"checkpoint .*/12 holds step 16: its folder was renamed. Put back"):
        train_and_evaluate(config, workdir)


def test_the_checkpoint_of_another_run_is_named_and_refused(stopped, tmp_path):
    config, workdir, _ = stopped
    other = config.copy_and_resolve_references()
    other.method.strength = 0.123
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(workdir_lib.as_json(other)))
    shutil.move(workdir / "checkpoints", tmp_path / "other" / "checkpoints")
    message = (
        r"checkpoint .*/16 is of the run of another config \(method.strength=.* there, 0.123 here\). Give what the"
    )
    with pytest.raises(UsageError, match=message):
        train_and_evaluate(other, tmp_path / "other")
    assert train_and_evaluate(_anyway(other), tmp_path / "other").stopped_by is None


def test_other_data_are_named_and_refused(stopped, monkeypatch):
    config, workdir, _ = stopped
    own = arrays.Arrays.fingerprint

    def fingerprint(self):
        found = own(self)
        return {**found, "test": {**found["test"], "checksum": 1}}

    monkeypatch.setattr(arrays.Arrays, "fingerprint", fingerprint)
    message = r"checkpoint .*/16 is of a run on other data of config.data.name \(test.checksum \d+ there, 1 here\)"
    with pytest.raises(UsageError, match=message):
        train_and_evaluate(config, workdir)


@pytest.mark.parametrize("module", [quickstart, mlp_mnist, resnet18_cifar])
def test_an_unknown_variant(module):
    with pytest.raises(ValueError, match=r"the variant must be one of .*smoke.*; got 'smoek'"):
        module.get_config("smoek")


@pytest.mark.parametrize("module", [quickstart, mlp_mnist, resnet18_cifar])
def test_configs_are_locked_and_whole(module):
    config = module.get_config()
    with pytest.raises(AttributeError):
        config.no_such_key = 1
    assert set(config_of().to_dict()) == set(config.to_dict())


COMMANDS = {
    "--workdir=x": (2, "--config must be given, as in --config=configs/quickstart.py."),
    "--config=configs/quickstart.py": (2, "--workdir must be given, as in --workdir=runs/first."),
    "--config=configs/none.py --workdir=x": (2, "--config=configs/none.py: there is no file configs/none.py."),
    "--config=configs/quickstart.py:fast --workdir=x": (2, "the variant must be one of .*; got 'fast'."),
    "--config=configs/quickstart.py --workdir=x --config.method.strenght=1": (
        2,
        r"--config.method.strenght: the config has no such option. Did you mean method.strength\? --help with a",
    ),
    "--config=configs/quickstart.py --workdir=x --config.batch_size=many": (
        2,
        "config.batch_size must be a whole number; got 'many'.",
    ),
    "--config=configs/quickstart.py --workdir=x now": (2, "unknown argument 'now'"),
    "--config=configs/quickstart.py --workdir=gs://bucket/run": (
        2,
        r"--workdir must be a folder or file of this machine; got 'gs://bucket/run'. Mount it, as with gcsfuse",
    ),
    "--confg=3": (2, "Unknown command line flag 'confg'"),
    "--config.method.strength=-1 --workdir=x --config=configs/quickstart.py": (
        2,
        "config.method.strength must be at least 0; got -1.0.",
    ),
}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_command_line(arguments, tmp_path):
    status, message = COMMANDS[arguments]
    command = [sys.executable, "-m", "experiments.run", *arguments.replace("=x", f"={tmp_path / 'x'}").split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == status, done.stderr
    assert len(errors) == 1, done.stderr
    assert re.search(message, errors[0]), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [b"caf\xe9", b"gs://bucket/run"])
def test_workdirs_that_cannot_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"--workdir must be a (path in UTF-8; got b'caf\\xe9'|folder of this machine)"
    ):
        train_and_evaluate(short_config(), os.fsdecode(name))
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_share_a_workdir(tmp_path):
    taken = pytest.raises(UsageError, match=r"--workdir=.* is in use by another process")
    with workdir.claim(tmp_path, short_config()), taken:
        train_and_evaluate(short_config(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--workdir=.* must be a folder that can be written"):
        train_and_evaluate(short_config(), tmp_path / "file")


def test_a_comparison_is_checked_before_the_twin_is_trained(tmp_path):
    for changes, message in (
        ({"method.noise": -1.0}, r"config.method.noise must be at least 0; got -1.0"),
        ({"method.name": "dense"}, r"config.method.name must be a method to compare with dense; got 'dense'"),
    ):
        with pytest.raises(UsageError, match=message):
            compare.compare(short_config(**changes), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_fields_of_a_method_that_is_not_used_are_checked():
    with pytest.raises(UsageError, match=r"config.method.strength must be at least 0; got -1.0"):
        pose(short_config(**{"method.name": "dense", "method.strength": -1.0}))


def test_posing_a_problem_compiles_nothing(caplog):
    import jax

    with jax.log_compiles():
        pose(short_config())
    assert not [r for r in caplog.records if "Compiling jit(train_step" in r.getMessage()]
