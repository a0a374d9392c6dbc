"""What every experiment shares: where data lies, and one JSON line per trial with all that is needed to repeat it."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

from spear_jax import record

RESULTS = Path(__file__).parent / "results"
DATA_VARIABLE = "SPEAR_JAX_DATA"


def find_data(name: str, folder: str | None) -> Path | None:
    """A file or folder of the data pack, or None, said aloud, where it is missing."""
    base = folder or os.environ.get(DATA_VARIABLE)
    path = None if base is None else Path(base) / name
    if path is None or not path.exists():
        print(f"skipped: {name} is not in --data or ${DATA_VARIABLE}")
        return None
    return path


def environment() -> dict[str, Any]:
    """Commit, versions and device of this process."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "commit": git.stdout.strip() or "unknown",
        "versions": record.versions(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "cpu_count": os.cpu_count(),
    }


def append(name: str, trial: dict[str, Any]) -> None:
    """Append one trial to ``results/<name>.jsonl``, with environment, time and peak memory."""
    RESULTS.mkdir(exist_ok=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "peak_memory_gib": round(peak, 3)} | environment() | trial
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines(name: str) -> list[dict[str, Any]]:
    """Trials appended so far."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None
