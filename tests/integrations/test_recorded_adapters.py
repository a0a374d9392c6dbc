"""PEFT's adapters as a federation sends them: what a recorder writes is read as the update of the language model."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import spear_jax as sj
from spear_jax.integrations.recording import received_update, record
from tests.helpers.golden_models import GOLDEN

SPELLINGS = {"file": lambda name: name, "live": lambda name: name.replace(".weight", ".default.weight")}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_recorded_adapters_are_read_with_the_folder_that_has_their_scale(tmp_path, spelling):
    spell = SPELLINGS[spelling]
    sent = load_file(GOLDEN / "peft" / "adapter_model.safetensors")
    back = {name: tensor + np.float32(0.01) for name, tensor in sent.items()}
    sides = ({spell(name): tensor for name, tensor in side.items()} for side in (sent, back))
    path = record(received_update(*sides, metadata={"lr": "0.1"}, facts={}), tmp_path, 1, "a")
    model = sj.read_language_model(GOLDEN / "llama")
    update = sj.read_text_update(path, model, adapter=sj.read_adapter(GOLDEN / "peft", model))
    assert (update.kind, len(update.gradients)) == ("weights", len(sent))
    for gradient in update.gradients.values():
        np.testing.assert_allclose(gradient, -0.1, atol=1e-4)
    with pytest.raises(sj.UpdateError, match="scale is not known; give the adapter's folder too"):
        sj.read_text_update(path, model)
