"""Where the model stands in what a program saved: a tree of dicts and lists with tensors beside anything else.

An optimiser's state is never the model. From the top one goes down as long as names leave no doubt: into
``state_dict``, ``model``, ``params`` and their like, and past what is an average or a copy (``ema``, ``teacher``).
Where it stays open, every tensor keeps its whole path as a name, and the other file of the update decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from spear_jax.errors import TensorFileError
from spear_jax.update.pairing import COPY

MODEL_KEYS = frozenset(
    "state_dict model_state_dict model_state model_dict model_weights model net network module params parameters "
    "weights variables trainable_variables trainable_params gradients gradient grads grad".split()
)
_OPTIMISER = re.compile(r"(?i)optim|^opt$|^opt_|_opt$|scheduler|^scaler$|^amp$|rng_|_extra_state$|callbacks|^loops$")
_DEEPEST = 60
Path = tuple[str | int, ...]


class Unreadable(NamedTuple):
    """A tensor whose elements are no real numbers, or lie where only its program finds them.

    Attributes:
        reason: the rest of a sentence that begins with its name.
    """

    reason: str


class Opaque:
    """An object of a class that nobody asked: known by name, never made; what it would hold lies in ``content``."""

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name = name
        self.content: Any = arguments


class Found(NamedTuple):
    """The model in a tree.

    Attributes:
        tensors: leaves by name, in their order.
        left_out: why a leaf is none of them, by name.
        positions: the places of a list, None where the tensors have names.
    """

    tensors: dict[str, Any]
    left_out: dict[str, str]
    positions: tuple[int, ...] | None


def find_model(tree: Any, separator: str, leaf_types: type | tuple[type, ...]) -> Found:
    """The tensors of the model in a tree, named by their path in it.

    Args:
        tree: dicts, lists, tuples, `Opaque` objects and `Unreadable` leaves; anything else is passed over.
        separator: between the parts of a name.
        leaf_types: classes of the tensors, which have a ``shape``.

    Raises:
        TensorFileError: two tensors of one name.
    """
    entries = list(_leaves(tree, (), leaf_types, set()))
    while (inside := _model_inside(entries)) is not None:
        entries = inside
    left_out = {_join(path, separator): leaf.reason for path, leaf in entries if isinstance(leaf, Unreadable)}
    entries = [(path, leaf) for path, leaf in entries if not isinstance(leaf, Unreadable)]
    if entries and all(type(part) is int for path, _ in entries for part in path):
        places = tuple(int(path[0]) if len(path) == 1 else index for index, (path, _) in enumerate(entries))
        return Found({str(index): leaf for index, (_, leaf) in enumerate(entries)}, left_out, places)
    tensors = {}
    for path, leaf in entries:
        name = _join(path, separator)
        if name in tensors:
            raise TensorFileError(f"two arrays are called {ascii(name[:80])}; rename one.")
        tensors[name] = leaf
    return Found(tensors, left_out, None)


def _leaves(tree: Any, path: Path, types: Any, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    """Every tensor with its path; each container once, and nothing of an optimiser."""
    if isinstance(tree, Unreadable) or isinstance(tree, types):
        if path:
            yield path, tree
        return
    inside, known = _inside_of(tree), {id(tree), id(tree.content)} if isinstance(tree, Opaque) else {id(tree)}
    if not isinstance(inside, dict | list | tuple) or known & seen or len(path) > _DEEPEST:
        return
    seen |= known
    for key, value in _items(inside):
        is_tensor = isinstance(value, Unreadable) or isinstance(value, types)
        if is_tensor or not (type(key) is str and _OPTIMISER.search(key)):
            yield from _leaves(value, (*path, key), types, seen)


def _items(tree: Any) -> list[tuple[str | int, Any]]:
    """Keys and values; of a dict by numbers only the one that stands for a list, or what lies deeper."""
    if not isinstance(tree, dict):
        return list(enumerate(tree))
    is_list = list(tree) == list(range(len(tree)))
    return [
        (key, value) for key, value in tree.items() if type(key) is str or is_list or isinstance(value, dict | Opaque)
    ]


def _inside_of(tree: Any) -> Any:
    """What an object holds: of a PyTorch module, its parameters and buffers under the names of its state dict."""
    if not isinstance(tree, Opaque):
        return tree
    content = tree.content
    if "optim" in tree.name.lower() or not isinstance(content, dict) or not isinstance(content.get("_modules"), dict):
        return None if "optim" in tree.name.lower() else content
    parts = [content.get(key) for key in ("_parameters", "_buffers", "_modules")]
    return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


def _model_inside(entries: list[tuple[Path, Any]]) -> list[tuple[Path, Any]] | None:
    """The entries one level down, where the model stands there without doubt."""
    is_matrix = lambda leaf: len(getattr(leaf, "shape", ())) >= 2
    heads = dict.fromkeys(path[0] for path, leaf in entries if len(path) > 1 and is_matrix(leaf))
    if any(len(path) == 1 and is_matrix(leaf) for path, leaf in entries):
        return None
    known = [head for head in heads if str(head).lower() in MODEL_KEYS]
    rest = [head for head in heads if head not in known and not COPY.search(str(head))]
    under = lambda head: [(path[1:], leaf) for path, leaf in entries if path[0] == head and len(path) > 1]
    if "params" in heads:
        return under("params")
    alone = known if known and not rest else rest or list(heads)
    if len(alone) != 1 or (known and rest) or type(alone[0]) is not str:
        return None
    inside = under(alone[0])
    # Kernels in one list and biases in another are one model.
    others = {path[0] for path, _ in entries if len(path) == 2 and type(path[1]) is int} - {alone[0]}
    if _is_list(inside) and any(not COPY.search(str(other)) for other in others):
        return None
    return inside if known or _is_flat(inside) else None


def _is_list(entries: list[tuple[Path, Any]]) -> bool:
    return all(type(path[0]) is int for path, _ in entries)


def _is_flat(entries: list[tuple[Path, Any]]) -> bool:
    """Whether these are a state dict (dotted names at one level) or a list, and not the leaves of a single layer."""
    return _is_list(entries) or any("." in str(path[0]) for path, _ in entries)


def _join(path: Path, separator: str) -> str:
    parts = [str(part) for part in path]
    # Flax's newer modules (nnx) keep each array as the value of a variable.
    return separator.join(parts[:-1] if separator == "/" and len(parts) > 1 and parts[-1] == "value" else parts)
