"""What every experiment shares: where data lies, and one JSON line per trial with all that is needed to repeat it."""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

from spear_jax.audit import record

MOST_MAPS = 25_000
RESULTS = Path(__file__).parents[1] / "results"
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
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return {
        "commit": git.stdout.strip() or "unknown",
        "versions": record.versions(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "cpu_count": os.cpu_count(),
    }


def append(name: str, trial: dict[str, Any], folder: Path = RESULTS, shard: tuple[int, int] = (0, 1)) -> None:
    """Append one trial to ``lines/<name>.jsonl``, with environment, time and peak memory; a shard has its own file."""
    place = _made(folder / "lines")
    part = "" if shard[1] == 1 else f".{shard[0]}-of-{shard[1]}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "peak_memory_gib": round(peak, 3)} | environment() | trial
    with (place / f"{name}{part}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Trials appended so far, by all shards."""
    place = folder / "lines"
    paths = sorted(place.glob(f"{name}.jsonl")) + sorted(place.glob(f"{name}.*-of-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def figures(folder: Path = RESULTS) -> Path:
    """Where the plots of a folder of results lie."""
    return _made(folder / "figures")


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def forget_programs() -> None:
    """Forget what was compiled before it is too much: each program takes some of the 65,530 maps that Linux gives."""
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    return folder
