"""NumPy's decompositions on one thread, where more would wait for one another longer than they compute.

OpenBLAS lets its threads spin at every step of a decomposition. With other work on the cores a step waits until all of
them have run: an SVD of 1000 x 80 on two busy cores took 1.2 s with two threads and 6 ms with one. Products of matrices
have few such steps and keep their threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# From this many operations (about m n min(m, n)) on threads are worth waiting for: a second on one core.
LARGE = 2**33


def _on_one_thread(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """The function of a first matrix, on one thread unless that is large."""

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Returned:
        shape = np.shape(np.asarray(arguments[0]))
        if np.prod(shape, dtype=float) * min(shape[-2:]) >= LARGE:
            return function(*arguments, **options)
        with _threads().limit(limits=1, user_api="blas"):
            return function(*arguments, **options)

    return call


@functools.cache
def _threads() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded."""
    return ThreadpoolController()


cholesky = _on_one_thread(np.linalg.cholesky)
eigh = _on_one_thread(np.linalg.eigh)
eigvalsh = _on_one_thread(np.linalg.eigvalsh)
inv = _on_one_thread(np.linalg.inv)
lstsq = _on_one_thread(np.linalg.lstsq)
matrix_rank = _on_one_thread(np.linalg.matrix_rank)
pinv = _on_one_thread(np.linalg.pinv)
qr = _on_one_thread(np.linalg.qr)
solve = _on_one_thread(np.linalg.solve)
svd = _on_one_thread(np.linalg.svd)

# Nothing is gained for these.
LinAlgError = np.linalg.LinAlgError
det = np.linalg.det
norm = np.linalg.norm
