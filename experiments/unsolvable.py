"""No certificate is ever wrong: 1000 problems made unsolvable or noisy on purpose, no wrong sample certified.

Claim: a certificate needs no ground truth because a wrong sample cannot pass it (facts: ours). Ten kinds, 100 each:
twice as many rows as samples only; a random gradient of rank b; the rows of the weights shuffled; GELU for ReLU; noise
of 1e-6 to 1e-1 of the gradient's root mean square; and each of these in an update that says it is of several local
steps, for which the certificate is another one.
Hardware: two CPU cores. Time: some twenty minutes.

    python -m experiments.unsolvable [--problems 1000]

Appends one line per kind to results/unsolvable.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import numpy as np
from scipy.special import erf

import spear_jax as sj
from experiments import common
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.testing import planted_problem

KINDS = ("few rows", "random gradient", "shuffled weights", "gelu", "noise")
# Of the pre-activations' root mean square, what several local steps are said to have moved them by.
MOVED = 0.2
SIZES = ((12, 100), (20, 140), (32, 180))
CONFIG = ReconstructConfig(method="dictionary", dictionary=DictionaryConfig(max_rounds=4, starts=8))
# A certified sample that is this close to a private one, in its rms, is right even where the problem was not solvable.
RIGHT = 1e-3
# The error of a sample that has an error bar may be this many times what is expected.
BAR = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000, help="problems of all kinds together")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    each = arguments.problems // (2 * len(KINDS))
    for kind in KINDS:
        for is_moving in (False, True):
            counts = [attack(kind, is_moving, seed) for seed in range(each)]
            line = {"kind": kind, "several_steps": is_moving, "problems": each}
            line |= {name: sum(count[name] for count in counts) for name in counts[0]}
            print(line, flush=True)
            common.append("unsolvable", line)


def attack(kind: str, is_moving: bool, seed: int) -> dict[str, int]:
    """Samples, certificates and those that are wrong, of one problem."""
    observation, inputs = unsolvable(kind, seed)
    if is_moving:
        size = lambda array: float(np.sqrt(np.mean(np.asarray(array) ** 2)))
        pre_activation = inputs @ observation.weight.T + observation.bias
        observation = dataclasses.replace(
            observation, drift=MOVED * size(pre_activation) / size(inputs @ observation.weight_grad.T)
        )
    result = sj.reconstruct(observation, jax.random.key(seed), CONFIG)
    certificate = result.certificate
    size = np.linalg.norm(inputs, axis=1)
    distance = lambda sample: np.min(np.linalg.norm(inputs - sample, axis=1) / size)
    exact = [distance(sample) for sample in result.inputs[certificate.exact]]
    others = np.flatnonzero(certificate.approximate)
    ratios = [distance(result.inputs[place]) / certificate.error[place] for place in others]
    return {
        "samples": result.batch_size,
        "certified": len(exact),
        "false": int(np.sum(np.array(exact) > RIGHT)),
        "approximate": len(others),
        "beyond_error_bar": int(np.sum(np.array(ratios) > BAR)),
    }


def unsolvable(kind: str, seed: int) -> tuple[sj.LayerObservation, np.ndarray]:
    """An observation that the method cannot or must not invert, and the private inputs."""
    b, m = SIZES[seed % len(SIZES)]
    rng = np.random.default_rng(seed)
    problem = planted_problem(b, 2 * b if kind == "few rows" else m, 200, seed=seed)
    observation, inputs = problem.observation, problem.inputs
    if kind == "random gradient":
        grad_z = rng.normal(size=(m, b))
        return with_gradient(observation, grad_z, inputs), inputs
    if kind == "noise":
        gradient = np.asarray(observation.weight_grad)
        noise = 10 ** rng.uniform(-6, -1) * np.sqrt(np.mean(gradient**2))
        spoilt = [
            array + noise * rng.normal(size=array.shape) for array in (gradient, np.asarray(observation.bias_grad))
        ]
        return dataclasses.replace(observation, weight_grad=spoilt[0], bias_grad=spoilt[1]), inputs
    if kind == "shuffled weights":
        return dataclasses.replace(observation, weight=rng.permutation(observation.weight)), inputs
    if kind == "gelu":
        z = observation.weight @ inputs.T + observation.bias[:, None]
        slope = 0.5 * (1 + erf(z / np.sqrt(2))) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return with_gradient(observation, rng.normal(size=(m, b)) * slope, inputs), inputs
    return observation, inputs


def with_gradient(observation: sj.LayerObservation, grad_z: np.ndarray, inputs: np.ndarray) -> sj.LayerObservation:
    """The observation with the gradient of these pre-activation gradients."""
    return dataclasses.replace(observation, weight_grad=grad_z @ inputs, bias_grad=grad_z.sum(axis=1))


if __name__ == "__main__":
    main()
