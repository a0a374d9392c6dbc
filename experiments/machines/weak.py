"""Weak scaling: the same chains per device on 1, 2, 4 and 8 devices, and the same submatrices from all of them.

Claim: what a round comes to does not depend on the number of devices, and its time does not grow with it. On a CPU the
devices are threads (`jax_num_cpu_devices`), so beyond the cores only the first half of the claim can hold.
Hardware: two CPU cores. Time: about a minute.

    python -m experiments.machines.weak [--devices 1 2 4 8]

Each number of devices runs in a process of its own and appends one line to results/lines/weak_scaling.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time

CHAINS_PER_DEVICE, WIDTH, RANK, REPEATS = 1024, 200, 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of devices")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        one(arguments.one, max(arguments.devices))
        return
    for count in arguments.devices:
        words = [sys.executable, "-m", "experiments.machines.weak", "--one", str(count), "--devices"]
        subprocess.run([*words, *map(str, arguments.devices)], check=True)


def one(count: int, most: int) -> None:
    """Rate with this many devices, and a digest of the submatrices of as many chains as the most devices take."""
    import jax

    jax.config.update("jax_num_cpu_devices", count)
    from experiments.harness import common
    from spear_jax.attacks.dense.sampling import samplers
    from spear_jax.bench import sampling
    from spear_jax.config import ReconstructConfig

    problem = sampling.plant(WIDTH, RANK, seed=0)
    config = ReconstructConfig(num_devices=count, hits_capacity=2**14)
    per_chain = samplers.candidates_per_chain(RANK)

    def draw(chains: int) -> samplers.Drawn:
        sampler = samplers.walk_sampler(problem.left, jax.random.key(0), 2, chains * per_chain, config)
        return sampler.draw(0, chains * per_chain, 0)()

    digest = hashlib.sha256(draw(most * CHAINS_PER_DEVICE).rows.tobytes()).hexdigest()[:16]
    chains = count * CHAINS_PER_DEVICE
    draw(chains)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        draw(chains)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    line = {
        "experiment": "weak scaling", "devices": count, "chains": chains, "seconds": median,
        "candidates_per_second": chains * per_chain / median, "submatrices": digest, "width": WIDTH, "rank": RANK,
    }  # fmt: skip
    common.append("weak_scaling", line)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
