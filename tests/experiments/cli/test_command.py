"""The command line: help, the keys of a config, exit statuses."""

import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs import base, quickstart
from experiments import compare, export, report, reproduce, sweep, tables
from experiments.cli import command, field_help
from experiments.core.errors import NonFiniteLossError, UsageError
from experiments.settings import options
from experiments.training import loop
from tests.runs import short_config

ROOT = Path(__file__).resolve().parents[3]


def _help(module, *arguments):
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", ["experiments.run", "experiments.compare"])
def test_help_begins_with_what_the_program_does(module):
    status, text, errors = _help(module, "--help")
    assert (status, errors) == (0, "")
    assert text.startswith("Trains ")
    assert 3 <= text.count("    python -m ") <= 4
    assert command.EXIT_STATUS in text
    assert "--config=configs/NAME.py --help" in text
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) < 40


def test_help_with_a_config_lists_its_keys():
    arguments = ("--help", "--config.method.noise=3e-5", "--config=configs/quickstart.py:sgdm")
    status, text, errors = _help("experiments.run", *arguments)
    assert (status, errors) == (0, "")
    assert "DemP on scikit-learn's handwritten digits" in text
    [line] = [line for line in text.splitlines() if "--config.method.noise=" in line]
    assert line.split(maxsplit=2)[:2] == ["*", "--config.method.noise=3e-05"]
    assert line.endswith(field_help.comments()["method.noise"].text)
    assert re.search(r"^\* --config.optimizer.name=sgdm ", text, re.M)
    status, _, errors = _help("experiments.run", "--help", "--config=configs/quickstart.py", "--config.sede=1")
    assert status == 2
    assert "Did you mean seed?" in errors


