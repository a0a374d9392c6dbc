"""For those who test defences: what a defence of a client takes from the attack. `python docs/tutorials/defender.py`

A defence is a function from an update to an update. Less than a minute on two cores.
"""

import jax
import numpy as np

import spear_jax as sj
from spear_jax.defences import DEFENCES, by_name

jax.config.update("jax_enable_x64", True)

batch = sj.demo_batch(batch_size=6, image_size=32, seed=0)
model = sj.MLP(widths=(200, 200), num_classes=batch.num_classes)
params = sj.init_params(model, jax.random.key(0), batch.inputs.shape[1])
update, truth = sj.simulate_update(model, params, batch, dtype="float32")


def attack(sent):
    """Certified samples, and photos above 20 dB, which one would know again."""
    config = sj.ReconstructConfig(max_seconds=5.0)
    result = sj.reconstruct(sent.observation(), jax.random.key(0), config, model=sent.network())
    if not np.isfinite(np.asarray(result.inputs)).any():
        return 0, 0
    scores = sj.evaluate(result.inputs, batch.inputs, normalization=batch.normalization, image_shape=batch.image_shape)
    return int(result.certificate.exact.sum()), int(np.sum(scores.psnr > 20))


# 1. Without a defence.
print("without a defence: {} of 6 certified, {} recognisable".format(*attack(update)))

# 2. The table of defences; each has one strength, and says what it is.
print("known:", ", ".join(DEFENCES))

# 3. Noise, from harmless to deadly. Each strength is an update that the client would have sent.
noise = by_name("gaussian_noise")
stops = None
for strength in (1e-6, 1e-3, 1.0):
    certified, recognisable = attack(noise(update, strength, jax.random.key(1)))
    print(f"noise {strength:g}: {certified} certified, {recognisable} recognisable")
    stops = strength if stops is None and certified == recognisable == 0 else stops
print(f"nothing was left from noise of {stops:g} on" if stops else "no strength tried stops it")

# 4. A defence of your own is tried in the same way: here, clipping, which changes nothing but the scale.
print("clipped: {} of 6 certified, {} recognisable".format(*attack(by_name("clip")(update, 0.1, jax.random.key(1)))))

# 5. All of them at once, on an update of your own, for the page: spear-jax defend UPDATE --sweep --out recon/
