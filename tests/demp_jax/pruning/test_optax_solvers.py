"""Every optimizer of Optax: ten steps after a cut are ten steps of the masked network, or it is known why not."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import demp_jax
from demp_jax._src.pruning import optimizer_state
from demp_jax._src.tracing.paths import entries

RATE = 0.02
contrib = optax.contrib
STEPS, DEAD, WIDTH = 10, 3, 8
ONES = {"a": True, "b": True, "c": True, "d": True}


def _every_other(step, *args, **kwargs):
    del args, kwargs
    return step % 2 == 0


def _then(scale, *others):
    """A direction of descent as an optimizer."""
    return optax.chain(*others, scale, optax.scale(-RATE))


# How each exported factory is called here. Those with a leading "contrib." are from `optax.contrib`.
SOLVERS = {
    "adabelief": lambda: optax.adabelief(RATE),
    "adadelta": lambda: optax.adadelta(1.0),
    "adafactor": lambda: optax.adafactor(RATE, min_dim_size_to_factor=2),
    "adagrad": lambda: optax.adagrad(RATE),
    "adam": lambda: optax.adam(RATE),
    "adamax": lambda: optax.adamax(RATE),
    "adamaxw": lambda: optax.adamaxw(RATE),
    "adamw": lambda: optax.adamw(RATE, weight_decay=0.1),
    "adan": lambda: optax.adan(RATE),
    "adaptive_grad_clip": lambda: optax.chain(optax.adaptive_grad_clip(0.05), optax.sgd(RATE)),
    "add_decayed_weights": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(RATE)),
    "add_noise": lambda: optax.chain(optax.add_noise(0.01, 0.55, key=0), optax.sgd(RATE)),
    "amsgrad": lambda: optax.amsgrad(RATE),
    "apply_every": lambda: optax.chain(optax.apply_every(3), optax.sgd(RATE)),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 2),
    "centralize": lambda: _then(optax.centralize()),
    "chain": lambda: optax.chain(optax.chain(optax.trace(0.9), optax.scale_by_rms()), optax.scale(-RATE)),
    "clip": lambda: optax.chain(optax.clip(0.05), optax.sgd(RATE)),
    "clip_by_block_rms": lambda: optax.chain(optax.clip_by_block_rms(0.02), optax.sgd(RATE)),
    "clip_by_global_norm": lambda: optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(RATE)),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(RATE), _every_other),
    "conditionally_transform": lambda: optax.chain(
        optax.conditionally_transform(optax.trace(0.5), _every_other), optax.sgd(RATE)
    ),
    "ema": lambda: _then(optax.ema(0.9)),
    "flatten": lambda: optax.flatten(optax.adam(RATE)),
    "freeze": lambda: optax.chain(optax.adam(RATE), optax.freeze({**ONES, "b": False, "c": False, "d": False})),
    "fromage": lambda: optax.fromage(RATE),
    "identity": lambda: _then(optax.identity()),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(RATE, weight_decay=0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(RATE),
    "keep_params_nonnegative": lambda: optax.chain(
        optax.adam(RATE), optax.masked(optax.keep_params_nonnegative(), {**ONES, "a": False, "b": False})
    ),
    "lamb": lambda: optax.lamb(RATE / 4),
    "lars": lambda: optax.lars(RATE),
    "lbfgs": lambda: optax.lbfgs(memory_size=3),
    "lion": lambda: optax.lion(RATE),
    "masked": lambda: optax.chain(optax.masked(optax.add_decayed_weights(0.1), {**ONES, "b": False}), optax.adam(RATE)),
    "measure_with_ema": lambda: optax.chain(
        optax.monitor({"norm": optax.measure_with_ema(optax.tree.norm, 0.9)}), optax.adam(RATE)
    ),
    "monitor": lambda: optax.chain(optax.monitor({"norm": optax.tree.norm}), optax.adam(RATE)),
    "multi_transform": lambda: optax.multi_transform(
        {"x": optax.adam(RATE), "y": optax.sgd(RATE, momentum=0.9)}, {"a": "x", "b": "y", "c": "y", "d": "x"}
    ),
    "nadam": lambda: optax.nadam(RATE),
    "nadamw": lambda: optax.nadamw(RATE, weight_decay=0.1),
    "named_chain": lambda: optax.named_chain(("one", optax.scale_by_adam()), ("two", optax.scale(-RATE))),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE),
    "normalize_by_update_norm": lambda: _then(optax.normalize_by_update_norm()),
    "novograd": lambda: optax.novograd(RATE),
    "optimistic_adam": lambda: optax.optimistic_adam(RATE),
    "optimistic_adam_v2": lambda: optax.optimistic_adam_v2(RATE),
    "optimistic_gradient_descent": lambda: optax.optimistic_gradient_descent(RATE),
    "partition": lambda: optax.partition(
        {"x": contrib.schedule_free_sgd(RATE), "y": contrib.schedule_free_adamw(RATE)},
        {"a": "x", "b": "y", "c": "y", "d": "x"},
    ),
    "polyak_sgd": lambda: optax.polyak_sgd(0.1),
    "radam": lambda: optax.radam(RATE),
    "rmsprop": lambda: optax.rmsprop(RATE, momentum=0.9, centered=True),
    "rprop": lambda: optax.rprop(RATE),
    "scale_by_backtracking_linesearch": lambda: optax.chain(
        optax.sgd(0.1), optax.scale_by_backtracking_linesearch(10, store_grad=True)
    ),
    "scale_by_distance_over_gradients": lambda: _then(optax.scale_by_distance_over_gradients(reps_rel=1.0)),
    "scale_by_param_block_norm": lambda: optax.chain(optax.sgd(RATE), optax.scale_by_param_block_norm()),
    "scale_by_param_block_rms": lambda: optax.chain(optax.sgd(RATE), optax.scale_by_param_block_rms()),
    "scale_by_schedule": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_schedule(lambda n: RATE / (1 + n))),
    "scale_by_trust_ratio": lambda: optax.chain(optax.scale_by_trust_ratio(), optax.scale(-RATE)),
    "selective_transform": lambda: optax.selective_transform(
        optax.adam(RATE), freeze_mask={**ONES, "b": False, "c": False}
    ),
    "set_to_zero": lambda: optax.partition(
        {"on": optax.adam(RATE), "off": optax.set_to_zero()}, {"a": "off", "b": "on", "c": "on", "d": "off"}
    ),
    "sgd": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "sign_sgd": lambda: optax.sign_sgd(RATE),
    "signum": lambda: optax.signum(RATE),
    "sm3": lambda: optax.sm3(RATE),
    "snapshot": lambda: optax.chain(optax.snapshot("norm", optax.tree.norm), optax.adam(RATE)),
    "stateless": lambda: _then(optax.stateless(lambda updates, params: updates)),
    "stateless_with_tree_map": lambda: _then(optax.stateless_with_tree_map(lambda g, p: g + 0.1 * p)),
    "yogi": lambda: optax.yogi(RATE),
    "zero_nans": lambda: optax.chain(optax.zero_nans(), optax.sgd(RATE)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(RATE), 3),
    "contrib.acprop": lambda: contrib.acprop(RATE),
    "contrib.ademamix": lambda: contrib.ademamix(RATE),
    "contrib.adopt": lambda: contrib.adopt(RATE),
    "contrib.cocob": lambda: contrib.cocob(),
    "contrib.dadapt_adamw": lambda: contrib.dadapt_adamw(1.0, estim_lr0=1e-3),
    "contrib.dog": lambda: contrib.dog(1.0),
    "contrib.dowg": lambda: contrib.dowg(1.0),
    "contrib.dpsgd": lambda: contrib.dpsgd(RATE, 1.0, 0.1, 0),
    "contrib.galore": lambda: contrib.galore(RATE, rank=2),
    "contrib.hutchinson_estimator_diag_hessian": lambda: _then(contrib.hutchinson_estimator_diag_hessian()),
    "contrib.madgrad": lambda: contrib.madgrad(RATE),
    "contrib.mechanize": lambda: contrib.mechanize(optax.adam(RATE), s_init=1e-2),
    "contrib.momo": lambda: contrib.momo(0.1),
    "contrib.momo_adam": lambda: contrib.momo_adam(RATE),
    "contrib.muon": lambda: contrib.muon(RATE),
    "contrib.normalize": lambda: _then(contrib.normalize()),
    "contrib.prodigy": lambda: contrib.prodigy(1.0, estim_lr0=1e-3),
    "contrib.reduce_on_plateau": lambda: optax.chain(optax.adam(RATE), contrib.reduce_on_plateau(patience=2)),
    "contrib.sam": lambda: contrib.sam(
        optax.adam(RATE), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2
    ),
    "contrib.schedule_free": lambda: contrib.schedule_free(optax.adam(RATE, b1=0.0), RATE),
    "contrib.schedule_free_adamw": lambda: contrib.schedule_free_adamw(RATE, weight_decay=0.1),
    "contrib.schedule_free_sgd": lambda: contrib.schedule_free_sgd(RATE),
    "contrib.simplified_ademamix": lambda: contrib.simplified_ademamix(RATE),
    "contrib.sophia": lambda: contrib.sophia(RATE, gamma=10.0, update_interval=1),
    "contrib.split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(RATE)),
}

# What the same factories make, or steps of the optimizers above.
PARTS = {
    "adam": "scale_by_adam scale_by_learning_rate scale",
    "adabelief": "scale_by_belief",
    "adadelta": "scale_by_adadelta",
    "adafactor": "scale_by_factored_rms",
    "adagrad": "scale_by_rss",
    "adamax": "scale_by_adamax",
    "adan": "scale_by_adan",
    "amsgrad": "scale_by_amsgrad",
    "lbfgs": "scale_by_lbfgs scale_by_zoom_linesearch",
    "lion": "scale_by_lion",
    "novograd": "scale_by_novograd",
    "optimistic_gradient_descent": "scale_by_optimistic_gradient",
    "polyak_sgd": "scale_by_polyak",
    "radam": "scale_by_radam",
    "rmsprop": "scale_by_rms scale_by_stddev",
    "rprop": "scale_by_rprop",
    "sgd": "trace",
    "sign_sgd": "scale_by_sign",
    "sm3": "scale_by_sm3",
    "yogi": "scale_by_yogi",
    "contrib.acprop": "contrib.scale_by_acprop",
    "contrib.ademamix": "contrib.scale_by_ademamix",
    "contrib.adopt": "contrib.scale_by_adopt",
    "contrib.cocob": "contrib.scale_by_cocob",
    "contrib.dpsgd": "contrib.differentially_private_aggregate",
    "contrib.galore": "contrib.scale_by_galore",
    "contrib.madgrad": "contrib.scale_by_madgrad",
    "contrib.muon": "contrib.scale_by_muon",
    "contrib.simplified_ademamix": "contrib.scale_by_simplified_ademamix",
    "conditionally_transform": "with_extra_args_support",
}

# Exported functions without an annotated result that are no optimizers, and `lookahead`, which has a test of its own.
OTHERS = """
    MaskOrFn OptState Params ScalarOrSchedule Updates bias_correction lookahead matrix_inverse_pth_root
    sigmoid_binary_cross_entropy update_infinity_moment update_moment update_moment_per_elem_norm
    contrib.schedule_free_eval_params
