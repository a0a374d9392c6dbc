"""No certificate is ever wrong: problems made unsolvable or noisy on purpose, no wrong sample certified.

Claim: a certificate needs no ground truth because a wrong sample cannot pass it (ours). Ten kinds, 100 problems each:
twice as many rows as samples only; a random gradient of rank b; the rows of the weights shuffled; GELU for ReLU; noise
of 1e-6 to 1e-1 of the gradient's root mean square; and each of these in an update that says it is of several local
steps, for which the certificate is another one. All again with inputs that are not centred, whose masks are correlated.
Hardware: two CPU cores. Time: some forty minutes.

    python -m experiments.claims.unsolvable

Each kind appends one line to results/lines/unsolvable.jsonl.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from scipy.special import erf

import spear_jax as sj
from experiments.harness import claims
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.config import DictionaryConfig, ReconstructConfig
from spear_jax.testing import planted_problem

KINDS = ("few rows", "random gradient", "shuffled weights", "gelu", "noise")
# Problems of a kind.
PROBLEMS, FEW = 100, 2
# Common offset of the inputs' features, in their standard deviations, where they are not centred.
OFFSETS = (0.0, 2.0)
# Of the pre-activations' root mean square, what several local steps are said to have moved them by.
MOVED = 0.2
SIZES = ((12, 100), (20, 140), (32, 180))
CONFIG = ReconstructConfig(method="dictionary", dictionary=DictionaryConfig(max_rounds=4, starts=8))
# A certified sample that is this close to a private one, in its rms, is right even where the problem was not solvable.
RIGHT = 1e-3
# The error of a sample that has an error bar may be this many times what is expected.
BAR = 4.0


def settings(is_quick: bool) -> list[Setting]:
    """All kinds; quick: few problems of centred inputs."""
    return [
        {
            "kind": kind,
            "several_steps": is_moving,
            "offset": offset,
            "problems": FEW if is_quick else PROBLEMS,
            "seed": 0,
        }
        for offset in (OFFSETS[:1] if is_quick else OFFSETS)
        for is_moving in (False, True)
        for kind in KINDS
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any]:
    """Counts over the problems of one kind; it needs no data."""
    counts = [attack(setting, setting["seed"] + number) for number in range(setting["problems"])]
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def findings(lines: list[Line]) -> list[Finding]:
    """Centred and not, all kinds together."""
    found = []
    for offset, words in zip(OFFSETS, ("centred", "not centred"), strict=True):
        mine = claims.of(lines, offset=offset)
        total = lambda name, mine=mine: sum(line[name] for line in mine)
        problems = sum(line["setting"]["problems"] for line in mine)
        if mine:
            measured = (
                f"{total('false')} false certificates for {total('samples')} samples of {problems} problems "
                f"({total('certified')} certified rightly, {total('approximate')} with an error bar, "
                f"{total('beyond_error_bar')} off by more than {BAR:g} times it)"
            )
            found.append(Finding(f"unsolvable problems certify nothing, {words}", "0 false", measured, mine))
    return found


def attack(setting: Setting, seed: int) -> dict[str, int]:
    """Samples, certificates and those that are wrong, of one problem."""
    observation, inputs = unsolvable(setting["kind"], setting["offset"], seed)
    if setting["several_steps"]:
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


def unsolvable(kind: str, offset: float, seed: int) -> tuple[sj.LayerObservation, np.ndarray]:
    """An observation that the method cannot or must not invert, and the private inputs."""
    b, m = SIZES[seed % len(SIZES)]
    rng = np.random.default_rng(seed)
    problem = planted_problem(b, 2 * b if kind == "few rows" else m, 200, seed=seed, offset=offset)
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


CLAIM = Claim("unsolvable", settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
