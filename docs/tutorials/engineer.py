"""For engineers: from two model files on a server's disk to the page one hands on. `python docs/tutorials/engineer.py`

Writes into the folder it runs in. Seconds on two cores.
"""

import subprocess
import sys

import jax
import numpy as np

import spear_jax as sj

jax.config.update("jax_enable_x64", True)

# A federation's round, simulated: four photos of one client, one SGD step. Of your own system you have the two files.
batch = sj.demo_batch(batch_size=4, image_size=32, seed=0)
model = sj.MLP(widths=(128, 128), num_classes=batch.num_classes)
params = sj.init_params(model, jax.random.key(0), batch.inputs.shape[1])
training = sj.LocalTraining(learning_rate=0.1)
sent, truth = sj.simulate_round(model, params, batch, jax.random.key(1), training, kind="weights")
np.savez("global.npz", **sent.global_tensors)
np.savez("client.npz", **sent.client_tensors)

# 1. The two files make an update bundle. Everything the server knows of the training is told here.
facts = {"image_shape": "[32, 32, 3]", "normalization": batch.normalization.to_json()}
update = sj.make_update(
    sj.read_model("global.npz"), sj.read_model("client.npz"), lr=0.1, local_steps=1, num_examples=4, metadata=facts
)
sj.save_update(update, "update.safetensors")

# 2. What does it show? A verdict for each layer, without a search.
for layer in update.layers:
    print(f"{layer.name}: {sj.exposure(update, layer)['verdict']}")

# 3. The batch behind it, with a certificate. A search that was stopped would go on with resume=True.
record = sj.audit_update("update.safetensors", out="recon")
print(f"{record['certified']} of {record['batch_size']} samples certified: {record['message']}")

# 4. The page one hands on. It shows private data: keep it as such.
subprocess.run([sys.executable, "-m", "spear_jax", "report", "recon"], check=True, capture_output=True)
print("page: recon/index.html")
