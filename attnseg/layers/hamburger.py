"""Hamburger: global context by matrix factorisation between two linear maps (arXiv:2109.04553)."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import check
from attnseg.layers.conv import Linear, conv_init
from attnseg.layers.norm import CONSTANTS, GroupNorm
from attnseg.layers.record import MapsRecord, record
from attnseg.ops.activation import relu
from attnseg.ops.nmf import GRADIENTS, factors, reconstruct

SEED = 0  # of the bases at evaluation


def _unit_columns(bases: Array | np.ndarray) -> Array | np.ndarray:
    """Scales every basis of [n d r] to length one."""
    return bases / (bases**2).sum(axis=1, keepdims=True) ** 0.5


@functools.lru_cache(maxsize=16)
def evaluation_bases(width: int, rank: int) -> np.ndarray:
    """Bases f32 [1 d r] for all examples.

    Published code draws them anew at every forward pass, so that one image has many results.
    NumPy's legacy generator is the one whose numbers are promised never to change.
    """
    bases = np.random.RandomState(SEED).random_sample((1, width, rank))
    bases = _unit_columns(bases).astype(np.float32)
    bases.setflags(write=False)  # shared through the cache
    return bases


def _shares(coef: Array, bases: Array) -> Array:
    """How much of each basis a pixel holds, [n l r].

    Bases of any length, with coefficients to match, rebuild the same map; here all count as of
    length one.
    """
    return coef * jnp.linalg.norm(bases, axis=1)[:, None]


class Hamburger(nn.Module):
    """Linear map, NMF, linear map, around a skip connection (light version, as in SegNeXt).

    Bases come from the collection ``constants`` (entry ``bases`` [1 d r], or one [d r] for each
    example) where it has any; otherwise they are fixed at evaluation and, in training, drawn for
    each example from the rng "dropout".
    """

    channels: int  # width d of the factorised map
    rank: int = 64  # bases r
    train_steps: int = 6
    eval_steps: int = 7
    gradient: str = "full"  # or "one_step", see `attnseg.ops.nmf.nmf`
    groups: int = 32  # of the GroupNorm
    dtype: jnp.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.gradient in GRADIENTS,
            f'hamburger: gradient "{self.gradient}" is none of {list(GRADIENTS)}.',
        )
        check(
            min(self.channels, self.rank, self.train_steps, self.eval_steps) >= 1,
            "hamburger: channels, rank, train_steps and eval_steps must be at least 1, got "
            f"{self.channels}, {self.rank}, {self.train_steps} and {self.eval_steps}.",
        )

    def _bases(self, examples: int, train: bool) -> Array | np.ndarray:
        if train:
            shape = (examples, self.channels, self.rank)
            return _unit_columns(jax.random.uniform(self.make_rng("dropout"), shape))
        given = self.get_variable(CONSTANTS, "bases", None)
        return evaluation_bases(self.channels, self.rank) if given is None else given[:examples]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n h w c] -> [n h w c], not negative."""
        n, h, w, c = x.shape
        dense = functools.partial(Linear, kernel_init=conv_init, dtype=self.dtype)
        y = relu(dense(self.channels, name="ham_in")(x)).reshape(n, h * w, self.channels)
        steps = self.train_steps if train else self.eval_steps
        coef, bases = factors(y, jnp.asarray(self._bases(n, train)), steps, self.gradient)
        record(self, lambda: MapsRecord(_shares(coef, bases).reshape(n, h, w, self.rank), "basis"))
        y = reconstruct(coef, bases, y.dtype)
        y = dense(c, use_bias=False, name="ham_out")(y.reshape(n, h, w, self.channels))
        y = GroupNorm(num_groups=self.groups, dtype=self.dtype, name="ham_out_norm")(y)
        return relu(x + y)
