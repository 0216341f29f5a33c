"""The blocks of code in Markdown pages: what runs them, and what holds commands to the programs they start."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import ml_collections
from absl import app, flags

from experiments import sweep
from experiments.recipe.problem import pose

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.S | re.M)


class Block(NamedTuple):
    """A block of code: its language, its text, the output shown right after it (or `None`), its place."""

    language: str
    code: str
    output: str | None
    path: Path
    line: int


def blocks(path: Path, language: str) -> list[Block]:
    """Returns the blocks of a page in a language."""
    text = path.read_text()
    found = [(m, text.count("\n", 0, m.start()) + 1) for m in _FENCED.finditer(text)]
    return [Block(m[1], m[2], m[3], path, line) for m, line in found if m[1] == language]


def run_python(path: Path) -> tuple[dict, list[str]]:
    """Runs the Python blocks of a page, one after the other; returns their names, and what each printed."""
    names, printed = {}, []
    for block in blocks(path, "python"):
        # Errors name the line of the page.
        code = compile("\n" * block.line + block.code, str(path.relative_to(ROOT)), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out, jax.numpy_rank_promotion("allow"):
            exec(code, names)
        printed.append(out.getvalue())
        _compare(block, out.getvalue())
    return names, printed


def run_shown(block: Block, folder: Path) -> None:
    """Runs a command whose output is shown, in a folder that has the configs."""
    (folder / "configs").symlink_to(ROOT / "configs")
    [words] = commands(block)
    assert words[:2] == ["python", "-m"], words
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    _compare(block, done.stdout + done.stderr)


def _compare(block: Block, got: str) -> None:
    if block.output is not None:
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(block.output, got, options)
        assert same, f"{block.path}:{block.line} shows\n{block.output}and gives\n{got}"


def commands(block: Block) -> list[list[str]]:
    """Returns the commands of a block, as words."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


class _Parsed(BaseException):
    """A program has parsed its command line."""


def check(words: list[str]) -> None:
    """Checks a command: a target of the Makefile, extras of setup.py, tests, or flags as the program parses them.

    Of a run on digits everything that its config asks for is checked, up to the first step.
    """
    while re.match(r"[A-Z_]+=", words[0]) or words[0] == "srun":
        words = words[1:]
    if words[0] == "make":
        for target in words[1:]:
            assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target
    elif words[0].endswith("pip"):
        extras = re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.M)
        for listed in re.findall(r"\[([\w,]+)\]", words[-1]):
            assert set(listed.split(",")) <= set(extras), listed
    elif words[:3] == ["python", "-m", "pytest"]:
        marker = words[words.index("-m", 3) + 1]
        assert f'"{marker}: ' in (ROOT / "pyproject.toml").read_text(), marker
        assert (ROOT / words[-1]).exists(), words[-1]
    else:
        assert words[:2] == ["python", "-m"], words
        parsed = _parsed(words[2], words[3:])
        if words[2] == "experiments.sweep":
            for point in sweep.grid([*parsed.set, *parsed.grid]):
                run = sweep.Run.of(parsed.config, point)
                check(["python", "-m", "experiments.run", f"--config={run.config}", "--workdir=run", *run.flags()])
        elif isinstance(parsed, ml_collections.ConfigDict) and parsed.data.name == "digits":
            pose(parsed)


def _parsed(module: str, arguments: list[str]) -> argparse.Namespace | ml_collections.ConfigDict:
    """Lets a program parse its command line, and no more; returns its options, or its config."""
    found = []

    def parse_args(self, *args, **kwargs):
        found.append(real(self, *args, **kwargs))
        raise _Parsed

    def run(main, flags_parser):
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)  # The overrides of the command before.
        flags_parser(list(sys.argv))
        found.append(flags.FLAGS.config)
        raise _Parsed

    real = argparse.ArgumentParser.parse_args
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(app, "run", run),
        contextlib.chdir(ROOT),
        warnings.catch_warnings(),
        contextlib.suppress(_Parsed),
    ):
        # Of ml_collections, which loads config files so; and of runpy, where a test has imported the program already.
        warnings.filterwarnings("ignore", message=r"the load_module\(\) method|.* found in sys.modules after import")
        runpy.run_module(module, run_name="__main__")
    return found[-1]
