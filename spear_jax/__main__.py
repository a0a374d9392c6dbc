"""``python -m spear_jax``: the same as ``spear-jax``."""

from spear_jax.cli import main

main()
