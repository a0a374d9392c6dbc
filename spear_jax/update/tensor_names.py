"""What frameworks call the two tensors of a dense layer: which bias may belong to a kernel, told by its name alone.

PyTorch and Equinox say ``fc.weight``, Flax and Keras 2 ``Dense_0/kernel``, TensorFlow ``dense/kernel:0``, Keras 3
``dense/vars/0``, Haiku ``linear_0/w``, MXNet ``dense0_weight``, scikit-learn ``coefs_0``; a list of (W, b) is ``0/0``
and ``0/1``, and what is written by hand ``W1`` and ``b1``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Bias names that go with a kernel's, and the layout that this naming promises where the shape does not tell.
_LEAVES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "kernel": (("bias",), "in_out"),
    "kernels": (("biases",), "in_out"),
    "weight": (("bias",), "out_in"),
    "weights": (("biases", "bias"), None),
    "w": (("b", "bias"), None),
    "coef": (("intercept",), "in_out"),
    "coefs": (("intercepts",), "in_out"),
}
_TAIL = re.compile(r":\d+$|/\.ATTRIBUTES/VARIABLE_VALUE$|[/.]value$")
_KERNEL = re.compile(
    rf"(?P<path>(?:.*[/.])?)(?P<stem>(?:[^/.]*[_-])?)(?P<leaf>{'|'.join(_LEAVES)})(?P<number>_?\d*)(?P<end>_?)",
    re.IGNORECASE,
)
# By hand: W_in beside b_in, and lists of kernels beside lists of biases, weights/0 and biases/0. Not recurrent ones.
_WORD = re.compile(r"(?P<path>(?:.*[/.])?)(?P<leaf>w)(?P<end>_(?!ih|hh)[a-z]+\d*)", re.IGNORECASE)
_LISTED = re.compile(rf"(?P<path>(?:.*[/.])?)(?P<leaf>{'|'.join(_LEAVES)})(?P<end>_?[/.]\d+)", re.IGNORECASE)
_PAIR = re.compile(r"(?P<layer>.+?)(?P<vars>[/.]vars)?(?P<separator>[/.])0")
# The three projections of PyTorch's attention in one matrix are no layer that an activation follows.
_NO_LAYER = "in_proj_"


class KernelName(NamedTuple):
    """What the name of a kernel tells.

    Attributes:
        layer: name of the layer.
        biases: names that the bias of the layer may have, likeliest first.
        layout: ``"out_in"`` or ``"in_out"`` where this naming has one, else None.
    """

    layer: str
    biases: tuple[str, ...]
    layout: str | None


def parse_kernel(name: str) -> KernelName | None:
    """The layer that a tensor would be the kernel of, or None where its name says that it is none."""
    tail = found.group() if (found := _TAIL.search(name)) else ""
    bare = name.removesuffix(tail)
    word = _WORD.fullmatch(bare) or _LISTED.fullmatch(bare)
    if word is not None:
        leaves, layout = _LEAVES[word["leaf"].lower()]
        biases = (f"{word['path']}{leaf}{word['end']}{tail}" for leaf in _spelled(leaves, word["leaf"]))
        return KernelName(bare, tuple(biases), layout)
    pair = _PAIR.fullmatch(bare)
    if pair is not None:
        bias = f"{pair['layer']}{pair['vars'] or ''}{pair['separator']}1{tail}"
        return KernelName(pair["layer"], (bias,), "in_out" if pair["vars"] else None)
    match = _KERNEL.fullmatch(bare)
    if match is None or match["stem"] == _NO_LAYER:
        return None
    leaves, layout = _LEAVES[match["leaf"].lower()]
    before, after = match["path"] + match["stem"], match["number"] + match["end"] + tail
    biases = tuple(f"{before}{leaf}{after}" for leaf in _spelled(leaves, match["leaf"]))
    is_in_out = tail.startswith((":", "/.A")) or "/~/" in name
    return KernelName(_layer(match), biases, "in_out" if is_in_out else layout)


def without_tail(name: str) -> str:
    """The name less what TensorFlow and Flax's nnx put behind it (``:0``, ``/value``)."""
    return _TAIL.sub("", name)


def _layer(match: re.Match[str]) -> str:
    stem = match["stem"].rstrip("_-")
    if stem:
        return match["path"] + stem + match["number"]
    return match["path"] + match["leaf"] + match["number"] if match["number"] else match["path"][:-1] or match["leaf"]


def _spelled(leaves: tuple[str, ...], kernel_leaf: str) -> list[str]:
    """Bias names in the case of the kernel's name first, then in any: ``W1`` goes with ``b1`` or ``B1``."""
    like = str.lower if kernel_leaf.islower() else str.upper if kernel_leaf.isupper() else str.title
    return list(dict.fromkeys(spell(leaf) for spell in (like, str.lower, str.title, str.upper) for leaf in leaves))
