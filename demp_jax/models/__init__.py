# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""The models of the paper as Flax NNX modules: MLP, ResNet-18 and ResNet-50, VGG-16, ViT-B/16.

Residual sums use `demp_jax.nnx.ChannelSum`, so that channels can be removed from each block independently.
`load` returns a model that was exported by the training program.
"""

from demp_jax.models.activations import ACTIVATIONS as ACTIVATIONS
from demp_jax.models.loading import load as load
from demp_jax.models.mlp import MLP as MLP
from demp_jax.models.resnet import BasicBlock as BasicBlock
from demp_jax.models.resnet import Bottleneck as Bottleneck
from demp_jax.models.resnet import ResNet as ResNet
from demp_jax.models.resnet import resnet50 as resnet50
from demp_jax.models.vgg import VGG as VGG
from demp_jax.models.vit import EncoderBlock as EncoderBlock
from demp_jax.models.vit import ViT as ViT
