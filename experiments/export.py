# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Exports the pruned network of a run.

    python -m experiments.export --workdir=runs/first --format=safetensors
    python -m experiments.export --workdir=runs/first --format=jax --format=onnx --out=exported
    python -m experiments.export --workdir=runs/first --format=onnx --batch=32 --data=/datasets

Reads the newest checkpoint and writes:

    model.json          model and its arguments, widths, input, preprocessing, accuracy, config of the run
    model.safetensors   safetensors: the variables, for `demp_jax.models.load`
    model.jax           jax: StableHLO with the weights, for `jax.export.deserialize`
    model.onnx          onnx: ONNX with the weights; needs the extra `onnx`

Batches can have any size. Each exported file is reloaded, compared with the network on test images, and benchmarked
beside the dense network in the same format. A line per format with the results is printed last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import command
from experiments.core import signals

if __name__ == "__main__":
    signals.end_at_once_on_interrupt()  # Before the imports that take seconds.

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

import demp_jax
from demp_jax import export as demp_export
from demp_jax import models
from experiments import settings as settings_lib
from experiments.core import compile_clock, named, timing
from experiments.core.errors import ExportError, UsageError, require
from experiments.recipe import network
from experiments.recipe.problem import Problem, pose, size
from experiments.rundir import checkpoints, records, workdir
from experiments.settings import schema
from experiments.training.step import prepare

# Prefix of folders with incomplete files.
_PARTIAL = ".partial-"
# Number of test images, and largest difference of their logits relative to max(1, largest logit).
_EXAMPLES = 64
_TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}