@pytest.mark.parametrize("module", [sweep, reproduce, tables, report, export])
def test_programs_without_a_config_are_alike(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.strip().startswith(module.__doc__.splitlines()[0])
    assert 3 <= text.count("    python -m ") <= 4
    assert text.endswith(command.EXIT_STATUS)
    with pytest.raises(SystemExit) as ended:
        module.main(["--fast"])
    assert ended.value.code == 2
    assert re.fullmatch(r"error: .*; --help says more\.\n", capsys.readouterr().err)


def test_every_key_has_a_comment():
    said = field_help.comments()
    for path in options.flat(base.base()):
        assert said[path].text, f"configs/base.py must say what {path} is"
    assert said["method.noise_asymmetric"].text == "Only add noise to weights of alive neurons."
    assert said["data.dir"].text.startswith("Folder of tensorflow-datasets, TFDS_DATA_DIR by default; image_folder:")
    assert said["data.framing"].heading == "imagenet, image_folder:"
    assert said["data.crop"].heading == ""
    assert said["ranking"].text.startswith("Methods that prune units by score: snap,")
    # By other means: as many lines of the file assign to a key, and each comment stands in it.
    source = (ROOT / "configs" / "base.py").read_text()
    assert len(said) == len(re.findall(r"^    c\.[\w.]+ = ", source, re.M))
    flowing = " ".join(re.sub(r"^ *# ", "", line) for line in source.splitlines())
    assert all(comment.text in flowing for comment in said.values())


def test_the_listing_of_keys():
    config = quickstart.get_config().copy_and_resolve_references().unlock()
    config.model.mine = 3
    text = field_help.listing(config, "configs/quickstart.py:sgdm", None)
    listed = re.findall(r"^[* ] --config\.([\w.]+)=", text, re.M)
    assert sorted(listed) == sorted(options.flat(config))
    assert listed[0] == "seed"  # As in configs/base.py.
    changed = set(re.findall(r"^\* --config\.([\w.]+)=", text, re.M))
    assert changed == {"optimizer.learning_rate", "method.strength", "method.noise", "model.mine"}
    assert text.count("  imagenet, image_folder:\n") == 1
    wrapped = field_help.listing(config, "configs/quickstart.py", 80)
    body = wrapped[wrapped.index("Options;") :]
    assert max(map(len, body.splitlines())) <= 80
    assert set(body.split()) == set(text[text.index("Options;") :].split())


def test_values_are_shown_as_they_are_given():
    for value in (True, 3, 1e-5, "87%", ("30ep", "70ep"), (3, 4)):
        path = {bool: "data.flip", int: "seed", float: "method.noise", str: "steps"}.get(type(value), "model.widths")
        path = "optimizer.boundaries" if value == ("30ep", "70ep") else path
        config = command.config_of(["--config=configs/quickstart.py", f"--config.{path}={options.as_text(value)}"])
        assert options.flat(config)[path] == value


def test_an_option_that_is_given_as_a_flag():
    with pytest.raises(UsageError, match=r"^--strength is no flag. Options of the config are --config.NAME=VALUE"):
        command.config_of(["--config=configs/quickstart.py", "--strength=3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=configs/none.py"], "--config=configs/none.py: there is no file configs/none.py."),
        (["--config=configs/quickstart.py", "--config.sede=1"], "has no such option. Did you mean seed?"),
        (["--config=configs/quickstart.py", "--config.seed=x"], "config.seed must be a whole number; got 'x'."),
        (["--config=configs/quickstart.py", "--config.optimizer.lr=1"], "Did you mean optimizer.learning_rate?"),
        (
            ["--config=configs/quickstart.py", "--config.model.widths[0]=24"],
            "config.model.widths must be given as a whole, as in --config.model.widths=(128,128,)",
        ),
        (
            ["--config=configs/quickstart.py", "--config.pruning.exclude=5"],
            "config.pruning.exclude must be a tuple of texts, such as ('stem/*',); got (5,).",
        ),
        (
            ["--config=configs/quickstart.py", "--config.pruning.constant=few"],
            "config.pruning.constant must be a number or None; got 'few'.",
        ),
        (["--config=configs/quickstart.py:fast"], "the variant must be one of"),
    ],
)
def test_configs_that_cannot_be(words, message, tmp_path, capsys):
    with pytest.raises(UsageError, match=re.escape(message)):
        command.config_of(words)
    grid = [f"--set={word.removeprefix('--config.')}" for word in words[1:]]
    assert sweep.main([words[0], *grid, f"--out={tmp_path / 'x'}"]) == 2  # Before any run.
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_exit_statuses(capsys, monkeypatch, tmp_path):
    def raises(error):
        raise error

    logger = logging.getLogger("experiments")  # That of the other tests is to stay as it is.
    for name, value in (("handlers", []), ("propagate", True), ("level", logger.level)):
        monkeypatch.setattr(logger, name, value)
    monkeypatch.setattr(command.absl_logging, "set_verbosity", lambda level: None)
    assert command.guarded(lambda: 7) == 7
    assert command.guarded(lambda: raises(NonFiniteLossError("the loss became nan"))) == 1
    assert command.guarded(lambda: raises(UsageError("config.seed must be\nsmall"))) == 2
    assert capsys.readouterr().err == "error: the loss became nan\nerror: config.seed must be small\n"
    assert [command.status_of(s) for s in (None, signal.SIGTERM, signal.SIGINT)] == [0, 0, 130]
    assert re.findall(r"^  (\d+) ", command.EXIT_STATUS, re.M) == ["0", "1", "2", "3", "130"]
    assert sweep.main(["--config=configs/quickstart.py", "--grid=seed=0", "--out=x", "--processes=-1"]) == 2
    assert reproduce.main(["fig3", "--seeds=0"]) == 2
    assert tables.main(["nowhere.jsonl"]) == 2
    assert tables.main(["--collect=x.jsonl", "nowhere"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith("error: ") for line in errors)
    monkeypatch.setattr(reproduce, "reproduce", lambda *args, **options: ["fig3: it failed"])
    assert reproduce.main(["fig3", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == "failed: fig3: it failed\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_comparison_that_is_stopped_trains_no_other_run(number, status, tmp_path, monkeypatch, capsys):
    begun = []

    def stopped(config, workdir):
        begun.append(workdir)
        return loop.Result({}, None, None, number)

    monkeypatch.setattr(loop, "train_and_evaluate", stopped)
    assert compare.compare(short_config(), tmp_path) == status
    assert begun == [tmp_path / "dense"]
    assert "give the same command to continue" in capsys.readouterr().out


FAULTS = {
    "\0\1": r"must be a Python file with get_config\(\); it cannot be parsed \(source code string cannot contain null",
    "def get_config(:": r"must be a Python file with get_config\(\); it cannot be parsed \(invalid syntax, line 1\)",
    "import nosuchmodule": r"get_config\(\) failed \(ModuleNotFoundError: No module named 'nosuchmodule'\)",
    "def get_config(v=''): raise RuntimeError('boom')": r"get_config\(\) failed \(RuntimeError: boom\)",
    "def get_config(v=''): raise ValueError()": r"get_config\(\) failed \(ValueError\)",
    "def get_config(v=''): return get_config(v)": r"get_config\(\) failed \(RecursionError: maximum recursion",
    "x = 1": r"get_config\(\) failed",
    "del c['seed']": r"config.seed must be in every config; --config=.* has none. Begin from configs.base.base\(\)",
    "c.batch_size = None": r"config.batch_size must be a whole number; got None",
    "c.method.target = None": r"config.method.target must be a section, as in configs/base.py; .* makes it None",
    "c.method = 3": r"config.method must be a section, as in configs/base.py; .* makes it 3",
    "c.data.flip = 'no'": r"config.data.flip must be true or false; got 'no'",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_config_file_is_named(fault, tmp_path):
    whole = any(word in fault for word in ("def ", "import", "\0", "x ="))
    begin = "from configs import quickstart\ndef get_config(v=''):\n"
    begin += "    c = quickstart.get_config('smoke').copy_and_resolve_references().unlock()\n    with c.ignore_type(): "
    path = tmp_path / "mine.py"
    path.write_text(fault if whole else f"{begin}{fault}\n    return c\n")
    with pytest.raises(UsageError, match=FAULTS[fault]) as raised:
        command.config_of([f"--config={path}"])
    assert "\n" not in str(raised.value)


def test_an_optional_key_is_unset():
    words = ["--config=configs/resnet18_cifar.py:cpu", "--config.pruning.constant=None"]
    assert command.config_of(words[:1]).pruning.constant == 0.1
    assert command.config_of(words).pruning.constant is None
    assert command.config_of([*words[:1], "--config.pruning.constant="]).pruning.constant is None


def test_what_nobody_foresaw_is_one_line_and_a_file(tmp_path, capsys, monkeypatch):
    def broken():
        raise KeyError("what")

    assert command.guarded(broken, lambda: str(tmp_path)) == 1
    error = capsys.readouterr().err
    [path] = tmp_path.glob("traceback-*.txt")
    assert error == f"error: KeyError: 'what' (the traceback is in {path})\n"
    assert 'raise KeyError("what")' in path.read_text()

    def full():
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(sys, "argv", ["run", "--debug"])
    assert command.guarded(full, lambda: str(tmp_path / "no")) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert "error: No space left on device: metrics.jsonl. Free space or raise the limit; the same command" in error


def test_last_words_name_the_newest_checkpoint_of_the_run_under_way(tmp_path):
    assert command._peer_died(tmp_path).endswith("continues from step 0, as no checkpoint had been written yet.")
    for step in ("9", "10", "11.orbax-checkpoint-tmp"):
        (tmp_path / "dense" / "checkpoints" / step).mkdir(parents=True)
    assert command._peer_died(tmp_path).endswith(f"continues from step 10 in {tmp_path}/dense/checkpoints.")


def test_the_page_of_options_has_every_option_once():
    from experiments.cli import field_help
    from experiments.settings import options, schema

    paths, rows, section = [], {}, ""
    for line in field_help.markdown().splitlines():
        if line.startswith("## "):
            section = "" if line == "## run" else line.removeprefix("## ") + "."
        elif line.startswith("| `"):
            paths.append(section + line.split("`")[1])
            rows[paths[-1]] = line
    assert sorted(paths) == sorted(options.flat(field_help.base.base()))
    assert rows["method.strength"].endswith(" | [0, 1e+06] |")
    assert rows["pruning.extra_units"].endswith(" | `heads`, `features` |")
    assert rows["steps"] == "| `steps` | `2000` | Length of the run. | steps, `10ep`, `50%` |"
    assert schema.described(schema.Range(0, 1, "both")) == "(0, 1)"
    assert schema.described(schema.Range(1, 2**31 - 1)) == "[1, ∞)"
