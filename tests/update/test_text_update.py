"""Updates of language models: the same gradients from every form they come in, and a sentence where none follow."""

import json
import shutil

import numpy as np
import pytest
from jax.numpy import bfloat16
from safetensors.numpy import load_file, save_file

from tests.helpers.golden_models import GOLDEN, difference

LR = 0.5
QUERY = "model.layers.0.self_attn.q_proj.weight"


def model_of(name="llama"):
    from spear_jax.update.language_model import read_language_model

    return read_language_model(GOLDEN / name)


def adapter_of(name="peft", base="llama"):
    from spear_jax.update.adapters import read_adapter

    return read_adapter(GOLDEN / name, model_of(base))


def gradients_of(name="llama"):
    """As PyTorch computed them."""
    stored = load_file(GOLDEN / name / "expected.safetensors")
    return {key.removeprefix("grad/"): tensor for key, tensor in stored.items() if key.startswith("grad/")}


def read(path, model=None, **options):
    from spear_jax.update.text_file import read_text_update

    return read_text_update(path, model or model_of(), **options)


def write(path, tensors, **metadata):
    """A bundle, or bare tensors without metadata."""
    from spear_jax.tensor_files import write_tensors

    prefix = {"gradient": "grad/", None: ""}.get(metadata.get("kind"), "client/")
    whole = {name if name.startswith("global/") else prefix + name: tensor for name, tensor in tensors.items()}
    write_tensors(path, whole, metadata)
    return path


def refusal(path, model=None, **options):
    from spear_jax.errors import UpdateError

    with pytest.raises(UpdateError) as caught:
        read(path, model, **options).observation()
    return str(caught.value)


def stepped(model, gradients, lr=LR):
    return {name: model.params[name] - np.float32(lr) * gradient for name, gradient in gradients.items()}


@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
@pytest.mark.parametrize("form", ["gradient", "weights", "delta"])
def test_every_kind_gives_the_gradients(tmp_path, extension, form):
    model, gradients = model_of(), gradients_of()
    after = stepped(model, gradients)
    change = {name: tensor - model.params[name] for name, tensor in after.items()}
    sent = {"gradient": gradients, "weights": after, "delta": change}[form]
    metadata = {} if form == "gradient" else {"lr": str(LR)}
    update = read(write(tmp_path / f"u{extension}", sent, kind=form, **metadata))
    observation = update.observation()
    assert (update.kind, update.local_steps, observation.is_half, update.refusals) == (form, 1, None, ())
    assert set(observation.gradients) == set(gradients)
    for name, gradient in gradients.items():
        error = np.abs(observation.gradients[name] - gradient)
        # Six standard deviations of what rounding weights leaves, where it does.
        assert np.max(error) <= 6 * observation.rounding.get(name, 0) + 1e-6 * np.max(np.abs(gradient)), name
    assert bool(observation.rounding) == (form != "gradient")


def test_a_learning_rate_that_is_not_known_leaves_a_factor(tmp_path):
    model, gradients = model_of(), gradients_of()
    path = write(tmp_path / "u.safetensors", stepped(model, gradients), kind="weights")
    unknown, known = read(path).observation(), read(path, lr=LR).observation()
    np.testing.assert_allclose(unknown.gradients[QUERY], LR * known.gradients[QUERY], rtol=1e-6)
    assert unknown.rounding[QUERY] == pytest.approx(LR * known.rounding[QUERY])


def test_a_bare_file_needs_its_kind(tmp_path):
    path = write(tmp_path / "u.safetensors", gradients_of())
    assert "say kind=gradient, kind=weights or kind=delta" in refusal(path)
    np.testing.assert_array_equal(read(path, kind="gradient").observation().gradients[QUERY], gradients_of()[QUERY])


def test_a_whole_model_that_came_back_is_read_from_its_folder(tmp_path):
    model, gradients = model_of(), gradients_of()
    shutil.copytree(GOLDEN / "llama", tmp_path / "back")
    after = stepped(model, gradients)
    save_file(after | {QUERY: model.params[QUERY]}, tmp_path / "back/model.safetensors", {"format": "pt"})
    update = read(tmp_path / "back", kind="weights", lr=LR)
    assert update.untrained == (QUERY,)
    name = "model.layers.1.mlp.up_proj.weight"
    assert difference(update.observation().gradients[name], gradients[name]) < 1e-5


