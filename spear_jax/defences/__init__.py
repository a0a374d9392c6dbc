"""Defences a client may apply to its update before sending it, and what a trial of one came to."""

from spear_jax.defences.table import DEFENCES as DEFENCES
from spear_jax.defences.table import Defence as Defence
from spear_jax.defences.table import by_name as by_name
from spear_jax.defences.table import client_dp as client_dp
from spear_jax.defences.table import clip as clip
from spear_jax.defences.table import gaussian_noise as gaussian_noise
from spear_jax.defences.table import quantize as quantize
from spear_jax.defences.table import random_mask as random_mask
from spear_jax.defences.table import top_k as top_k
from spear_jax.defences.table import zero_bias as zero_bias
