"""Names of a graph network's tensors, as libraries spell them, brought to the canonical ones.

PyTorch Geometric: ``conv1.lin.weight`` or ``convs.0.lin.weight`` (GCN; before 2.0 ``conv1.weight``, which lies as (in,
out)), ``convs.0.nn.0.weight`` (GIN, or ``nn.lins.0``), ``convs.0.lin_l.weight`` and ``lin_r`` (SAGE), ``lin_rel`` and
``lin_root`` (GraphConv), ``convs.0.att_src`` (GAT). FedGraphNN (He et al. 2021): ``gcn.W1`` (in, out) and
``readout.layer1``; GRAIN: ``gcn.W_list.0``. FederatedScope-GNN (Wang et al. 2022): ``gnn.convs.0.lin.weight``,
``linear.0`` and ``clf`` behind the pool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from spear_jax.errors import UpdateError
from spear_jax.update.dense_layers import natural_key

Shapes = Mapping[str, tuple[int, ...]]

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model|net|network|_forward_module)\.)+")
# A convolution's stem ends in a number; what stands behind it is its leaf.
_CONV = re.compile(r"^(?P<stem>(?:.*\.)?(?:\w*conv\w*?|gcn|gin|sage|gat|gc|gnn|layers?)[._]?\d+)\.(?P<leaf>.+)$", re.I)
_FEDGRAPHNN = re.compile(r"^(?:.*\.)?gcn\.W(?P<is_grain>_list\.)?(?P<place>\d+)$")
_INNER = re.compile(r"^nn\.(?:lins\.|linears\.|layers\.|lin|fc|linear)?(?P<place>\d+)\.(?P<part>weight|bias)$")
_NORM = re.compile(r"(?:^|[._])(?:batch_?)?norms?\d*(?:[._]|$)|(?:^|[._])bns?\d*(?:[._]|$)|running_(?:mean|var)$", re.I)
_BUFFERS = ("num_batches_tracked",)
# Leaves of a convolution: kind that they tell (None: of several), canonical leaf, whether they lie as (in, out).
_LEAVES: dict[str, tuple[str | None, str, bool]] = {
    "lin.weight": (None, "weight", False),
    "weight": (None, "weight", True),
    "bias": (None, "bias", False),
    "lin_src.weight": ("gat", "weight", False),
    "att_src": ("gat", "att_src", False),
    "att_dst": ("gat", "att_dst", False),
    "eps": ("gin", "eps", False),
    "lin_l.weight": ("sage", "neighbours.weight", False),
    "lin_l.bias": ("sage", "neighbours.bias", False),
    "lin_r.weight": ("sage", "own.weight", False),
    "lin_rel.weight": ("graphconv", "neighbours.weight", False),
    "lin_rel.bias": ("graphconv", "neighbours.bias", False),
    "lin_root.weight": ("graphconv", "own.weight", False),
}
# Leaves of what is not inverted, and what to say of it.
_REFUSED = {
    "lin_edge.weight": "edge features enter the convolution",
    "att_edge": "edge features enter the attention",
    "edge_encoder": "edge features enter the convolution",
    "bond_encoder": "edge features enter the convolution",
    "att_l": "attention as PyTorch Geometric had it before 2.0",
    "att_r": "attention as PyTorch Geometric had it before 2.0",
}
_EMBEDDING = re.compile(r"(?:embedding|emb)\w*(?:\.\d+)?\.weight$|embedding_list", re.I)
# Of several linear layers behind the convolutions, what the last one is called.
_LAST = re.compile(r"(?:^|\.)(?:output|out|clf|classifier|head|pred\w*|lin_out|fc_out)(?:\.|$)", re.I)


class Naming(NamedTuple):
    """What the names of a model tell.

    Attributes:
        kind: of the convolutions, as `graphs.architecture` has it.
        canonical: canonical names by the model's own.
        in_out: canonical names of matrices that lie as (in, out) in the file.
        ignored: names of what no gradient is needed of, such as counters.
        encoder: name of a linear layer before the first convolution, without ``.weight``; None without one.
        library: whose names these are: ``"FedGraphNN"``, ``"GRAIN"``, ``"FederatedScope"`` or ``"PyTorch Geometric"``.
    """

    kind: str
    canonical: dict[str, str]
    in_out: frozenset[str]
    ignored: tuple[str, ...]
    encoder: str | None
    library: str


def plain(name: str) -> str:
    """A name without what PyTorch's wrappers put before it."""
    return _WRAPPERS.sub("", name)