@pytest.mark.parametrize("name", ["peft", "peft_gpt2"])
def test_adapters_that_came_back_give_the_gradients_of_peft(name):
    """Names are those of the live module in one file and of PEFT's state dict in the other."""
    base = "llama" if name == "peft" else "gpt2"
    options = {"model": model_of(base), "adapter": adapter_of(name, base)}
    gradients = read(GOLDEN / name / "gradient.safetensors", **options).observation().gradients
    after = read(GOLDEN / name / "after.safetensors", **options).observation()
    assert set(gradients) == set(after.gradients)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in gradients)
    for key, gradient in gradients.items():
        error = np.max(np.abs(after.gradients[key] - gradient))
        assert error <= 6 * after.rounding[key] + 1e-6 * np.max(np.abs(gradient)), key


def test_pefts_folder_is_an_update_too(tmp_path):
    shutil.copytree(GOLDEN / "peft", tmp_path / "back")
    after = load_file(GOLDEN / "peft/after.safetensors")
    save_file(
        {key.removeprefix("client/"): tensor for key, tensor in after.items()},
        tmp_path / "back/adapter_model.safetensors",
    )
    found = read(tmp_path / "back", adapter=adapter_of(), kind="weights", lr=LR).observation().gradients
    expected = read(GOLDEN / "peft/after.safetensors", adapter=adapter_of()).observation().gradients
    for name, gradient in expected.items():
        np.testing.assert_array_equal(found[name], gradient)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}",
        lambda name: f"model.base_model.model.{name}",
        lambda name: name.removeprefix("model."),
        lambda name: "lm_head.weight" if name == "model.embed_tokens.weight" else name,
    ],
)
def test_wrapped_names_are_the_checkpoints(tmp_path, wrapped):
    gradients = gradients_of()
    path = write(tmp_path / "u.npz", {wrapped(name): gradient for name, gradient in gradients.items()}, kind="gradient")
    found = read(path).observation().gradients
    assert set(found) == set(gradients)
    np.testing.assert_array_equal(found[QUERY], gradients[QUERY])


