"""Federation frameworks and training loops: what a server receives of each client, as update bundles.

Each framework has a module of its own: `spear_jax.integrations.flower`, `spear_jax.integrations.nvflare` and
`spear_jax.integrations.pytorch`.
"""

from spear_jax.integrations.recording import check_metadata as check_metadata
from spear_jax.integrations.recording import listening as listening
from spear_jax.integrations.recording import make_folder as make_folder
from spear_jax.integrations.recording import received_update as received_update
from spear_jax.integrations.recording import record as record
