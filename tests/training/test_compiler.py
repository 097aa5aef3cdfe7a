"""What XLA is asked for."""

import jax
import jax.numpy as jnp
import pytest
from children import Children

from attnseg.core import compiler
from attnseg.core.jitted import Jitted

WHILE_TRAINING = """
import jax
import jax.numpy as jnp
from attnseg.recipe import run

def plan(*_):
    work = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda _, x: x @ x / 1000, x))
    print(work(jnp.ones((1000, 1000))).is_ready())
    raise SystemExit

run.plan = plan
run.train(None)
"""


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


@pytest.mark.parametrize(
    "environment, ready", [({}, "True"), ({"JAX_CPU_ENABLE_ASYNC_DISPATCH": "1"}, "False")]
)
def test_a_step_runs_in_the_thread_that_calls_it(environment, ready, monkeypatch):
    monkeypatch.delenv("JAX_CPU_ENABLE_ASYNC_DISPATCH", raising=False)
    status, output = Children("ATTNSEG_CALLER").run("-c", WHILE_TRAINING, **environment)
    assert status == 0 and output.split()[-1] == ready, output
