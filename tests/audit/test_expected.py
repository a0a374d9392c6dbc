"""What `inspect` says beforehand, held against what comes out, over updates of many kinds."""

import jax
import numpy as np
import pytest

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.audit.text_exposure import NOTHING, TOKENS, TRACES, WHOLE, text_exposure
from spear_jax.client.random_model import init_adapter
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.defences import gaussian_noise
from spear_jax.errors import SpearError
from spear_jax.language.transformer import module_names
from spear_jax.update.adapters import Adapter, AdapterConfig
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.text_update import TextUpdate
from tests.helpers.small_text import batch, model

pytestmark = pytest.mark.slow
LENGTHS = (6, 5)


def update(family="llama", lengths=LENGTHS, classes=0, adapters=None, trained=None, dropout=0.0, **client):
    """What a client returns of a small model: in full, or of adapters ``(rank, modules)``."""
    architecture, params = model(family, seed=70, classes=classes)
    names, adapter = None, {}
    if adapters is not None:
        rank, *modules = adapters
        lora_B = client.pop("lora_B", "trained")
        adapter = init_adapter(
            architecture, params, jax.random.key(71), rank, modules=tuple(modules), alpha=float(rank), lora_B=lora_B
        )
    elif trained is not None:
        names = trained(architecture, params)
    private = batch(lengths, seed=72, classes=classes)
    tensors, metadata = simulate_text_update(architecture, params | adapter, private, trained=names, **client)
    config = AdapterConfig(rank=4, alpha=4.0, dropout=dropout)
    return TextUpdate(
        model=LanguageModel(architecture=architecture, params=params | adapter),
        came_back={name.partition("/")[2]: tensor for name, tensor in tensors.items()},
        metadata=metadata,
        adapter=Adapter(config=config, params=adapter) if dropout else None,
    )


def of_block(number):
    return lambda architecture, params: [name for name in params if f".{number}." in name and "norm" not in name]


def of_roles(*roles):
    return lambda architecture, params: [
        f"{name}.weight"
        for layer in range(architecture.layers)
        for role in roles
        for name in module_names(architecture, layer, role)
    ]


def after_adam():
    """Weights that all moved by the learning rate, or not at all."""
    plain = update()
    moved = {name: plain.model.params[name] - 1e-3 * np.sign(it) for name, it in plain.came_back.items()}
    metadata = dict(plain.metadata) | {"kind": "weights", "lr": "0.001"}
    return TextUpdate(model=plain.model, came_back=moved, metadata=metadata)


def several_steps():
    plain = update(kind="delta", lr=0.1)
    return TextUpdate(
        model=plain.model, came_back=plain.came_back, metadata=dict(plain.metadata) | {"local_steps": "3"}
    )


ALL = ("q", "k", "v", "o", "gate", "up", "down")
CASES = {
    "full gradient": update,
    "full gradient in bfloat16": lambda: update(dtype="bfloat16"),
    "full gradient in float16": lambda: update(dtype="float16"),
    "weights after a step": lambda: update(kind="weights", lr=1.0),
    "change of the weights": lambda: update(kind="delta", lr=0.1),
    "full gradient, classified": lambda: update(classes=3),
    "GPT-2, full gradient": lambda: update("gpt2"),
    "GPT-2, its first block only": lambda: update("gpt2", trained=of_block(0)),
    "GPT-2, adapters beyond their rank": lambda: update("gpt2", adapters=(4, "c_attn")),
    "first block only": lambda: update(trained=of_block(0)),
    "last block only": lambda: update(trained=of_block(1)),
    "queries, keys and values of all blocks": lambda: update(trained=of_roles("qkv")),
    "outputs of the attention only": lambda: update(trained=of_roles("o")),
    "output layer only": lambda: update(trained=lambda architecture, params: ["model.norm.weight"]),
    "adapters up to their rank": lambda: update(adapters=(16, "q", "v")),
    "adapters beyond their rank": lambda: update(adapters=(2, "q", "v")),
    "adapters of all modules": lambda: update(adapters=(8, *ALL)),
    "adapters, classified": lambda: update(adapters=(16, "q", "v"), classes=3),
    "adapters of rank 1 and a large batch": lambda: update(adapters=(1, "q", "v"), lengths=(20, 20, 20, 20)),
    "too many tokens": lambda: update(lengths=(30, 30, 30, 30)),
    "first round of adapters": lambda: update(adapters=(4, "q", "v"), lora_B="zero"),
    "adapters with dropout": lambda: update(adapters=(16, "q", "v"), dropout=0.05),
    "a step of Adam": after_adam,
    "several local steps": several_steps,
    "bfloat16 weights whose step drowned": lambda: update(kind="weights", lr=1e-3, dtype="bfloat16"),
    "noise": lambda: gaussian_noise(update(), 1e-3, jax.random.key(0)),
}
# How many rows limit what few directions explain is known beforehand, how many tokens a client has is not.
UNFORESEEN = {"adapters of rank 1 and a large batch"}


def outcome(update):
    """What a reconstruction gives, in the words of `inspect`."""
    try:
        result = reconstruct(update.observation())
    except SpearError:
        return NOTHING
    if len(result.exact) and result.exact.all():
        return WHOLE
    if result.tokens_exact:
        return TOKENS
    return TRACES if len(result.tokens) or result.sequences or result.prefixes else NOTHING


@pytest.mark.parametrize("name", CASES)
def test_inspect_says_beforehand_what_comes_out(name):
    made = CASES[name]()
    said, found = text_exposure(made).expected, outcome(made)
    assert (said == found) == (name not in UNFORESEEN), (said, found)


def test_the_cases_are_of_every_kind():
    assert len(CASES) >= 20
    assert {text_exposure(made()).expected for made in CASES.values()} == {WHOLE, TOKENS, TRACES, NOTHING}
