"""Every compiled program of the attack, lowered for CUDA without a GPU: what it calls there must exist there."""

import dataclasses
import functools
import importlib
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spear_jax.attacks
from spear_jax import devices
from spear_jax.attacks.dense.dictionary import subspace_round
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.attacks.dense.sampling import samplers
from spear_jax.attacks.graphs import pipeline as graphs
from spear_jax.attacks.graphs.certificate import reproduce
from spear_jax.attacks.text import pipeline as text
from spear_jax.client.random_model import init_adapter
from spear_jax.config import DictionaryConfig, ReconstructConfig
from tests.helpers import molecules, spans
from tests.helpers import small_text as small
from tests.helpers.networks import simulate

pytestmark = pytest.mark.slow
# Libraries of CUDA, and what the compiler itself resolves; "cuhybrid" leaves the device for LAPACK.
ALLOWED = re.compile(r"cu(?!hybrid)\w*|Sharding|SPMD\w+|annotate_device_placement|AllocateBuffer|__gpu\$\w+")
KEY = jax.random.key(0)


def is_program(value):
    return hasattr(value, "trace") and hasattr(value, "lower") and callable(value)


def modules():
    root = spear_jax.attacks
    return [importlib.import_module(found.name) for found in pkgutil.walk_packages(root.__path__, root.__name__ + ".")]


def custom_calls(program, *arguments, **options):
    """What a program calls on CUDA; raises where it cannot be lowered for it."""
    text = program.trace(*arguments, **options).lower(lowering_platforms=("cuda",)).as_text()
    return set(re.findall(r"custom_call @([\w$.]+)", text))


def refused(calls):
    return {call for call in calls if not ALLOWED.fullmatch(call)}


class Recorded:
    """A program that is lowered for CUDA too, once in each precision, where it runs or is compiled."""

    def __init__(self, name, program, calls):
        self.name, self.program, self.calls = name, program, calls

    def __call__(self, *arguments, **options):
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, options))):
            self.record(*arguments, **options)
        return self.program(*arguments, **options)

    def lower(self, *shapes):
        self.record(*shapes)
        return self.program.lower(*shapes)

    def record(self, *arguments, **options):
        dtypes = {getattr(leaf, "dtype", None) for leaf in jax.tree.leaves((arguments, options))}
        width = 64 if np.dtype("float64") in dtypes else 32
        if (self.name, width) not in self.calls:
            self.calls[self.name, width] = custom_calls(self.program, *arguments, **options)


def named(function):
    """Of a function that is compiled within another one: by its kernel where it is a round."""
    while isinstance(function, functools.partial):
        function = next((part for part in function.args if callable(part)), function.func)
    return f"{function.__module__}.{function.__qualname__}"


@pytest.fixture
def programs(monkeypatch):
    """Names of all programs of the attack, and what those that run while a test does call on CUDA."""
    calls, names, jit = {}, {}, jax.jit
    for module in modules():
        for attribute, value in list(vars(module).items()):
            if is_program(value):
                name = names.setdefault(id(value), f"{value.__module__}.{value.__name__}")
                monkeypatch.setattr(module, attribute, Recorded(name, value, calls))
    monkeypatch.setattr(
        jax, "jit", lambda function, **options: Recorded(named(function), jit(function, **options), calls)
    )
    kept = (devices.compile_program, samplers._places_program, subspace_round._em_of_starts)
    for cached in kept:
        cached.cache_clear()
    yield set(names.values()), calls
    for cached in kept:
        cached.cache_clear()


def run_everything():
    """Small problems that between them need every program."""
    batch = simulate(4, 60, seed=1)
    for sampler in ("flat", "walk"):  # a round of each kernel
        config = ReconstructConfig(method="sampling", sampler=sampler, num_devices=1, max_seconds=5.0)
        reconstruct(batch.observation, KEY, config)
    batch = simulate(16, 80, seed=1)
    config = ReconstructConfig(method="dictionary", num_devices=1, dictionary=DictionaryConfig(max_rounds=8, starts=4))
    for regime in ("centred", "skewed"):
        options = dataclasses.replace(config, dictionary=dataclasses.replace(config.dictionary, regime=regime))
        reconstruct(batch.observation, KEY, options, next_weight_grad=batch.next_weight_grad)
    config = ReconstructConfig(method="span", num_devices=1, activation="gelu", max_seconds=20.0)
    seen = spans.simulate("gelu", 6, 60, seed=1)
    reconstruct(seen.layers[0], KEY, config, layers_above=seen.layers[1:])
    rng = np.random.default_rng(0)
    noisy = lambda array: array + 0.1 * np.sqrt(np.mean(array**2)) * rng.normal(size=array.shape)
    layers = [
        dataclasses.replace(layer, weight_grad=noisy(layer.weight_grad), bias_grad=noisy(layer.bias_grad))
        for layer in seen.layers
    ]
    reconstruct(layers[0], KEY, config, layers_above=layers[1:])
    shallow = spans.simulate("gelu", 16, 100, depth=1, seed=1)
    patient = dataclasses.replace(config, max_seconds=None)  # what certifies is asked only once roots are there
    reconstruct(shallow.layers[0], KEY, patient, layers_above=shallow.layers[1:])
    run_every_text()
    run_every_graph()


def run_every_graph():
    """In each precision a molecule whose view lacks a direction in a GCN, and in a GIN, with layers within; a batch."""
    private = molecules.chosen("nicotine")
    for kind in ("gcn", "gin"):
        for dtype in ("float32", "float64"):
            graphs.reconstruct(molecules.observed(*molecules.network(kind, dtype=dtype), private))
    two = molecules.chosen("nicotine", "caffeine")
    architecture, params = molecules.network("gin", tasks=2)
    reproduce(molecules.observed(architecture, params, two), jax.device_put(params), two.graphs)


def run_every_text():
    """Full gradients, adapters with more and with fewer directions than beginnings, and classes behind these."""
    architecture, params = small.model("llama")
    private = small.batch([5, 4])
    text.reconstruct(small.observed(architecture, params, private))
    for rank in (2, 8):
        adapter = init_adapter(architecture, params, jax.random.key(rank), rank, alpha=float(rank))
        text.reconstruct(small.observed(architecture, params | adapter, private))
    architecture, params = small.model("llama", layers=3, classes=2)
    adapter = init_adapter(architecture, params, jax.random.key(8), 8, alpha=8.0)
    text.reconstruct(small.observed(architecture, params | adapter, small.batch([5, 4], classes=2)))


def test_no_program_of_the_attack_leaves_the_device(programs):
    names, calls = programs
    run_everything()
    assert {program: refused(called) for program, called in calls.items() if refused(called)} == {}
    assert names - {name for name, _ in calls} == set()
    assert {width for _, width in calls} == {32, 64}


def test_what_leaves_the_device_is_told():
    matrix = jnp.eye(4)
    assert not refused(custom_calls(jax.jit(jnp.linalg.qr), matrix))
    assert refused(custom_calls(jax.jit(jnp.linalg.eigvals), matrix))
    back = lambda array: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(array.shape, array.dtype), array)
    for function in (back, jax.scipy.linalg.schur):
        with pytest.raises((NotImplementedError, ValueError)):
            custom_calls(jax.jit(function), matrix)
