"""Named problems that are the same everywhere: photos behind a network, sentences behind a language model.

The photos are those of the demo, the client is a network of three hidden layers with PyTorch's initial weights, and
the update is whole. The sentences are invented ones, the language model has random weights, and all of it is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from spear_jax.attacks import reconstruct
from spear_jax.audit.one import what_is_above
from spear_jax.client.load import demo_batch
from spear_jax.client.random_model import random_model, tiny_llama
from spear_jax.client.sentences import demo_texts, demo_tokenizer
from spear_jax.client.simulate import Client, simulate_client
from spear_jax.client.text_gradient import text_gradient
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.language.observation import TextObservation
from spear_jax.normalization import Normalization

DEPTH = 3
CLASSES = 10
# Heads of the language model, and its weights over those that training starts from, so that attention does something.
HEADS, SCALE = 8, 3.0


class Problem(NamedTuple):
    """Photos behind a network.

    Attributes:
        batch_size: photos b.
        width: neurons m of each hidden layer.
        image_size: side of the photos in pixels.
        activation: of the network.
        is_centred: whether pixels are normalised; in [0, 1] otherwise.
    """

    batch_size: int
    width: int
    image_size: int = 64
    activation: str = "relu"
    is_centred: bool = True


class TextProblem(NamedTuple):
    """Sentences behind a language model.

    Attributes:
        batch_size: sentences.
        width: of the model, a multiple of its heads.
    """

    batch_size: int
    width: int


PROBLEMS: dict[str, Problem | TextProblem] = {
    "64@1000": Problem(64, 1000),
    "128@1000": Problem(128, 1000),
    "250@1000": Problem(250, 1000, 32),
    "64@1000-raw": Problem(64, 1000, is_centred=False),
    "128@1000-raw": Problem(128, 1000, is_centred=False),
    "200@2000": Problem(200, 2000, 32),
    "600@4800": Problem(600, 4800, 32),
    "gelu-64@200": Problem(64, 200, 32, "gelu"),
    "gelu-256@768": Problem(256, 768, 32, "gelu"),
    "text-8@384": TextProblem(8, 384),
}

# A reconstruction, which says how many samples it certified.
Call = Callable[[], int]


def problem_of(name: str) -> Problem | TextProblem:
    """The problem of a name.

    Raises:
        SpearError: no problem has this name.
    """
    if name not in PROBLEMS:
        raise SpearError(f"There is no problem {name!r}; there are {', '.join(PROBLEMS)}.")
    return PROBLEMS[name]


def prepared(problem: Problem | TextProblem, seed: int) -> Call:
    """The reconstruction of a problem, its update already there.

    Args:
        problem: what is reconstructed.
        seed: of the data, the weights and the search.
    """
    return _text(problem, seed) if isinstance(problem, TextProblem) else _photos(problem, seed)


def _photos(problem: Problem, seed: int) -> Call:
    pixels = None if problem.is_centred else Normalization.parse("none")
    batch = demo_batch(problem.batch_size, problem.image_size, seed=seed, normalization=pixels)
    client = Client(problem.width, DEPTH, CLASSES, activation=problem.activation, seed=seed)
    update, _ = simulate_client(batch, client)
    layer = update.layer(None).name
    observation, above = update.observation(layer), what_is_above(update, layer)
    config = ReconstructConfig(activation=problem.activation)

    def call() -> int:
        certificate = reconstruct(observation, jax.random.key(seed), config, **above).certificate
        return int((certificate.exact | certificate.approximate).sum())

    return call


def _text(problem: TextProblem, seed: int) -> Call:
    architecture = dataclasses.replace(
        tiny_llama(demo_tokenizer().size), width=problem.width, heads=HEADS, kv_heads=HEADS // 2,
        head_width=problem.width // HEADS, hidden=3 * problem.width,
    )  # fmt: skip
    params = random_model(architecture, jax.random.key(seed), scale=SCALE)
    gradients = text_gradient(architecture, params, demo_texts(problem.batch_size, seed=seed))
    observation = TextObservation(architecture=architecture, params=params, gradients=gradients)
    return lambda: reconstruct(observation).num_certified