def test_buffers_are_passed_over_and_tied_copies_are_one(tmp_path):
    gradients = gradients_of("gpt2")
    extra = {"lm_head.weight": gradients["transformer.wte.weight"], "h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
    path = write(tmp_path / "u.safetensors", gradients | extra, kind="gradient")
    assert set(read(path, model_of("gpt2")).observation().gradients) == set(gradients)
    path = write(
        tmp_path / "u.safetensors", gradients | {"lm_head.weight": np.ones((64, 16), np.float32)}, kind="gradient"
    )
    assert "two tensors came back for transformer.wte.weight" in refusal(path, model_of("gpt2"))


def test_what_the_bundle_says_was_sent_goes_before_the_models_files(tmp_path):
    model, gradients = model_of(), gradients_of()
    moved = {name: tensor + np.float32(0.01) for name, tensor in model.params.items()}
    after = {name: moved[name] - np.float32(LR) * gradient for name, gradient in gradients.items()}
    sent = {f"global/{name}": tensor for name, tensor in moved.items()}
    observation = read(write(tmp_path / "u.npz", after | sent, kind="weights", lr=str(LR))).observation()
    np.testing.assert_array_equal(observation.params[QUERY], moved[QUERY])
    assert difference(observation.gradients[QUERY], gradients[QUERY]) < 1e-4


def test_adapters_may_be_in_the_bundle_with_their_scale(tmp_path):
    adapter = adapter_of()
    gradient = load_file(GOLDEN / "peft/gradient.safetensors")
    gradient = {key.removeprefix("grad/"): tensor for key, tensor in gradient.items()}
    sent = {f"global/{name}": tensor for name, tensor in adapter.params.items()}
    observation = read(write(tmp_path / "u.npz", gradient | sent, kind="gradient")).observation()
    for name, tensor in adapter.params.items():
        np.testing.assert_array_equal(observation.params[name], tensor)
    scaleless = {name: tensor for name, tensor in sent.items() if "scale" not in name}
    path = write(tmp_path / "u.npz", gradient | scaleless, kind="gradient")
    assert "their scale is not known; give the adapter's folder too" in refusal(path)


@pytest.mark.parametrize("dtype", [bfloat16, np.float16])
@pytest.mark.parametrize("is_widened", [False, True])
def test_half_precision_is_seen_by_its_values(tmp_path, dtype, is_widened):
    halves = {name: gradient.astype(dtype) for name, gradient in gradients_of().items()}
    halves = {name: half.astype(np.float32) if is_widened else half for name, half in halves.items()}
    observation = read(write(tmp_path / "u.npz", halves, kind="gradient")).observation()
    assert observation.is_half == np.dtype(dtype).name
    assert {gradient.dtype for gradient in observation.gradients.values()} == {np.dtype(np.float32)}


def test_half_precision_weights_are_as_rough_as_their_units(tmp_path):
    """A large step survives, and the error is what the observation says."""
    model, gradients = model_of(), gradients_of()
    after = {name: tensor.astype(bfloat16) for name, tensor in stepped(model, gradients, lr=20.0).items()}
    observation = read(write(tmp_path / "u.npz", after, kind="weights", lr="20")).observation()
    assert observation.is_half is None
    error = observation.gradients[QUERY] - gradients[QUERY]
    assert float(np.sqrt(np.mean(error**2))) == pytest.approx(observation.rounding[QUERY], rel=0.3)


def test_weight_decay_is_taken_out(tmp_path):
    model, gradients = model_of(), gradients_of()
    decayed = {
        name: model.params[name] - np.float32(LR) * (gradient + np.float32(0.1) * model.params[name])
        for name, gradient in gradients.items()
    }
    path = write(tmp_path / "u.npz", decayed, kind="weights", lr=str(LR), weight_decay="0.1")
    assert difference(read(path).observation().gradients[QUERY], gradients[QUERY]) < 1e-5
    path = write(tmp_path / "u.npz", decayed, kind="weights", weight_decay="0.1")
    assert "weight_decay is given but lr is not" in refusal(path)


def test_the_hash_is_that_of_the_contents(tmp_path):
    one, other = (write(tmp_path / f"u{end}", gradients_of(), kind="gradient") for end in (".npz", ".safetensors"))
    assert read(one).sha256 == read(other).sha256 != read(one, lr=0.1).sha256


# What is refused


def test_a_first_round_of_adapters_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "peft", tmp_path / "sent")
    path = tmp_path / "sent/adapter_model.safetensors"
    fresh = {name: tensor * ("lora_A" in name) for name, tensor in load_file(path).items()}
    save_file(fresh, path)
    from spear_jax.update.adapters import read_adapter

    adapter = read_adapter(tmp_path / "sent", model_of())
    assert refusal(GOLDEN / "peft/gradient.safetensors", adapter=adapter) == (
        "every lora_B of the sent model is zero (a first round): lora_A has no gradient yet; bring a later round."
    )


def test_dropout_of_adapters_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "peft", tmp_path / "sent")
    path = tmp_path / "sent/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dropout": 0.075}))
    from spear_jax.update.adapters import read_adapter

    adapter = read_adapter(tmp_path / "sent", model_of())
    assert refusal(GOLDEN / "peft/gradient.safetensors", adapter=adapter) == (
        "adapter_config.json says lora_dropout=0.075: the client's inputs were masked at random; "
        "exact inversion is off."
    )


@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_a_step_of_adam_is_refused(tmp_path, kind):
    model, gradients = model_of(), gradients_of()
    lr = np.float32(1e-3)
    change = {name: -lr * g / (np.abs(g) + np.float32(1e-8)) for name, g in gradients.items()}
    back = change if kind == "delta" else {name: model.params[name] + step for name, step in change.items()}
    path = write(tmp_path / "u.npz", back, kind=kind, lr="0.001")
    assert refusal(path) == (
        "the change of 100% of the entries is +-lr: an Adam step; exact inversion needs SGD or the gradient."
    )
    path = write(tmp_path / "u.npz", back, kind=kind)
    assert "of the entries is +-0.001: an Adam step" in refusal(path)


def test_signs_of_a_gradient_are_refused(tmp_path):
    signs = {name: np.sign(gradient) for name, gradient in gradients_of().items()}
    assert "of the gradient's entries are +-1: signs" in refusal(write(tmp_path / "u.npz", signs, kind="gradient"))


