"""A training loop that is recorded: a file a step, from before the step, and the training as it was."""

import jax
import numpy as np
import pytest

import spear_jax as sj
from spear_jax.integrations.pytorch import StepRecorder

CONFIG = sj.ReconstructConfig(num_devices=1, max_seconds=60.0)
STEPS, BATCH, IN, WIDTH = 3, 2, 12, 64


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed.")
    torch.set_num_threads(1)
    return torch


def train(torch, listen=None):
    """A short training; ``listen(model, optimizer)`` gives what is called between ``backward`` and ``step``."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(IN, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    call = listen(model, optimizer) if listen else None
    batches, sent = torch.randn(STEPS, BATCH, IN, dtype=torch.float64), []
    for inputs in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), torch.tensor([0, 2])).backward()
        sent.append({name: tensor.clone().numpy() for name, tensor in model.state_dict().items()})
        if call is not None:
            call()
        optimizer.step()
    return model, batches.numpy(), sent


def hook(folder):
    def listen(model, optimizer):
        optimizer.register_step_pre_hook(StepRecorder(model, folder))

    return listen


@pytest.mark.parametrize("is_hook", [True, False], ids=["hook", "call"])
def test_every_step_is_recorded_and_gives_its_batch_away(torch, tmp_path, is_hook):
    call = lambda model, _: StepRecorder(model, tmp_path)
    model, batches, sent = train(torch, hook(tmp_path) if is_hook else call)
    paths = sorted(tmp_path.glob("*/*"))
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        f"round-000{step}/client-0.safetensors" for step in range(1, STEPS + 1)
    ]
    for path, inputs, weights in zip(paths, batches, sent, strict=True):
        update = sj.load_update(path)
        np.testing.assert_array_equal(update.global_tensors["0.weight"], weights["0.weight"])
        rows = np.linalg.svd(update.client_tensors["0.weight"])[2][:BATCH]  # what the batch's inputs span
        np.testing.assert_allclose(inputs @ rows.T @ rows, inputs, atol=1e-10)
        assert not np.allclose((inputs + 1) @ rows.T @ rows, inputs + 1, atol=1e-2)
        result = sj.reconstruct(update.observation(), jax.random.key(0), CONFIG)
        assert result.certificate.exact.all()
        distance = np.abs(result.inputs[:, None] - inputs).max(axis=2)
        np.testing.assert_allclose(distance.min(axis=0), 0, atol=1e-9)
    unheard, *_ = train(torch)
    for ours, theirs in zip(model.parameters(), unheard.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_recorded_is_logged_and_the_training_goes_on(torch, tmp_path, caplog):
    train(torch, hook(tmp_path))
    train(torch, hook(tmp_path))
    assert caplog.text.count("exists; record every run in a folder of its own") == STEPS
    StepRecorder(torch.nn.Linear(2, 3), tmp_path / "other")()
    assert "no parameter has a gradient" in caplog.text


def test_wrong_metadata_are_refused_at_once(tmp_path):
    with pytest.raises(sj.UpdateError, match="lr is 'fast'; expected a positive number"):
        StepRecorder(None, tmp_path, metadata={"lr": "fast"})