def read_names(shapes: Shapes) -> Naming:
    """What each tensor of a model is, by its name.

    Args:
        shapes: of the model's tensors, by the file's names.

    Raises:
        UpdateError: by the tensor's name, what it has that is not inverted, or that is no graph network.
    """
    _refuse(shapes)
    convs, rest, ignored = _sorted_out(shapes)
    if not convs:
        raise UpdateError(
            f"no graph convolution is among its tensors ({_first(shapes)}); expected names as convs.0.lin.weight, "
            "convs.0.nn.0.weight, convs.0.lin_l.weight or gcn.W1."
        )
    kind = _kind(convs)
    canonical: dict[str, str] = {}
    in_out: set[str] = set()
    for layer, stem in enumerate(sorted(convs, key=natural_key)):
        for leaf, name in _leaves(kind, stem, convs[stem]).items():
            canonical[name] = f"convs.{layer}.{leaf}"
            if leaf == "weight" and _is_in_out(stem, convs[stem], name):
                in_out.add(canonical[name])
    encoder, readout = _encoder(rest)
    canonical |= _readout(readout, shapes)
    if encoder is not None:
        canonical |= {name: f"encoder.{leaf}" for leaf in ("weight", "bias") if (name := f"{encoder}.{leaf}") in shapes}
    return Naming(kind, canonical, frozenset(in_out), tuple(ignored), encoder, _library(convs, rest))


def _refuse(shapes: Shapes) -> None:
    """What keeps a model from being inverted, where a name says so."""
    for name in shapes:
        leaf = name.rpartition(".")[2]
        if _NORM.search(name) or (leaf == "running_mean"):
            raise UpdateError(
                f"{_norm_of(name)}: BatchNorm in training mode mixes the nodes of a batch (another normalisation bends "
                "each node's state); exact inversion is off."
            )
        for refused, what in _REFUSED.items():
            if refused in name.split(".") or name.endswith("." + refused):
                raise UpdateError(f"{name}: {what}; exact inversion of it is not here: give a model without.")


def _norm_of(name: str) -> str:
    """The normalisation layer that a tensor is of."""
    head, _, leaf = name.rpartition(".")
    return head if leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked") else name


def _sorted_out(shapes: Shapes) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """Names of each convolution by stem and leaf, names of the rest, and what is ignored."""
    convs: dict[str, dict[str, str]] = {}
    rest, ignored = [], []
    for name in shapes:
        own = plain(name)
        if own.rpartition(".")[2] in _BUFFERS:
            ignored.append(name)
        elif found := _FEDGRAPHNN.match(own):
            convs.setdefault(f"gcn.{found['place']}", {})["weight"] = name
        elif (found := _CONV.match(own)) and _is_leaf(found["leaf"]):
            convs.setdefault(found["stem"], {})[found["leaf"]] = name
        else:
            rest.append(name)
    return _without_linear(convs, rest, shapes), rest, ignored


def _is_leaf(leaf: str) -> bool:
    return leaf in _LEAVES or _INNER.match(leaf) is not None


def _without_linear(convs: dict[str, dict[str, str]], rest: list[str], shapes: Shapes) -> dict[str, dict[str, str]]:
    """Convolutions alone: a plain ``layers.3.weight`` is a linear layer, as in FedGraphNN's readout."""
    is_plain = lambda stem: set(convs[stem]) <= {"weight", "bias"} and "conv" not in stem.lower()
    if all(is_plain(stem) and not stem.startswith("gcn.") for stem in convs) or not any(map(is_plain, convs)):
        return convs
    for stem in [stem for stem in convs if is_plain(stem) and not re.fullmatch(r"gcn\.\d+", stem)]:
        rest.extend(convs.pop(stem).values())
    return convs


