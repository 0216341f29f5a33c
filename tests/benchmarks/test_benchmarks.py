"""The benchmarks: what they compute from times, that every suite works, that their tables come from records."""

import contextlib
import itertools
import json
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ceilings, kernels, paddings, programs, run, shares, step, timing
from experiments.reporting import tables
from experiments.rundir.records import read_lines

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "results" / "benchmarks").glob("*.jsonl"))


def test_ratios_are_taken_within_rounds(monkeypatch):
    """A machine that gets slower round by round does not change them, and the first round does not count."""
    clock, calls = itertools.count(), []
    now = {"seconds": 0.0}

    def program(name, seconds):
        def call():
            now["seconds"] += seconds * (100 if len(calls) < 2 else 1 + len(calls) // 2)
            calls.append(name)
            return next(clock)

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now["seconds"])
    found = timing.interleaved({"dense": program("dense", 2.0), "cut": program("cut", 0.5)}, 4)
    assert found["dense"].ratio == 1
    assert found["cut"].ratio == pytest.approx(0.25)
    assert found["cut"].spread == pytest.approx((0.25, 0.25))
    assert found["cut"].seconds == pytest.approx(0.5 * 3.5)
    assert calls.count("cut") == calls.count("dense") == 5
    calls.clear()
    of_ten = timing.interleaved({"dense": program("dense", 2.0), "cut": program("cut", 0.5)}, 4, 10)
    assert of_ten["cut"].ratio == pytest.approx(0.25)
    assert of_ten["cut"].seconds == pytest.approx(0.5 * 3.5 / 10)


def test_records_are_written_as_they_come(tmp_path, monkeypatch, capsys):
    class Suite:
        CASES = types.MappingProxyType({"tiny": [("resnet18", 2), ("vgg16", 3)]})

        @staticmethod
        def rows(scale, cases):
            yield {"cases": cases, "asked": scale}
            raise RuntimeError("out of memory")

    monkeypatch.setitem(run.SUITES, "step", Suite)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.main(["step", "--scale=tiny", f"--out={tmp_path / 'new'}", "--only=vgg"])
    [record] = read_lines(tmp_path / "new" / "step.jsonl")
    assert (record["benchmark"], record["asked"], record["cases"]) == ("step", "tiny", [["vgg16", 3]])
    assert {"command", "commit", "versions", "device"} <= set(record)
    wrong = {
        "step": r"error: --only=vit matches no case of step at the scale tiny. .*\('vgg16', 3\).$",
        "gpu": r"error: --only needs a single suite instead of gpu: step, ",
    }
    for suite, message in wrong.items():
        with pytest.raises(SystemExit):
            run.main([suite, "--scale=tiny", f"--out={tmp_path}", "--only=vit"])
        assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


class _Suite:
    """Its cases are what its records say; text is an error."""

    def __init__(self, **cases):
        self.CASES = cases

    @staticmethod
    def rows(scale, cases):
        for case in cases:
            if isinstance(case, str):
                raise RuntimeError(case)
            yield {"case": case}

    @staticmethod
    def table(records):
        return [("case",), *((str(record["case"]),) for record in records)]


