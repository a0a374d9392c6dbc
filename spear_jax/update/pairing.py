"""Which tensor of what came back is which of the model that was sent, where their names differ.

Names are compared by their parts. Parts that only wrap a model (``module``, ``_orig_mod``, ``model``, anywhere in a
name) do not count; nor does a part that all names of one side share and the other side lacks. What else one side puts
before its names (``net.``, ``ema.``) is found as the longest common ending, and counts only where every kernel of the
model pairs in shape too. Of several ways the one that pairs most is taken; equally good ones are for the caller to
tell apart. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spear_jax.update.tensor_names import without_tail

# What data parallelism, compilers, trainers and adapters put around a model's own names.
WRAPPERS = frozenset(
    "module _module _orig_mod model _model params state_dict model_state_dict _fsdp_wrapped_module _fpw_module "
    "_checkpoint_wrapped_module _forward_module _original_module base_model base_layer modules_to_save default "
    "wrapped wrapped_module variables vars_dict".split()
)
# What programs call an average or a copy of the model that they train.
COPY = re.compile(
    r"(?i)(?:^|_)(?:ema|swa|avg|averaged?|teacher|target|best|old|prev|previous|init|initial|shadow|momentum)(?:_|$)"
)
Shapes = Mapping[str, tuple[int, ...]]
Parts = tuple[str, ...]


class Way(NamedTuple):
    """One way to pair two files.

    Attributes:
        names: the name in what was sent of each tensor that came back and has one there.
        is_named: whether the names are the same, wrappers aside.
    """

    names: dict[str, str]
    is_named: bool


def pairings(before: Shapes, after: Shapes) -> list[Way]:
    """The best ways to pair the tensors of two files by their names.

    Args:
        before: shape by name of the model that was sent.
        after: the same of what came back.

    Returns:
        the equally good ways, those by equal names first; empty where nothing pairs. Of these the shapes may differ,
        and are for the caller to compare.
    """
    sent, back = _parts_of(before), _parts_of(after)
    named = [{name: name for name in after if name in before}, _match(sent, back)]
    others = [
        *_without_shared_parts(sent, back, before, after),
        *_by_affix(before, after),
        *_by_ending(sent, back, before, after),
    ]
    most = max(len(names) for names in (*named, *others))
    best: list[Way] = []
    for names, is_named in ((names, names in named) for names in (*named, *others)):
        if names and len(names) == most and all(names != way.names for way in best):
            best.append(Way(names, is_named))
    return best


def _parts_of(names: Iterable[str]) -> dict[str, Parts]:
    """The parts of every name that count; all of them where two names would become one."""
    names = list(names)
    for drop in (WRAPPERS, frozenset[str]()):
        parts = {name: _parts(name, drop) for name in names}
        if len(set(parts.values())) == len(names):
            return parts
    return {name: tuple(re.split(r"[./]", name)) for name in names}


def _parts(name: str, drop: frozenset[str]) -> Parts:
    *path, leaf = re.split(r"[./]", without_tail(name))
    kept = [part for part in path if part not in drop]
    # Keras says dense/dense/kernel.
    once = [part for part, last in zip(kept, [None, *kept], strict=False) if part != last or part.isdecimal()]
    return (*once, leaf)


def _match(sent: Mapping[str, Parts], back: Mapping[str, Parts]) -> dict[str, str]:
    by_parts = {parts: name for name, parts in sent.items()}
    return {name: by_parts[parts] for name, parts in back.items() if parts in by_parts}


def _without_shared_parts(
    sent: Mapping[str, Parts], back: Mapping[str, Parts], before: Shapes, after: Shapes
) -> list[dict[str, str]]:
    """The pairs where parts that all names of one side have, and none of the other, are left away."""
    drops = [
        _shared(one.values()) - {part for parts in other.values() for part in parts}
        for one, other in ((sent, back), (back, sent))
    ]
    left = [
        {name: (*(part for part in parts[:-1] if part not in drop), parts[-1]) for name, parts in side.items()}
        for side, drop in zip((sent, back), drops, strict=True)
    ]
    if not any(drops) or any(len(set(side.values())) < len(side) for side in left):
        return []
    pairs = _match(*left)
    # A layer called otherwise on both sides is not the same for that.
    is_bare = all(drops) and min(map(len, left[0].values())) == 1
    mine, others = (tuple(drop) for drop in drops)
    return [] if is_bare or not _covers(pairs, (mine, others), before, after) else [pairs]


def _by_affix(before: Shapes, after: Shapes) -> list[dict[str, str]]:
    """The pairs where one side puts the same text around every name of the other: ``dW1``, ``0.weight.grad``."""
    if len(before) < 2:
        return []
    for inner, outer in ((before, after), (after, before)):
        name = max(inner, key=len)
        for other in (other for other in outer if name in other and name != other):
            start, _, end = other.partition(name)
            pairs = {f"{start}{one}{end}": one for one in inner}
            if pairs.keys() == set(outer) and all(outer[one] == inner[pairs[one]] for one in pairs):
                return [pairs if outer is after else {one: wrapped for wrapped, one in pairs.items()}]
    return []


def _shared(names: Iterable[Parts]) -> set[str]:
    first, *rest = names
    return set(first[:-1]).intersection(*(parts[:-1] for parts in rest))


def _by_ending(
    sent: Mapping[str, Parts], back: Mapping[str, Parts], before: Shapes, after: Shapes
) -> list[dict[str, str]]:
    """The pairs under one beginning on each side, of which at most one is not empty unless all pair."""
    beginnings = _beginnings(sent, back, before, after)
    by_parts = {parts: name for name, parts in back.items()}
    ways = []
    for mine, others in beginnings:
        pairs = {}
        for name, parts in sent.items():
            other = by_parts.get((*others, *parts[len(mine) :])) if parts[: len(mine)] == mine else None
            if other is not None:
                pairs[other] = name
        if all(before[name] == after[other] for other, name in pairs.items()) and _covers(
            pairs, (mine, others), before, after
        ):
            ways.append(pairs)
    return ways


def _beginnings(
    sent: Mapping[str, Parts], back: Mapping[str, Parts], before: Shapes, after: Shapes
) -> Sequence[tuple[Parts, Parts]]:
    """What two names have before their longest common ending, for every two of the same shape; commonest first."""
    by_ending: dict[Parts, list[str]] = defaultdict(list)
    for name, parts in sent.items():
        for ending in {parts[-2:], parts[-1:]}:
            by_ending[ending].append(name)
    counts: Counter[tuple[Parts, Parts]] = Counter()
    for other, parts in back.items():
        names = by_ending[parts[-2:]] or [name for name in by_ending[parts[-1:]] if len(sent[name]) == 1]
        for name in names:
            if before[name] == after[other]:
                counts[_before_common_ending(sent[name], parts)] += 1
    return [pair for pair, _ in counts.most_common(50)]


def _before_common_ending(first: Parts, second: Parts) -> tuple[Parts, Parts]:
    common = 0
    for one, two in zip(reversed(first), reversed(second), strict=False):
        if one != two:
            break
        common += 1
    return first[: len(first) - common], second[: len(second) - common]


def _covers(pairs: Mapping[str, str], beginnings: tuple[Parts, Parts], before: Shapes, after: Shapes) -> bool:
    """Whether so many kernels pair that it is one model: all that were sent, or of a part of it all that came back."""
    kernels = lambda shapes, paired: {name for name, shape in shapes.items() if len(shape) > 1} <= set(paired)
    all_sent, all_back = kernels(before, pairs.values()), kernels(after, pairs)
    if len(pairs) < 2 or not any(len(after[name]) > 1 for name in pairs):
        return False
    mine, others = beginnings
    if mine and others:
        return all_sent and all_back
    return all_sent or (bool(mine) and all_back)
