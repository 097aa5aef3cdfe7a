"""KerasHub's SegFormer on its JAX backend."""

from __future__ import annotations

from attnseg.benchmark import account
from attnseg.benchmark.cases import Case
from attnseg.benchmark.contestant import RATE, Contestant, check_platform
from attnseg.core.errors import UserError

# Depths, widths and decoder width of each size (arXiv:2105.15203, table 6).
_SIZES = {
    "segformer_b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "segformer_b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
}


def build(case: Case, platform: str) -> Contestant:
    """The case in KerasHub: logits as the others have them, and the training step of `fit`.

    Raises:
      UserError: Keras does not run on `platform`, or there is no such network.
    """
    if case.name not in _SIZES:
        raise UserError(f"{case.name} has no KerasHub version here.")
    import jax
    import keras
    import keras_hub
    import numpy as np

    used = f"keras {keras.__version__}, keras-hub {keras_hub.__version__}, jax {jax.__version__}"
    device = f"{jax.devices()[0].device_kind}, {used}"
    check_platform(jax.default_backend(), device, platform)
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

    # Before they are enlarged to the image, which nobody else does here.
    low = keras.Model(model.inputs, model.output_segmentation_head.output)
    trained, others = (
        [[id(v) for v in among].index(id(v)) for v in chosen]
        for among, chosen in (
            (model.trainable_variables, low.trainable_variables),
            (model.non_trainable_variables, low.non_trainable_variables),
        )
    )

    def forward(state, images):
        held = [state[0][i] for i in trained], [state[1][i] for i in others]
        return low.stateless_call(*held, images, training=False)[0]

    # What `train_on_batch` runs, without its copies from the host.
    whole = jax.jit(model.train_step, donate_argnums=0)
    infer, infer_facts = account.compiled(lambda: jax.jit(forward).lower(state, images).compile())
    step, train_facts = account.compiled(lambda: whole.lower(state, (images, labels)).compile())

    def train():
        nonlocal state
        logs, state = step(state, (images, labels))
        return logs, state

    runs = {"infer": lambda: infer(state, images), "train": train}
    facts = {"infer": infer_facts, "train": train_facts}
    count = model.count_params()
    return Contestant(runs, jax.block_until_ready, device, platform, parameters=count, facts=facts)
