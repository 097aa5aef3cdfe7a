"""Matrix factorisation against recorded results of mmsegmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from attnseg.core.errors import UserError
from attnseg.ops.nmf import factorise, nmf, update_coef

STEPS = {"eval": 7, "train": 6}


def tokens(array):
    """[n h w c] -> [n l c]."""
    return jnp.asarray(array.reshape(array.shape[0], -1, array.shape[-1]))


def inputs():
    golden = Golden("nmf2d")
    return golden, tokens(golden["in/x"]), jnp.asarray(golden["in/bases"])


@pytest.mark.parametrize("mode", STEPS)
def test_results_and_both_gradients_equal_recorded_ones(mode):
    golden, x, bases = inputs()
    upstream = tokens(golden["in/gy"])

    @jax.jit
    def run(x, bases):
        last, coef = factorise(x, bases, STEPS[mode])
        factors = last, update_coef(x, last, coef)
        out, full = jax.vjp(lambda *args: nmf(*args, STEPS[mode]), x, bases)
        again, one = jax.vjp(lambda *args: nmf(*args, STEPS[mode], "one_step"), x, bases)
        return factors, out, again, full(upstream), one(upstream)

    (last_bases, last_coef), out, again, full, one = run(x, bases)
    np.testing.assert_allclose(last_bases, golden[f"out/bases_{mode}"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last_coef, golden[f"out/coef_{mode}"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out, tokens(golden[f"out/y_{mode}"]), atol=1e-5)
    np.testing.assert_array_equal(out, again)

    def close(ours, theirs):
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()

    close(full[0], tokens(golden[f"grad/x_{mode}"]))
    close(full[1], golden[f"grad/bases_{mode}"])
    close(one[0], tokens(golden[f"grad_onestep/x_{mode}"]))
    assert not np.any(one[1])


def test_every_step_lowers_the_error_and_keeps_the_sign():
    _, x, bases = inputs()

    @jax.jit
    def error(x, bases):
        factors = [factorise(x, bases, steps) for steps in range(5)]
        errors = [jnp.sum((x - coef @ jnp.swapaxes(b, 1, 2)) ** 2) for b, coef in factors]
        return jnp.stack(errors), jnp.stack([jnp.min(f) for pair in factors for f in pair])

    errors, smallest = error(x, bases)
    assert np.all(np.diff(errors) < 0)
    assert np.all(smallest >= 0)


def test_no_factors_of_the_steps_are_kept_for_the_backward_pass():
    steps, x, bases = 6, jnp.ones((2, 35, 12)), jnp.ones((2, 12, 4))
    backward = jax.eval_shape(lambda x, b: jax.vjp(lambda *a: nmf(*a, steps), x, b)[1], x, bases)
    kept = [leaf.shape for leaf in jax.tree_util.tree_leaves(backward)]
    assert all(shape[0] != steps for shape in kept)
    assert kept.count(x.shape) <= 1


def test_half_precision_is_widened_inside():
    _, x, bases = inputs()
    x = x.astype(jnp.bfloat16)
    # One row of bases serves all examples.
    half, full = (jax.jit(nmf, static_argnums=2)(v, bases[:1], 7) for v in (x, x.astype("float32")))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))


def test_an_unknown_gradient_is_refused():
    with pytest.raises(UserError, match="none of"):
        nmf(jnp.ones((1, 3, 2)), jnp.ones((1, 2, 1)), 1, "two_step")


def test_no_state_of_the_steps_is_kept_for_the_backward_pass():
    x, bases = jnp.ones((1, 32, 8)), jnp.ones((1, 8, 4))

    def kept(steps):
        residuals = jax.vjp(lambda x: nmf(x, bases, steps), x)[1]
        return sum(a.size for a in jax.tree_util.tree_leaves(residuals))

    assert kept(1) == kept(6)
