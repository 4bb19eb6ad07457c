"""Layers as their equations say, in NumPy and float64, one image (C, H, W) at a time: a reference for networks."""

import numpy as np
import torch
from torch import nn


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    """Of a module by their names."""
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """With every parameter drawn anew: layers that begin as zero would hide what is wrong."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return module


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, slope[0] * x)


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int = 1, padding: int = 1) -> np.ndarray:
    """Position by position. weight: (out, in, k, k)."""
    x, k = np.pad(x, [(0, 0), (padding, padding), (padding, padding)]), weight.shape[-1]
    rows, columns = ((side - k) // stride + 1 for side in x.shape[1:])
    out = np.empty((len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = (weight * window).sum(axis=(1, 2, 3)) + bias
    return out


def convolve_up(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int = 0) -> np.ndarray:
    """Each position paints its kernel, which may overlap with others. weight: (in, out, k, k)."""
    k, (_, rows, columns) = weight.shape[-1], x.shape
    out = np.zeros((weight.shape[1], stride * (rows - 1) + k, stride * (columns - 1) + k))
    for i in range(rows):
        for j in range(columns):
            painted = np.tensordot(x[:, i, j], weight, axes=1)
            out[:, i * stride : i * stride + k, j * stride : j * stride + k] += painted
    stop = (out.shape[1] - padding, out.shape[2] - padding)
    return out[:, padding : stop[0], padding : stop[1]] + bias[:, None, None]


def group_norm(x: np.ndarray, groups: int, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    out = np.empty_like(x)
    size = len(x) // groups
    for first in range(0, len(x), size):
        group = x[first : first + size]
        out[first : first + size] = (group - group.mean()) / np.sqrt(group.var() + eps)
    return out * weight[:, None, None] + bias[:, None, None]


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(C, L) each: softmax of the products over sqrt(C), position by position."""
    out = np.empty_like(value)
    for i in range(query.shape[1]):
        scores = np.array([query[:, i] @ key[:, j] for j in range(key.shape[1])]) / np.sqrt(len(query))
        share = np.exp(scores - scores.max())
        out[:, i] = value @ (share / share.sum())
    return out
