"""spear_jax: exact gradient inversion of whole batches, to audit what a federated-learning update leaks.

SPEAR (Dimitrov, Baader, Mueller and Vechev, NeurIPS 2024) in JAX: the weight gradient of a fully connected layer
followed by ReLU has rank b and hides b sparse directions, which give back the batch of b inputs exactly.
"""

from importlib.metadata import PackageNotFoundError, version

from spear_jax.attacks.dense.copies import Copies as Copies
from spear_jax.attacks.dense.copies import count_copies as count_copies
from spear_jax.attacks.dense.pipeline import reconstruct as reconstruct
from spear_jax.client.dp_sgd import dp_sgd_update as dp_sgd_update
from spear_jax.client.evaluate import Evaluation as Evaluation
from spear_jax.client.evaluate import evaluate as evaluate
from spear_jax.client.gradient import simulate_update as simulate_update
from spear_jax.client.load import Batch as Batch
from spear_jax.client.load import DataError as DataError
from spear_jax.client.load import demo_batch as demo_batch
from spear_jax.client.load import load_batch as load_batch
from spear_jax.client.local_training import LocalTraining as LocalTraining
from spear_jax.client.local_training import simulate_round as simulate_round
from spear_jax.client.models import MLP as MLP
from spear_jax.client.models import init_params as init_params
from spear_jax.client.models import train as train
from spear_jax.client.truth import Truth as Truth
from spear_jax.config import ReconstructConfig as ReconstructConfig
from spear_jax.devices import initialize_distributed as initialize_distributed
from spear_jax.errors import UpdateError as UpdateError
from spear_jax.factorization import factorize as factorize
from spear_jax.normalization import Normalization as Normalization
from spear_jax.observation import LayerObservation as LayerObservation
from spear_jax.status import Status as Status
from spear_jax.types import CandidatePool as CandidatePool
from spear_jax.types import Certificate as Certificate
from spear_jax.types import Factorization as Factorization
from spear_jax.types import Result as Result
from spear_jax.types import SearchStats as SearchStats
from spear_jax.update.bundle import Update as Update
from spear_jax.update.bundle import load_update as load_update
from spear_jax.update.bundle import save_update as save_update
from spear_jax.update.make import ModelFile as ModelFile
from spear_jax.update.make import make_update as make_update
from spear_jax.update.readers.model_files import read_model as read_model

try:
    __version__ = version("spear-jax")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
