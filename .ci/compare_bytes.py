"""Whether this checkout reconstructs the same bytes as another commit, on the same machine: for moves of code.

python .ci/compare_bytes.py COMMIT [--keep FOLDER]

Seeded updates are simulated by COMMIT and reconstructed by both; `inputs.safetensors` must be equal byte for byte,
and `result.json` in all that is no time, path or version. The bytes of a search depend on processor, BLAS and compiler,
so that no hash could be pinned.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
# Name, options of `simulate`, options of `reconstruct`.
CASES = {
    "sampling": ("--batch-size 8 --width 200 --depth 2 --seed 1", "--method sampling"),
    "dictionary": ("--batch-size 24 --width 200 --depth 2 --seed 2", "--method dictionary"),
    "skewed": ("--batch-size 20 --width 300 --depth 2 --normalize none --seed 3", ""),
    "one_by_one": ("--batch-size 80 --width 320 --depth 3 --seed 4", ""),
    "steps": (
        "--batch-size 6 --width 200 --depth 2 --kind weights --local-epochs 2 --lr 0.01 --dtype float64 --seed 5",
        "",
    ),
    "partial": ("--batch-size 66 --width 200 --depth 2 --seed 7", "--max-candidates 16384"),
    "wide": ("--batch-size 70 --width 560 --depth 2 --dtype float64 --seed 6", ""),
}
TIMED = ("update", "versions")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--keep", type=Path, help="folder for the other commit's results, used again where it exists")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        reference = arguments.keep or scratch / "reference"
        if not (reference / "done").exists():
            run_all(unpacked(arguments.commit, scratch / "source"), reference, reference)
            (reference / "done").write_text(arguments.commit)
        run_all(CHECKOUT, reference, scratch / "here")
        return int(any([not is_equal(name, reference / name, scratch / "here" / name) for name in CASES]))
    finally:
        shutil.rmtree(scratch)


def unpacked(commit: str, folder: Path) -> Path:
    """The files of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=CHECKOUT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def run_all(source: Path, updates: Path, out: Path) -> None:
    """Reconstruct every update with the package of a folder; simulate those that are missing."""
    updates.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(source), "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    for name, (simulated, reconstructed) in CASES.items():
        update = updates / f"{name}.safetensors"
        if not update.exists():
            truth = updates / f"{name}_truth.safetensors"
            spear_jax(f"simulate {simulated} --out {update} --truth {truth}", environment, updates)
        spear_jax(f"reconstruct {update} --seed 7 {reconstructed} --out {out / name}", environment, updates)


def spear_jax(command: str, environment: dict[str, str], folder: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "spear_jax", *command.split()], cwd=folder, env=environment, text=True,
                         capture_output=True)  # fmt: skip
    if ran.returncode not in (0, 3):
        sys.exit(f"spear-jax {command}: {ran.stdout}{ran.stderr}")


def is_equal(name: str, reference: Path, here: Path) -> bool:
    """Whether two reconstructions are the same; says so."""
    before, after = (json.loads((folder / "result.json").read_text()) for folder in (reference, here))
    seconds = [record["stats"].pop("seconds") for record in (before, after)]
    different = [key for key in before | after if key not in TIMED and before.get(key) != after.get(key)]
    arrays = [(folder / "inputs.safetensors").read_bytes() for folder in (reference, here)]
    is_same = arrays[0] == arrays[1] and not different
    counts = "{certified} of {batch_size} certified, {status}".format(**after)
    times = " and ".join(f"{sum(entry.values()):.1f}" for entry in seconds)
    verdict = "equal" if is_same else f"DIFFERENT ({'bytes' * (arrays[0] != arrays[1])} {different})"
    sys.stdout.write(f"{name}: {verdict}; {after['stats']['method']}, {counts}, {times} s\n")
    return is_same


if __name__ == "__main__":
    sys.exit(main())
