"""An average over clients is one batch to a server: what FedSGD makes of two clients gives the samples of both."""

import dataclasses

import jax
import numpy as np
import pytest

import spear_jax as sj


def update_of(batch, model, params):
    return sj.simulate_update(model, params, batch, dtype="float64")[0]


def average(updates, weights):
    """The server's aggregate of gradients, and the model that it sent."""
    gradients = {
        name: sum(weight * update.client_tensors[name] for weight, update in zip(weights, updates, strict=True))
        for name in updates[0].client_tensors
    }
    return sj.Update(updates[0].global_tensors, gradients, {"kind": "gradient"})


@pytest.mark.slow
def test_the_average_of_two_clients_weighted_by_their_samples_is_inverted_as_one_batch():
    sizes = (5, 3)
    batch = sj.demo_batch(batch_size=8, image_size=10, seed=0)
    model = sj.MLP(widths=(200,), num_classes=batch.num_classes)
    params = sj.init_params(model, jax.random.key(1), batch.inputs.shape[1])
    parts = [
        dataclasses.replace(batch, inputs=batch.inputs[part], labels=batch.labels[part], images=None)
        for part in (slice(sizes[0]), slice(sizes[0], 8))
    ]
    updates = [update_of(part, model, params) for part in parts]
    aggregate = average(updates, np.array(sizes) / 8)
    whole = update_of(batch, model, params)
    for name, gradient in aggregate.client_tensors.items():
        np.testing.assert_allclose(gradient, whole.client_tensors[name], atol=1e-12)
    # One client alone has its own samples and no others.
    assert [sj.factorize(update.observation().weight_grad).rank for update in updates] == list(sizes)

    config = sj.ReconstructConfig(num_devices=1)
    result = sj.reconstruct(aggregate.observation(), jax.random.key(0), config, model=aggregate.network())
    assert (result.batch_size, result.status) == (8, sj.Status.EXACT)
    found = [
        np.abs(np.asarray(result.inputs)[:, None] - part.inputs[None]).max(axis=2).min(axis=1) < 1e-6 for part in parts
    ]
    assert [int(of_client.sum()) for of_client in found] == list(sizes)
    assert (found[0] ^ found[1]).all()
