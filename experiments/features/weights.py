"""Pretrained weights: a safetensors file with the names that torchvision gives its VGG networks.

| in the file | shape | here |
|---|---|---|
| ``features.N.weight`` | (out, in, 3, 3) | ``conv_i/kernel`` (3, 3, in, out) |
| ``features.N.bias`` | (out,) | ``conv_i/bias`` |
| ``classifier.N.weight`` | (out, in) | ``fc_i/kernel`` (in, out) |
| ``classifier.N.bias`` | (out,) | ``fc_i/bias`` |

``N`` counts the modules of a ``torch.nn.Sequential``: conv and ReLU take two numbers, pooling takes one more and ends a
block. The last block ends in pooling too, and dropout is off. From PyTorch: ``safetensors.torch.save_file(
torchvision.models.vgg16(weights="DEFAULT").state_dict(), "vgg16.safetensors")``.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from experiments.features.vgg import VGG
from spear_jax.client.models import Params

CONV_AND_RELU = 2  # modules from one convolution to the next of its block; pooling between blocks adds one


def read_torchvision(path: Path) -> tuple[VGG, Params]:
    """The network of a file, float32, its architecture read off names and shapes.

    Raises:
        ValueError: batch normalisation, or no such network.
    """
    tensors = load_file(path)
    if any("running_mean" in name for name in tensors):
        raise ValueError(f"{path} has batch normalisation; only VGG networks without it (vgg11 to vgg19) are read.")
    conv, dense = _numbers(tensors, "features"), _numbers(tensors, "classifier")
    if not conv or len(dense) < 2 or any(tensors[f"features.{n}.weight"].shape[2:] != (3, 3) for n in conv):
        raise ValueError(f"{path} holds no VGG: expected features.N (3 x 3 convolutions) and two or more classifier.N.")
    params = {f"conv_{i}": _layer(tensors, f"features.{n}", (2, 3, 1, 0)) for i, n in enumerate(conv)}
    params |= {f"fc_{i}": _layer(tensors, f"classifier.{n}", (1, 0)) for i, n in enumerate(dense)}
    sizes = [len(params[f"fc_{i}"]["bias"]) for i in range(len(dense))]
    return VGG(_blocks(conv, params), tuple(sizes[:-1]), sizes[-1]), params


def image_side(model: VGG, params: Params) -> int:
    """Side of the square images whose features the first FC layer takes.

    Raises:
        ValueError: its inputs are no square map of the last convolution's channels.
    """
    inputs, channels = params["fc_0"]["kernel"].shape[0], model.blocks[-1][-1]
    side = math.isqrt(inputs // channels)
    if side * side * channels != inputs:
        raise ValueError(f"the first FC layer takes {inputs} values, no square map of {channels} channels.")
    return side * 2 ** len(model.blocks)


def _numbers(tensors: dict[str, np.ndarray], part: str) -> list[int]:
    found = (re.fullmatch(rf"{part}\.(\d+)\.weight", name) for name in tensors)
    return sorted(int(match[1]) for match in found if match)


def _layer(tensors: dict[str, np.ndarray], name: str, axes: tuple[int, ...]) -> dict[str, np.ndarray]:
    kernel, bias = tensors[f"{name}.weight"].transpose(axes), tensors[f"{name}.bias"]
    return {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": bias.astype(np.float32)}


def _blocks(conv: list[int], params: Params) -> tuple[tuple[int, ...], ...]:
    channels = [len(params[f"conv_{i}"]["bias"]) for i in range(len(conv))]
    blocks = [[channels[0]]]
    for (before, after), size in zip(itertools.pairwise(conv), channels[1:], strict=True):
        if after - before > CONV_AND_RELU:
            blocks.append([])
        blocks[-1].append(size)
    return tuple(map(tuple, blocks))
