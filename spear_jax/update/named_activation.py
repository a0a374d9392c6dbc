"""Which activation a model's own files name: in a configuration beside or within them, or by the slope of a PReLU.

Only what is said of every place between dense layers, or of the one that is asked for, counts. Anything less is left
open, and the equations of two layers decide: a wrong name would hide a batch that they find.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spear_jax.activations import named
from spear_jax.errors import SpearError
from spear_jax.update.dense_layers import DenseLayer, find_layers, floating_shapes
from spear_jax.update.layer_order import is_chain, natural_key, same_numbered
from spear_jax.update.tensor_names import parse_kernel, without_tail
from spear_jax.update.weight_change import widen

Tensors = Mapping[str, np.ndarray]

# What configurations of transformers and of models in their style call it.
KEYS = ("hidden_act", "activation_function", "activation", "hidden_activation")
# Of what frameworks have two forms, only Hugging Face's own keys say which; whose "activation" it is stays open.
_SEVERAL_FORMS = ("gelu", "leaky_relu(0.01)")
# Keras has other slopes than PyTorch where none is given.
_KERAS_SLOPES = {"leaky_relu": "leaky_relu(0.2)"}
# Keras layers behind which a pre-activation is what it was, but for its scale, its shape or noise.
_PASSING = frozenset(
    "InputLayer Flatten Reshape Dropout GaussianNoise GaussianDropout AlphaDropout ActivityRegularization "
    "BatchNormalization LayerNormalization".split()
)
_UNKNOWN = "?"
_NOT_A_CONFIGURATION = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


def of_configuration(text: bytes, tensors: Tensors) -> str | None:
    """The activation that a ``config.json`` names, of Keras or of Hugging Face's style; None where it names none.

    A name in Hugging Face's style is that of the blocks. It is taken where all matrices of the model are one chain of
    dense layers, as in a transformer something else may stand behind poolers and heads.

    Args:
        text: the configuration; one that cannot be read names nothing.
        tensors: of the model.

    Returns:
        A name that `spear_jax.activations.named` knows, with its slope.
    """
    try:
        configuration = json.loads(text)
        if "class_name" in configuration:
            return _of_keras(configuration["config"])
        return _of_keys(configuration) if _is_dense_chain(tensors) else None
    except _NOT_A_CONFIGURATION:
        return None


def of_slopes(layer: DenseLayer, layers: Sequence[DenseLayer], tensors: Tensors, *, is_told: bool) -> str | None:
    """``prelu(...)`` with the slope in the file, where a PReLU of one slope stands behind a layer.

    Args:
        layer: one of the layers.
        layers: the dense layers, in order.
        tensors: of the model, in the order of its file.
        is_told: whether that order tells anything, as for `in_order`.

    Returns:
        None where there is none, behind the last layer, where several slopes are open, or one for each neuron.
    """
    shapes = floating_shapes(tensors)
    parameters = [name for name in shapes if _is_slope(name, shapes)]
    slopes = {name: float(widen(tensors[name]).reshape(-1)[0]) for name in parameters if tensors[name].size == 1}
    is_open = len(slopes) < len(parameters) or not np.isfinite(list(slopes.values())).all()
    if not slopes or is_open or layer == layers[-1]:
        return None
    behind = _kernels_behind(slopes, shapes, is_told)
    # One that is registered before or after all layers, or beside another, is shared or called in another order.
    if len(set(behind)) == len(slopes) and None not in behind and layers[-1].kernel_name not in behind:
        places = dict(zip(behind, slopes.values(), strict=True))
        return _prelu(places[layer.kernel_name]) if layer.kernel_name in places else None
    is_one = len(set(slopes.values())) == 1 and _is_only_dense(layers, shapes)
    return _prelu(next(iter(slopes.values()))) if is_one else None


def _prelu(slope: float) -> str:
    return str(named(f"prelu({slope!r})"))


def _is_slope(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a tensor may hold the slopes of a PReLU: a vector of weights without bias, or what is called so."""
    leaf = re.split(r"[/.]", without_tail(name))[-1]
    if leaf == "negative_slope":
        return len(shapes[name]) < 2
    parsed = parse_kernel(name) if leaf == "weight" and len(shapes[name]) == 1 else None
    return parsed is not None and not any(bias in shapes for bias in parsed.biases)


