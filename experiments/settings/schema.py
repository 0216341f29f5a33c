# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Settings: the options of a config as frozen, typed values, validated once.

The classes below mirror the sections of `configs/base.py`, which documents each option. An annotation is the range or
the choices of an option, independent of all other options. Options that a run does not use are validated as well, so
that mistakes are found before the method or dataset is changed. Constraints that depend on other options or on the data
are checked where they are used. `parse` converts durations (`"30%"`, `"2ep"`) to steps.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np

from experiments.core.errors import require, require_choice
from experiments.settings import options
from experiments.settings.durations import to_steps

_LARGEST = float(np.finfo(np.float32).max)
_INT32 = 2**31 - 1

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`. For a tuple, the range of each element.

    Attributes:
      least: lower bound.
      most: upper bound.
      open: excluded bounds: "low", "high", "both", or "" for none.
      empty: whether a tuple may be empty.
    """

    least: float
    most: float = _LARGEST
    open: str = ""
    empty: bool = True

    def __contains__(self, value: float) -> bool:
        above = value > self.least if self.open in ("low", "both") else value >= self.least
        return above and (value < self.most if self.open in ("high", "both") else value <= self.most)

    def allowed(self, value: float) -> str:
        """Returns the allowed range as text, for the error message of an invalid `value`."""
        low, high = self.open in ("low", "both"), self.open in ("high", "both")
        if self.most <= 100:
            return f"in {'(' if low else '['}{self.least:g}, {self.most:g}{')' if high else ']'}"
        if value > self.least:
            return f"at most {int(self.most)}" if self.most < 2**53 else f"at most {self.most:g}"
        return f"{'above' if low else 'at least'} {self.least:g}"


@dataclasses.dataclass(frozen=True)
class Duration:
    """Duration as text: steps, epochs or a percentage of the run.

    Attributes:
      least: minimum in steps.
    """

    least: int = 0


@dataclasses.dataclass(frozen=True)
class Patterns:
    """Nonempty shell-style patterns of names."""


Count = Annotated[int, Range(1, _INT32)]
Pixels = Annotated[int, Range(0, 2**14)]
Positive = Annotated[float, Range(0, open="low")]
Nonnegative = Annotated[float, Range(0)]
Part = Annotated[float, Range(0, 1)]
Below1 = Annotated[float, Range(0, 1, "high")]
Between0And1 = Annotated[float | None, Range(0, 1, "both")]
Steps = Annotated[int, Duration()]
Steps1 = Annotated[int, Duration(1)]
Names = Annotated[tuple[str, ...], Patterns()]
Schedule = Literal["one_cycle", "one_cycle_cosine", "warmup_hold", "cosine_decay", "constant"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Section `data`."""

    name: str
    dir: str
    cache: str
    normalize: Literal["unit", "standardize"]
    crop: Pixels
    padding: Literal["reflect", "zero"]
    flip: bool
    upsample: Pixels
    crop_first: bool
    mixup: Annotated[float, Range(0, 1000)]
    cutmix: Annotated[float, Range(0, 1000)]
    train_examples: Annotated[int, Range(0, _INT32)]
    test_examples: Annotated[int, Range(0, _INT32)]
    side: Annotated[int, Range(1, 2**14)]
    framing: Literal["resize_crop", "random_resized_crop"]
    resize: Annotated[tuple[int, ...], Range(1, 2**14, empty=False)]
    eval_resize: Annotated[int, Range(1, 2**14)]
    randaugment_operations: Annotated[int, Range(0, 100)]
    randaugment_magnitude: Annotated[float, Range(0, 30)]
    workers: Annotated[int, Range(0, 1024)]


@dataclasses.dataclass(frozen=True)
class Model:
    """Section `model`."""

    name: str
    activation: Literal["relu", "leaky_relu", "swish", "gelu"]
    dtype: Literal["float32", "bfloat16"]
    widths: Annotated[tuple[int, ...], Range(1, 2**20, empty=False)]
    norm: bool
    base_width: Annotated[int, Range(1, 2**16)]
    blocks: Annotated[tuple[int, ...], Range(1, 1000, empty=False)]
    stem_stride: Annotated[int, Range(1, 2)]
    coupled: bool
    hidden: Annotated[int, Range(1, 2**20)]
    patch: Annotated[int, Range(1, 2**14)]
    features: Annotated[int, Range(1, 2**20)]
    depth: Annotated[int, Range(1, 1000)]
    heads: Annotated[int, Range(1, 2**16)]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Section `optimizer`."""

    name: Literal["adam", "adamw", "sgdm"]
    learning_rate: Positive
    schedule: Literal["step", "piecewise", "one_cycle", "cosine", "constant"]
    step_every: Steps1
    boundaries: Annotated[tuple[int, ...], Duration(1)]
    step_factor: Positive
    warmup: Steps
    warmup_from: Annotated[float, Range(0, 1e6)]
    clip_norm: Nonnegative
    weight_decay: Annotated[float, Range(0, 1e6)]
    decoupled_decay: bool
    b1: Below1
    b2: Below1
    eps: Annotated[float, Range(0, 1e6, "low")]
    momentum: Below1


@dataclasses.dataclass(frozen=True)
class Target:
    """Section `method.target`."""

    weight_sparsity: Between0And1
    neuron_sparsity: Between0And1
    parameters: Annotated[int | None, Range(1, _INT32)]
    inference_flops: Between0And1
    step_time: Between0And1
    every: Annotated[str, Duration()]  # Parsed in `recipe.goal`, because % is of the span.


@dataclasses.dataclass(frozen=True)
class Method:
    """Section `method`."""

    name: str
    strength: Annotated[float, Range(0, 1e6)]
    strength_schedule: Schedule
    strength_span: Steps1
    regularizer: Literal["lasso", "l2", "proximal", "group", "proximal_group"]
    penalized: Literal["scales", "all"]
    cost_power: Annotated[float, Range(0, 10)]
    decoupled: bool
    noise: Annotated[float, Range(0, 1e6)]
    noise_amplitude: Literal["variance", "std"]
    noise_asymmetric: bool
    noise_schedule: Schedule
    noise_span: Steps1
    target: Target


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Section `ranking`."""

    sparsity: Below1
    when: Steps
    early_rule: Literal["paper", "released"]
    latest: Annotated[int | None, Duration()]
    every: Steps1
    until: Steps
    floor: Part
    definition: Literal["demp", "released"]
    rule: Literal["auto", "exact", "layerwise", "percentile", "topk"]
    stages: Annotated[int, Range(1, 10_000)]
    feedback: Literal["planned", "measured"]
    optimizer: Literal["sliced", "restarted"]
    batches: Annotated[int, Range(1, 1_000_000)]
    batch_size: Annotated[int, Range(1, 1_000_000)]
    exclude: Names


@dataclasses.dataclass(frozen=True)
class Masking:
    """Section `masking`."""

    sparsity: Below1
    distribution: Literal["erk", "uniform"]
    exclude: Names
    algorithm: str
    schedule: Literal["polynomial", "one_shot"]
    start: Steps
    end: Steps
    every: Steps1
    drop: Part
    drop_schedule: Literal["cosine", "constant"]
    ablation: Part
    never_ablated: Names


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Section `pruning`."""

    dynamic: bool
    every: Steps1
    start: Steps
    examples: Count
    criterion: Literal["auto", "zero", "epsilon", "negative", "sum"]
    modes: Literal["both", "evaluation"]
    epsilon: Annotated[float, Range(0, 1e6, "low")]
    constant: Annotated[float | None, Range(0, 1e6)]
    tolerance: Annotated[float | None, Range(0, 1e6)]
    min_units: Annotated[int, Range(0, 2**20)]
    exclude: Names
    extra_units: tuple[Literal["heads", "features"], ...]
    multiple: Annotated[int, Range(0, 2**20)]
    cut_cost: Steps
    ahead: Steps


@dataclasses.dataclass(frozen=True)
class Watch:
    """Section `watch`."""

    every: Steps
    whole: bool


@dataclasses.dataclass(frozen=True)
class Settings:
    """All options of a config, with durations in steps.

    Attributes:
      steps_per_epoch: number of steps per epoch, not rounded.
      extra: options that are not in `configs/base.py`, by path, for user-defined methods, models and datasets.
    """

    seed: Annotated[int, Range(0, _INT32)]
    steps: Steps1
    batch_size: Count
    accumulate: Count
    steps_per_call: Annotated[int, Range(1, 10_000)]
    fast_convolutions: bool
    devices: Annotated[int, Range(0, _INT32)]
    label_smoothing: Below1
    data: Data
    model: Model
    optimizer: Optimizer
    method: Method
    ranking: Ranking
    masking: Masking
    pruning: Pruning
    watch: Watch
    eval_batch_size: Annotated[int, Range(1, 2**20)]
    log_every: Steps1
    eval_every: Steps1
    checkpoint_every: Steps1
    checkpoints_kept: Count
    resume: Literal["strict", "anyway"]
    step_time_seconds: Annotated[float, Range(0, 1e6, "low")]
    tracker: Literal["", "wandb"]
    progress: Literal["auto", "bar", "lines", "off"]
    compile_cache: str
    steps_per_epoch: float
    extra: Mapping[str, Any]


# Fields of `Settings` that are not config options.
_DERIVED = ("steps_per_epoch", "extra")


@functools.cache
def limits() -> dict[str, Any]:
    """Returns the allowed values of every option by path.

    They are a `Range`, `Duration` or `Patterns`, a tuple of choices (of each element, where the value is a tuple), or
    `None` if any value of the type is allowed.
    """
    return {path: limit for path, _, limit in _fields(Settings)}


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields path, type without its annotation, and limit of the options of a section and its subsections."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if cls is Settings and name in _DERIVED:
            continue
        if dataclasses.is_dataclass(hint):
            yield from _fields(typing.cast("type", hint), f"{prefix}{name}.")
            continue
        metadata = getattr(hint, "__metadata__", (None,))
        kind = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        each = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        choices = typing.get_args(each) if typing.get_origin(each) is Literal else None
        yield prefix + name, kind, choices or metadata[0]


def described(limit: Any) -> str:
    """Returns the allowed values of an option as text, given its entry in `limits`; "" for any of its type."""
    if isinstance(limit, Range):
        low, high = "(" if limit.open in ("low", "both") else "[", ")" if limit.open in ("high", "both") else "]"
        # Upper bounds this large only keep numbers within their types.
        most = f"{limit.most:g}{high}" if limit.most < 2**30 else "∞)"
        return f"{low}{limit.least:g}, {most}"
    if isinstance(limit, Duration):
        return "steps, `10ep`, `50%`"
    if isinstance(limit, Patterns):
        return "shell-style patterns"
    return ", ".join(f"`{choice}`" for choice in limit) if isinstance(limit, tuple) else ""


def require_valid(config: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a value out of range; durations are checked by `parse`."""
    for path, value in options.flat(config).items():
        limit, field = limits().get(path), f"config.{path}"
        if isinstance(limit, Range) and value is not None:
            many = tuple(value) if isinstance(value, tuple | list) else (value,)
            require(limit.empty or bool(many), field, value, "one or more numbers, as in (8, 16)")
            for each in many:
                require(each in limit, field, value, limit.allowed(each))
        elif isinstance(limit, Patterns):
            require(all(each.strip() for each in value), field, value, "patterns that are not empty")
        elif isinstance(limit, tuple):
            for each in value if isinstance(value, tuple | list) else (value,):
                require_choice(field, each, limit)


def section(cls: type[T], values: Mapping[str, Any]) -> T:
    """Returns an instance of `cls` for a section without durations, such as `config.model`."""
    return _made(cls, options.flat(values), "", lambda field, value, least: value)


def parse(config: Mapping[str, Any], examples: int) -> Settings:
    """Returns the settings of a config.

    Args:
      config: a config that `require_valid` accepts and `device_defaults.settled` has completed.
      examples: number of training examples.

    Raises:
      UsageError: for an invalid duration, or a batch larger than the training set.
    """
    epoch = steps_per_epoch(config, examples)
    run = run_steps(config, examples)

    def steps(field: str, text: Any, least: int) -> int:
        found = to_steps(field, text, epoch=epoch, run=None if field == "config.steps" else run)
        require(found >= least, field, text, "at least one step")
        return found

    values = options.flat(config)
    extra = {path: value for path, value in values.items() if path not in limits()}
    derived = {"steps_per_epoch": epoch, "extra": types.MappingProxyType(extra)}
    return _made(Settings, values, "", steps, derived)


def steps_per_epoch(config: Mapping[str, Any], examples: int) -> float:
    """Returns the number of steps per epoch, not rounded.

    Raises:
      UsageError: for a batch larger than the training set.
    """
    size = config["batch_size"]
    require(1 <= size <= examples, "config.batch_size", size, f"between 1 and {examples}")
    return examples / size


def run_steps(config: Mapping[str, Any], examples: int) -> int:
    """Returns the length of the run in steps.

    Raises:
      UsageError: for a length that is invalid, below one step or beyond int32, or a batch larger than the training set.
    """
    text = config["steps"]
    found = to_steps("config.steps", text, epoch=steps_per_epoch(config, examples))
    require(found >= 1, "config.steps", text, "at least one step")
    require(found <= _INT32, "config.steps", text, f"at most {_INT32} steps")
    return found


def _made(
    cls: type[T],
    values: Mapping[str, Any],
    prefix: str,
    steps: Callable[[str, Any, int], Any],
    derived: Mapping[str, Any] = types.MappingProxyType({}),
) -> T:
    """Returns an instance of the class of a section.

    Args:
      cls: the class.
      values: values of all options, by path.
      prefix: prefix of the paths of the section's options.
      steps: function of an option's name, a duration and its minimum in steps that returns the duration in steps.
      derived: values of fields that are not options.
    """
    made: dict[str, Any] = dict(derived)
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        path = prefix + name
        if name in made:
            continue
        if dataclasses.is_dataclass(hint):
            made[name] = _made(typing.cast("type", hint), values, f"{path}.", steps)
            continue
        value, limit = values[path], next(iter(getattr(hint, "__metadata__", ())), None)
        if isinstance(limit, Duration):
            field = f"config.{path}"
            if isinstance(value, tuple | list):
                value = tuple(steps(field, each, limit.least) for each in value)
            else:
                kind = typing.get_args(hint)[0]
                absent = types.NoneType in typing.get_args(kind) and not value
                found = None if absent else steps(field, value, limit.least)
                value = value if kind is str else found
        made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)
