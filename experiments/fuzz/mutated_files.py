"""No file crashes a reader, stops it or fills the memory: mutants of valid files of every format, read one by one.

Claim: whatever is done to a file, `read_model` and `load_update` give tensors or one sentence (`UpdateError`), within
seconds, and never take more memory than twice the tensors that the file declares, plus 16 MiB.
Mutations: flipped bits, truncation, spliced, repeated and deleted bytes, sizes overwritten by extreme ones; inside zip
archives also the local and central headers, and the content of one member under a right checksum (the pickle of a
PyTorch file, the header of an array).
Hardware: two CPU cores. Time: some two minutes.

    python -m experiments.fuzz.mutated_files [--files 12000]

Appends one line to results/lines/mutated_files.jsonl.
"""

from __future__ import annotations

import argparse
import io
import signal
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_serialize

from experiments.harness import common
from spear_jax.errors import UpdateError
from spear_jax.tensor_files import write_tensors
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.readers.model_files import read_model

FIXTURES = Path(__file__).parents[2] / "tests/fixtures"
SECONDS, SPARE_BYTES = 5.0, 2**24
EXTREME = [value.to_bytes(size, order) for order in ("little", "big") for size in (2, 4, 8)
           for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)]  # fmt: skip
ZIP_SIGNATURES = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")


class Hang(BaseException):
    """A reader ran past its time; no ``except Exception`` of a reader may swallow it."""


class Outcome(NamedTuple):
    """What one file did to its reader.

    Attributes:
        result: ``"read"``, ``"refused"``, ``"hang"`` or the exception that was none of ours.
        seconds: wall-clock time.
        peak_bytes: memory taken at most, as Python and NumPy account for it.
        allowed_bytes: twice the larger of tensors read and file, and 16 MiB.
    """

    result: str
    seconds: float
    peak_bytes: int
    allowed_bytes: int

    @property
    def is_fault(self) -> bool:
        """Whether it broke the claim."""
        return self.result not in ("read", "refused") or self.seconds > SECONDS or self.peak_bytes > self.allowed_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12_000, help="mutants of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = run(Path(folder), arguments.files, arguments.seed)
    common.append("mutated_files", trial)
    print(trial)