def _kind(convs: Mapping[str, Mapping[str, str]]) -> str:
    kinds = {kind for leaves in convs.values() for leaf in leaves if (kind := _kind_of(leaf)) is not None}
    if len(kinds) > 1:
        raise UpdateError(f"its convolutions are of several kinds ({', '.join(sorted(kinds))}); expected one kind.")
    return kinds.pop() if kinds else "gcn"


def _kind_of(leaf: str) -> str | None:
    return "gin" if _INNER.match(leaf) else _LEAVES[leaf][0]


def _leaves(kind: str, stem: str, leaves: Mapping[str, str]) -> dict[str, str]:
    """Names of a convolution's tensors by canonical leaf, the layers of a perceptron counted."""
    inner = {leaf: found for leaf in leaves if (found := _INNER.match(leaf))}
    places = sorted({int(found["place"]) for found in inner.values()})
    found = {f"mlp.{places.index(int(m['place']))}.{m['part']}": leaves[leaf] for leaf, m in inner.items()}
    for leaf in leaves:
        if leaf in inner:
            continue
        canonical = _LEAVES[leaf][1]
        if canonical in found:
            raise UpdateError(f"{stem} has {leaves[leaf]} and {found[canonical]}, which stand for the same; give one.")
        found[canonical] = leaves[leaf]
    needed = {"gin": "mlp.0.weight", "sage": "own.weight", "graphconv": "own.weight"}.get(kind, "weight")
    if needed not in found:
        raise UpdateError(f"{stem} lacks its weights ({', '.join(leaves.values())} are there); give all tensors.")
    return found


def _is_in_out(stem: str, leaves: Mapping[str, str], name: str) -> bool:
    """Whether a convolution's matrix lies as (in, out): FedGraphNN's, and PyTorch Geometric's before 2.0."""
    return re.fullmatch(r"gcn\.\d+", stem) is not None or leaves.get("weight") == name


def _encoder(rest: Iterable[str]) -> tuple[str | None, list[str]]:
    """Name of a linear layer before the convolutions, and the names of those behind."""
    names = list(rest)
    encoders = [name for name in names if re.match(r"^(?:encoder|lin_in|pre|embed\w*)\.(?:weight|bias)$", plain(name))]
    others = [name for name in names if name not in encoders]
    stem = encoders[0].rpartition(".")[0] if encoders else None
    embeddings = [name for name in others if _EMBEDDING.search(name)]
    if embeddings and stem is None:
        raise UpdateError(f"{embeddings[0]}: an embedding of categories; give a model that takes features as they are.")
    # FederatedScope's models hold both and use one.
    return stem, [name for name in others if name not in embeddings]


def _readout(names: list[str], shapes: Shapes) -> dict[str, str]:
    """Canonical names of the linear layers behind the convolutions, in the order in which they follow one another."""
    stems = sorted(
        {name.rpartition(".")[0] for name in names}, key=lambda one: (bool(_LAST.search(one)), natural_key(one))
    )
    for name in names:
        leaf = name.rpartition(".")[2]
        if leaf not in ("weight", "bias") or len(shapes[name]) != (2 if leaf == "weight" else 1):
            raise UpdateError(f"{name} {list(shapes[name])} is none of a graph network's tensors known here.")
    for stem in stems:
        if f"{stem}.weight" not in names:
            raise UpdateError(f"{stem} has a bias but no weight; give all tensors of the model.")
    return {
        name: f"readout.{place}.{leaf}"
        for place, stem in enumerate(stems)
        for leaf in ("weight", "bias")
        if (name := f"{stem}.{leaf}") in names
    }


def _library(convs: Mapping[str, Mapping[str, str]], rest: Iterable[str]) -> str:
    own = [leaves["weight"] for stem, leaves in convs.items() if re.fullmatch(r"gcn\.\d+", stem)]
    if own:
        return "GRAIN" if ".W_list." in own[0] else "FedGraphNN"
    names = {plain(name) for name in rest}
    is_scope = any(stem.startswith("gnn.convs.") for stem in convs) and "clf.weight" in names
    return "FederatedScope" if is_scope else "PyTorch Geometric"


def _first(shapes: Shapes) -> str:
    names = list(shapes)
    return (", ".join(names[:3]) + (" and more" if len(names) > 3 else "")) if names else "there are none"
