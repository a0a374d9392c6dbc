"""Which parameter each array of a list is, by its order and shape: gradients as ``torch.autograd.grad`` gives them.

A list is aligned with the order of the model that was sent: that of its file, or for JAX that of the leaves of its
tree. Frozen parameters may be missing from the list, as long as the shapes leave one way to place what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.dense_layers import natural_key
from spear_jax.update.model_file import ModelFile, few
from spear_jax.update.tensor_names import parse_kernel

_BUFFERS = re.compile(r"(?:running_mean|running_var|num_batches_tracked|position_ids|moving_mean|moving_variance)$")


def align(before: ModelFile, after: ModelFile) -> dict[str, str]:
    """The name in ``before`` of every array of ``after``, of which at least one is a list.

    Raises:
        UpdateError: the shapes fit nowhere, or in several ways; the first that is in doubt is named.
    """
    doubt = None
    for names in _orders(before):
        placed = _placed(before, names, after)
        if placed is None:
            continue
        first, last = placed
        if first == last and (before.is_ordered or _is_told_by_numbers(before, names)):
            return dict(zip(after.tensors, first, strict=True))
        doubt = doubt or next(
            ((one, other) for one, other in zip(first, last, strict=True) if one != other), _alike(before, names)
        )
    if doubt is not None:
        raise UpdateError(
            f"the arrays that came back are a list, and one of shape {before.tensors[doubt[0]].shape} may be "
            f"{doubt[0]} or {doubt[1]}: give them by name, or all of them in the order of the model."
        )
    sent, back = (few([str(tensor.shape) for tensor in file.tensors.values()], 4) for file in (before, after))
    raise UpdateError(
        f"a list came back whose shapes ({back}) are not those of the model that was sent in its order ({sent}): "
        "give them by name, or in the order of the model."
    )


def _orders(before: ModelFile) -> Iterator[list[str]]:
    """Orders that a program may list the parameters in, likeliest first, each with and without buffers."""
    own = list(before.tensors) if before.is_ordered else _layer_order(before)
    leaves = sorted(before.tensors, key=lambda name: re.split(r"[/.]", name))
    for names in (own, leaves) if before.framework != "pytorch" else (own,):
        trained = [name for name in names if not _BUFFERS.search(name) and before.tensors[name].dtype.kind not in "iub"]
        yield trained
        if trained != names:
            yield names


def _layer_order(before: ModelFile) -> list[str]:
    """Natural order of the layers, a kernel before its bias, for a file that keeps no order."""

    def key(name: str) -> tuple[list[tuple[int, int, str]], int]:
        parsed = parse_kernel(name)
        layer = parsed.layer if parsed else re.sub(r"[/.]?(?:vars[/.]1|[^/.]+)$", "", name)
        return natural_key(layer), -before.tensors[name].ndim

    return sorted(before.tensors, key=key)


def _placed(before: ModelFile, names: Sequence[str], after: ModelFile) -> tuple[list[str], list[str]] | None:
    """The names that the arrays get when placed as early and as late as their shapes allow, None where they do not."""
    arrays = list(after.tensors.values())
    has_gaps = after.positions is not None and after.positions != tuple(range(len(arrays)))
    if has_gaps and after.positions is not None:  # an entry that is None stands for a frozen parameter
        if after.positions[-1] >= len(names):
            return None
        chosen = [names[place] for place in after.positions]
        fits = all(before.tensors[name].shape == array.shape for name, array in zip(chosen, arrays, strict=True))
        return (chosen, chosen) if fits else None
    first = _greedy(before, names, arrays)
    last = _greedy(before, names[::-1], arrays[::-1])
    return (first, last[::-1]) if first is not None and last is not None else None


def _greedy(before: ModelFile, names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[str] | None:
    chosen, left = [], iter(names)
    for array in arrays:
        name = next((name for name in left if before.tensors[name].shape == array.shape), None)
        if name is None:
            return None
        chosen.append(name)
    return chosen


def _alike(before: ModelFile, names: Sequence[str]) -> tuple[str, str] | None:
    """Two tensors of one shape whose names differ in more than numbers, so that only the order tells them apart."""
    known: dict[tuple[int, ...], str] = {}
    for name in names:
        other = known.setdefault(before.tensors[name].shape, name)
        if _without_numbers(other) != _without_numbers(name):
            return other, name
    return None


def _is_told_by_numbers(before: ModelFile, names: Sequence[str]) -> bool:
    return _alike(before, names) is None


def _without_numbers(name: str) -> str:
    return re.sub(r"_?\d+", "", name)
