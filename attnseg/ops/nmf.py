"""Non-negative matrix factorisation, the "ham" of Hamburger (arXiv:2109.04553).

A map of l pixels with d channels is approximated by r bases: x ~ coef bases^T. Multiplicative
updates (Lee & Seung 2000) keep both factors non-negative and lower the error at every step.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from attnseg.core.errors import check

EPSILON = 1e-6  # in the denominators
GRADIENTS = ("full", "one_step")

_einsum = functools.partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)


def update_coef(x: Array, bases: Array, coef: Array) -> Array:
    """One update of coef [n l r] towards x [n l d] with bases [n d r] fixed."""
    wanted = _einsum("nld,ndr->nlr", x, bases)
    # (bases^T bases) first: an r x r matrix in place of the l x d reconstruction.
    present = _einsum("nlr,nrs->nls", coef, _einsum("ndr,nds->nrs", bases, bases))
    return coef * (wanted / (present + EPSILON))


def update_bases(x: Array, bases: Array, coef: Array) -> Array:
    """One update of bases [n d r] towards x [n l d] with coef [n l r] fixed."""
    wanted = _einsum("nld,nlr->ndr", x, coef)
    present = _einsum("ndr,nrs->nds", bases, _einsum("nlr,nls->nrs", coef, coef))
    return bases * (wanted / (present + EPSILON))


@functools.partial(jax.checkpoint, static_argnums=2)
def factorise(x: Array, bases: Array, steps: int) -> tuple[Array, Array]:
    """Factors of non-negative x [n l d] after `steps` updates of each, float32.

    Starts from the given bases [n d r] and coef = softmax(x bases). Until the backward pass only
    the arguments are kept: it factorises again, keeping the small factors of every step for as
    long as it goes back through them, and recomputes the products with `x`.
    """
    coef = jax.nn.softmax(_einsum("nld,ndr->nlr", x, bases), axis=-1)

    def step(factors: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        bases, coef = factors
        coef = update_coef(x, bases, coef)
        return (update_bases(x, bases, coef), coef), None

    step = jax.checkpoint(step, prevent_cse=False)  # inside a scan nothing can be merged
    return jax.lax.scan(step, (bases, coef), None, length=steps)[0]


def factors(x: Array, bases: Array, steps: int, gradient: str = "full") -> tuple[Array, Array]:
    """The two factors of a non-negative map, coef [n l r] and bases [n d r], float32.

    Args:
      x: [n l d], not negative.
      bases: initial bases [n d r], or [1 d r] for all examples.
      steps: updates of coef and bases, followed by a last one of coef alone.
      gradient: "full" differentiates through all steps, as published SegNeXt code does;
        "one_step" through the last update of coef only, the factors before it held constant
        (the Hamburger paper's one-step gradient).

    Raises:
      UserError: `gradient` is neither.
    """
    check(gradient in GRADIENTS, f'nmf: gradient "{gradient}" is none of {list(GRADIENTS)}.')
    x = x.astype(jnp.float32)
    bases = jnp.broadcast_to(bases.astype(jnp.float32), (x.shape[0], *bases.shape[1:]))
    if gradient == "full":
        bases, coef = factorise(x, bases, steps)
    else:
        bases, coef = jax.lax.stop_gradient(factorise(*jax.lax.stop_gradient((x, bases)), steps))
    return update_coef(x, bases, coef), bases


def reconstruct(coef: Array, bases: Array, dtype: jnp.dtype) -> Array:
    """coef bases^T, [n l d]."""
    return _einsum("nlr,ndr->nld", coef, bases).astype(dtype)


def nmf(x: Array, bases: Array, steps: int, gradient: str = "full") -> Array:
    """Low-rank reconstruction [n l d] of a non-negative map, in its dtype; see `factors`."""
    return reconstruct(*factors(x, bases, steps, gradient), x.dtype)
