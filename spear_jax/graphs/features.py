"""What is public of the nodes' features: which rows are possible, and which of their columns say the degree."""

from __future__ import annotations

import dataclasses

import numpy as np

from spear_jax.errors import SpearError


@dataclasses.dataclass(frozen=True)
class Block:
    """Columns next to each other, of which one is 1 and the others are 0.

    Attributes:
        name: of the property, such as ``"element"``.
        labels: of its columns, such as ``("C", "N", "O")``.
        may_be_empty: whether all may be 0 too, as of a single column that says yes or no.
    """

    name: str
    labels: tuple[str, ...]
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        if not self.labels:
            raise SpearError(f"block {self.name!r} has no labels; expected one for each of its columns.")
        if len(set(self.labels)) < len(self.labels):
            raise SpearError(f"block {self.name!r} has a label twice; expected each category once.")

    @property
    def choices(self) -> np.ndarray:
        """(p, labels) float64, all that a row may have in these columns: one of them set, or none where that may be."""
        return np.eye(len(self.labels) + self.may_be_empty)[:, : len(self.labels)]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """The possible rows of features: by blocks of columns, or all of them in a list.

    Attributes:
        blocks: in the order of their columns; beside a list they say what its columns mean, and may be absent.
        possible: (r, columns) float64, every row that a node may have; None where any choice of the blocks may be.
        degree: name of the block that says how many neighbours a node has, its labels numbers; None without one.
        max_degree: no node has more neighbours.
        max_nodes: no graph has more nodes, None where that is not known. A mean over nodes is the same for graphs with
            twice the nodes, so that without this no graph with a cycle is the only one.
        is_connected: whether every graph is known to be connected.

    Raises:
        SpearError: neither blocks nor rows, columns that disagree, rows twice, or a degree that cannot be read.
    """

    blocks: tuple[Block, ...] = ()
    possible: np.ndarray | None = None
    degree: str | None = None
    max_degree: int = 6
    max_nodes: int | None = None
    is_connected: bool = False

    def __post_init__(self) -> None:
        if not self.blocks and self.possible is None:
            raise SpearError(
                "neither blocks nor possible rows are given; expected one of both: features are not guessed."
            )
        if len({block.name for block in self.blocks}) < len(self.blocks):
            raise SpearError("two blocks have the same name; expected a name for each.")
        if self.possible is not None:
            self._check_possible()
        if self.degree is not None:
            self._check_degree(self.degree)

    def _check_possible(self) -> None:
        possible = np.asarray(self.possible, np.float64)
        object.__setattr__(self, "possible", possible)
        if possible.ndim != 2 or not possible.size or not np.isfinite(possible).all():
            raise SpearError(
                f"the possible rows have shape {possible.shape}; expected a finite matrix (rows, columns)."
            )
        described = sum(len(block.labels) for block in self.blocks)
        if self.blocks and described != possible.shape[1]:
            raise SpearError(f"the blocks describe {described} columns but the possible rows have {possible.shape[1]}.")
        if len(np.unique(possible, axis=0)) < len(possible):
            raise SpearError("a possible row is given twice; expected each once.")

    def _check_degree(self, name: str) -> None:
        block = next((block for block in self.blocks if block.name == name), None)
        if block is None:
            raise SpearError(f"the degree is to be read from block {name!r}, but there is none of this name.")
        if not all(label.isdecimal() for label in block.labels) or block.may_be_empty:
            raise SpearError(f"block {name!r} says the degree; expected a number for each label and one of them set.")

    @property
    def columns(self) -> int:
        """Length of a row."""
        return sum(len(block.labels) for block in self.blocks) if self.possible is None else self.possible.shape[1]

    def columns_of(self, name: str) -> slice:
        """Columns of a block."""
        start = 0
        for block in self.blocks:
            if block.name == name:
                return slice(start, start + len(block.labels))
            start += len(block.labels)
        raise SpearError(f"there is no block {name!r}; the blocks are {', '.join(one.name for one in self.blocks)}.")

    def degrees(self, rows: np.ndarray) -> np.ndarray | None:
        """(n,) int, how many neighbours nodes with rows (n, columns) say that they have; None where rows do not say."""
        if self.degree is None:
            return None
        block = next(block for block in self.blocks if block.name == self.degree)
        return np.array([int(label) for label in block.labels])[
            np.argmax(rows[:, self.columns_of(self.degree)], axis=1)
        ]

    def labels(self, row: np.ndarray) -> dict[str, str | None]:
        """What a row says, by block; None for a block that is empty."""
        said: dict[str, str | None] = {}
        for block in self.blocks:
            part = row[self.columns_of(block.name)]
            said[block.name] = block.labels[int(np.argmax(part))] if np.any(part) else None
        return said
