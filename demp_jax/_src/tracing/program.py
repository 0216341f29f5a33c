# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""A traced function as a tree of operations over numbered values.

`jax.make_jaxpr` returns nested jaxprs: `jit`, `remat` and custom-derivative calls each have an inner jaxpr with
variables of their own. Here every intermediate value of the whole tree has one number. A call adds no values: its
results are values of its body. An analysis therefore reads `Program.leaves`, a flat list of primitive operations.
`evaluate` walks the tree, runs each call as JAX would, and can return any numbered value.

Example: in `jax.nn.relu(x @ w)` the numbers 0 and 1 are the inputs, 2 is the product, and 3 is the result of `max`,
which is also the result of the call (custom_jvp) that contains it. The leaves are `dot_general` and `max`.

A `scan` over layers, whose weights are stacked along their first axis, is also a call: its body is unrolled, so that
the units of each layer have values of their own. `evaluate` runs the loop if no value inside it is requested, and
otherwise the layers one by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
from jax.extend import core as jex_core
from jax.extend import source_info_util

# Calls whose body is part of the program. `evaluate` can return values inside the first two groups. Calls with their
# own rule for derivatives, batching or lowering must stay whole, because running their body would bypass the rule.
_OPEN_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_REMAT_CALLS = {"remat2": "jaxpr", "checkpoint": "jaxpr", "remat": "jaxpr"}
_WHOLE_CALLS = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "custom_vmap_call": "call"}
_WHOLE_CALLS |= {"composite": "jaxpr" if jax.__version_info__ < (0, 12) else "call_jaxpr"}
_CALLS = _OPEN_CALLS | _REMAT_CALLS | _WHOLE_CALLS

# A scan over more steps does not count as a stack of layers. Unrolled, it would take minutes to compile.
_MOST_LAYERS = 512
# A longer recurrence is not unrolled, and the units that its steps compute are not found.
MOST_STEPS = 32
# Operations that keep the layers of stacked weights in place.
LAYER_COPIES = {"convert_element_type", "copy", "copy_p", "name", "sharding_constraint", "stop_gradient"}
STACK = "demp_jax.stack_layers"

# JAX caches the traces of its own functions, so operations inside them do not have a line of the user's code.
_JAX_FILES = os.path.dirname(jax.__file__) + os.sep
# Files that are not the user's code. The models of this library count as the user's.
_OUR_FILES = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_LIBRARY_FILES = (
    _JAX_FILES,
    os.sep.join((os.path.dirname(os.path.dirname(jax.__file__)), "flax", "")),
    # In the tests, functions are called through jaxtyping.
    os.path.dirname(jaxtyping.__file__) + os.sep,
    os.path.join(_OUR_FILES, "_src", ""),
    os.path.join(_OUR_FILES, "nnx.py"),
    os.path.join(_OUR_FILES, "linen.py"),
)

# Names of jit calls that count as one operation.
_OPAQUE_NAMES: set[str] = set()


