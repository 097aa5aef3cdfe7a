"""Gradients that more than one family's tests look at."""

import jax
import jax.numpy as jnp


def gradient_by_seed(model, variables, images):
    """``seed of drop path and dropout -> gradient`` of the squared logits; compiled once."""

    @jax.jit
    def run(seed):
        def loss(params):
            out = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(seed)},
                mutable=["batch_stats"],
            )[0]
            return jnp.sum(out["logits"] ** 2)

        return jax.grad(loss)(variables["params"])

    return run
