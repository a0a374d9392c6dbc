"""Federation frameworks: what a server receives of each client, as update bundles.

Each framework has a module of its own: `spear_jax.integrations.flower` and `spear_jax.integrations.nvflare`.
"""

from spear_jax.integrations.recording import received_update as received_update
