"""Names of a language model's tensors, as frameworks and wrappers spell them, brought to those of its checkpoint.

PyTorch's wrappers put ``module.`` or ``_orig_mod.`` before a name, PEFT ``base_model.model.``, NVFlare one more
``model.``; GPT-2's files come with ``transformer.`` and without. PEFT's files and its live modules differ in
``.lora_A.weight`` and ``.lora_A.default.weight``, and a layer beside an adapter becomes its ``base_layer``.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from spear_jax.language.architecture import Architecture
from spear_jax.language.transformer import ROLES, module_names, output_name

# Parts that may stand before a name without being of it.
_WRAPPERS = frozenset(("_forward_module", "base_model", "model", "module", "transformer"))
# Parts that wrappers put anywhere within a name.
_WITHIN = re.compile(r"(?<![^.])(?:_checkpoint_wrapped_module|_fsdp_wrapped_module|_orig_mod|base_layer)\.")
_FACTOR = re.compile(r"\.lora_([AB])\.[^.]+\.weight$")
_SAVED = re.compile(r"\.modules_to_save\.[^.]+\.")
# What state dicts hold besides weights, and PEFT's copy of a module from before its training.
_BUFFER = re.compile(r"(?:rotary_emb\.inv_freq|\battn\.(?:masked_)?bias|\.original_module\.\w+)$")
_PLACE = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


def checkpoint_name(name: str, architecture: Architecture, known: Collection[str]) -> str | None:
    """What the checkpoint calls a tensor.

    Args:
        name: as it came.
        architecture: of the model.
        known: the checkpoint's names, those of adapters as ``name.lora_A.weight``.

    Returns:
        One of ``known``; the output layer's kernel is the embedding where these are one. None for any other name.
    """
    rest = _plain(name)
    while True:
        for candidate in (rest, architecture.prefix + rest):
            if candidate in known:
                return candidate
        if rest == "lm_head.weight" and architecture.is_tied and not architecture.classes:
            return output_name(architecture)
        head, _, tail = rest.partition(".")
        if head not in _WRAPPERS or not tail:
            return None
        rest = tail


def is_buffer(name: str) -> bool:
    """Whether a tensor is one that no training changes and nothing is computed from."""
    return _BUFFER.search(name) is not None


def linear_layers(architecture: Architecture) -> list[str]:
    """Names of all linear layers within the blocks, first to last."""
    blocks = range(architecture.layers)
    return [name for layer in blocks for role in ROLES for name in module_names(architecture, layer, role)]


def block_of(name: str) -> int | None:
    """Number of the block that a tensor belongs to by its name, None for those of none."""
    found = _PLACE.search(name)
    return int(found[1]) if found and len(found[1]) <= 9 else None


def spoken(layer: str, part: str) -> str:
    """A part of a linear layer in words, ``q_proj.lora_A of layer 3``."""
    block = block_of(layer)
    return f"{layer.rpartition('.')[2]}.{part}" + (f" of layer {block}" if block is not None else "")


def _plain(name: str) -> str:
    return _FACTOR.sub(r".lora_\1.weight", _SAVED.sub(".", _WITHIN.sub("", name)))
