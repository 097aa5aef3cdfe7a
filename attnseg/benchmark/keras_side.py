"""KerasHub's SegFormer on its JAX backend."""

from __future__ import annotations

from attnseg.benchmark.cases import Case
from attnseg.benchmark.torch_side import RATE
from attnseg.core.errors import UserError

# Depths, first width and decoder width of each size (arXiv:2105.15203, table 6).
_SIZES = {
    "segformer_b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "segformer_b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
}


def build(case: Case):
    """``(runs, facts by mode, parameters, device, peak memory)``, as `worker` wants them."""
    if case.name not in _SIZES:
        raise UserError(f"{case.name} has no KerasHub version here.")
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
    images = rng.normal(size=(case.batch, h, w, 3)).astype(np.float32)
    labels = rng.integers(0, case.width, (case.batch, h, w)).astype(np.int32)
    runs = {
        "infer": lambda: model.predict_on_batch(images),
        "train": lambda: model.train_on_batch(images, labels),
    }
    return runs, {}, model.count_params(), f"keras {keras.__version__}", lambda: None
