"""For researchers: the attack as a reference, on problems whose answer is known. `python docs/tutorials/researcher.py`

Methods against one another, and where one layer's gradient ends. Less than a minute on two cores.
"""

import jax
import numpy as np

import spear_jax as sj
from spear_jax.testing import planted_problem

jax.config.update("jax_enable_x64", True)


def exact(planted, method):
    """Certified samples, and whether each of them is one of the true inputs."""
    config = sj.ReconstructConfig(method=method, max_seconds=10.0)
    result = sj.reconstruct(planted.observation, jax.random.key(0), config)
    certified = np.asarray(result.inputs)[result.certificate.exact]
    distance = np.linalg.norm(certified[:, None] - planted.inputs[None], axis=2).min(axis=1, initial=np.inf)
    is_true = bool(np.all(distance < 1e-3 * np.linalg.norm(planted.inputs, axis=1).min()))
    return int(result.certificate.exact.sum()), is_true, result


# 1. One problem, two methods: 12 samples behind 120 neurons. A Gaussian layer, batch and gradient, nothing trained.
planted = planted_problem(batch_size=12, out_features=120, in_features=60, seed=0)
for method in ("sampling", "dictionary"):
    number, is_true, result = exact(planted, method)
    print(f"{method}: {number} of 12 exact, all of them true: {is_true}")
    print(f"  {result.stats.reason}; {result.stats.seconds['search']:.2f} s of search")

# 2. What a certificate leaves open: the scale rests on the bias gradient, as no layer above is known here.
print(result.certificate.scale.value, result.certificate.factor_range)

# 3. Noise in the gradient, relative to its root mean square: certificates end before they are wrong.
for noise in (0.0, 1e-4, 1e-1):
    noisy = planted_problem(batch_size=6, out_features=120, in_features=60, seed=1, noise=noise)
    number, is_true, result = exact(noisy, "dictionary")
    print(f"noise {noise:g}: {number} of 6 exact, all of them true: {is_true}; {result.status.name}")

# 4. How many samples do 96 neurons give back?
whole = [size for size in (4, 8, 16) if exact(planted_problem(size, 96, 120, seed=2), "dictionary")[0] == size]
print(f"96 neurons: whole up to {max(whole, default=0)} samples of 4, 8 and 16")
