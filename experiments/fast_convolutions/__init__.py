# Copyright 2026 The demp_jax Authors. Licensed under the Apache License, Version 2.0.
"""Rewrites convolutions and reductions that XLA compiles badly.

On a CPU, XLA compiles convolutions badly in six ways (`benchmarks/README.md` has measurements):

* YNNPACK: XLA gives many convolutions to YNNPACK, which with JAX 0.10 computes them on one core, and with 0.12 is still
  slower than Eigen. `compiler_options` selects Eigen.
* Images smaller than the kernel, as in the last stage of a ResNet-18 on 16 x 16 maps or of a VGG-16 on 32 x 32 images:
  XLA exchanges image and kernel and compiles a naive loop, up to ten times slower than a matrix product.
* Strides: XLA multiplies by the zeros between the positions of a dilated image, and by those of a kernel with one tap.
* Few channels, and numbers of channels that do not fill vectors, as after pruning single units: many convolutions are
  faster with zero-padded channels. With few channels, it is faster to merge pairs of columns into one column with twice
  the channels. Gradients of kernels are faster with inputs and outputs exchanged if that fills vectors.
* Gradients within a loop: XLA only converts convolutions to the layouts of its fast kernels in the main computation. In
  the body of a loop, it compiles a naive one, a hundred times slower. Here, convolutions without groups are emitted in
  these layouts.
* Fusion: gradients of kernels read transposed images and gradients, BatchNorm sums over all positions, and the
  measurement of dead units reduces over all of them. XLA fuses and recomputes the inputs of these operations, with
  strided memory accesses. Here, they are calls that XLA does not fuse, and reductions go over a few examples first.

On a GPU, tensor cores want channel counts divisible by 8. XLA pads float16 convolutions for that
(`cudnn_pad_for_convolutions.cc`), but not bfloat16 ones. Here, those are padded as well.

Dimension letters: N examples, H W positions of the image, P Q positions of the result, C inputs, O outputs.
"""

from experiments.fast_convolutions.options import compiler_options as compiler_options
from experiments.fast_convolutions.transform import with_fast_convolutions as with_fast_convolutions
