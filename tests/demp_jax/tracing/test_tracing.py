"""What has to leave together, what may not leave, and what is said about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.extend import core as jex_core

import demp_jax
from demp_jax import nnx as demp_nnx
from tests import helpers
from tests.helpers import batch

relu = jax.nn.relu


def _trace(fn, params, shape, **options):
    return demp_jax.trace(fn, params, jax.ShapeDtypeStruct(shape, jnp.float32), **options)


def _removable(graph):
    return {site.name: int((site.groups >= 0).sum()) for site in graph.sites}


def _weights(*shapes):
    return {f"w{i}": batch(shape, i) for i, shape in enumerate(shapes)}


def test_dense_layers():
    def fn(p, x):
        return relu(relu(x @ p["w0"]) @ p["w1"]) @ p["w2"]

    graph = _trace(fn, _weights((4, 6), (6, 5), (5, 3)), (2, 4))
    assert _removable(graph) == {"w0": 6, "w1": 5}
    first, second = graph.sites
    np.testing.assert_array_equal(graph.axes[0][1], first.groups)
    np.testing.assert_array_equal(graph.axes[1][0], first.groups)
    np.testing.assert_array_equal(graph.axes[1][1], second.groups)
    np.testing.assert_array_equal(graph.axes[2][0], second.groups)
    assert graph.axes[0][0] is None  # The network's input.
    assert graph.axes[2][1] is None  # The network's output.
    assert not set(first.groups) & set(second.groups)


def test_bias_and_norm_leave_with_the_unit():
    def fn(p, x):
        y = (x @ p["w"] - p["mean"][None]) * p["scale"][None] + p["bias"][None]
        return relu(y) @ p["out"]

    params = {"w": batch((4, 6)), "out": batch((6, 2))} | {k: batch((6,)) for k in ("mean", "scale", "bias")}
    graph = _trace(fn, params, (2, 4))
    by_path = dict(zip(graph.paths, graph.axes, strict=True))
    for name in ("mean", "scale", "bias"):
        np.testing.assert_array_equal(by_path[name][0], graph.sites[0].groups)


@pytest.mark.parametrize(
    "options",
    [{"window_strides": (2, 2)}, {"window_strides": (1, 1), "rhs_dilation": (2, 2)}, {"window_strides": (1, 1)}],
)
@pytest.mark.parametrize("layout", [("NHWC", "HWIO"), ("NCHW", "OIHW")])
def test_convolution(options, layout):
    images, kernel = layout
    dims = (images, kernel, images)
    shapes = {"HWIO": [(3, 3, 3, 6), (3, 3, 6, 4)], "OIHW": [(6, 3, 3, 3), (4, 6, 3, 3)]}[kernel]

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, padding="SAME", dimension_numbers=dims, **options)

    def fn(p, x):
        return jnp.sum(conv(relu(conv(x, p["w0"])), p["w1"]), axis=(2, 3) if images == "NCHW" else (1, 2))

    graph = _trace(fn, _weights(*shapes), (2, 8, 8, 3) if images == "NHWC" else (2, 3, 8, 8))
    assert _removable(graph) == {"w0": 6}
    out, inp = kernel.index("O"), kernel.index("I")
    np.testing.assert_array_equal(graph.axes[0][out], graph.axes[1][inp])


def _grouped_conv(groups):
    dims = ("NHWC", "HWIO", "NHWC")

    def fn(p, x):
        y = relu(jax.lax.conv_general_dilated(x, p["w0"], (1, 1), "SAME", dimension_numbers=dims))
        y = jax.lax.conv_general_dilated(y, p["w1"], (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups)
        return jnp.sum(relu(y), (1, 2)) @ p["w2"]

    return fn


def test_depthwise_channel_leaves_with_its_outputs():
    graph = _trace(_grouped_conv(6), _weights((3, 3, 3, 6), (3, 3, 1, 12), (12, 2)), (2, 4, 4, 3))
    before, after = graph.sites
    assert graph.num_groups == 6
    np.testing.assert_array_equal(np.repeat(before.groups, 2), after.groups)


def test_grouped_convolution_loses_whole_groups():
    graph = _trace(_grouped_conv(3), _weights((3, 3, 3, 6), (3, 3, 2, 12), (12, 2)), (2, 4, 4, 3))
    before, after = graph.sites
    assert graph.num_groups == 3
    np.testing.assert_array_equal(before.groups, np.repeat(before.groups[::2], 2))
    np.testing.assert_array_equal(after.groups, np.repeat(before.groups[::2], 4))
    assert graph.axes[1][2] is None


def test_residual_sum_couples_and_select_does_not():
    coupled = demp_nnx.trace(helpers.Blocks(nnx.Rngs(0), coupled=True), batch(helpers.BLOCKS_INPUT))
    free = demp_nnx.trace(helpers.Blocks(nnx.Rngs(0)), batch(helpers.BLOCKS_INPUT))
    assert coupled.neurons == free.neurons == 8 + 8 + 8 + 6 + 20
    sites = {s.name: s.groups for s in coupled.sites}
    np.testing.assert_array_equal(sites["bn0"], sites["bn2"])
    sites = {s.name: s.groups for s in free.sites}
    assert set(sites) == {"bn0", "bn1", "sum", "bn3", "bn4"}
    assert not set(sites["bn0"]) & set(sites["sum"])
    assert [b.name for b in free.branches] == ["bn2"]
    assert coupled.report() != free.report()


def test_concatenation_and_flattening_follow_the_channels():
    graph = demp_nnx.trace(helpers.Blocks(nnx.Rngs(0)), batch(helpers.BLOCKS_INPUT))
    sites = {s.name: s.groups for s in graph.sites}
    joined = np.concatenate([sites["sum"], sites["bn3"]])
    hidden = dict(zip(graph.paths, graph.axes, strict=True))["hidden/kernel"]
    np.testing.assert_array_equal(hidden[0], np.tile(joined, 4))
    np.testing.assert_array_equal(hidden[1], sites["bn4"])


def test_equal_split_couples_its_parts():
    def fn(p, x):
        gate, up = jnp.split(x @ p["w0"], 2, axis=-1)
        return (jax.nn.silu(gate) * up) @ p["w1"]

    graph = _trace(fn, _weights((4, 12), (6, 3)), (2, 4))
    assert _removable(graph) == {"w0": 6}
    np.testing.assert_array_equal(graph.axes[0][1][:6], graph.axes[0][1][6:])


def test_unequal_split_and_fixed_slices_are_refused():
    def split(p, x):
        first, second = jnp.split(relu(x @ p["w0"]), [4], axis=-1)
        return first @ p["w1"] + second @ p["w2"]

    graph = _trace(split, _weights((4, 6), (4, 3), (2, 3)), (2, 4))
    # What lies before the written position stays, and so does one unit of the rest.
    assert _removable(graph) == {"w0": 1}
    assert "split into parts of fixed, unequal sizes" in graph.report()

    def sliced(p, x):
        return relu(x @ p["w0"])[:, :4] @ p["w1"]

    graph = _trace(sliced, _weights((4, 6), (4, 3)), (2, 4))
    assert "sliced at fixed positions" in graph.report()
    assert "test_tracing.py" in graph.report()


def test_layer_norm_over_units_is_refused_and_the_stream_of_a_transformer_with_it():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Linear(4, 16, rngs=rngs)
            self.norm1, self.norm2 = nnx.LayerNorm(16, rngs=rngs), nnx.LayerNorm(16, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(16, 24, rngs=rngs), nnx.Linear(24, 16, rngs=rngs)
            self.head = nnx.Linear(16, 3, rngs=rngs)
            self.position = nnx.Param(jnp.zeros((1, 5, 16)))

        def __call__(self, x):
            x = self.embed(x) + self.position[...]
            x = x + self.attention(self.norm1(x))
            x = x + self.down(jax.nn.gelu(self.up(self.norm2(x))))
            return self.head(relu(x)[:, 0])

    graph = demp_nnx.trace(Block(nnx.Rngs(0)), batch((2, 5, 4)))
    assert _removable(graph) == {"up": 24, "down": 0}
    [refusal] = [r for r in graph.refusals if r.what == "down"]
    assert "reduced over together with other units" in refusal.reason
    kept = [p for p, axes in zip(graph.paths, graph.axes, strict=True) if any(a is not None for a in axes)]
    assert kept == ["down/kernel", "up/bias", "up/kernel"]


def test_group_norm_loses_whole_groups():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 12, (3, 3), rngs=rngs)
            self.norm = nnx.GroupNorm(12, num_groups=4, rngs=rngs)
            self.head = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(relu(self.norm(self.conv(x))).mean((1, 2)))

    graph = demp_nnx.trace(Net(nnx.Rngs(0)), batch((2, 6, 6, 3)))
    assert len(graph.sites) == 1  # The variance, kept from being negative by a max, is no activation.
    np.testing.assert_array_equal(graph.sites[0].groups, np.repeat([0, 1, 2, 3], 3))


def test_pooling_flattening_and_transposing_keep_units_apart():
    def fn(p, x):
        y = relu(jax.lax.conv_general_dilated(x, p["w0"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        y = jnp.transpose(y, (0, 3, 1, 2)).reshape(y.shape[0], -1)
        return y @ p["w1"]

    graph = _trace(fn, _weights((3, 3, 3, 5), (20, 2)), (2, 4, 4, 3))
    np.testing.assert_array_equal(graph.axes[1][0], np.repeat(graph.sites[0].groups, 4))


@pytest.mark.parametrize(
    "look_up", [lambda w, tokens: w[tokens], jax.vmap(jax.vmap(lambda w, i: w[i], (None, 0)), (None, 0))]
)
def test_embedding_features_follow_and_its_vocabulary_stays(look_up):
    def fn(p, tokens):
        return relu(look_up(p["w0"], tokens)) @ p["w1"]

    graph = demp_jax.trace(fn, _weights((10, 6), (6, 2)), jax.ShapeDtypeStruct((2, 3), jnp.int32))
    assert _removable(graph) == {"w0": 6}
    assert graph.axes[0][0] is None


def test_an_operation_without_a_rule_is_named():
    primitive = jex_core.Primitive("mystery")
    primitive.def_abstract_eval(lambda x: x)

    def fn(p, x):
        return primitive.bind(relu(x @ p["w0"])) @ p["w1"]

    graph = _trace(fn, _weights((4, 6), (6, 2)), (2, 4))
    assert graph.num_groups == 0
    assert "`mystery`, for which there is no rule" in graph.report()


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda p, x: jnp.cumsum(relu(x @ p["w0"]), -1) @ p["w1"], "mixes it with other units"),
        (lambda p, x: (relu(x @ p["w0"]) + jnp.arange(6.0)[None]) @ p["w1"], "numbered positions"),
        (lambda p, x: (relu(x @ p["w0"]) * np.linspace(0, 1, 6)[None]) @ p["w1"], "constant"),
        (lambda p, x: jnp.pad(relu(x @ p["w0"]), ((0, 0), (0, 2))) @ jnp.pad(p["w1"], ((0, 2), (0, 0))), None),
        (lambda p, x: relu(x @ p["w0"])[:, [0, 2, 1, 3, 4, 5]] @ p["w1"], "indexed at fixed positions"),
        (lambda p, x: jax.nn.softmax(relu(x @ p["w0"])) @ p["w1"], "reduced over together"),
        (lambda p, x: relu(x @ p["w0"]), "output of the network"),
        (lambda p, x: (relu(x @ p["w0"]) + x[:, :1]) @ p["w1"], None),
    ],
)
def test_refusals_and_their_reasons(fn, reason):
    graph = _trace(fn, _weights((4, 6), (6, 2)), (2, 4))
    assert len(graph.sites) == 1
    if reason is None:
        assert _removable(graph) == {"w0": 6}
    else:
        assert _removable(graph) == {"w0": 0}
        assert any(reason in refusal.reason for refusal in graph.refusals), graph.report()


def test_units_that_meet_the_input_stay():
    graph = _trace(lambda p, x: (x + relu(x @ p["w0"])) @ p["w1"], _weights((4, 4), (4, 2)), (2, 4))
    assert _removable(graph) == {"w0": 0}
    assert "it meets the network's input" in graph.report()


def test_excluded_sites_stay():
    def fn(p, x):
        return relu(relu(x @ p["w0"]) @ p["w1"]) @ p["w2"]

    params = _weights((4, 6), (6, 5), (5, 3))
    assert _removable(_trace(fn, params, (2, 4), exclude=["w1"])) == {"w0": 6, "w1": 0}
    with pytest.raises(ValueError, match=r"exclude: no site is named 'w9'. The sites are: w0, w1."):
        _trace(fn, params, (2, 4), exclude=["w9"])


def test_no_neuron_is_an_error_that_says_what_to_do():
    graph = _trace(lambda p, x: jnp.tanh(x @ p["w0"]) @ p["w1"], _weights((4, 6), (6, 2)), (2, 4))
    with pytest.raises(ValueError, match="no prunable unit found: no activation.*Use ReLU.*demp_jax.mark_units"):
        graph.require_prunable()


def test_weight_sharing_unites():
    graph = _trace(
        lambda p, x: relu(relu(x @ p["w0"]) @ p["w1"]) @ p["w1"] @ p["w2"], _weights((4, 6), (6, 6), (6, 2)), (2, 4)
    )
    first, second = graph.sites
    np.testing.assert_array_equal(first.groups, second.groups)


def test_linen_nnx_and_plain_jax_agree():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(6, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            return nn.Dense(3)(x.mean((1, 2)))

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs)
            self.norm, self.head = nnx.BatchNorm(6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))

    x = batch((2, 5, 5, 3))
    variables = Linen().init(jax.random.key(0), x)
    linen = demp_jax.trace(Linen().apply, variables, x)
    ours = demp_nnx.trace(Nnx(nnx.Rngs(0)), x)
    assert _removable(linen) == {"BatchNorm_0": 6}
    assert _removable(ours) == {"norm": 6}
    assert linen.flops() == ours.flops()
    assert linen.parameters() == ours.parameters()


def test_a_jitted_and_rematerialised_network_is_seen_through():
    def layer(w, x):
        return relu(x @ w)

    def fn(p, x):
        return jax.jit(lambda p, x: jax.checkpoint(layer)(p["w0"], x) @ p["w1"])(p, x)

    assert _removable(_trace(fn, _weights((4, 6), (6, 2)), (2, 4))) == {"w0": 6}


def test_batch_axis_may_be_elsewhere():
    graph = demp_jax.trace(
        lambda p, x: p["w1"] @ relu(p["w0"] @ x),
        _weights((6, 4), (2, 6)),
        jax.ShapeDtypeStruct((4, 8), jnp.float32),
        batch_axis=1,
    )
    assert _removable(graph) == {"w0": 6}
    assert graph.flops() == 2 * (6 * 4 + 2 * 6)


def test_the_last_group_of_a_group_norm_has_to_stay():
    """Two groups of two: one can leave whole, and then nothing can, which is no error of who asks."""

    def network(params, x):
        h = x @ params["hidden"]
        grouped = h.reshape(h.shape[0], -1, 2)
        h = ((grouped - grouped.mean(-1, keepdims=True)) / (grouped.std(-1, keepdims=True) + 1.0)).reshape(h.shape)
        return jax.nn.relu(h * params["scale"][None] + params["offset"][None]) @ params["out"]

    params = {
        "hidden": jnp.array([[1.0, -1.0, 2.0, 1.0]]),
        "scale": jnp.array([0.0, 0.0, 1.0, 1.0]),
        "offset": jnp.array([-1.0, -1.0, 0.5, 0.5]),
        "out": jnp.ones((4, 2)),
    }
    x = jnp.array([[1.0], [2.0], [-1.0]])
    assert demp_jax.trace(network, params, x).prunable
    result = demp_jax.prune(network, params, [x])
    assert sum(result.record.removed.values()) == 2
    assert not demp_jax.trace(network, result.variables, x).prunable


def test_a_batch_of_one_example_is_refused():
    with pytest.raises(ValueError, match="x must have at least two examples along batch_axis=0"):
        demp_jax.trace(lambda w, x: jax.nn.relu(x @ w), jnp.ones((3, 4)), jnp.ones((1, 3)))
