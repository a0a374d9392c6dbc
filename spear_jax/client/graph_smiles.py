"""Molecules from SMILES by RDKit, with the atom features that graph networks of molecules commonly take.

One node an atom but for hydrogens, one edge a bond; bond orders are not in these models, so no gradient shows them
(GRAIN, ICLR 2025, has the same blocks and the mass, which the type says too).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spear_jax.errors import DataError
from spear_jax.graphs.features import Block, Features
from spear_jax.graphs.graph import Graph

OTHER = "other"
TYPES = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si", "Se", OTHER)
CHARGES = ("-2", "-1", "0", "1", "2", OTHER)
DEGREES = tuple(map(str, range(7)))
HYDROGENS = (*map(str, range(5)), OTHER)
HYBRIDISATIONS = ("S", "SP", "SP2", "SP3", "SP3D", "SP3D2", OTHER)
CHIRALITIES = ("none", "clockwise", "anticlockwise", OTHER)
# RDKit's names of tags that a stereocentre has by the order of its neighbours in the SMILES.
_TAGS = {"CHI_UNSPECIFIED": "none", "CHI_TETRAHEDRAL_CW": "clockwise", "CHI_TETRAHEDRAL_CCW": "anticlockwise"}


class Molecule(NamedTuple):
    """A line of a SMILES file.

    Attributes:
        name: that stands behind the SMILES; empty without one.
        graph: atoms with rows of `molecule_features`, and bonds.
    """

    name: str
    graph: Graph


def molecule_features(*, max_nodes: int | None = None, is_connected: bool = False) -> Features:
    """The features of atoms that `read_smiles` computes: seven blocks, the degree among them.

    Args:
        max_nodes: see `Features`.
        is_connected: see `Features`.
    """
    blocks = (
        Block("type", TYPES),
        Block("charge", CHARGES),
        Block("degree", DEGREES),
        Block("hydrogens", HYDROGENS),
        Block("aromatic", ("no", "yes")),
        Block("hybridisation", HYBRIDISATIONS),
        Block("chirality", CHIRALITIES),
    )
    return Features(blocks=blocks, degree="degree", max_nodes=max_nodes, is_connected=is_connected)


def read_smiles(path: Path) -> list[Molecule]:
    """All molecules of a file, one SMILES a line; what stands behind it in the line is its name.

    Raises:
        DataError: no RDKit, no such file, a line that is no SMILES, or an atom with more than six neighbours.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.object[error.start]:#x}); save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        smiles, _, name = line.strip().partition(" " if "\t" not in line else "\t")
        if smiles and not smiles.startswith("#"):
            found.append(Molecule(name.strip(), graph_of(smiles, f"line {number} of {path.name}")))
    return found


def graph_of(smiles: str, where: str = "the molecule") -> Graph:
    """The graph of a molecule, hydrogens left out.

    Args:
        smiles: of the molecule.
        where: it stands, for the error.

    Raises:
        DataError: no RDKit, no SMILES, no atom, or one with more than six neighbours.
    """
    chemistry = _rdkit()
    shown = ascii(smiles)[1:-1][:60]
    molecule = chemistry.MolFromSmiles(smiles)
    if molecule is None:
        raise DataError(f"{where} is {shown}, which RDKit does not read as SMILES; mend it, or leave it out.")
    if not molecule.GetNumAtoms():
        raise DataError(f"{where} has no atoms; expected a SMILES.")
    features = molecule_features()
    rows = [_row(features, _said(atom), f"{where} ({shown})") for atom in molecule.GetAtoms()]
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    return Graph(np.array(rows), np.array(bonds, np.int64).reshape(-1, 2))


def _rdkit() -> Any:
    try:
        from rdkit import Chem, RDLogger  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            "SMILES are read by RDKit, which is not installed; install spear-jax[molecules], or give graphs as JSON."
        ) from error
    RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    return Chem


def _said(atom: Any) -> Iterator[str]:
    """What the blocks say of an atom, in their order."""
    yield atom.GetSymbol()
    yield str(atom.GetFormalCharge())
    yield str(atom.GetDegree())
    yield str(atom.GetTotalNumHs())
    yield "yes" if atom.GetIsAromatic() else "no"
    yield str(atom.GetHybridization())
    yield _TAGS.get(str(atom.GetChiralTag()), OTHER)


def _row(features: Features, labels: Iterator[str], where: str) -> np.ndarray:
    parts = []
    for block, label in zip(features.blocks, labels, strict=True):
        if label not in block.labels and OTHER not in block.labels:
            raise DataError(
                f"{where} has an atom with {label} neighbours; expected {DEGREES[-1]} at most: leave it out."
            )
        part = np.zeros(len(block.labels))
        part[block.labels.index(label if label in block.labels else OTHER)] = 1
        parts.append(part)
    return np.concatenate(parts)