@pytest.mark.parametrize(
    ("dtype", "lr", "remedy"), [(bfloat16, 0.01, "weights in float32"), (np.float32, 1e-8, "larger")]
)
@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_a_step_that_drowns_in_rounding_is_refused(tmp_path, dtype, lr, remedy, kind):
    from dataclasses import replace

    model, gradients = model_of(), gradients_of()
    model = replace(model, params={k: t.astype(dtype).astype(np.float32) for k, t in model.params.items()})
    after = {name: tensor.astype(dtype) for name, tensor in stepped(model, gradients, lr).items()}
    change = {name: tensor.astype(np.float32) - model.params[name] for name, tensor in after.items()}
    path = write(tmp_path / "u.npz", after if kind == "weights" else change, kind=kind, lr=str(lr))
    sentence = refusal(path, model)
    assert f"in the last place of {np.dtype(dtype).name}: the step drowned in their rounding" in sentence
    assert remedy in sentence


@pytest.mark.parametrize(("lr", "is_refused"), [(0.01, True), (3.0, False)])
def test_a_step_drowns_too_where_the_client_rounded_the_model_that_was_sent(tmp_path, lr, is_refused):
    model, gradients = model_of(), gradients_of()
    after = {name: tensor.astype(bfloat16) for name, tensor in stepped(model, gradients, lr).items()}
    path = write(tmp_path / "u.npz", {k: t.astype(np.float32) for k, t in after.items()}, kind="weights", lr=str(lr))
    assert any("drowned" in sentence for sentence in read(path, model).refusals) == is_refused


def test_several_local_steps_are_refused(tmp_path):
    after = stepped(model_of(), gradients_of())
    path = write(tmp_path / "u.npz", after, kind="weights", lr=str(LR), local_steps="3")
    assert "the client took 3 local steps" in refusal(path)
    assert read(path).local_steps == 3


@pytest.mark.parametrize(
    ("name", "kept", "words"),
    [
        ("mistral", ("lm_head.weight",), "lm_head"),
        ("gpt2", ("transformer.ln_f.bias", "transformer.wte.weight"), "ln_f.bias, wte"),
        ("qwen2", ("model.layers.0.self_attn.q_proj.bias",), "q_proj.bias"),
    ],
)
def test_an_update_without_a_projection_is_refused(tmp_path, name, kept, words):
    path = write(tmp_path / "u.npz", {key: gradients_of(name)[key] for key in kept}, kind="gradient")
    expected = f"the update has only {words}; needed: an attention or MLP projection."
    assert refusal(path, model_of(name)) == expected


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"model.layers.7.self_attn.q_proj.weight": np.ones((16, 16))}, "but the model has 2 layers"),
        ({"visual.weight": np.ones((16, 16))}, "visual.weight came back, but the model has no such tensor"),
        ({"model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((4, 16))}, "but no such adapter was sent"),
        ({QUERY: np.ones((15, 16))}, "came back with shape (15, 16), but the model's has (16, 16)"),
        ({QUERY: np.ones((16, 16), np.int8)}, "came back as int8; expected floating numbers"),
        ({QUERY: np.zeros((16, 16))}, "every gradient that came back is zero"),
        ({QUERY: np.full((16, 16), np.nan)}, "holds NaN or infinite values"),
        ({"model.rotary_emb.inv_freq": np.ones(2)}, "no tensor of the language model is in it"),
        ({"global/" + QUERY: np.ones((16, 16))}, "it holds no tensors named grad/<name>"),
        ({QUERY: np.ones((16, 16)), "global/" + QUERY: np.ones((3, 16))}, "but the model's has shape (16, 16)"),
    ],
)
def test_what_the_tensors_may_not_be(tmp_path, tensors, sentence):
    assert sentence in refusal(write(tmp_path / "u.npz", tensors, kind="gradient"))


@pytest.mark.parametrize("kind", ["weights", "delta"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_are_one_sentence(tmp_path, kind, value):
    path = write(tmp_path / "u.npz", {QUERY: np.full((16, 16), value, np.float32)}, kind=kind)
    assert "holds NaN or infinite values" in refusal(path)
    assert read(path).refusals == ()


def test_a_model_that_did_not_change_is_refused(tmp_path):
    path = write(tmp_path / "u.npz", dict(model_of().params), kind="weights")
    assert "no tensor changed between what was sent and what came back" in refusal(path)


def test_wrong_metadata_and_files_are_refused(tmp_path):
    path = write(tmp_path / "u.npz", gradients_of(), kind="gradient", lr="-1")
    assert "metadata lr is '-1'; expected a positive number" in refusal(path)
    path.write_bytes(b"PK")
    assert "u.npz is not a readable npz file" in refusal(path)
    assert "does not exist" in refusal(tmp_path / "other.safetensors")
