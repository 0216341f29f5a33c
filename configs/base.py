# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The base config: every config option with its default. The other configs override some of them.

Durations are steps ("5000"), epochs ("10ep") or a percentage of the run ("30%"). `--help` shows the comments. The
comment of an option is on its line or above it. A comment above that ends in a colon is a heading of the options below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

# Options with which every recipe follows the released code where that differs from the paper's text; see
# docs/differences.md.
RELEASED: dict[str, Any] = {
    "method.strength_schedule": "one_cycle_cosine",
    "method.noise_schedule": "one_cycle_cosine",
    "method.noise_amplitude": "std",
    "method.noise_asymmetric": False,
    "pruning.criterion": "sum",
    "pruning.modes": "evaluation",
    "pruning.examples": 1536,
}
# A run of seconds in which everything happens once or twice. At this strength, two steps shrink the scales from 1 to
# about 0, and units with a negative bias die.
SMOKE: dict[str, Any] = {
    "steps": "4",
    "method.strength": 1.0,
    "method.decoupled": True,
    "method.strength_span": "4",
    "method.noise_span": "4",
    "pruning.every": "2",
    "pruning.start": "0",
    "pruning.cut_cost": "0",
    "pruning.ahead": "0",
    "log_every": "1",
    "eval_every": "2",
    "checkpoint_every": "2",
    "step_time_seconds": 0.1,
}


