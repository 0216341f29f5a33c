"""The architectures written a second time, in NumPy and float64, from their papers: forward passes for evaluation.

Each takes the parameters and statistics of the Flax model as nested dicts. Padding is XLA's "SAME", spelled out: as
much as is missing, the odd pixel after the image.
"""

import math

import numpy as np


def _padded(x, size, stride, fill):
    for axis in (1, 2):
        missing = max((math.ceil(x.shape[axis] / stride) - 1) * stride + size - x.shape[axis], 0)
        pads = [(0, 0)] * 4
        pads[axis] = (missing // 2, missing - missing // 2)
        x = np.pad(x, pads, constant_values=fill)
    return x


def _windows(x, size, stride):
    """Returns `[batch, rows, columns, channels, size, size]`."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def conv(p, x, stride=1):
    """Cross-correlation with "SAME" padding."""
    size = p["kernel"].shape[0]
    windows = _windows(_padded(x, size, stride, 0.0), size, stride)
    return np.einsum("nhwcij,ijco->nhwo", windows, p["kernel"]) + p.get("bias", 0.0)


def max_pool(x, size, stride):
    """Maximum over windows with "SAME" padding."""
    return _windows(_padded(x, size, stride, -np.inf), size, stride).max((-1, -2))


def dense(p, x):
    """Affine map."""
    return x @ p["kernel"] + p["bias"]


def batch_norm(p, s, x):
    """Normalization by stored statistics."""
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def layer_norm(p, x):
    """Normalization over features."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def gelu(x):
    """The tanh approximation, which is Flax's default."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def resnet18(p, s, x, act=relu):
    """Blocks of two 3 x 3 convolutions, the first with the stride."""
    x = act(batch_norm(p["stem_bn"], s["stem_bn"], conv(p["stem_conv"], x)))
    for i in range(len(p["blocks"])):
        b, t = p["blocks"][i], s["blocks"][i]
        stride = 2 if "shortcut_conv" in b else 1
        y = act(batch_norm(b["bn1"], t["bn1"], conv(b["conv1"], x, stride)))
        y = batch_norm(b["bn2"], t["bn2"], conv(b["conv2"], y))
        x = act(y + _shortcut(b, t, x, stride))
    return dense(p["head"], x.mean((1, 2)))


def resnet50(p, s, x, blocks, act=relu):
    """7 x 7 stem, max-pool, bottlenecks with the stride on the 3 x 3; the first of each stage is projected."""
    x = max_pool(act(batch_norm(p["stem_bn"], s["stem_bn"], conv(p["stem_conv"], x, 2))), 3, 2)
    i = 0
    for stage, depth in enumerate(blocks):
        for j in range(depth):
            b, t = p["blocks"][i], s["blocks"][i]
            stride = 2 if stage > 0 and j == 0 else 1
            y = act(batch_norm(b["bn1"], t["bn1"], conv(b["conv1"], x)))
            y = act(batch_norm(b["bn2"], t["bn2"], conv(b["conv2"], y, stride)))
            y = batch_norm(b["bn3"], t["bn3"], conv(b["conv3"], y))
            assert ("shortcut_conv" in b) == (j == 0)
            x = act(y + _shortcut(b, t, x, stride))
            i += 1
    return dense(p["head"], x.mean((1, 2)))


def _shortcut(b, t, x, stride):
    return (
        batch_norm(b["shortcut_bn"], t["shortcut_bn"], conv(b["shortcut_conv"], x, stride)) if "shortcut_bn" in b else x
    )


def vgg16(p, s, x, act=relu):
    """Thirteen convolutions with maxima before #3, #5, #8 and #11, means after the last; two dense layers."""
    for i in range(13):
        if i + 1 in (3, 5, 8, 11):
            x = max_pool(x, 2, 2)
        x = act(batch_norm(p["conv_bn"][i], s["conv_bn"][i], conv(p["conv"][i], x)))
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4)).reshape(n, -1)
    for i in range(2):
        x = act(batch_norm(p["dense_bn"][i], s["dense_bn"][i], dense(p["dense"][i], x)))
    return dense(p["head"], x)


def vit(p, x, patch, act=gelu):
    """Patches to tokens, pre-norm blocks of attention and MLP, the class token to the head."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    x = (
        x.reshape(n, -1, patch * patch * c) @ p["patches"]["kernel"].reshape(patch * patch * c, -1)
        + p["patches"]["bias"]
    )
    x = np.concatenate([np.broadcast_to(p["token"], (n, 1, x.shape[-1])), x], 1) + p["positions"]
    for i in range(len(p["blocks"])):
        b = p["blocks"][i]
        x = x + _attention(b["attention"], layer_norm(b["norm1"], x))
        x = x + dense(b["dense2"], act(dense(b["dense1"], layer_norm(b["norm2"], x))))
    return dense(p["head"], layer_norm(p["norm"], x[:, 0]))


def _attention(p, x):
    q, k, v = (np.einsum("ntf,fhd->nhtd", x, p[m]["kernel"]) + p[m]["bias"][:, None] for m in ("query", "key", "value"))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    heads = weights / weights.sum(-1, keepdims=True) @ v
    return np.einsum("nhtd,hdf->ntf", heads, p["out"]["kernel"]) + p["out"]["bias"]
