# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Every key of a config, with its unit and what it may be. Other configs are this one and the lines that differ.

Durations are steps ("5000"), epochs ("10ep") or a part of the run ("30%"). `--help` shows the comments: that of a key
stands behind it or above it, and one above that ends in a colon is a heading of the keys below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

# What the released code does where it differs from the paper's text, in every recipe; docs/differences.md has the list.
RELEASED: dict[str, Any] = {
    "method.strength_schedule": "one_cycle_cosine",
    "method.noise_schedule": "one_cycle_cosine",
    "method.noise_amplitude": "std",
    "method.noise_asymmetric": False,
    "pruning.criterion": "sum",
    "pruning.modes": "evaluation",
    "pruning.examples": 1536,
}
# A run of seconds: everything happens once or twice. At this strength, two steps move the scales from 1 to about 0, and
# units with a negative bias die.
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
    c.seed = 0  # Of initialization, batch order, augmentation and noise.
    c.steps = "2000"  # Length of the run.
    c.batch_size = 64  # Of one update, over all devices.
    c.accumulate = 1  # In how many parts a batch is worked on, to save memory; their gradients are averaged.
    # Steps in one call of the compiled program, where nothing else is due between them: for two seconds at most, and of
    # data that lies on the devices.
    c.steps_per_call = 10
    # A step computes convolutions by other means where XLA is slow at them; False: as XLA does, on a CPU a step a call.
    # There it is slow with accumulate, which is a loop.
    c.fast_convolutions = True
    c.devices = 0  # How many devices batches are split over; 0 for all.
    c.label_smoothing = 0.0  # In [0, 1).

    c.data = ml_collections.ConfigDict()
    c.data.name = "digits"  # digits, mnist, cifar10, cifar100, imagenet, image_folder, or package.module:function.
    # Folder of tensorflow-datasets, TFDS_DATA_DIR by default; image_folder: one with train/CLASS/* and val/CLASS/*.
    c.data.dir = ""
    c.data.cache = "~/.cache/demp_jax/data"  # Folder of decoded datasets that fit into memory; "" for none.
    c.data.normalize = "unit"  # unit: pixels in [0, 1]. standardize: zero mean, unit variance per channel.
    c.data.crop = 0  # Pixels of padding on each side before a random crop; 0 for none.
    c.data.padding = "reflect"  # reflect, zero.
    c.data.flip = False  # Random flips left to right.
    c.data.upsample = 0  # Side of the square that images are resized to; 0 for none.
    c.data.crop_first = False  # Crop before resizing instead of after it.
    c.data.mixup = 0.0  # Concentration of the mixing weight's Beta distribution; 0 for none.
    c.data.cutmix = 0.0  # Likewise, of boxes that are pasted in; with mixup, one of both is drawn for each batch.
    c.data.train_examples = 0  # Only the first so many training examples; 0 for all.
    c.data.test_examples = 0  # Only the first so many test examples; 0 for all.
    # imagenet, image_folder:
    c.data.side = 224  # Of an image, in pixels.
    c.data.framing = "resize_crop"  # resize_crop; random_resized_crop: a box of 8% to 100% of the area.
    c.data.resize = (256,)  # resize_crop: length of the shorter side before the crop; one is drawn for each image.
    c.data.eval_resize = 256  # Length of the shorter side before the central crop of an evaluation.
    c.data.randaugment_operations = 0  # How many operations of RandAugment.
    c.data.randaugment_magnitude = 9.0  # Between 0 and 30.
    c.data.workers = 0  # Processes that read and decode; 0: threads of the training process.

    c.model = ml_collections.ConfigDict()
    c.model.name = "mlp"  # mlp, resnet18, resnet50, vgg16, vit, or package.module:function.
    c.model.activation = "relu"  # relu, leaky_relu (slope 0.05), swish, gelu.
    c.model.dtype = "float32"  # float32, bfloat16: of the computation; parameters and statistics are float32.
    c.model.widths = (128, 128)  # mlp: widths of the hidden layers.
    c.model.norm = True  # mlp: BatchNorm before each activation.
    c.model.base_width = 64  # resnet18, resnet50, vgg16: channels of the first stage.
    c.model.blocks = (3, 4, 6, 3)  # resnet50: blocks of each stage.
    c.model.stem_stride = 1  # resnet18: 2 quarters the cost.
    c.model.coupled = False  # resnet18, resnet50: a channel leaves only where it is dead in its whole stage.
    c.model.hidden = 4096  # vgg16: width of the dense layers. vit: of the MLPs.
    c.model.patch = 16  # vit: side of a patch in pixels.
    c.model.features = 768  # vit: width of a token.
    c.model.depth = 12  # vit: number of blocks.
    c.model.heads = 12  # vit: of the attention.

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adam"  # adam, adamw, sgdm.
    c.optimizer.learning_rate = 0.005  # At its peak.
    c.optimizer.schedule = "constant"  # step, piecewise, one_cycle, cosine, constant.
    c.optimizer.step_every = "77ep"  # step: how often the rate is multiplied by step_factor.
    c.optimizer.boundaries = ("30ep", "70ep", "90ep")  # piecewise: when the rate is multiplied by step_factor.
    c.optimizer.step_factor = 0.2  # step, piecewise: what the rate is multiplied by.
    c.optimizer.warmup = "0"  # The rate first grows linearly for so long, from warmup_from. Not with one_cycle.
    c.optimizer.warmup_from = 0.0  # The rate at the first step of a warm-up.
    c.optimizer.clip_norm = 0.0  # Largest L2 norm of the whole gradient, the regularizer's included; 0 for any.
    c.optimizer.weight_decay = 0.0  # Constant, on all parameters.
    c.optimizer.decoupled_decay = True  # adam, sgdm: added after the moments (AdamW) instead of to the gradient.
    c.optimizer.b1 = 0.9  # adam, adamw: decay of the first moment, in [0, 1).
    c.optimizer.b2 = 0.999  # adam, adamw: decay of the second moment, in [0, 1).
    c.optimizer.eps = 1e-8  # adam, adamw: added to the root of the second moment.
    c.optimizer.momentum = 0.9  # sgdm: in [0, 1).

    c.method = ml_collections.ConfigDict()
    # dense, demp; that cut: snap, crop, earlysnap, earlycrop, random, l1, slimming; that mask: magnitude, saliency,
    # static, set, rigl, srigl, jaxpruner (where it is installed); both: chase, demp_rigl; package.module:function of
    # the working directory or an installed package.
    c.method.name = "demp"
    c.method.strength = 0.0  # Peak lambda of the regularizer.
    c.method.strength_schedule = "one_cycle"  # one_cycle, one_cycle_cosine, warmup_hold, cosine_decay, constant.
    c.method.strength_span = "87%"  # How long that schedule takes, from the start of the run.
    # lasso, l2; proximal: a Lasso by soft thresholding after the update, by strength times the learning rate; group,
    # proximal_group: a group Lasso over the weights that compute each unit, whatever penalised says.
    c.method.regularizer = "lasso"
    c.method.penalised = "scales"  # scales (of normalization layers), all.
    c.method.decoupled = False  # The regularizer moves parameters directly instead of being part of the loss.
    c.method.noise = 0.0  # Peak variance (or standard deviation) of the noise per step.
    c.method.noise_amplitude = "variance"  # variance (the paper's text), std (its released code).
    c.method.noise_asymmetric = True  # On weights of live neurons only.
    c.method.noise_schedule = "one_cycle"  # As strength_schedule.
    c.method.noise_span = "87%"  # As strength_span.

    # demp: a size to end at, one of these or none; method.strength is then a first guess, 0 for one of 0.02.
    c.method.target = ml_collections.ConfigDict()
    c.method.target.weight_sparsity = placeholder(float)  # Which part of the parameters leaves, in (0, 1).
    c.method.target.neuron_sparsity = placeholder(float)  # Which part of the neurons leaves, in (0, 1).
    c.method.target.parameters = placeholder(int)  # How many are left.
    c.method.target.inference_flops = placeholder(float)  # Of the dense network's, in (0, 1).
    c.method.target.step_time = placeholder(float)  # Of the dense network's, in (0, 1), as measured in the run.
    c.method.target.every = "2%"  # Between looks at what a cut would leave; % is of the spans above.

    # Methods that cut units by scores: snap, crop, earlysnap, earlycrop, random, l1, slimming, chase.
    c.ranking = ml_collections.ConfigDict()
    c.ranking.sparsity = 0.5  # Of the units that can leave, in [0, 1).
    c.ranking.when = "0"  # snap, crop, random, l1, slimming: the step.
    # earlysnap, earlycrop: paper, released: whose rule says that the weights' distance from the start grows slowly.
    c.ranking.early_rule = "paper"
    c.ranking.latest = ""  # earlysnap, earlycrop: at this step at the latest; "" for none.
    c.ranking.every = "2ep"  # chase: steps between cuts.
    c.ranking.until = "80%"  # chase: the last cut.
    c.ranking.floor = 0.2  # chase: which part of its share every site keeps.
    c.ranking.definition = "demp"  # demp (as the DemP paper ran them), released (snap, crop: as their own code does).
    # exact; layerwise; percentile, topk: as released, short of the sparsity where a site would be emptied; auto:
    # layerwise for l1, whose norms cannot be compared between layers, exact for others.
    c.ranking.rule = "auto"
    c.ranking.stages = 5  # Of iterative pruning, which scores anew after each; 1: all at once.
    c.ranking.feedback = "planned"  # Which sparsity of the stage before it a stage goes by: planned, measured.
    c.ranking.optimizer = "sliced"  # Its state after the cut: sliced, restarted (schedules included).
    c.ranking.batches = 10  # Of training examples, not augmented, that are scored.
    c.ranking.batch_size = 512  # Of such a batch.
    c.ranking.exclude = ()  # Patterns of names of sites that are not ranked.

    # Methods that hold weights at zero: magnitude, saliency, static, set, rigl, srigl, chase, demp_rigl.
    c.masking = ml_collections.ConfigDict()
    c.masking.sparsity = 0.8  # Of the masked parameters together, in [0, 1).
    c.masking.distribution = "erk"  # erk, uniform.
    c.masking.exclude = ()  # Patterns of paths of parameters that stay dense, besides those of one axis.
    c.masking.algorithm = "magnitude"  # jaxpruner: one of its algorithms.
    c.masking.schedule = "polynomial"  # magnitude, saliency: polynomial, one_shot.
    c.masking.start = "0"  # First step that changes masks.
    c.masking.end = "75%"  # The last one; chase: the last with more connections than asked for.
    c.masking.every = "100"  # Steps between changes of masks.
    c.masking.drop = 0.3  # set, rigl, srigl, demp_rigl: which part of the connections moves, in [0, 1].
    c.masking.drop_schedule = "cosine"  # cosine (to 0 at end), constant.
    c.masking.ablation = 0.3  # srigl: neurons with fewer salient connections than this part are ablated.
    c.masking.never_ablated = ("head/*",)  # srigl: patterns of paths of parameters whose neurons stay.

    c.pruning = ml_collections.ConfigDict()
    c.pruning.dynamic = True  # Cut during training; if not, at the end only.
    c.pruning.every = "5%"  # tau: steps between cuts.
    c.pruning.start = "0"  # No cut before.
    c.pruning.examples = 512  # Size of the death set.
    # A dead unit's values are: zero; epsilon: smaller than pruning.epsilon; negative: never positive; sum: of no
    # positive sum over a batch, as in the released code; auto: the paper's definition, by activation.
    c.pruning.criterion = "auto"
    # Where a unit has to be dead: both: in evaluation and in training mode (batch statistics); evaluation: the paper's.
    c.pruning.modes = "both"
    c.pruning.epsilon = 0.01  # epsilon: how small, > 0.
    c.pruning.constant = placeholder(float)  # Past the paper: also cut units whose value varies by at most this.
    c.pruning.tolerance = placeholder(float)  # Largest relative difference of the logits; by default by criterion.
    c.pruning.min_units = 1  # Units that every site keeps; 0: sites are emptied where the outputs stay connected.
    c.pruning.heads = False  # Attention heads are units, too.
    c.pruning.exclude = ()  # Patterns of names of sites that are never cut.
    # Until the last cut, which cuts all that is dead:
    c.pruning.multiple = 0  # Every site keeps a multiple of this many units; 0: of 8 on a GPU, else of 1.
    # What a cut costs, in steps: it waits until it pays; "0": it never waits; "": 50, on a GPU 500.
    c.pruning.cut_cost = ""
    # For so many steps it is prepared, while training goes on; "0": it is made at once; "": 100; on a
    # GPU 3000, at most a tenth of the run.
    c.pruning.ahead = ""

    c.watch = ml_collections.ConfigDict()
    c.watch.every = "0"  # Steps between looks at who is dead by pruning.criterion, cutting nothing; 0 for none.
    c.watch.whole = False  # Also on the whole training set, not on a death set alone.

    c.eval_batch_size = 512  # Of evaluation and death set.
    c.log_every = "50"  # Steps between lines of metrics.
    c.eval_every = "10%"  # Steps between evaluations on the test set.
    c.checkpoint_every = "10%"  # Steps between checkpoints.
    c.checkpoints_kept = 2  # The newest ones.
    # strict; anyway: go on from a checkpoint of another config or other data, or with changed metadata.
    c.resume = "strict"
    c.step_time_seconds = 2.0  # How long the final step is timed beside the dense one, ten steps at least.
    c.tracker = ""  # wandb: metrics, cuts and the summary also go to Weights & Biases; "" for none.
    c.progress = "auto"  # auto, bar, lines, off.
    c.compile_cache = "~/.cache/demp_jax/xla"  # Folder of compiled programs; "" for none but JAX's own, if that is set.
    return c


def variants(name: str, variant: str, choices: Mapping[str, Mapping[str, Any]]) -> ml_collections.ConfigDict:
    """Returns the base config with the changes of a variant, locked.

    Args:
      name: of the config, for the message.
      variant: one of `choices`; several joined by commas are applied in order.
      choices: by variant, the changed keys, such as `{"model.base_width": 16}`. The variant "" is always applied.

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