def base() -> ml_collections.ConfigDict:
    """Returns the base config: DemP on scikit-learn's digits."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # Seed of initialization, batch order, augmentation and noise.
    c.steps = "2000"  # Length of the run.
    c.batch_size = 64  # Examples per update, over all devices.
    c.accumulate = 1  # Number of parts that a batch is split into to save memory; their gradients are averaged.
    # Maximum number of steps per call of the compiled program, for datasets in memory. A call runs fewer steps if it
    # would take over two seconds, or if something else is due in between.
    c.steps_per_call = 10
    # Whether to rewrite convolutions that XLA compiles badly. If False, a call on a CPU runs one step, and accumulate,
    # which is a loop, is slow there.
    c.fast_convolutions = True
    c.devices = 0  # Number of devices that batches are split over; 0 for all.
    c.label_smoothing = 0.0  # In [0, 1).

    c.data = ml_collections.ConfigDict()
    c.data.name = "digits"  # digits, mnist, cifar10, cifar100, imagenet, image_folder, or package.module:function.
    # Folder of tensorflow-datasets, TFDS_DATA_DIR by default; image_folder: one with train/CLASS/* and val/CLASS/*.
    c.data.dir = ""
    c.data.cache = "~/.cache/demp_jax/data"  # Cache of decoded datasets that fit into memory; "" for none.
    c.data.normalize = "unit"  # unit: pixels in [0, 1]. standardize: zero mean, unit variance per channel.
    c.data.crop = 0  # Pixels of padding on each side before a random crop; 0 for none.
    c.data.padding = "reflect"  # reflect, zero.
    c.data.flip = False  # Random horizontal flips.
    c.data.upsample = 0  # Side of the square that images are resized to, in pixels; 0 for none.
    c.data.crop_first = False  # Crop before resizing instead of after it.
    c.data.mixup = 0.0  # Concentration of Mixup's Beta distribution; 0 for none.
    c.data.cutmix = 0.0  # Concentration of CutMix's Beta distribution; 0 for none. With mixup, each batch draws one.
    c.data.train_examples = 0  # Number of training examples, from the start of the split; 0 for all.
    c.data.test_examples = 0  # Number of test examples, from the start of the split; 0 for all.
    # imagenet, image_folder:
    c.data.side = 224  # Side of an image in pixels.
    c.data.framing = "resize_crop"  # resize_crop; random_resized_crop: a random box with 8% to 100% of the area.
    c.data.resize = (256,)  # resize_crop: lengths of the shorter side before the crop; one is drawn per image.
    c.data.eval_resize = 256  # Length of the shorter side before the center crop in evaluation.
    c.data.randaugment_operations = 0  # Number of RandAugment operations per image.
    c.data.randaugment_magnitude = 9.0  # Magnitude of RandAugment, in [0, 30].
    c.data.workers = 0  # Processes that read and decode images; 0 for threads of the training process.

    c.model = ml_collections.ConfigDict()
    c.model.name = "mlp"  # mlp, resnet18, resnet50, vgg16, vit, or package.module:function.
    c.model.activation = "relu"  # relu, leaky_relu (slope 0.05), swish, gelu.
    c.model.dtype = "float32"  # float32, bfloat16: dtype of the computation; parameters and statistics are float32.
    c.model.widths = (128, 128)  # mlp: widths of the hidden layers.
    c.model.norm = True  # mlp: BatchNorm before each activation.
    c.model.base_width = 64  # resnet18, resnet50, vgg16: channels of the first stage.
    c.model.blocks = (3, 4, 6, 3)  # resnet50: blocks of each stage.
    c.model.stem_stride = 1  # resnet18: stride of the first convolution; 2 divides the cost by four.
    c.model.coupled = False  # resnet18, resnet50: a channel is only removed if it is dead in its whole stage.
    c.model.hidden = 4096  # vgg16: width of the dense layers. vit: width of the MLPs.
    c.model.patch = 16  # vit: side of a patch in pixels.
    c.model.features = 768  # vit: width of a token.
    c.model.depth = 12  # vit: number of blocks.
    c.model.heads = 12  # vit: number of attention heads.

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adam"  # adam, adamw, sgdm.
    c.optimizer.learning_rate = 0.005  # Peak learning rate.
    c.optimizer.schedule = "constant"  # step, piecewise, one_cycle, cosine, constant.
    c.optimizer.step_every = "77ep"  # step: period after which the learning rate is multiplied by step_factor.
    c.optimizer.boundaries = ("30ep", "70ep", "90ep")  # piecewise: when the rate is multiplied by step_factor.
    c.optimizer.step_factor = 0.2  # step, piecewise: factor of the learning rate.
    c.optimizer.warmup = "0"  # Length of the linear warm-up of the learning rate, from warmup_from. Not with one_cycle.
    c.optimizer.warmup_from = 0.0  # Learning rate at the first step of the warm-up.
    c.optimizer.clip_norm = 0.0  # Maximum global L2 norm of the gradient, including the regularizer's; 0: no clipping.
    c.optimizer.weight_decay = 0.0  # Constant weight decay on all parameters.
    c.optimizer.decoupled_decay = True  # adam, sgdm: decay after the moments (AdamW) instead of in the gradient.
    c.optimizer.b1 = 0.9  # adam, adamw: decay of the first moment, in [0, 1).
    c.optimizer.b2 = 0.999  # adam, adamw: decay of the second moment, in [0, 1).
    c.optimizer.eps = 1e-8  # adam, adamw: added to the root of the second moment.
    c.optimizer.momentum = 0.9  # sgdm: momentum, in [0, 1).

    c.method = ml_collections.ConfigDict()
    # dense, demp; by pruning units: snap, crop, earlysnap, earlycrop, random, l1, slimming; by masking weights:
    # magnitude, saliency, static, set, rigl, srigl, jaxpruner (if installed); by both: chase, demp_rigl; or
    # package.module:function in the working directory or an installed package.
    c.method.name = "demp"
    c.method.strength = 0.0  # Peak strength lambda of the regularizer.
    c.method.strength_schedule = "one_cycle"  # one_cycle, one_cycle_cosine, warmup_hold, cosine_decay, constant.
    c.method.strength_span = "87%"  # Length of the schedule, from the start of the run.
    # lasso, l2; proximal: Lasso by soft thresholding after the update, by strength times the learning rate; group,
    # proximal_group: group Lasso over the weights that compute each unit; ignores penalized.
    c.method.regularizer = "lasso"
    c.method.penalized = "scales"  # Regularized parameters: scales (of normalization layers), all.
    # Strength of each layer in proportion to (parameters of a unit)^cost_power, with a mean of strength: 0 for the same
    # strength in all layers, >= 0. 1 removes more units of wide layers. Not for group, proximal_group.
    c.method.cost_power = 0.0
    c.method.decoupled = False  # Whether the regularizer updates parameters directly instead of being part of the loss.
    c.method.noise = 0.0  # Peak variance (or standard deviation) of the noise per step.
    c.method.noise_amplitude = "variance"  # Meaning of noise: variance (the paper's text), std (its released code).
    c.method.noise_asymmetric = True  # Only add noise to weights of alive neurons.
    c.method.noise_schedule = "one_cycle"  # Same choices as strength_schedule.
    c.method.noise_span = "87%"  # Length of the noise schedule, from the start of the run.

    # demp: target size; at most one of these. method.strength is then only a first guess; 0: a guess based on 0.02.
    c.method.target = ml_collections.ConfigDict()
    c.method.target.weight_sparsity = placeholder(float)  # Fraction of the parameters to remove, in (0, 1).
    c.method.target.neuron_sparsity = placeholder(float)  # Fraction of the neurons to remove, in (0, 1).
    c.method.target.parameters = placeholder(int)  # Number of parameters to keep.
    c.method.target.inference_flops = placeholder(float)  # Fraction of the dense network's FLOPs to keep, in (0, 1).
    # Fraction of the dense network's step time to keep, in (0, 1), as measured in the run.
    c.method.target.step_time = placeholder(float)
    # Steps between measurements of the size that a prune would leave; % is of the spans above.
    c.method.target.every = "2%"

    # Methods that prune units by score: snap, crop, earlysnap, earlycrop, random, l1, slimming, chase.
    c.ranking = ml_collections.ConfigDict()
    c.ranking.sparsity = 0.5  # Fraction of the removable units to prune, in [0, 1).
    c.ranking.when = "0"  # snap, crop, random, l1, slimming: step of the prune.
    # earlysnap, earlycrop: rule that detects that the weights' distance from the start grows slowly: paper, released.
    c.ranking.early_rule = "paper"
    c.ranking.latest = ""  # earlysnap, earlycrop: latest step of the prune; "" for no limit.
    c.ranking.every = "2ep"  # chase: steps between prunes.
    c.ranking.until = "80%"  # chase: step of the last prune.
    c.ranking.floor = 0.2  # chase: every site keeps at least this times (1 - sparsity) of its units.
    c.ranking.definition = "demp"  # Scores: demp (as in the DemP paper), released (snap, crop: as in their own code).
    # exact; layerwise; percentile, topk: as in the released code, which misses the sparsity if a site would be emptied;
    # auto: layerwise for l1, whose norms cannot be compared between layers, exact for others.
    c.ranking.rule = "auto"
    c.ranking.stages = 5  # Stages of iterative pruning, with new scores in each; 1: one-shot.
    c.ranking.feedback = "planned"  # Sparsity of the previous stage that a stage builds on: planned, measured.
    c.ranking.optimizer = "sliced"  # Optimizer state after the prune: sliced, restarted (including schedules).
    c.ranking.batches = 10  # Number of batches of training examples for scoring, not augmented.
    c.ranking.batch_size = 512  # Examples per batch for scoring.
    c.ranking.exclude = ()  # Patterns of names of sites that are not ranked.

    # Methods that mask weights: magnitude, saliency, static, set, rigl, srigl, jaxpruner, chase, demp_rigl.
    c.masking = ml_collections.ConfigDict()
    c.masking.sparsity = 0.8  # Sparsity of all masked parameters together, in [0, 1).
    c.masking.distribution = "erk"  # Distribution of the sparsity over parameters: erk, uniform.
    c.masking.exclude = ()  # Patterns of paths of parameters that stay dense. Parameters with one axis always do.
    c.masking.algorithm = "magnitude"  # jaxpruner: one of its algorithms.
    c.masking.schedule = "polynomial"  # magnitude, saliency: polynomial, one_shot.
    c.masking.start = "0"  # First step that changes masks.
    c.masking.end = "75%"  # Last step that changes masks; chase: last step with extra connections.
    c.masking.every = "100"  # Steps between changes of masks.
    c.masking.drop = 0.3  # set, rigl, srigl, demp_rigl: fraction of the connections that move, in [0, 1].
    c.masking.drop_schedule = "cosine"  # Schedule of drop: cosine (to 0 at end), constant.
    c.masking.ablation = 0.3  # srigl: neurons with a smaller salient fraction of their fan-in are ablated; in [0, 1].
    c.masking.never_ablated = ("head/*",)  # srigl: patterns of paths of parameters whose neurons are never ablated.

    c.pruning = ml_collections.ConfigDict()
    c.pruning.dynamic = True  # Prune during training; if False, only at the end.
    c.pruning.every = "5%"  # tau: steps between prunes.
    c.pruning.start = "0"  # No prunes before this step.
    c.pruning.examples = 512  # Size of the death set: the examples on which dead units are measured.
    # When a unit is dead: zero: its values are zero; epsilon: their magnitude is below pruning.epsilon; negative: they
    # are never positive; sum: their sum over a batch is never positive, as in the released code; auto: the paper's
    # definition, which depends on the activation.
    c.pruning.criterion = "auto"
    # Modes in which a unit has to be dead: both: evaluation and training (batch statistics); evaluation: the paper's.
    c.pruning.modes = "both"
    c.pruning.epsilon = 0.01  # criterion=epsilon: the threshold, > 0.
    # Also prune units whose value varies by at most this, which goes beyond the paper. None: do not.
    c.pruning.constant = placeholder(float)
    # Maximum relative difference of the logits before and after a prune. None: depends on the criterion.
    c.pruning.tolerance = placeholder(float)
    c.pruning.min_units = 1  # Minimum number of units per site; 0: sites may be emptied if outputs stay connected.
    c.pruning.extra_units = ()  # "heads" (attention heads), "features" (layers without an activation) are units, too.
    c.pruning.exclude = ()  # Patterns of names of sites that are never pruned.
    # Before the final prune, which removes all dead units:
    c.pruning.multiple = 0  # Every site keeps a multiple of this many units; 0: 8 on a GPU, otherwise 1.
    # Cost of a prune in steps. A prune is delayed until it pays off; "0": no delay; "": 50, on a GPU 500.
    c.pruning.cut_cost = ""
    # Steps during which a prune is prepared while training continues; "0": prune immediately; "": 100, on a GPU 3000
    # but at most a tenth of the run.
    c.pruning.ahead = ""

    c.watch = ml_collections.ConfigDict()
    c.watch.every = "0"  # Steps between measurements of dead units by pruning.criterion, without pruning; 0 for none.
    c.watch.whole = False  # Also measure on the whole training set, besides the death set.

    c.eval_batch_size = 512  # Examples per batch in evaluation and for the death set.
    c.log_every = "50"  # Steps between lines of metrics.
    c.eval_every = "10%"  # Steps between evaluations on the test set.
    c.checkpoint_every = "10%"  # Steps between checkpoints.
    c.checkpoints_kept = 2  # Number of newest checkpoints to keep.
    # strict; anyway: also resume from a checkpoint of another config, of other data, or with changed metadata.
    c.resume = "strict"
    c.step_time_seconds = 2.0  # Time for which the final and the dense step are each timed; at least ten steps.
    c.tracker = ""  # wandb: also log metrics, prunes and the summary to Weights & Biases; "" for none.
    c.progress = "auto"  # auto (a bar on a terminal, otherwise lines), bar, lines, off.
    c.compile_cache = "~/.cache/demp_jax/xla"  # Cache of compiled programs; "" for JAX's own, if that is set.
    return c


def variants(name: str, variant: str, choices: Mapping[str, Mapping[str, Any]]) -> ml_collections.ConfigDict:
    """Returns the base config with the options of a variant, locked.

    Args:
      name: name of the config file, for messages.
      variant: one of `choices`, or several joined by commas, which are applied in order.
      choices: for each variant, the options that it sets, such as `{"model.base_width": 16}`. The variant "" is always
        applied first.

    Raises:
      ValueError: for an unknown variant.
    """
    c = base()
    for part in ("", *(p for p in variant.split(",") if p)):
        if part not in choices:
            known = ", ".join(sorted(filter(None, choices)))
            raise ValueError(f"--config={name}:{variant}: the variant must be one of {known}; got {part!r}.")
        c.update_from_flattened_dict(dict(choices[part]))
    return c.lock()