def test_all_suites_take_turns_and_none_stops_another(tmp_path, monkeypatch, capsys):
    suites = {"step": _Suite(gpu=["out of memory", 2, 3]), "paddings": _Suite(cpu=[9]), "cut": _Suite(gpu=[1])}
    monkeypatch.setattr(run, "SUITES", suites)
    monkeypatch.setattr(run, "_TURNS", ("step", "cut", "cut", "paddings", "step"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def ended(**options):
        with pytest.raises(SystemExit) as end:
            run.main(["gpu", f"--out={tmp_path}", *(f"--{name}={value}" for name, value in options.items())])
        printed = capsys.readouterr().out
        found = re.findall(r"^(\w+): ((?:not )?started) after 0 s: (.+)$", printed, re.MULTILINE)
        return end.value.code, found, printed

    code, order, printed = ended()
    assert code == 1
    assert order == [
        (s, "started", c) for s, c in (("step", "out of memory"), ("cut", "1"), ("step", "2"), ("step", "3"))
    ]
    assert [r["case"] for r in read_lines(tmp_path / "step_gpu.jsonl")] == [2, 3]
    assert [run.suite_of(path) for path in sorted(tmp_path.iterdir())] == ["cut", "step"]
    assert "cut\n| case |\n| --- |\n| 1 |\n" in printed
    # A case that is not likely to end in time is not started, which is no failure.
    monkeypatch.setattr(run, "_SECONDS", {"step": 60, "cut": 120})
    suites["step"].CASES["gpu"] = [2]
    code, order, _ = ended(minutes=1.5)
    assert code == 0
    assert order == [("step", "started", "2"), ("cut", "not started", "1")]


def test_a_suite_without_cases_at_a_scale(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["paddings", "--scale=gpu", f"--out={tmp_path}"])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("error: paddings has no cases at the scale gpu; use --scale=tiny or cpu")


@pytest.mark.parametrize("arguments", [["gpu"], ["step", "--scale=gpu"]])
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_as_of_one(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "SUITES", {"step": _Suite(gpu=[1])})
    monkeypatch.setattr(run, "_TURNS", ("step",))
    with pytest.raises(SystemExit):
        run.main([*arguments, f"--out={tmp_path}"])
    assert not list(tmp_path.iterdir())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("--scale=gpu needs a GPU, but JAX finds none; test a suite with --scale=tiny")


@pytest.mark.parametrize("arguments", [["step"], ["gpu"]])
def test_trials_are_not_added_to_the_records(arguments, monkeypatch):
    monkeypatch.setattr(run, "SUITES", {"step": _Suite(tiny=[1])})
    monkeypatch.setattr(run, "_TURNS", ("step",))
    files = {path: path.read_bytes() for path in RECORDS}
    with contextlib.suppress(SystemExit):
        run.main([*arguments, "--scale=tiny"])
    assert {path: path.read_bytes() for path in RECORDS} == files
    assert sorted((ROOT / "results" / "benchmarks").glob("*.jsonl")) == sorted(RECORDS)


def test_one_suite_has_no_limit_of_time(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["paddings", "--scale=tiny", "--minutes=3", f"--out={tmp_path}"])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("error: --minutes only applies to the suite gpu; limit another suite with --only=TEXT")


def test_a_share_of_the_roofline():
    """Of a step of 2 TFLOPs and 4 GB in 10 ms on a device of 400 TFLOP/s and 2 TB/s: 5 ms and 2 ms at least."""
    found = {"gflops_per_second": 400e3, "gbytes_per_second": 2e3}
    step = {"seconds": 0.01, "gflops_per_second": 200e3, "least_gbytes": 4.0}
    assert ceilings.share(found, step) == pytest.approx(0.5)
    assert ceilings.share(found, step | {"least_gbytes": 16.0}) == pytest.approx(0.8)
    measured = ceilings.measure("float32", 64)
    assert measured["gflops_per_second"] > 0
    assert measured["gbytes_per_second"] > 0


def test_the_bytes_of_a_step():
    """Of convolutions and products: input, weights and result, each three times; also those of inner functions."""

    def network(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.jit(lambda y: jnp.mean(y, (1, 2)).astype(jnp.bfloat16) @ params["out"].astype(jnp.bfloat16))(y)

    params = {"kernel": jnp.ones((3, 3, 3, 4)), "out": jnp.ones((4, 10))}
    jaxpr = jax.make_jaxpr(network)(params, jnp.ones((5, 8, 8, 3))).jaxpr
    convolution = 4 * (5 * 8 * 8 * 3 + 3 * 3 * 3 * 4 + 5 * 4 * 4 * 4)
    assert programs._moved(jaxpr) == convolution + 2 * (5 * 4 + 4 * 10 + 5 * 10)


def test_the_table_of_steps_tells_of_the_dense_step_once():
    """And only where more is known of it than its ratio to itself."""
    row = {"weight_sparsity": 0.0, "flops_ratio": 1.0, "ratio": 1.0, "efficiency": 1.0, "gflops_per_second": 200e3}
    row |= {"seconds": 0.01, "least_gbytes": 16.0}
    cut = row | {"weight_sparsity": 0.9, "flops_ratio": 0.1, "ratio": 0.2, "efficiency": 0.5}
    old = {"model": {"name": "resnet18", "base_width": 64}, "batch": 512, "steps": {"dense": row, "90%, even": cut}}
    assert [line[2] for line in step.table([old, old])] == ["cut", "90%, even", "90%, even"]
    new = old | {"ceilings": {"gflops_per_second": 400e3, "gbytes_per_second": 2e3}}
    found = step.table([new | {"steps": {"dense": row}}, new, new | {"batch": 128}])
    assert [line[1:3] for line in found[1:]] == [
        ("512", "dense"),
        ("512", "90%, even"),
        ("128", "dense"),
        ("128", "90%, even"),
    ]
    assert found[0][-2:] == ("TFLOP/s", "of the roofline")
    assert found[1][-2:] == ("200", "80%")


def test_the_table_of_steps_beside_xlas_dense_step():
    """Which takes 3 times as long here: a cut to 0.1 of the FLOPs in 0.2 of our time is of efficiency 0.5, and 1.5."""
    row = {"weight_sparsity": 0.0, "flops_ratio": 1.0, "ratio": 1.0, "efficiency": 1.0}
    cut = row | {"weight_sparsity": 0.9, "flops_ratio": 0.1, "ratio": 0.2, "efficiency": 0.5}
    slow = row | {"ratio": 3.0, "efficiency": 0.333}
    record = {"model": {"name": "resnet18", "base_width": 64}, "batch": 16}
    steps = {"dense": row, "90%, even": cut, step._AS_XLA: slow}
    found = step.table([record | {"steps": steps}, record | {"steps": {"dense": row, "90%, even": cut}}])
    assert [line[-2:] for line in found] == [
        ("efficiency", "relative to XLA's"),
        ("0.50", "1.50"),
        ("0.33", "1.00"),
        ("0.50", ""),
    ]


def test_widths_that_demp_left():
    """From a record of results/: every site keeps a part of its width, fewer where more weights are gone."""
    parts = [step._left_by_demp(sparsity) for sparsity in (0.8, 0.95)]
    assert all(0 < part <= 1 for left in parts for part in left.values())
    assert sum(parts[1].values()) < sum(parts[0].values())


@pytest.mark.slow
def test_cuts_of_the_cases_are_known():
    """All of them, but those by DemP of other networks, have a name that a case may ask for."""
    dense = programs.built(*programs.initial({"name": "resnet18", "base_width": 4}, (8, 8, 3)), (8, 8, 3), 2)
    known = set(step.kinds(dense, (1, 8)))
    assert len(known) == 12
    for _, _, _, names in itertools.chain(*step.CASES.values()):
        assert set(names or ()) <= known


def test_nothing_but_the_convolutions_of_a_step(monkeypatch):
    """Results and both gradients, but for the first's of its input."""
    monkeypatch.setattr(shares, "with_fast_convolutions", lambda fn, *, platform: fn)
    built = programs.initial({"name": "resnet18", "base_width": 4, "stem_stride": 2}, (8, 8, 3))
    program = programs.built(*built, (8, 8, 3), 2, together=3)
    timed = shares.convolutions(program)
    first, *_ = found = timed()
    (image, kernel, _), before = first, timed.args[0][0]
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(kernel, before[1])
    conv = jax.lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(first[2], conv, rtol=1e-5, atol=1e-5)
    # All others' arrays are other ones after every round, and neither vanish nor grow beyond bounds.
    for after, given in zip(found[1:], timed.args[0][1:], strict=True):
        for now, then in (after[0], given[0]), (after[2], given[2]):
            assert not np.array_equal(now, then)
            assert 0.01 < np.std(now) < 100
    ops = list(programs.products(timed.func.trace(*timed.args).jaxpr.jaxpr))
    convolutions = [eqn for eqn in ops if eqn.primitive.name == "conv_general_dilated"]
    # Twenty, of three blocks the shortcuts among them, and the last layer.
    assert (len(convolutions), len(ops)) == (3 * 20 - 1, 3 * 21 - 1)


def test_what_a_step_would_be_if_convolutions_took_time_as_flops():
    """Of a dense step 0.6 is convolutions; cut to a fifth of its FLOPs it takes 0.5, of which 0.2 are."""

    def row(flops, ratio, convolutions):
        return {"flops_ratio": flops, "ratio": ratio, "convolutions": {"ratio": convolutions}}

    steps = {"dense": row(1.0, 1.0, 0.6), "80%, even": row(0.2, 0.5, 0.2)}
    record = {"model": {"name": "vgg16", "base_width": 64}, "batch": 16, "steps": steps}
    header, dense, cut = shares.table([record])
    assert header[3:] == ("FLOPs", "convolutions", "all else", "time", "efficiency", "of convolutions", "at best")
    assert dense[3:] == ("x 1.000", "0.600", "0.400", "1.000", "1.00", "1.00", "1.00")
    # 0.2 / 0.5; 0.2 / (0.2 / 0.6); 0.2 / (0.2 * 0.6 + 0.3).
    assert cut[3:] == ("x 0.200", "0.200", "0.300", "0.500", "0.40", "0.60", "0.48")


def test_what_a_device_did_in_a_step():
    """Of a GPU by its streams: 20 us, 4 of them idle and 2 of two streams at once, in two steps."""

    def event(pid, tid, ts, dur, name, op=None):
        args = {} if op is None else {"hlo_op": op}
        return {"ph": "X", "pid": pid, "tid": tid, "ts": ts, "dur": dur, "name": name, "args": args}

    def named(kind, pid, name, tid=0):
        return {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}

    device = [
        event(1, 14, 100, 8, "sm90_xmma_fprop", "custom-call.1"),
        event(1, 14, 112, 3, "input_reduce_fusion_2", "input_reduce_fusion.2"),
        event(1, 15, 113, 4, "loop_add_fusion", "loop_add_fusion.7"),
        event(1, 14, 117, 3, "sm90_xmma_dgrad", "custom-call.1"),
    ]
    names = [named("process_name", 1, "/device:GPU:0"), named("process_name", 2, "/host:CPU")]
    names += [named("thread_name", 1, "Stream #14(Compute)", 14), named("thread_name", 1, "Stream #15(Compute)", 15)]
    names += [named("thread_name", 1, "XLA Ops", 16)]
    other = [event(1, 16, 100, 20, "all of it", "while.1"), event(2, 3, 90, 50, "launch", "custom-call.1")]
    other += [event(1, 14, 90, 1, "no operation"), {"ph": "X", "pid": 2, "ts": 0, "dur": 1, "name": "Python"}]
    found = kernels.summary([*names, *device, *other], 2)
    assert (found["ms"], found["idle"], found["launches"]) == (0.01, 0.2, 2)
    assert found["kinds"] == {
        "convolutions": {"ms": 0.0055, "launches": 1},
        "reductions": {"ms": 0.0015, "launches": 0.5},
        "all else": {"ms": 0.002, "launches": 0.5},
    }
    assert next(iter(found["longest"].items())) == ("custom-call.1", 0.0055)
    # Without a GPU everything that has an operation counts.
    assert kernels.summary([*names[1:2], other[1]], 1)["launches"] == 1
    assert kernels.summary([], 1)["launches"] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("custom-call.3 sm90_xmma_fprop_implicit_gemm_bf16", "convolutions"),
        ("conv_general_dilated.266 convolution", "convolutions"),
        ("gemm_fusion_dot.1 cutlass_80_tensorop_bf16_s16816gemm", "products"),
        ("loop_convert_fusion.7 loop_convert_fusion_7", "all else"),
        ("input_convert_reduce_fusion.2 input_convert_reduce_fusion_2", "reductions"),
        ("wrapped_transpose.4 wrapped_transpose_4", "copies"),
    ],
)
def test_what_kind_a_kernel_is_of(name, kind):
    assert kernels._kind(name) == kind


def test_ways_are_compared_to_the_best_of_each_convolution():
    seconds = [{"XLA": 4.0, "ours": 1.0, "8, 8": 2.0}, {"XLA": 1.0, "ours": 2.0, "8, 8": 0.5}]
    few = [{"inputs": 3, "outputs": 16, "seconds": each} for each in seconds]
    many = [{"inputs": 3, "outputs": 17, "seconds": seconds[0]}]
    records = [{"image": 8, "convolutions": few[:1]}, {"image": 8, "convolutions": few[1:] + many}]
    assert paddings.table(records)[1:] == [
        ("8 x 8", "3 to 16", "2", "x 2.83", "x 4.00", "x 2.00", "x 4.00"),
        ("8 x 8", "17 to 64", "1", "x 4.00", "x 4.00", "x 1.00", "x 1.00"),
    ]


@pytest.mark.slow
def test_all_suites_work_in_turn(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run.main(["gpu", "--scale=tiny", f"--out={tmp_path}"])
    assert end.value.code == 0
    assert {run.suite_of(path) for path in tmp_path.iterdir()} == {*run._TURNS}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suite", sorted(run.SUITES))
def test_a_suite_works(suite, tmp_path, capsys):
    run.main([suite, "--scale=tiny", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    records = read_lines(tmp_path / f"{suite}.jsonl")
    assert records
    assert all(json.dumps(record) for record in records)
    assert run.markdown(suite, records) in printed
    run.main([suite, "--table", f"--out={tmp_path}"])
    assert run.markdown(suite, records) in capsys.readouterr().out


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.name)
def test_tables_come_from_records(path):
    records = read_lines(path)
    for record in records:
        assert {"command", "commit", "versions", "device"} <= set(record)
        assert record["scale"] != "tiny"
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert tables.fill(text, path.name, run.markdown(run.suite_of(path), records)) == text
