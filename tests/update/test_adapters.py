"""PEFT's adapters: as its package computes with them, and in one sentence what is wrong with those that do not fit."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.golden_models import GOLDEN, difference, loss_and_gradients

PREFIX = "base_model.model."
QUERY = "model.layers.0.self_attn.q_proj"


def model_of(name):
    from spear_jax.update.language_model import read_language_model

    return read_language_model(GOLDEN / name)


@pytest.fixture
def folder(tmp_path):
    """An adapter of the small Llama that may be broken."""
    shutil.copytree(GOLDEN / "peft", tmp_path / "sent")
    return tmp_path / "sent"


def read(folder, base="llama"):
    from spear_jax.update.adapters import read_adapter

    return read_adapter(folder, model_of(base))


def refusal(folder):
    from spear_jax.errors import UpdateError

    with pytest.raises(UpdateError) as caught:
        read(folder)
    return str(caught.value)


def configure(folder, **entries):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change(folder, tensors):
    """Other tensors, and none for what is None."""
    path = folder / "adapter_model.safetensors"
    new = load_file(path) | tensors
    save_file({name: tensor for name, tensor in new.items() if tensor is not None}, path)


@pytest.mark.parametrize(("name", "base", "count"), [("peft", "llama", 4), ("peft_gpt2", "gpt2", 8)])
def test_loss_and_gradients_are_those_of_peft(name, base, count):
    """Ranks and scales differ between layers, GPT-2's kernels lie the other way round and its scales are rsLoRA's."""
    from spear_jax.update.adapters import adapted, read_adapter
    from spear_jax.update.text_names import checkpoint_name

    model = model_of(base)
    adapter = read_adapter(GOLDEN / name, model)
    assert len(adapter.layers) == count
    whole = adapted(model, adapter)
    batch = load_file(GOLDEN / base / "expected.safetensors")
    loss, found = loss_and_gradients(whole.architecture, whole.params, batch["tokens"], batch["mask"])
    assert difference(loss, load_file(GOLDEN / name / "expected.safetensors")["loss"]) < 1e-5
    gradients = load_file(GOLDEN / name / "gradient.safetensors")
    assert len(gradients) == 2 * count
    for key, gradient in gradients.items():
        own = checkpoint_name(key.removeprefix("grad/"), whole.architecture, whole.params)
        assert difference(found[own], gradient) < 1e-5, key


def test_scales_follow_the_configuration():
    from spear_jax.update.adapters import AdapterConfig

    config = AdapterConfig(rank=16, alpha=8.0, rank_pattern={"k_proj": 4}, alpha_pattern={"^h.[12].v_proj": 2.0})
    assert config.scale_of("layers.0.q_proj") == 0.5
    assert config.scale_of("layers.0.k_proj") == 2.0
    assert config.scale_of("layers.0.my_k_proj") == 0.5
    stable = AdapterConfig(rank=16, alpha=8.0, is_rank_stabilized=True, alpha_pattern={r"layers\.[12]\.v_proj": 2.0})
    assert stable.scale_of("layers.0.v_proj") == 2.0
    assert stable.scale_of("model.layers.2.v_proj") == 0.5


def test_adapters_are_read_from_a_live_modules_names_and_other_files(folder):
    expected = read(folder).params
    stored = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    live = {
        f"module.{name.replace('.weight', '.default.weight')}": tensor.astype(np.float16)
        for name, tensor in stored.items()
    }
    save_file(live, folder / "round_3.safetensors")
    found = read(folder / "round_3.safetensors").params
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], tensor, atol=1e-3)


def test_a_head_of_classes_comes_with_the_adapter(folder):
    from spear_jax.update.adapters import adapted

    score = np.ones((3, 16), np.float32)
    change(folder, {f"{PREFIX}score.weight": score})
    whole = adapted(model_of("llama"), read(folder))
    assert whole.architecture.classes == 3
    np.testing.assert_array_equal(whole.params["score.weight"], score)
    change(folder, {f"{PREFIX}score.weight": np.ones((3, 15), np.float32)})
    assert "the adapter's score.weight has shape (3, 15); expected (classes, 16)" in refusal(folder)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'; expected LORA"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type='PROMPT_TUNING'; expected LORA"),
        ({"use_dora": True}, "sets use_dora (DoRA); expected plain LoRA"),
        ({"lora_bias": True}, "sets lora_bias (a bias within the adapter)"),
        ({"r": 16}, "adapter_config.json names r=16 but q_proj.lora_A of layer 0 has 4 rows."),
        ({"rank_pattern": {"1.self_attn.q_proj": 3}}, "names r=3 but q_proj.lora_A of layer 1 has 4 rows."),
        ({"r": "many"}, "adapter_config.json cannot be used"),
        ({"lora_alpha": 0}, "expected positive ranks and alphas, and a probability"),
        ({"alpha_pattern": {"(": 3}}, "has a pattern '(' that cannot be read"),
    ],
)
def test_what_a_configuration_may_not_say(folder, entries, sentence):
    configure(folder, **entries)
    assert sentence in refusal(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("model.layers.40.self_attn.q_proj.lora_A.weight", np.ones((4, 16)), "layer 40, '"),
        ("model.layers.40.self_attn.q_proj.lora_A.weight", np.ones((4, 16)), "but the model has 2 layers"),
        ("model.layers.0.mlp.router.lora_A.weight", np.ones((4, 16)), "for which the model has no layer"),
        ("lm_head.lora_A.weight", np.ones((4, 16)), "for which the model has no layer"),
        ("model.embed_tokens.lora_embedding_A", np.ones((4, 64)), "for which the model has no layer"),
        (f"{QUERY}.lora_magnitude_vector", np.ones(16), "as DoRA does"),
        (f"{QUERY}.lora_B.weight", None, "lacks q_proj.lora_B of layer 0, while its lora_A is there"),
        (f"{QUERY}.lora_A.weight", None, "lacks q_proj.lora_A of layer 0, while its lora_B is there"),
        (f"{QUERY}.lora_A.weight", np.ones((4, 15)), "q_proj.lora_A of layer 0 has shape (4, 15), but"),
        (f"{QUERY}.lora_B.weight", np.ones((15, 4)), "q_proj.lora_B of layer 0 has shape (15, 4), but"),
        ("model.embed_tokens.weight", np.ones((65, 16)), "with shape (65, 16), but the model's has (64, 16)"),
    ],
)
def test_what_its_tensors_may_not_be(folder, name, tensor, sentence):
    change(folder, {PREFIX + name: None if tensor is None else tensor.astype(np.float32)})
    assert sentence in refusal(folder)


def test_what_a_folder_must_hold(folder):
    (folder / "adapter_model.safetensors").unlink()
    assert "holds adapter_config.json but no adapters; expected adapter_model.safetensors or" in refusal(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert "has no entry 'lora_alpha'" in refusal(folder)
    (folder / "adapter_config.json").unlink()
    assert "sent has no adapter_config.json, which gives the adapters' scale" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        QUERY + ".weight",
        "module." + QUERY + ".weight",
        "_orig_mod.module." + QUERY + ".weight",
        "model._orig_mod.layers.0.self_attn.q_proj.weight",
        PREFIX + QUERY + ".base_layer.weight",
        "layers.0.self_attn.q_proj.weight",
        "model." + PREFIX + QUERY + ".weight",
    ],
)
def test_wrappers_are_taken_off_a_name(name):
    from spear_jax.update.text_names import checkpoint_name

    model = model_of("llama")
    assert checkpoint_name(name, model.architecture, model.params) == QUERY + ".weight"


def test_other_names_stay_unknown():
    from spear_jax.update.text_names import checkpoint_name, is_buffer

    model, gpt2 = model_of("llama"), model_of("gpt2")
    assert checkpoint_name("visual." + QUERY + ".weight", model.architecture, model.params) is None
    assert checkpoint_name("lm_head.weight", model.architecture, model.params) == "model.embed_tokens.weight"
    assert checkpoint_name("lm_head.weight", model_of("mistral").architecture, model_of("mistral").params)
    assert checkpoint_name("h.0.attn.c_attn.bias", gpt2.architecture, gpt2.params) == "transformer.h.0.attn.c_attn.bias"
    assert is_buffer("transformer.h.0.attn.bias")
    assert not is_buffer("transformer.h.0.attn.c_attn.bias")