@dataclasses.dataclass(frozen=True)
class Net:
    """A network to export.

    Attributes:
      fn, variables: the network and its variables.
      about: content of `model.json`.
    """

    fn: network.Network
    variables: Any
    about: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
      files: names of its files besides `model.json`; the first has the weights.
      needs: required packages.
      dtypes: supported dtypes of the computation. Networks with another dtype are exported in float32.
      precision: matmul precision of the network that the export is compared with; `None` for the device's default.
      write: writes the files of a network to a folder.
      read: returns the network in the files of a folder, as a function of inputs.
    """

    files: tuple[str, ...]
    needs: tuple[str, ...]
    dtypes: tuple[str, ...]
    precision: str | None
    write: Callable[[Net, Path], None]
    read: Callable[[Net, Path], Callable[[Any], Any]]


def _write_safetensors(net: Net, folder: Path) -> None:
    variables = nnx.as_pure(nnx.state(net.fn.model(net.variables), nnx.Not(nnx.RngState)))
    demp_export.save_safetensors(folder / "model.safetensors", variables)


def _read_safetensors(net: Net, folder: Path) -> Callable[[Any], Any]:
    config = ml_collections.ConfigDict(net.about["config"])
    section = settings_lib.section(schema.Model, config.model)
    builder = named.find("config.model.name", section.name, network.MODELS)
    if isinstance(builder, network.LibraryModel):
        model = models.load(folder)
    else:
        _, *shape = net.about["input"]["shape"]
        model = network.build(section, config.seed, tuple(shape), net.about["classes"])
        demp_export.load_safetensors(model, folder / "model.safetensors")
        model.eval()
    graphdef, state = nnx.split(model)
    # Flattening the state in every call would take longer than a small network.
    leaves, structure = jax.tree.flatten(state)
    run = jax.jit(lambda leaves, x: nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))(x))
    return functools.partial(run, leaves)


def _write_jax(net: Net, folder: Path) -> None:
    (folder / "model.jax").write_bytes(demp_export.to_stablehlo(net.fn, net.variables, _example(net)))


def _read_jax(net: Net, folder: Path) -> Callable[[Any], Any]:
    del net
    return jax.jit(jax.export.deserialize(bytearray((folder / "model.jax").read_bytes())).call)


def _write_onnx(net: Net, folder: Path) -> None:
    model = demp_export.to_onnx(net.fn, net.variables, _example(net))
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _read_onnx(net: Net, folder: Path) -> Callable[[Any], Any]:
    del net
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": np.asarray(x)})[0]


def _example(net: Net) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *net.about["input"]["shape"][1:]), jnp.float32)


FORMATS = {
    "safetensors": Format(
        ("model.safetensors",), ("safetensors",), network.DTYPES, None, _write_safetensors, _read_safetensors
    ),
    "jax": Format(("model.jax",), ("flatbuffers",), network.DTYPES, None, _write_jax, _read_jax),
    # ONNX Runtime has no convolutions in bfloat16 on a CPU.
    "onnx": Format(("model.onnx",), ("jax2onnx", "onnxruntime"), ("float32",), "highest", _write_onnx, _read_onnx),
}


def export(
    folder: str | Path, formats: Sequence[str], out: str | Path | None = None, *, batch: int = 1, data: str = ""
) -> dict[str, dict[str, Any]]:
    """Exports the network of a run's newest checkpoint.

    Args:
      folder: the workdir of the run.
      formats: keys of `FORMATS`.
      out: output folder; `folder/export` by default.
      batch: batch size for the benchmark.
      data: folder of the dataset, instead of `config.data.dir`.

    Returns:
      For each format, a dict with `difference`, the largest absolute difference of the logits on test images; `dtype`,
      the dtype of the exported computation; `seconds`, the median times of a batch; and `bytes`, the sizes of the file
      with the weights. The latter two are pairs for the dense and the pruned network.

    Raises:
      UsageError: for invalid input.
      ExportError: if the exported network does not match the network. Nothing is kept.
    """
    require(batch >= 1, "--batch", batch, "at least 1")
    for name in formats:
        missing = [package for package in FORMATS[name].needs if importlib.util.find_spec(package) is None]
        if missing:
            extra = "onnx" if name == "onnx" else "experiments"
            raise UsageError(
                f"--format={name} needs {missing[0]}, which is not installed: pip install -e '.[{extra}]'."
            )
    folder = Path(folder)
    place = folder / "export" if out is None else Path(out)
    before = _previous(place)
    saved = checkpoints.read(folder)
    config = saved.config
    with config.unlocked():
        config.devices, config.tracker, config.data.dir = 1, "", data or config.data.dir
    compile_clock.use_compile_cache(config.compile_cache)
    problem = pose(config)
    x = _test_inputs(problem)
    about = _about(problem, saved, folder)
    found = {}
    with _partial(place) as partial:
        for name in formats:
            found[name] = _write(FORMATS[name], problem, saved, about, x, batch, partial)
        if before.get("digest") != about["digest"]:
            # Existing files of other formats belong to another network.
            for path in _present(place):
                path.unlink()
        # `model.json` comes first, so that after an interruption no file is without its description.
        for path in _present(partial / "pruned"):
            os.replace(path, place / path.name)
    return found


def _present(place: Path) -> list[Path]:
    """Returns the files of an export in a folder, `model.json` first."""
    names = ["model.json", *(name for kind in FORMATS.values() for name in kind.files)]
    return [place / name for name in names if (place / name).exists()]


def _previous(place: Path) -> dict[str, Any]:
    """Returns the `model.json` of a previous export, or an empty dict if there is none.

    Raises:
      UsageError: if the folder has such files that were not written by this program.
    """
    present = _present(place)
    if not present:
        return {}
    try:
        before = json.loads((place / "model.json").read_text())
        digest = before["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        digest = None
    if digest is None:
        raise UsageError(f"--out={place} holds a {present[0].name} that this program did not write. Choose another.")
    return before


@contextlib.contextmanager
def _partial(place: Path) -> Iterator[Path]:
    """Locks `place` and yields a temporary folder in it; removes those of interrupted exports."""
    with workdir.locked(place, "--out"):
        for left in place.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=place) as name:
            yield Path(name)


def _test_inputs(problem: Problem) -> jax.Array:
    """Returns inputs `[B, H, W, C]`, evenly spaced over the test set."""
    examples = problem.dataset.test_examples
    rows = np.linspace(0, examples - 1, min(_EXAMPLES, examples)).astype(np.int64)
    images, _ = next(iter(problem.dataset.read("test", [rows])))
    return prepare(jnp.asarray(images), preparation=problem.preparation)


def _about(problem: Problem, saved: checkpoints.Saved, folder: Path) -> dict[str, Any]:
    """Returns the content of `model.json`."""
    dataset, preparation = problem.dataset, problem.preparation
    graph = problem.trace(saved.network, saved.variables)
    digest = hashlib.sha256()
    for path, leaf in zip(demp_jax.tracing.leaf_paths(saved.variables), jax.tree.leaves(saved.variables), strict=True):
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    framing = getattr(dataset, "framing", None)  # Only datasets of image files have it.
    frame = {} if framing is None else {"shorter_side": framing.evaluation, "central_crop": framing.side}
    summary = folder / "summary.json"
    ended = json.loads(summary.read_text()) if summary.exists() else {}
    return {
        "model": network.description(problem.settings.model, problem.input_shape, dataset.classes),
        "input": {"shape": ["batch", *problem.input_shape], "dtype": "float32", "layout": "NHWC"},
        "output": {"shape": ["batch", dataset.classes], "dtype": "float32", "meaning": "logits"},
        "preprocessing": {
            "input": "(pixel - mean) / std, by channel",
            "pixels": [0, dataset.largest],
            "mean": preparation.mean,
            "std": preparation.std,
            "resize_bilinear": [preparation.upsample] * 2 if preparation.upsample else None,
            **frame,
        },
        "classes": dataset.classes,
        "test_accuracy": ended["test_accuracy"] if ended.get("steps") == saved.step else None,
        "parameters": size(saved.variables["params"]),
        "dense_parameters": problem.dense_parameters,
        "flops": graph.flops(),
        "dense_flops": problem.dense.flops(),
        "widths": graph.widths,
        "dense_widths": problem.dense.widths,
        "step": saved.step,
        "digest": digest.hexdigest(),
        "config": saved.meta["config"],
        "made_by": {"demp_jax": demp_jax.__version__, **records.provenance()["versions"]},
    }


def _write(
    kind: Format,
    problem: Problem,
    saved: checkpoints.Saved,
    about: dict[str, Any],
    x: jax.Array,
    batch: int,
    partial: Path,
) -> dict[str, Any]:
    """Exports a network to `partial/pruned` and its dense twin to `partial/dense`, and compares and times them."""
    section = problem.settings.model
    if section.dtype not in kind.dtypes:
        section = dataclasses.replace(section, dtype="float32")
    dense, variables = network.initial(section, problem.settings.seed, problem.input_shape, problem.dataset.classes)
    nets = {
        "dense": Net(dense, variables, about),
        "pruned": Net(dense.resized(saved.variables), saved.variables, about),
    }
    runs = {}
    for name, net in nets.items():
        folder = partial / name
        folder.mkdir(exist_ok=True)
        records.write_json(folder / "model.json", about)
        kind.write(net, folder)
        runs[name] = kind.read(net, folder)
    few = x[jnp.arange(batch) % len(x)]
    programs = {name: functools.partial(run, few) for name, run in runs.items()}
    times = timing.median_seconds(programs, problem.settings.step_time_seconds)
    assert times is not None
    return {
        "difference": _difference(kind, nets["pruned"], runs["pruned"], x, section.dtype),
        "dtype": section.dtype,
        "seconds": (times["dense"], times["pruned"]),
        "bytes": tuple((partial / name / kind.files[0]).stat().st_size for name in ("dense", "pruned")),
    }


def _difference(kind: Format, net: Net, run: Callable[[Any], Any], x: jax.Array, dtype: str) -> float:
    """Returns the largest absolute difference of the logits of an exported network and the network itself.

    Raises:
      ExportError: if it exceeds the tolerance.
    """
    with jax.default_matmul_precision(kind.precision):
        wanted = np.asarray(jax.jit(net.fn)(net.variables, x), np.float64)
    difference = float(np.max(np.abs(np.asarray(run(x), np.float64) - wanted)))
    tolerance = _TOLERANCES[dtype] * max(1.0, float(np.max(np.abs(wanted))))
    if not difference <= tolerance:
        raise ExportError(
            f"what was written differs from the network by up to {difference:.2g} on test images; {tolerance:.2g} is "
            "allowed. It was not kept."
        )
    return difference


def line(name: str, found: dict[str, Any], batch: int, place: Path) -> str:
    """Returns the results of a format as one line."""
    (slow, fast), (large, small) = found["seconds"], found["bytes"]
    device = "cpu" if name == "onnx" else jax.devices()[0].platform
    return (
        f"{name}: as the network up to {found['difference']:.1e}, in {found['dtype']}; dense -> pruned: "
        f"{1e3 * slow:.3g} -> {1e3 * fast:.3g} ms for a batch of {batch} on {device}, "
        f"{large / 1e6:.3g} -> {small / 1e6:.3g} MB; see {place}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command.Parser(__doc__)
    parser.add_argument("--workdir", type=command.local, required=True, metavar="DIR", help="workdir of the run")
    parser.add_argument("--format", choices=FORMATS, action="append", required=True, help="repeatable")
    parser.add_argument("--out", type=command.local, metavar="DIR", help="output folder; WORKDIR/export by default")
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="batch size for the benchmark; %(default)s by default"
    )
    parser.add_argument("--data", default="", metavar="DIR", help="folder of the dataset, if it differs from the run's")
    options = parser.parse_args(arguments)
    formats = list(dict.fromkeys(options.format))
    signals.raise_on_signal()  # Lets incomplete files be removed.
    try:
        found = export(options.workdir, formats, options.out, batch=options.batch, data=options.data)
    except UsageError as error:
        return command.fail(str(error), 2)
    except ExportError as error:
        return command.fail(str(error), 1)
    except KeyboardInterrupt:
        return command.fail("stopped; nothing was written.", 130)
    for name in formats:
        command.say(line(name, found[name], options.batch, options.out or options.workdir / "export"))
    return 0


if __name__ == "__main__":
    sys.exit(command.guarded(main))
