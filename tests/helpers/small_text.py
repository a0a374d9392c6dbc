"""Small language models with random weights, batches of random sequences, and what a client returns of them."""

import dataclasses
from collections import Counter

import jax
import numpy as np

from spear_jax.client.random_model import random_model, tiny_gpt2, tiny_llama
from spear_jax.client.text_batch import TextBatch
from spear_jax.client.text_gradient import text_gradient
from spear_jax.language.observation import TextObservation


def model(family, seed=0, scale=3.0, **changes):
    """Architecture and parameters; weights larger than at the start of training, so that attention does something."""
    architecture = (tiny_llama if family == "llama" else tiny_gpt2)(400)
    architecture = dataclasses.replace(architecture, **{"layers": 2, "positions": 32} | changes)
    return architecture, random_model(architecture, jax.random.key(seed), scale=scale)


def batch(lengths, seed=0, vocabulary=400, classes=0):
    """Random sequences of these lengths."""
    rng = np.random.default_rng(seed)
    sequences = tuple(rng.integers(1, vocabulary, length) for length in lengths)
    labels = rng.integers(0, classes, len(lengths)) if classes else None
    return TextBatch(sequences, labels)


def observed(architecture, params, private, **options):
    """What the server sees of a client with this batch."""
    gradients = text_gradient(architecture, params, private, **options)
    return TextObservation(architecture=architecture, params=params, gradients=gradients)


def counted(private):
    """The sequences of a batch, and their classes, with how often each is there."""
    labels = [None] * len(private.sequences) if private.labels is None else [int(label) for label in private.labels]
    return Counter((tuple(map(int, tokens)), label) for tokens, label in zip(private.sequences, labels, strict=True))


def recovered(result):
    """The certified sequences of a result, with how often each is there."""
    return Counter(
        {
            (tuple(map(int, one.tokens)), one.label): max(one.copies, 1)
            for one, is_exact in zip(result.sequences, result.exact, strict=True)
            if is_exact
        }
    )
