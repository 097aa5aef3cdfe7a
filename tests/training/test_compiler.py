"""What XLA is asked for."""

import jax
import jax.numpy as jnp
import pytest

from attnseg.core import compiler
from attnseg.core.jitted import Jitted


@pytest.fixture(autouse=True)
def forget():
    compiler.compiler_options.cache_clear()
    yield
    compiler.compiler_options.cache_clear()


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_eigen_convolves(mode):
    if jax.default_backend() != "cpu":
        assert compiler.compiler_options(mode) == {}
        return

    def product(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)

    arguments = jnp.ones((1, 16, 16, 32)), jnp.ones((3, 3, 32, 32))
    options = compiler.compiler_options(mode)
    text = jax.jit(product, compiler_options=options).lower(*arguments).compile().as_text()
    assert "ynn_fusion" not in text


def test_another_version_of_xla_does_without(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU", {"infer": {"xla_cpu_no_such_option": "1"}})
    assert compiler.compiler_options("infer") == {}
    assert Jitted(lambda x: x + 1)(1) == 2