""".split()

# Where ten steps after a cut are not those of the masked network, and why.
INEXACT = {
    **dict.fromkeys(
        ["adafactor", "sm3", "contrib.galore", "lbfgs"],
        "its state holds means, maxima, projections or a history instead of mirrors of the parameters: reset",
    ),
    **dict.fromkeys(
        ["add_noise", "noisy_sgd", "contrib.dpsgd", "contrib.sophia", "contrib.hutchinson_estimator_diag_hessian"],
        "its random numbers are drawn for whole leaves, so they are others at other shapes",
    ),
    **dict.fromkeys(
        ["centralize", "clip_by_block_rms", "scale_by_param_block_rms"],
        "it takes means over whole leaves, of which removed weights are a part",
    ),
    "contrib.muon": "it scales the update of a matrix by the ratio of its sides",
}

X, Y = (jax.random.normal(jax.random.key(n), (16, size)) for n, size in enumerate((5, 3)))
PARAMS = {
    "a": 0.5 * jax.random.normal(jax.random.key(2), (5, WIDTH)),
    "b": jnp.full(WIDTH, 1.5).at[:DEAD].set(-9.0),
    "c": 0.5 * jax.random.normal(jax.random.key(3), (WIDTH, 3)),
    "d": jnp.full(3, 0.1),
}
KEPT = np.arange(WIDTH) >= DEAD
MASKS = {"a": np.tile(KEPT, (5, 1)), "b": KEPT, "c": np.tile(KEPT[:, None], (1, 3)), "d": np.ones(3, bool)}
# Fields of states that hold copies of the parameters.
COPIES = {"z", "x0", "params0", "init_params", "init_particles", "cache"}


def _network(variables, x):
    """Dead units are read as `shift`: 0 in one case, 1 in the other."""
    p = variables["params"]
    return (jax.nn.relu(x @ p["a"] + p["b"]) + variables["shift"]) @ p["c"] + p["d"]


def _loss(params, shift, x=X, y=Y):
    return jnp.mean((_network({"params": params, "shift": shift}, x) - y) ** 2)


_value_and_grad = jax.jit(jax.value_and_grad(_loss))
_per_example = jax.jit(jax.vmap(jax.grad(_loss), (None, None, 0, 0)))


@jax.jit
def _apply(params, updates, mask):
    return jax.tree.map(lambda p, m: jnp.where(m, p, 0), optax.apply_updates(params, updates), mask)


def _params_of(variables):
    return variables["params"]


@pytest.fixture(autouse=True)
def _as_optax_is_written():
    """Some optimizers of Optax add arrays of different ranks and take keys of the old kind."""
    with jax.numpy_rank_promotion("allow"), jax.legacy_prng_key("allow"):
        yield


@functools.cache
def _plan(constant):
    variables = {"params": PARAMS, "shift": jnp.full(WIDTH, constant)}
    result = demp_jax.prune(_network, variables, [X], params=_params_of)
    assert sum(result.record.removed.values()) == DEAD
    assert result.record.folded == (DEAD if constant else 0)
    return result.plan


def _train(name, update, params, state, shift, mask):
    for _ in range(STEPS):
        value, grads = _value_and_grad(params, shift)
        given = _per_example(params, shift, X[:, None], Y[:, None]) if name == "contrib.dpsgd" else grads
        updates, state = update(given, state, params, value, grads, shift)
        params = _apply(params, updates, mask)
    return params, state


def _masked_state(state, constant):
    """The state of the masked wide network: constants folded into copies, removed positions zero."""
    found = {entries(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}

    def masked(path, leaf):
        *_, field, name = ("", "", *entries(path))
        if field in COPIES and name == "d":
            [weights] = [w for path, w in found.items() if path[-2:] == (field, "c")]
            leaf = leaf + constant * weights[:DEAD].sum(0)
        fits = [mask for mask in MASKS.values() if mask.shape == jnp.shape(leaf)]
        return jnp.where(fits[0], leaf, jnp.zeros_like(leaf)) if fits else leaf

    return jax.tree_util.tree_map_with_path(masked, state)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.filterwarnings("ignore")
def test_ten_steps_after_a_cut(name):
    tx = SOLVERS[name]()
    run = tx.update if isinstance(tx, optax.MultiSteps) else optax.with_extra_args_support(tx).update

    # Without optimizations by the compiler, which take longer than the steps.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def update(grads, state, params, value, grad, shift):
        extra = {"value": value, "grad": grad, "value_fn": lambda p: _loss(p, shift)}
        if name in ("contrib.sophia", "contrib.hutchinson_estimator_diag_hessian"):
            extra = {"obj_fn": lambda p: _loss(p, shift)}
        if name == "contrib.sam":
            extra = {}
        return run(grads, state, params, **extra)

    everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), PARAMS)
    differences = []
    for constant in (0.0, 1.0):
        shift, plan = jnp.full(WIDTH, constant), _plan(constant)
        params, state = _train(name, update, PARAMS, tx.init(PARAMS), shift, everything)
        units = jax.nn.relu(X @ params["a"] + params["b"]).max(0)
        np.testing.assert_array_equal(units > 0, KEPT)

        variables = {"params": params, "shift": shift}
        small = plan.slice_variables(variables)
        small_state, reset, folded = optimizer_state.slice_state(
            plan, state, variables, _params_of, small["params"], tx
        )
        assert bool(reset) == (name in INEXACT and "reset" in INEXACT[name])
        copies = {entries(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
        copies = {"/".join(path) for path in copies if len(path) > 1 and path[-2] in COPIES and path[-1] == "d"}
        assert set(folded) == (copies if constant else set())
        mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), small["params"])
        ours, _ = _train(name, update, small["params"], small_state, small["shift"], mask)

        wide = {**params, "d": params["d"] + constant * params["c"][:DEAD].sum(0)}
        wide = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), wide, MASKS)
        masked, _ = _train(name, update, wide, _masked_state(state, constant), shift * KEPT, MASKS)
        sliced = {"a": masked["a"][:, DEAD:], "b": masked["b"][DEAD:], "c": masked["c"][DEAD:], "d": masked["d"]}
        gaps = jax.tree.map(lambda one, other: float(jnp.abs(one - other).max()), ours, sliced)
        differences.append(max(gaps.values()))
        assert max(float(jnp.abs(ours[k] - small["params"][k]).max()) for k in ours) > 1e-3
    assert (max(differences) < 1e-5) == (name not in INEXACT), differences


def test_every_exported_optimizer_is_listed():
    listed = {*SOLVERS, *OTHERS, *" ".join(PARTS.values()).split()}
    for prefix, module in (("", optax), ("contrib.", contrib)):
        for name in dir(module):
            each = getattr(module, name)
            if name.startswith("_") or not callable(each) or inspect.isclass(each) or inspect.ismodule(each):
                continue
            try:
                made = inspect.signature(each).return_annotation
            except (TypeError, ValueError):
                continue
            if made is inspect.Signature.empty or "GradientTransformation" in str(made):
                assert prefix + name in listed, f"{prefix}{name} is not in the tests of optimizers"
    assert set(INEXACT) <= set(SOLVERS)
    assert set(PARTS) <= set(SOLVERS)