def _kernels_behind(
    slopes: Mapping[str, float], shapes: Mapping[str, tuple[int, ...]], is_told: bool
) -> list[str | None]:
    """For each slope the last kernel before it, by the file or by numbers; None where there is none, or no order."""
    names = [name for name in shapes if name in slopes or len(shapes[name]) > 1]
    if not is_told:
        if len({same_numbered(name) for name in names}) > 1:
            return [None for _ in slopes]
        names.sort(key=natural_key)
    last, found = None, {}
    for name in names:
        found[name] = last
        last = last if name in slopes else name
    return [found[name] for name in slopes]


def _is_only_dense(layers: Sequence[DenseLayer], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether every matrix, and whatever has more dimensions, is the kernel of a dense layer."""
    return {name for name, shape in shapes.items() if len(shape) > 1} == {layer.kernel_name for layer in layers}


def _is_dense_chain(tensors: Tensors) -> bool:
    shapes = floating_shapes(tensors)
    layers, _ = find_layers(shapes)
    return len(layers) > 1 and is_chain(layers) and _is_only_dense(layers, shapes)


def _of_keys(configuration: Mapping[str, Any]) -> str | None:
    if any("head" in key for key in configuration):  # attention: what lies beside may be the head alone
        return None
    names = {key: _known(configuration[key]) for key in KEYS if key in configuration}
    if names.get("activation") in _SEVERAL_FORMS:
        return None
    return next(iter(names.values())) if len(set(names.values())) == 1 else None


def _known(name: str) -> str | None:
    """The name as this library has it; None where it has none, or the slope lies with the tensors."""
    try:
        activation = named(name)
    except SpearError:
        return None
    return None if activation.name == "prelu" else str(activation)


def _of_keras(configuration: Any) -> str | None:
    """The one activation between all dense layers of a Keras model, in the order of its list of layers."""
    places: list[list[str]] = []
    for kind, settings in _keras_layers(configuration):
        if kind == "Dense":
            places.append([])
        if places:
            places[-1] += _keras_names(kind, settings)
    names = {_known(place[0]) if len(place) == 1 else None for place in places[:-1]}
    return names.pop() if len(names) == 1 else None


def _keras_layers(configuration: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class and settings of every layer, those of models within the model in their place."""
    for layer in configuration if isinstance(configuration, list) else configuration["layers"]:
        settings = layer["config"]
        if isinstance(settings, list) or "layers" in settings:
            yield from _keras_layers(settings)
        else:
            yield layer["class_name"], settings


def _keras_names(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """What a Keras layer does to each number, as names of activations; `_UNKNOWN` for what has none here."""
    if kind in ("Dense", "Activation"):
        told = settings["activation"]
        if isinstance(told, dict) and told.get("class_name") in ("ReLU", "LeakyReLU", "ELU"):
            return _keras_names(told["class_name"], told["config"])
        if told in (None, "linear"):
            return []
        return [_KERAS_SLOPES.get(told, told) if isinstance(told, str) else _UNKNOWN]
    if kind == "ReLU":
        return [_keras_relu(settings)]
    if kind == "LeakyReLU":
        slope = settings["negative_slope"] if "negative_slope" in settings else settings["alpha"]
        return [f"leaky_relu({float(slope)!r})"]
    if kind == "ELU":
        return ["elu" if settings.get("alpha", 1) == 1 else _UNKNOWN]
    return [] if kind in _PASSING else [_UNKNOWN]


def _keras_relu(settings: Mapping[str, Any]) -> str:
    """Keras' ReLU layer, which has a bound, a slope and a threshold."""
    slope, bound = float(settings.get("negative_slope") or 0), settings.get("max_value")
    if settings.get("threshold"):
        return _UNKNOWN
    if bound is None:
        return f"leaky_relu({slope!r})" if slope else "relu"
    return "relu6" if bound == 6 and not slope else _UNKNOWN
