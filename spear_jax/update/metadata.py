"""The string metadata of an update bundle: which keys there are and what their values must look like."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

from spear_jax.activations import ACTIVATIONS, named
from spear_jax.errors import SpearError, UpdateError
from spear_jax.normalization import Normalization
from spear_jax.update.dense_layers import LAYOUTS

FORMAT_VERSION = "1"
ORDER_KEY = "tensor_order"
# What the names of the tensors that came back begin with in a bundle, by kind.
PREFIX = {"gradient": "grad/", "weights": "client/", "delta": "client/"}
KINDS = tuple(PREFIX)
_LONGEST_COUNT = 18


def metadata_problem(metadata: Mapping[str, str]) -> str | None:
    """What is wrong with the metadata of an update, in one sentence, or None.

    Args:
        metadata: ``kind`` is required; of the other keys, those present are checked and unknown ones are left alone.
    """
    version = metadata.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        return f"format_version is {version!r}; this release reads {FORMAT_VERSION}: upgrade spear-jax."
    if metadata.get("kind") not in KINDS:
        return f"metadata kind is {metadata.get('kind')!r}; expected one of {', '.join(KINDS)}."
    for key, (is_valid, wanted) in _CHECKS.items():
        if key in metadata and not is_valid(metadata[key]):
            return f"metadata {key} is {metadata[key]!r}; expected {wanted}."
    return None


def require_valid(metadata: Mapping[str, str]) -> None:
    """Refuse the metadata of an update that `metadata_problem` finds wrong.

    Raises:
        UpdateError: what is wrong.
    """
    problem = metadata_problem(metadata)
    if problem is not None:
        raise UpdateError(problem)


def parse_shape(text: str) -> tuple[int, int, int]:
    """(H, W, C) from its JSON list.

    Raises:
        SpearError: the text is something else.
    """
    try:
        shape = json.loads(text)
    except RecursionError as error:
        raise SpearError("nested too deeply") from error
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(size) is int and size >= 1 for size in shape):
        raise SpearError(f"{text!r} is not [height, width, channels]")
    return shape[0], shape[1], shape[2]


def parse_order(text: str) -> list[str]:
    """Names of tensors from their JSON list.

    Raises:
        SpearError: the text is something else.
    """
    try:
        names = json.loads(text)
    except RecursionError as error:
        raise SpearError("nested too deeply") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpearError(f"{text[:80]!r} is no list of names")
    return names


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT and int(text) >= 1


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def is_valid(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return is_valid


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise SpearError(f"{text} is not positive")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise SpearError(f"{text} is negative")
    return value


_CHECKS: dict[str, tuple[Callable[[str], bool], str]] = {
    "lr": (_parses(_positive), "a positive number"),
    "weight_decay": (_parses(_not_negative), "a number that is not negative"),
    "local_steps": (_is_count, "a positive integer"),
    "num_examples": (_is_count, "a positive integer"),
    "layout": (LAYOUTS.__contains__, f"one of {', '.join(LAYOUTS)}"),
    "normalization": (_parses(Normalization.from_json), 'JSON {"mean": [...], "std": [...]}'),
    "activation": (_parses(named), f"one of {', '.join(ACTIVATIONS)}"),
    ORDER_KEY: (_parses(parse_order), "a JSON list of names"),
    "image_shape": (_parses(parse_shape), "JSON [height, width, channels]"),
}
