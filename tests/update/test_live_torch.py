"""Live modules of PyTorch: their update is that of files that hold the same, and inverts to what they were trained on.

What needs no torch runs on NumPy arrays by name.
"""

import copy
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import spear_jax as sj

BATCH, IN, WIDTH, CLASSES = 3, 20, 48, 5
CONFIG = sj.ReconstructConfig(num_devices=1, max_seconds=60.0)


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    torch.set_num_threads(1)
    return torch


@pytest.fixture
def trained(torch):
    """A classifier after ``backward`` on three inputs, and these."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(IN, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES)).double()
    inputs = torch.randn(BATCH, IN, dtype=torch.float64)
    torch.nn.functional.cross_entropy(model(inputs), torch.tensor([0, 3, 1])).backward()
    return model, inputs.numpy()


def recovered(update, inputs):
    """Largest error of the inputs that follow from an update."""
    found = np.asarray(sj.reconstruct(update.observation(), jax.random.key(0), CONFIG).inputs)
    assert found.shape == inputs.shape
    return np.abs(found[:, None] - inputs[None]).max(2).min(0).max()


def forms(torch, model):
    """The same gradients in every form that is taken."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        "fields": (model, None),
        "by name": (model, gradients),
        "in order": (model, list(gradients.values())),
        "a generator": (model, iter(gradients.values())),
        "of a state_dict": (model.state_dict(), gradients),
        "of NumPy": (model, {name: gradient.numpy() for name, gradient in gradients.items()}),
        "compiled": (model, {f"_orig_mod.{name}": gradient for name, gradient in gradients.items()}),
    }


def test_every_form_of_the_gradients_gives_the_inputs_back(torch, trained):
    model, inputs = trained
    for form, (sent, came_back) in forms(torch, model).items():
        update = sj.from_torch(sent, came_back)
        assert update.kind == "gradient", form
        assert [layer.name for layer in update.layers] == ["0", "2"]
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(update.client_tensors[name], parameter.grad.numpy())
            np.testing.assert_array_equal(update.global_tensors[name], parameter.detach().numpy())
    assert recovered(update, inputs) < 1e-8
    assert recovered(update, inputs[::-1]) < 1e-8
    with pytest.raises(AssertionError):  # other inputs are not found in it
        assert recovered(update, inputs + 0.1) < 1e-3


def test_weights_after_a_step_give_the_inputs_back(torch, trained):
    model, inputs = trained
    before = copy.deepcopy(model)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for came_back in (model, model.state_dict()):
        update = sj.from_torch(before, came_back, lr=0.1, num_examples=BATCH)
        assert (update.kind, update.metadata["lr"], update.metadata["num_examples"]) == ("weights", "0.1", "3")
        assert recovered(update, inputs) < 1e-6
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert sj.from_torch(before, plain, lr=0.1, kind="weights").kind == "weights"
    with pytest.raises(sj.UpdateError, match="say kind='weights' or kind='gradient'"):
        sj.from_torch(before, plain, lr=0.1)
    with pytest.raises(sj.UpdateError, match="are weights, not gradients; say kind='weights'"):
        sj.from_torch(before, plain)
    with pytest.raises(sj.UpdateError, match="shares its memory with the model"):
        sj.from_torch(model, model.state_dict(), lr=0.1)


def test_what_was_taken_does_not_follow_the_training(torch, trained):
    model, _ = trained
    update = sj.from_torch(model)
    gradient, weight = update.client_tensors["0.weight"].copy(), update.global_tensors["0.weight"].copy()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    model.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(update.client_tensors["0.weight"], gradient)
    np.testing.assert_array_equal(update.global_tensors["0.weight"], weight)
    assert np.any(gradient)


def test_saved_and_read_again_it_is_the_update_of_pytorchs_files(torch, trained, tmp_path):
    model, _ = trained
    torch.save(model.state_dict(), tmp_path / "before.pt")
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, tmp_path / "gradient.pt")
    files = (sj.read_model(tmp_path / "before.pt"), sj.read_model(tmp_path / "gradient.pt"))
    expected = sj.make_update(*files, kind="gradient")
    sj.save_update(sj.from_torch(model), tmp_path / "update.safetensors")
    found = sj.load_update(tmp_path / "update.safetensors")
    for side in ("global_tensors", "client_tensors"):
        ours, theirs = getattr(found, side), getattr(expected, side)
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_dtypes_frozen_layers_and_sparse_gradients_are_kept(torch):
    model = torch.nn.ModuleDict(
        {"words": torch.nn.Embedding(7, 4, sparse=True), "fc": torch.nn.Linear(4, 6), "head": torch.nn.Linear(6, 3)}
    )
    model["fc"].bfloat16()
    model["head"].requires_grad_(False)
    hidden = model["words"](torch.tensor([1, 2])).bfloat16()
    model["head"](torch.relu(model["fc"](hidden)).float()).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    for update in (sj.from_torch(model), sj.from_torch(model, gradients)):
        assert set(update.client_tensors) == {"words.weight", "fc.weight", "fc.bias"}
        np.testing.assert_array_equal(update.client_tensors["words.weight"], gradients[0].to_dense().numpy())
        assert update.client_tensors["fc.weight"].dtype.name == "bfloat16"
        np.testing.assert_array_equal(
            update.client_tensors["fc.weight"].astype(np.float32), gradients[1].float().numpy()
        )


def test_what_is_wrong_is_said(torch, trained):
    model, _ = trained
    gradients = [parameter.grad for parameter in model.parameters()]
    other = {"0.weight": torch.ones(2, 2)}
    for sent, came_back, sentence in (
        (3, None, "the model is a int; expected a torch.nn.Module"),
        (model, gradients[:3], "3 gradients came back, but the model has 4 parameters, 4 of them trained"),
        (model, gradients[0], "what came back is a Tensor; expected tensors by name"),
        (model.state_dict(), gradients, "gradients in order need the module"),
        (model.state_dict(), None, "a state_dict has no gradients"),
        (model, other, r"0.weight is \(48, 20\) before and \(2, 2\) after"),
        (model, {"extra": torch.ones(3)}, "extra, which before lacks"),
    ):
        with pytest.raises(sj.UpdateError, match=sentence):
            sj.from_torch(sent, came_back)
    model.zero_grad()
    with pytest.raises(sj.UpdateError, match="call from_torch after backward and before zero_grad"):
        sj.from_torch(model)
    with pytest.raises(sj.UpdateError, match="lr is"):
        sj.from_torch(model, model, lr=-1.0)


def test_arrays_by_name_need_no_torch():
    generator = np.random.default_rng(0)
    sent = {"fc.weight": generator.normal(size=(6, 4)), "fc.bias": generator.normal(size=6)}
    gradients = {name: generator.normal(size=tensor.shape) for name, tensor in sent.items()}
    update = sj.from_torch(sent, gradients)
    np.testing.assert_array_equal(update.client_tensors["fc.weight"], gradients["fc.weight"])
    gradients["fc.odd"], sent["fc.odd"] = threading.Lock(), np.ones(3)
    assert "fc.odd" in sj.from_torch(sent, gradients).metadata["left_out"]


def test_the_package_imports_no_torch():
    said = "import sys, spear_jax, spear_jax.integrations.pytorch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0
