"""The same candidates, directions and images on this device as on the CPU: run before any timing is believed.

Claim: candidate sets depend on (key, count) alone; the float32 search may differ in rounding, so zero counts may
differ in single rows, but verified directions and reconstructions agree. One JSON line on stdout; exit code 1 where
anything disagrees.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import spear_jax as sj  # noqa: E402
from experiments.harness import common  # noqa: E402
from spear_jax.attacks.dense.sampling import flat  # noqa: E402
from spear_jax.testing import planted_problem  # noqa: E402


def main() -> None:
    device, host = jax.devices()[0], jax.devices("cpu")[0]
    checks = {}
    for b, m in ((8, 200), (12, 400), (32, 320)):
        for dtype in ("float64", "float32"):
            problem = planted_problem(b, m, 3072, seed=b, dtype=dtype)
            here = sj.reconstruct(problem.observation, jax.random.key(0))
            with jax.default_device(host):
                there = sj.factorize(problem.observation.weight_grad)
                rows = flat.hit_rows(jax.random.key(0), np.arange(64, dtype=np.uint32), num_rows=m, count=b - 1)
            mine = flat.hit_rows(jax.random.key(0), np.arange(64, dtype=np.uint32), num_rows=m, count=b - 1)
            scores = sj.evaluate(here.inputs, problem.inputs, certified=here.certificate.exact)
            checks[f"{b},{m},{dtype}"] = {
                "same_rank": here.batch_size == there.rank == b,
                "same_candidates": bool(np.array_equal(np.asarray(rows), np.asarray(mine))),
                "certified": int(here.certificate.exact.sum()),
                "recovered": scores.num_recovered,
                "max_error": float(np.max(scores.max_error)),
                "is_right": scores.num_recovered == b == int(here.certificate.exact.sum()),
            }
    is_right = all(check["is_right"] and check["same_candidates"] for check in checks.values())
    line = {"experiment": "correctness", "device": device.device_kind, "is_right": is_right, "checks": checks}
    print(json.dumps(line | common.environment()))
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