def run(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Counts over so many mutants, dealt out evenly to the valid files."""
    originals = valid_files(folder)
    outcomes: dict[str, list[Outcome]] = {}
    faults = []
    for index in range(count):
        original = originals[index % len(originals)]
        mutant = folder / f"mutant{original.suffix}"
        mutant.write_bytes(mutate(original.read_bytes(), np.random.default_rng([seed, index])))
        outcome = examine(mutant, load_update if original.stem == "bundle" else read_model)
        outcomes.setdefault(original.suffix, []).append(outcome)
        if outcome.is_fault:
            faults.append({"file": original.name, "index": index} | outcome._asdict())
            print(faults[-1], flush=True)
    every = [outcome for some in outcomes.values() for outcome in some]
    return {
        "files": count,
        "seed": seed,
        "formats": {suffix: _counts(some) for suffix, some in outcomes.items()},
        "tracebacks": sum(outcome.result not in ("read", "refused", "hang") for outcome in every),
        "hangs": sum(outcome.result == "hang" or outcome.seconds > SECONDS for outcome in every),
        "over_memory": sum(outcome.peak_bytes > outcome.allowed_bytes for outcome in every),
        "slowest_seconds": round(max(outcome.seconds for outcome in every), 3),
        "largest_peak_mib": round(max(outcome.peak_bytes for outcome in every) / 2**20, 3),
        "faults": faults[:20],
    }


def _counts(outcomes: list[Outcome]) -> dict[str, int]:
    results = [outcome.result for outcome in outcomes]
    return {"files": len(results), "read": results.count("read"), "refused": results.count("refused")}


def examine(path: Path, read: Callable[[Path], Any]) -> Outcome:
    """Read one file under a clock and an account of memory."""
    result, num_bytes = "read", path.stat().st_size
    tracemalloc.start()
    previous = signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    started = time.perf_counter()
    try:
        content = read(path)
        sides = [content.global_tensors, content.client_tensors] if isinstance(content, Update) else [content.tensors]
        num_bytes = max(num_bytes, sum(tensor.nbytes for side in sides for tensor in side.values()))
    except UpdateError:
        result = "refused"
    except Hang:
        result = "hang"
    except Exception as error:  # the fault that is looked for
        result = repr(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return Outcome(result, seconds, peak, 2 * num_bytes + SPARE_BYTES)


def _out_of_time(*_: Any) -> None:
    raise Hang


def valid_files(folder: Path) -> list[Path]:
    """One file or more of every format, each readable; those called bundle are update bundles."""
    rng = np.random.default_rng(0)
    tensors = {f"dense_{i}/{leaf}": rng.normal(size=shape).astype(np.float32)
               for i in range(3) for leaf, shape in (("kernel", (9, 9)), ("bias", (9,)))}  # fmt: skip
    tensors["half"] = jnp.ones(5, jnp.bfloat16)
    tensors = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    for suffix in (".safetensors", ".npz"):
        write_tensors(folder / f"named{suffix}", tensors, {"format": "flax"})
        save_update(
            Update(tensors, tensors, {"kind": "gradient", "image_shape": "[3, 3, 1]"}), folder / f"bundle{suffix}"
        )
    np.savez(folder / "list.npz", *(tensors[name] for name in list(tensors)[:6]))
    np.savez_compressed(folder / "packed.npz", **tensors)
    tree = {"step": 3, "params": {name: {"value": tensor} for name, tensor in tensors.items()}}
    (folder / "tree.msgpack").write_bytes(msgpack_serialize(tree))
    (folder / "small.msgpack").write_bytes(msgpack_serialize({"params": {"dense": {"kernel": np.ones((2, 2))}}}))
    for name in ("before.pt", "after.pt", "tricky.pt"):
        (folder / name).write_bytes((FIXTURES / name).read_bytes())
    return sorted(path for path in folder.iterdir())


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The content, changed in one to three ways."""
    for _ in range(rng.integers(1, 4)):
        ways = [_flip, _truncate, _splice, _delete, _overwrite]
        if any(signature in content for signature in ZIP_SIGNATURES):
            ways = [*ways, _edit_zip_header, _edit_member, _edit_member]
        content = ways[rng.integers(len(ways))](content, rng)
    return content


def _place(content: bytes, rng: np.random.Generator) -> int:
    """A position; as often near the beginning, where headers are, as anywhere."""
    stop = max(len(content), 1)
    return int(rng.integers(min(stop, 300) if rng.random() < 0.5 else stop))


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9) if changed else 0):
        changed[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _splice(content: bytes, rng: np.random.Generator) -> bytes:
    """A piece of the content, put in or over another place, up to fifty times."""
    start, target = _place(content, rng), _place(content, rng)
    piece = content[start : start + int(rng.integers(1, 200))] * int(rng.choice([1, 1, 2, 50]))
    return content[:target] + piece + content[target + len(piece) * int(rng.integers(2)) :]


def _delete(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + int(rng.integers(1, 100)) :]


def _overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    """A number, or a digit of one written out, made extreme."""
    if rng.random() < 0.3:
        digits = [index for index, byte in enumerate(content[:2000]) if chr(byte).isdigit()]
        if digits:
            index = int(rng.choice(digits))
            return content[:index] + rng.choice([b"9", b"-1", b"999999999999", b"1e9"]) + content[index + 1 :]
    value, start = EXTREME[rng.integers(len(EXTREME))], _place(content, rng)
    return content[:start] + value + content[start + len(value) :]


def _edit_zip_header(content: bytes, rng: np.random.Generator) -> bytes:
    signature = ZIP_SIGNATURES[rng.integers(3)]
    starts = [index for index in range(len(content)) if content.startswith(signature, index)]
    if not starts:
        return content
    start = int(rng.choice(starts)) + 4 + int(rng.integers(42))
    value = EXTREME[rng.integers(len(EXTREME))] if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 5)))
    return content[:start] + value + content[start + len(value) :]


def _edit_member(content: bytes, rng: np.random.Generator) -> bytes:
    """One member changed, every length and checksum of the archive right; of a PyTorch file mostly its pickle."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # it was mutated before
        return content
    if not members:
        return content
    pickles = [name for name in members if name.endswith(".pkl")]
    chosen = pickles[0] if pickles and rng.random() < 0.8 else list(members)[rng.integers(len(members))]
    way = (_flip, _splice, _delete, _overwrite)[rng.integers(4)]
    members[chosen] = way(members[chosen], rng)
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return changed.getvalue()


if __name__ == "__main__":
    main()