def register_opaque(name: str) -> None:
    """Makes `jit` calls with this name leaves of every program that is traced afterwards."""
    _OPAQUE_NAMES.add(name)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A literal operand of the jaxpr; `value` is a NumPy scalar or array."""

    value: Any


Operand = int | Constant


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation, or one call with its body.

    Attributes:
      name: the name of the primitive, or the registered name of an opaque call.
      eqn: its jaxpr equation.
      caller: the equation that has the line of user code: `eqn`, or the call of a JAX function that contains it.
      inputs: value numbers or constants, one per operand.
      outputs: value numbers, one per result; the results of a call are values of its body or operands of the call.
      body: the operations of a call in order, `None` for a leaf.
      defines: numbers of all values computed strictly inside the body.
      readable: whether `evaluate` can return values inside the body.
    """

    name: str
    eqn: Any
    caller: Any
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    body: tuple[Op, ...] | None = None
    defines: frozenset[int] = frozenset()
    readable: bool = True

    @property
    def params(self) -> dict[str, Any]:
        return self.eqn.params

    @property
    def source(self) -> str:
        """The line of the user's code, as `file:line (function)`; "" if unknown."""
        traceback = self.caller.source_info.traceback
        frames = traceback.frames if traceback is not None else ()
        for frame in frames:
            if not frame.file_name.startswith(_LIBRARY_FILES):
                return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
        return ""


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function `fn(*args)`.

    Attributes:
      ops: the operations in order, calls with their bodies.
      leaves: the primitive operations in the order in which they run, without calls, and without operations that have
        no results, such as `jax.debug.print`.
      avals: shape and dtype of every value, by its number.
      inputs: value numbers of the flattened arguments.
      outputs: value numbers or constants of the flattened results.
      constants: arrays that the function captured, by value number.
      unreadable: numbers of values that `evaluate` cannot return.
      stacked: positions of the inputs that stack, along their first axis, the weights of layers that a `scan` runs.
      in_tree, out_tree: tree structures of the arguments and of the results.
    """

    ops: tuple[Op, ...]
    leaves: tuple[Op, ...]
    avals: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Operand, ...]
    constants: dict[int, Any]
    unreadable: frozenset[int]
    stacked: frozenset[int]
    in_tree: Any
    out_tree: Any


def same(one: Program, other: Program) -> bool:
    """Returns whether two programs run the same operations on the same values.

    Parameters that are jaxprs are not compared.
    """
    if len(one.leaves) != len(other.leaves) or one.outputs != other.outputs:
        return False
    return all(_same_op(a, b) for a, b in zip(one.leaves, other.leaves, strict=True))


def _same_op(one: Op, other: Op) -> bool:
    if one.name != other.name or one.outputs != other.outputs or len(one.inputs) != len(other.inputs):
        return False
    for a, b in zip(one.inputs, other.inputs, strict=True):
        literals = isinstance(a, Constant) and isinstance(b, Constant)
        if not (a == b or (literals and str(a.value) == str(b.value))):  # type: ignore[union-attr]
            return False
    return one.params.keys() == other.params.keys() and all(
        str(value) == str(other.params[name]) for name, value in one.params.items() if "jaxpr" not in name
    )


def trace(fn: Callable[..., Any], variables: Any, *args: Any) -> Program:
    """Returns the program of `fn(variables, *args)`, given trees of arrays or `jax.ShapeDtypeStruct`s."""
    with describes_call(*args):
        closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(variables, *args)
    builder = _Builder(len(jax.tree.leaves(variables)))
    return builder.build(closed, jax.tree.structure((variables, *args)), jax.tree.structure(out_shape))


@contextlib.contextmanager
def describes_call(x: Any, *more: Any) -> Iterator[None]:
    """A context that adds a note to errors of the network: how it was called, and how to call it otherwise."""
    try:
        yield
    except Exception as error:
        shapes = jax.tree.map(lambda leaf: jax.typeof(leaf).str_short(), (x, *more))
        error.add_note(
            f"demp_jax called the network with one batch, {shapes[0] if len(shapes) == 1 else shapes}. Batches hold "
            "what the network takes, without labels. For other arguments, such as train=False, give call= in "
            "demp_jax.nnx and demp_jax.equinox, keywords to demp_jax.linen.Forward, or a function fn(variables, x)."
        )
        raise


def subprogram(closed: Any) -> Program:
    """Returns the body of a loop or branch, a closed jaxpr, as a program with its own numbers."""
    return _Builder(0).build(closed, None, None)


class _Builder:
    """Numbers the values of a closed jaxpr. Its first `variables` inputs are variables."""

    def __init__(self, variables: int) -> None:
        self.avals: list[Any] = []
        self.constants: dict[int, Any] = {}
        self.unreadable: set[int] = set()
        # For each value that is a copy of a variable, the position of the variable.
        self._copies = {i: i for i in range(variables)}
        self._stacked: set[int] = set()
        # In how many steps of recurrences the current operations run.
        self._steps = 1

    def build(self, closed: Any, in_tree: Any, out_tree: Any) -> Program:
        inputs = tuple(self._new(var.aval) for var in closed.jaxpr.invars)
        ops, outputs = self._scope(closed.jaxpr, closed.consts, inputs, readable=True, caller=None)
        return Program(
            ops=ops,
            leaves=tuple(op for op in _leaves(ops) if op.outputs),
            avals=tuple(self.avals),
            inputs=inputs,
            outputs=outputs,
            constants=self.constants,
            unreadable=frozenset(self.unreadable),
            stacked=frozenset(self._stacked),
            in_tree=in_tree,
            out_tree=out_tree,
        )

    def _new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def _scope(
        self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Operand], readable: bool, caller: Any
    ) -> tuple[tuple[Op, ...], tuple[Operand, ...]]:
        """Returns the operations of one jaxpr, whose input variables are bound to `inputs`, and its results."""
        env: dict[Any, Operand] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = number = self._new(var.aval)
            self.constants[number] = value

        def read(atom: Any) -> Operand:
            return Constant(atom.val) if isinstance(atom, jex_core.Literal) else env[atom]

        ops = []
        for eqn in jaxpr.eqns:
            op = self._op(eqn, tuple(map(read, eqn.invars)), readable, caller)
            env.update(zip(eqn.outvars, op.outputs, strict=True))
            ops.append(op)
        return tuple(ops), tuple(map(read, jaxpr.outvars))

    def _op(self, eqn: Any, inputs: tuple[Operand, ...], readable: bool, caller: Any) -> Op:
        """Returns the operation of an equation: a leaf, or a call with the operations of its body."""
        name = eqn.primitive.name
        line = caller or eqn
        opaque = name in _OPEN_CALLS and eqn.params["name"] in _OPAQUE_NAMES
        layers = name == "scan" and self._runs_layers(eqn, inputs)
        steps = eqn.params["length"] if name == "scan" and not layers and self._unrolls(eqn, inputs) else 1
        unrolled = layers or steps > 1
        if (name not in _CALLS and not unrolled) or opaque:
            outputs = tuple(self._new(var.aval) for var in eqn.outvars)
            if not readable:
                self.unreadable.update(outputs)
            if name in LAYER_COPIES and inputs[0] in self._copies:
                self._copies[outputs[0]] = self._copies[inputs[0]]
            return Op(eqn.params["name"] if opaque else name, eqn, line, inputs, outputs)
        inner = _written_out(eqn, layers) if unrolled else eqn.params[_CALLS[name]]
        consts = getattr(inner, "consts", ())
        jaxpr = getattr(inner, "jaxpr", inner)
        inside = readable and name not in _WHOLE_CALLS
        first = len(self.avals)
        library = (jaxpr.debug_info.func_filename or "").startswith(_JAX_FILES)
        self._steps *= steps
        body, results = self._scope(jaxpr, consts, inputs, inside, line if library else caller)
        self._steps //= steps
        defines = frozenset(range(first, len(self.avals)))
        if readable:
            # The results of a whole call can be returned.
            self.unreadable.difference_update(r for r in results if isinstance(r, int))
        return Op(name, eqn, line, inputs, results, body, defines, inside)

    def _runs_layers(self, eqn: Any, inputs: Sequence[Operand]) -> bool:
        """Returns whether a `scan` runs over layers, whose weights are slices of variables. Stores these variables."""
        constants, carried = scan_counts(eqn.params)
        layers = [self._copies[i] for i in inputs[constants + carried :] if i in self._copies]
        if not layers or not 0 < eqn.params["length"] <= _MOST_LAYERS:
            return False
        self._stacked.update(layers)
        return True

    def _unrolls(self, eqn: Any, inputs: Sequence[Operand]) -> bool:
        """Returns whether a `scan` is a short recurrence, each step of which reads the same variables."""
        constants, carried = scan_counts(eqn.params)
        reads = any(i in self._copies for i in inputs[:constants])
        return reads and carried > 0 and 1 < eqn.params["length"] <= MOST_STEPS // self._steps


def _written_out(eqn: Any, layers: bool) -> Any:
    """Returns the closed jaxpr of an unrolled `scan`.

    Example: `scan(body, x, w)` over 2 layers becomes `x, y = body(x, w[0]); x, z = body(x, w[1]); (x, stack(y, z))`.

    Args:
      eqn: the equation of the `scan`.
      layers: whether it runs over layers, whose outputs have different units. The steps of a recurrence have the same.
    """
    body = jex_core.jaxpr_as_fun(eqn.params["jaxpr"])
    constants, carried = scan_counts(eqn.params)
    steps = range(eqn.params["length"])

    def run(*operands: Any) -> list[Any]:
        fixed, carry, slices = operands[:constants], operands[constants:][:carried], operands[constants + carried :]
        outs: dict[int, list[Any]] = {}
        for i in reversed(steps) if eqn.params["reverse"] else steps:
            layer = [jax.lax.index_in_dim(each, i, keepdims=False) for each in slices]
            results = body(*fixed, *carry, *layer)
            carry, outs[i] = results[:carried], results[carried:]
        stack = _stack_layers if layers else lambda *each: jnp.stack(each)
        return [*carry, *(stack(*each) for each in zip(*(outs[i] for i in steps), strict=True))]

    return jax.make_jaxpr(run)(*[jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars])


def _stacked(*layers: Any) -> Any:
    return jax.lax.concatenate([jax.lax.expand_dims(layer, (0,)) for layer in layers], 0)


# The tracer recognizes the call by its name. Results of different layers have different units.
_stacked.__name__ = _stacked.__qualname__ = STACK
_stack_layers = jax.jit(_stacked)
register_opaque(STACK)


def _leaves(ops: Sequence[Op]) -> Iterator[Op]:
    for op in ops:
        if op.body is None:
            yield op
        else:
            yield from _leaves(op.body)


def read_inputs(program: Program, outputs: Collection[int] | None = None) -> set[int]:
    """Returns the positions of the inputs that the outputs of a program depend on.

    Args:
      program: a traced function.
      outputs: positions of the outputs; all of them by default.
    """
    needed = {
        out for i, out in enumerate(program.outputs) if isinstance(out, int) and (outputs is None or i in outputs)
    }
    for op in reversed(program.leaves):
        wanted = {i for i, out in enumerate(op.outputs) if out in needed}
        if wanted:
            operands = [op.inputs[i] for i in _read_operands(op, wanted)]
            needed.update(operand for operand in operands if isinstance(operand, int))
    return {i for i, number in enumerate(program.inputs) if number in needed}


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many operands of a `scan` are constants, and how many are carried from step to step."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # From JAX 0.12 on.
    return len(list(constants)), len(list(carry))


def _read_operands(op: Op, wanted: set[int]) -> set[int]:
    """Returns the positions of the operands that some results of an operation depend on."""
    if op.name == "cond":
        branches = [read_inputs(subprogram(branch), wanted) for branch in op.params["branches"]]
        return {0} | {1 + i for read in branches for i in read}
    if op.name != "scan":
        return set(range(len(op.inputs)))
    body, (constants, carried) = subprogram(op.params["jaxpr"]), scan_counts(op.params)
    while True:
        # A step has to compute the part of the carry that the next step reads.
        read = read_inputs(body, wanted)
        carry = {i - constants for i in read if constants <= i < constants + carried}
        if carry <= wanted:
            return read | {constants + i for i in wanted if i < carried}
        wanted = wanted | carry


def evaluate(
    program: Program,
    args: Sequence[Any],
    wanted: Sequence[int],
    replace: Mapping[int, Callable[[Any], Any]] | None = None,
) -> tuple[list[Any], list[Any]]:
    """Runs a program. The function can be jitted and differentiated.

    Args:
      program: the traced function.
      args: the flattened arguments.
      wanted: numbers of intermediate values to return, none of them in `program.unreadable`.
      replace: by number of an intermediate value, a function that returns its replacement.

    Returns:
      The flattened results and the wanted values, in order.
    """
    env: dict[int, Any] = dict(program.constants)
    env.update(zip(program.inputs, args, strict=True))
    _run(program.ops, env, frozenset(wanted), replace or {})
    return [_read(env, out) for out in program.outputs], [env[number] for number in wanted]


def _read(env: dict[int, Any], operand: Operand) -> Any:
    return operand.value if isinstance(operand, Constant) else env[operand]


def _run(
    ops: Sequence[Op], env: dict[int, Any], wanted: frozenset[int], replace: Mapping[int, Callable[[Any], Any]]
) -> None:
    """Runs operations and stores their results in `env`.

    Calls are run whole, unless a value inside is wanted or replaced. Then the operations of the body are run.
    """
    for op in ops:
        hidden = (op.defines & wanted) - set(op.outputs) if op.body is not None else frozenset()
        # A value is replaced before the rest of its call reads it.
        if op.body is not None and op.readable and not op.defines.isdisjoint(replace):
            _run(op.body, env, wanted, replace)
        elif hidden and op.name in _REMAT_CALLS:
            _run_remat(op, env, hidden)
        elif hidden:
            assert op.body is not None
            assert op.readable
            _run(op.body, env, wanted, replace)
        else:
            _bind(op, env)
            for output in op.outputs:
                if isinstance(output, int) and output in replace:
                    env[output] = replace[output](env[output])


def run_flat(
    program: Program, args: Sequence[Any], rules: Mapping[str, Callable[[Op, Sequence[Any]], Any | None]]
) -> list[Any]:
    """Runs the leaves of a program, without calls. Operations that depend on no argument are computed immediately.

    The results are those of `evaluate`, but custom derivatives and rematerialization are lost.

    Args:
      program: the traced function.
      args: the flattened arguments.
      rules: by name of an operation with one result, a function of the operation and its operands that returns the
        result, or `None` to apply the operation. Operands that depend on no argument are arrays.

    Returns:
      The flattened results.
    """
    env: dict[int, Any] = dict(program.constants)
    env.update(zip(program.inputs, args, strict=True))
    for op in program.leaves:
        operands = [_read(env, operand) for operand in op.inputs]
        shapes = [program.avals[output].shape for output in op.outputs if isinstance(output, int)]
        # Symbolic sizes, such as that of a batch, are not known.
        known = all(isinstance(size, int) for shape in shapes for size in shape)
        known = known and not any(isinstance(operand, jax.core.Tracer) for operand in operands)
        with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
            rule = None if known else rules.get(op.name)
            result = None if rule is None else rule(op, operands)
            results = bind(op, operands) if result is None else [result]
        env.update((output, r) for output, r in zip(op.outputs, results, strict=True) if isinstance(output, int))
    return [_read(env, out) for out in program.outputs]


@contextlib.contextmanager
def _at(op: Op) -> Iterator[None]:
    """A context in which traced operations get the name and the line of `op`."""
    eqn = op.eqn
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with source_info_util.user_context(eqn.source_info.traceback, name_stack=stack), eqn.ctx.manager:
        yield


def bind(op: Op, operands: Sequence[Any]) -> list[Any]:
    """Applies the primitive of `op` to `operands` and returns its results as a list."""
    eqn = op.eqn
    with _at(op):
        results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _bind(op: Op, env: dict[int, Any]) -> None:
    results = bind(op, [_read(env, operand) for operand in op.inputs])
    for output, result in zip(op.outputs, results, strict=True):
        if isinstance(output, int):
            env[output] = result


def _run_remat(op: Op, env: dict[int, Any], hidden: frozenset[int]) -> None:
    """Runs a rematerialized call so that it also returns its `hidden` values."""
    assert op.body is not None
    body = op.body
    numbers = sorted({operand for operand in op.inputs if isinstance(operand, int)})
    results = sorted({output for output in op.outputs if isinstance(output, int)} | hidden)

    def run(*operands: Any) -> list[Any]:
        inner = dict(env)
        inner.update(zip(numbers, operands, strict=True))
        _run(body, inner, hidden, {})
        return [inner[number] for number in results]

    rematerialized = jax.checkpoint(run, prevent_cse=op.params["prevent_cse"], policy=op.params["policy"])
    env.update(zip(results, rematerialized(*[env[number] for number in numbers]), strict=True))
