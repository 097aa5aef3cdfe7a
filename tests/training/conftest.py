"""Compiling dominates here: these tests compare runs of ours, so quickly compiled code will do."""

import jax
import pytest


@pytest.fixture(autouse=True)
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
