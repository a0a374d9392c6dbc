"""Writes ``spear_jax/client/molecules.json``: well-known molecules as graphs, read once from SMILES by RDKit.

The SMILES carry no stereochemistry. Each is checked against the molecule's formula, hydrogens included, so that a slip
in one of them does not go unseen. Run as ``python -m tests.client.make_molecules``, with the extra ``molecules``.
"""

from __future__ import annotations

import json
from pathlib import Path

MOLECULES = {
    "metformin": ("CN(C)C(=N)NC(=N)N", "C4H11N5"),
    "dopamine": ("NCCc1ccc(O)c(O)c1", "C8H11NO2"),
    "paracetamol": ("CC(=O)Nc1ccc(O)cc1", "C8H9NO2"),
    "vanillin": ("COc1cc(C=O)ccc1O", "C8H8O3"),
    "glucose": ("OCC1OC(O)C(O)C(O)C1O", "C6H12O6"),
    "ascorbic acid": ("OCC(O)C1OC(=O)C(O)=C1O", "C6H8O6"),
    "nicotine": ("CN1CCCC1c1cccnc1", "C10H14N2"),
    "metronidazole": ("Cc1ncc([N+](=O)[O-])n1CCO", "C6H9N3O3"),
    "aspirin": ("CC(=O)Oc1ccccc1C(=O)O", "C9H8O4"),
    "serotonin": ("NCCc1c[nH]c2ccc(O)cc12", "C10H12N2O"),
    "adrenaline": ("CNCC(O)c1ccc(O)c(O)c1", "C9H13NO3"),
    "caffeine": ("CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "C8H10N4O2"),
    "ibuprofen": ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", "C13H18O2"),
    "naproxen": ("COc1ccc2cc(ccc2c1)C(C)C(=O)O", "C14H14O3"),
    "melatonin": ("COc1ccc2[nH]cc(CCNC(C)=O)c2c1", "C13H16N2O2"),
    "lidocaine": ("CCN(CC)CC(=O)Nc1c(C)cccc1C", "C14H22N2O"),
    "salbutamol": ("CC(C)(C)NCC(O)c1ccc(O)c(CO)c1", "C13H21NO3"),
    "adenosine": ("Nc1ncnc2n(cnc12)C1OC(CO)C(O)C1O", "C10H13N5O4"),
    "diazepam": ("CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12", "C16H13ClN2O"),
    "testosterone": ("CC12CCC3C(C1CCC2O)CCC1=CC(=O)CCC31C", "C19H28O2"),
    "morphine": ("CN1CCC23c4c5ccc(O)c4OC2C(O)C=CC3C1C5", "C17H19NO3"),
    "fluoxetine": ("CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1", "C17H18F3NO"),
    "capsaicin": ("COc1cc(CNC(=O)CCCCC=CC(C)C)ccc1O", "C18H27NO3"),
    "penicillin G": ("CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O", "C16H18N2O4S"),
    "sucrose": ("OCC1OC(OC2(CO)OC(CO)C(O)C2O)C(O)C(O)C1O", "C12H22O11"),
    "warfarin": ("CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O", "C19H16O4"),
    "ciprofloxacin": ("OC(=O)C1=CN(C2CC2)c2cc(N3CCNCC3)c(F)cc2C1=O", "C17H18FN3O3"),
    "omeprazole": ("COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C", "C17H19N3O3S"),
    "cholesterol": ("CC(C)CCCC(C)C1CCC2C1(C)CCC1C2CC=C2CC(O)CCC21C", "C27H46O"),
    "sildenafil": ("CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1", "C22H30N6O4S"),
    "imatinib": ("Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1", "C29H31N7O"),
    "atorvastatin": ("CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O", "C33H35FN2O5"),
}


def main() -> None:
    """Write the file."""
    from rdkit.Chem import MolFromSmiles
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    from spear_jax.client.graph_smiles import graph_of, molecule_features
    from spear_jax.update.graph_features import features_to_json, row_to_json

    features, lines = molecule_features(), []
    for name, (smiles, formula) in MOLECULES.items():
        found = CalcMolFormula(MolFromSmiles(smiles))
        if found != formula:
            raise SystemExit(f"{name} is {formula}, but its SMILES is {found}.")
        graph = graph_of(smiles, name)
        entry = {
            "name": name,
            "smiles": smiles,
            "nodes": [row_to_json(features, row) for row in graph.rows],
            "edges": graph.edges.tolist(),
        }
        lines.append(json.dumps(entry))
    path = Path(__file__).parents[2] / "spear_jax/client/molecules.json"
    described = json.dumps(features_to_json(features))
    path.write_text(f'{{"features": {described},\n "graphs": [\n  ' + ",\n  ".join(lines) + "\n ]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
