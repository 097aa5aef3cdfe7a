"""KerasHub's SegFormer on its JAX backend."""

from __future__ import annotations

from attnseg.benchmark import account
from attnseg.benchmark.cases import Case
from attnseg.benchmark.contestant import Contestant
from attnseg.benchmark.torch_side import RATE
from attnseg.core.errors import UserError

# Depths, first width and decoder width of each size (arXiv:2105.15203, table 6).
_SIZES = {
    "segformer_b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "segformer_b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
}


def build(case: Case) -> Contestant:
    """The case in KerasHub: its forward pass and its training step, compiled as `fit` would."""
    if case.name not in _SIZES:
        raise UserError(f"{case.name} has no KerasHub version here.")
    import jax
    import keras
    import keras_hub
    import numpy as np

    if case.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    depths, widths, decoder = _SIZES[case.name]
    h, w = case.size
    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=list(depths),
        num_layers=4,
        layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(h, w, 3),
        hidden_dims=list(widths),
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=decoder)
    model = keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=case.width)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Its own metric, which takes one-hot labels, would also not be in the others' steps.
    model.compile(keras.optimizers.AdamW(RATE), loss=loss, metrics=[], jit_compile=True)
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.normal(size=(case.batch, h, w, 3)).astype(np.float32))
    labels = jax.device_put(rng.integers(0, case.width, (case.batch, h, w)).astype(np.int32))
    model.optimizer.build(model.trainable_variables)
    kinds = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in kind] for kind in kinds)

    def forward(trained, others, images):
        return model.stateless_call(trained, others, images, training=False)[0]

    infer = jax.jit(forward).lower(*state[:2], images).compile()
    # What `predict_on_batch` and `train_on_batch` run, without their copies from and to the host.
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, (images, labels)).compile()

    def train():
        nonlocal state
        logs, state = step(state, (images, labels))
        return logs, state

    runs = {"infer": lambda: infer(*state[:2], images), "train": train}
    facts = {"infer": account.memory(infer), "train": account.memory(step)}
    count = model.count_params()
    used = f"keras {keras.__version__}, keras-hub {keras_hub.__version__}, jax {jax.__version__}"
    device = f"{jax.devices()[0].device_kind}, {used}"
    platform = jax.default_backend()
    return Contestant(runs, jax.block_until_ready, device, platform, parameters=count, facts=facts)
