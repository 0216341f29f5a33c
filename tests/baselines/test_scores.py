"""The scores of SNAP and CroP and the selections, against reference values in float64.

`reference/parity/scores_*.npz` were computed by automatic differentiation of the definitions, independently of this
code, and agree with the methods' released codes. NHWC images, HWIO kernels, BatchNorm in inference mode with eps 1e-5.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import demp_jax
from baselines import crop, selection, snap
from baselines.subject import Subject, by_site

PARITY = Path(__file__).resolve().parents[1] / "reference" / "parity"
SCORES = {
    "snap_demp": snap.score,
    "snap_pt_normalised": snap.released,
    "crop_demp": crop.score,
    "crop_demp_with_shift": crop.with_shift,
    "crop_pt": crop.released,
}


def _network(params, x):
    for name in sorted(n for n in params if n.startswith("conv")):
        p, norm = params[name], params[f"bn{name[4:]}"]
        stride = 1 if name == "conv1" else 2
        x = jax.lax.conv_general_dilated(
            x, p["kernel"], (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(_norm(x + _row(p["bias"], x), norm))
    if x.ndim == 4:
        x = x.mean((1, 2))
    for name in sorted(n for n in params if n.startswith("fc")):
        x = x @ params[name]["kernel"] + _row(params[name]["bias"], x)
        x = jax.nn.relu(_norm(x, params["bn3"]) if "bn3" in params else x)
    return x @ params["head"]["kernel"] + _row(params["head"]["bias"], x)


def _norm(x, p):
    return (x - _row(p["mean"], x)) / jnp.sqrt(_row(p["var"], x) + 1e-5) * _row(p["scale"], x) + _row(p["bias"], x)


def _row(p, x):
    return p.reshape((1,) * (x.ndim - 1) + (-1,))


def _case(name, dtype):
    """Returns the file of a case and its subject; the sites come in the order of `gates`."""
    file = np.load(PARITY / f"scores_{name}.npz")
    params = {}
    for key in file:
        if key.startswith("params/"):
            _, layer, leaf = key.split("/")
            params.setdefault(layer, {})[leaf] = jnp.asarray(file[key], dtype)
    batches = [(jnp.asarray(x, dtype), jnp.asarray(y, jnp.int32)) for x, y in zip(file["x"], file["y"], strict=True)]
    graph = demp_jax.trace(_network, params, batches[0][0])
    return file, Subject(_network, params, graph, batches, np.ones(graph.num_groups, bool), jax.random.key(0))


def _by_gate(file, subject, values):
    return dict(zip((str(g) for g in file["gates"]), by_site(subject.graph, values).values(), strict=True))


@functools.cache
def _scores(case, name, x64=False):
    with jax.enable_x64(x64):
        file, subject = _case(case, jnp.float64 if x64 else jnp.float32)
        return file, _by_gate(file, subject, SCORES[name](subject))


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("case", "x64"), [("mlp_relu", False), ("conv_bn_relu", False), ("conv_bn_relu", True)])
def test_scores_are_those_of_the_reference(case, name, x64):
    file, scores = _scores(case, name, x64)
    largest = max(float(np.abs(file[f"score/{name}/{gate}"]).max()) for gate in scores)
    rtol = 1e-9 if x64 else 1e-5
    for gate, values in scores.items():
        expected = file[f"score/{name}/{gate}"]
        # A score near zero is a difference of terms as large as the others.
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol * largest, err_msg=gate)


@pytest.mark.parametrize("case", ["mlp_relu", "conv_bn_relu"])
@pytest.mark.parametrize("rule", ["topk", "percentile"])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 0.9])
def test_selections_are_those_of_the_reference(case, rule, fraction):
    kinds = ("snap_demp", "crop_demp") if rule == "percentile" else ("snap_pt_normalised", "crop_pt")
    for name in kinds:
        file, scores = _scores(case, name)
        leave = selection.select(scores, fraction, rule=rule, min_units=int(rule == "topk"))
        for gate, bits in leave.items():
            np.testing.assert_array_equal(~bits, file[f"keep/{rule}/{name}/{fraction}/{gate}"], err_msg=(name, gate))
