"""A network without surroundings, and pictures whose classes it knows by their colour."""

import jax.numpy as jnp
import numpy as np

from attnseg.core.types import IMAGENET

K = 19


def example(size, name="drawn", period=61):
    """Stripes whose class the colour tells, and a corner that is ignored."""
    label = np.empty(size, np.uint8)
    label[:] = (np.arange(size[1]) // period % K).astype(np.uint8)
    image = np.repeat(label[..., None] * np.uint8(13), 3, axis=-1)
    label[: size[0] // 8, : size[1] // 8] = 255
    return {"image": image, "label": label, "id": name, "size": np.array(size, np.int32)}


def apply(params, batch_stats, images):
    """Every fourth pixel's logits; `params["scale"]` f32 [4] is 1."""
    colour = images[:, 2::4, 2::4, :1] * IMAGENET.std[0] + IMAGENET.mean[0]
    logits = -jnp.square(colour / 13 - jnp.arange(K)) * jnp.mean(params["scale"])
    return {"logits": logits, "aux": ()}


def init(key):
    return {"params": {"scale": jnp.ones(4)}}
