"""Mask updates in plain NumPy, one connection at a time."""

import numpy as np


def top(scores, count):
    """Returns the mask of the `count` largest scores, of equal ones the first."""
    flat = scores.reshape(-1)
    chosen = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:count]
    mask = np.zeros(len(flat), np.uint8)
    mask[chosen] = 1
    return mask.reshape(scores.shape)


def rigl(mask, weight, grad, drop):
    """Returns the mask after one move of RigL: dropped by `weight`, grown by `grad`."""
    old, weight, grad = mask.reshape(-1), weight.reshape(-1), grad.reshape(-1)
    active = [i for i in range(len(old)) if old[i]]
    kept = max(int(np.round(np.float32(len(active)) * (np.float32(1) - drop))), 1)
    active.sort(key=lambda i: (-weight[i], i))
    stays = set(active[:kept])
    others = sorted((i for i in range(len(old)) if i not in stays), key=lambda i: (-grad[i], i))
    stays |= set(others[: len(active) - len(stays)])
    return np.array([i in stays for i in range(len(old))], np.uint8).reshape(mask.shape)


def srigl(weight, grad, mask, sparsity, drop, ablation):
    """Returns the mask after one move of SRigL."""
    fan_in, neurons = weight.shape
    budget = max(int(np.floor(np.float32(weight.size) * (1 - np.float32(sparsity)) + 1e-3)), neurons)
    active = {(i, j) for i in range(fan_in) for j in range(neurons) if mask[i, j]}
    dropped = int(np.floor(np.float32(len(active)) * np.float32(drop)))
    kept = len(active) - dropped
    everywhere = [(i, j) for i in range(fan_in) for j in range(neurons)]
    largest = sorted(active, key=lambda c: -weight[c])[:kept]
    steepest = sorted(everywhere, key=lambda c: -grad[c])[:dropped]
    counts = np.zeros(neurons, int)
    for _, j in set(largest) | set(steepest):
        counts[j] += 1
    least = max(int(np.floor(np.float32(ablation) * np.float32(budget // neurons))), 1)
    needed = max(-(-budget // fan_in), 1)
    least = min(least, sorted(counts, reverse=True)[needed - 1])
    stays = [j for j in range(neurons) if ablation == 0 or counts[j] >= least]
    width = min(budget // len(stays), fan_in)
    keeps = set(sorted((c for c in active if c[1] in stays), key=lambda c: -weight[c])[:kept])
    found = np.zeros_like(mask)
    for j in stays:
        column = [(i, j) for i in range(fan_in)]
        column.sort(key=lambda c: (c not in keeps, -weight[c] if c in keeps else -grad[c]))
        for c in column[:width]:
            found[c] = 1
    return found
