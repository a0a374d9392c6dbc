"""No certificate is ever wrong: 500 problems made unsolvable on purpose, none certified.

Claim: a certificate needs no ground truth because a wrong sample cannot pass it (facts: ours). Four kinds, 125 each:
twice as many rows as samples only; a random gradient of rank b; the rows of the weights shuffled; GELU for ReLU.
Hardware: two CPU cores. Time: some ten minutes.

    python -m experiments.unsolvable [--problems 500]

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

KINDS = ("few rows", "random gradient", "shuffled weights", "gelu")
SIZES = ((12, 100), (20, 140), (32, 180))
CONFIG = ReconstructConfig(method="dictionary", dictionary=DictionaryConfig(max_rounds=4, starts=8))
# A certified sample that is this close to a private one, in its rms, is right even where the problem was not solvable.
RIGHT = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500, help="problems of all kinds together")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for kind in KINDS:
        counts = np.sum([attack(kind, seed) for seed in range(arguments.problems // len(KINDS))], axis=0)
        problems, samples, certified, false = (int(count) for count in counts)
        print(
            f"{kind}: {problems} problems, {samples} samples, {certified} certified, {false} of them false", flush=True
        )
        common.append(
            "unsolvable",
            {"kind": kind, "problems": problems, "samples": samples, "certified": certified, "false": false},
        )


def attack(kind: str, seed: int) -> tuple[int, int, int, int]:
    """Problems, samples, certificates and false certificates of one problem."""
    observation, inputs = unsolvable(kind, seed)
    result = sj.reconstruct(observation, jax.random.key(seed), CONFIG)
    found = result.inputs[result.certificate.exact]
    rms = np.sqrt(np.mean(inputs**2))
    near = [np.abs(inputs - sample).max(axis=1).min() < RIGHT * rms for sample in found]
    return 1, result.batch_size, len(found), len(found) - int(np.sum(near))


def unsolvable(kind: str, seed: int) -> tuple[sj.LayerObservation, np.ndarray]:
    """An observation that the method cannot or must not invert, and the private inputs."""
    b, m = SIZES[seed % len(SIZES)]
    rng = np.random.default_rng(seed)
    problem = planted_problem(b, 2 * b if kind == "few rows" else m, 200, seed=seed)
    observation, inputs = problem.observation, problem.inputs
    if kind == "random gradient":
        grad_z = rng.normal(size=(m, b))
        return with_gradient(observation, grad_z, inputs), inputs
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
