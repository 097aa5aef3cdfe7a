"""From a configuration to the objects of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.errors import check, lookup
from attnseg.core.mesh import check_batch_size, make_mesh
from attnseg.core.types import Batch, Example
from attnseg.models import zoo
from attnseg.objectives import SegmentationLoss
from attnseg.recipe.load import to_dict
from attnseg.recipe.subset import Subset
from attnseg.recipe.views import eval_views, is_plain
from attnseg.tasks.classification import Classification
from attnseg.tasks.segmentation import Segmentation
from attnseg.training.evaluate import Evaluation
from attnseg.training.loop import Job
from attnseg.training.optim import Rule, make_optimizer
from attnseg.training.schedule import make_schedule
from attnseg.weights import implied_fields, load_weights


def _given(section: ConfigDict) -> dict[str, Any]:
    return {k: v for k, v in section.items() if v is not None}


def dataset_info(config: ConfigDict) -> data.DatasetInfo:
    """Classes, palette, label map and normalisation of the data set."""
    if config.data.name == data.FOLDER:
        return folder(config).info()
    return lookup(data.DATASETS, config.data.name, "data set")


def folder(config: ConfigDict) -> data.Folder:
    """The user's own folder."""
    return data.Folder(
        config.data.root,
        classes=config.data.classes,
        ratios=config.data.split_ratios,
        image_suffix=config.data.image_suffix,
        label_suffix=config.data.label_suffix,
    )


def build_model(config: ConfigDict, num_classes: int | None = None):
    """The linen module, for the classes of the data set or, without looking at it, so many."""
    return zoo.create_model(
        config.model.name,
        dataset_info(config).num_classes if num_classes is None else num_classes,
        backbone=_given(config.model.backbone),
        head=_given(config.model.head),
        aux_head=_given(config.model.aux_head) if config.model.aux else False,
        dtype=config.model.dtype,
    )


def build_task(config: ConfigDict) -> Segmentation | Classification:
    """Loss and scores."""
    info = dataset_info(config)
    spec = zoo.find_spec(config.model.name)
    check(
        spec.task == info.task,
        f"{config.model.name} is a {spec.task} model, {info.name} is a {info.task} data set.",
    )
    if info.task == "classification":
        return Classification(
            classes=info.classes,
            normalisation=info.normalisation,
            label_smoothing=config.loss.label_smoothing,
            jitter=config.augment.color_jitter,
            erasing=config.augment.erasing,
            mixup=config.augment.mixup,
            cutmix=config.augment.cutmix,
            switch=config.augment.switch,
        )
    return Segmentation(
        classes=info.classes,
        normalisation=info.normalisation,
        photometric=config.data.photometric,
        objective=build_loss(config),
        aux_weight=config.loss.aux_weight,
    )


def build_loss(config: ConfigDict) -> SegmentationLoss:
    """The training loss of segmentation."""
    settings = {k: v for k, v in config.loss.items() if k != "aux_weight"}
    return SegmentationLoss(**settings)


def open_split(config: ConfigDict, split: str) -> data.Source:
    """The examples of one split, prepared on first use; a folder's are read where they lie."""
    if config.data.name == data.FOLDER:
        return folder(config).open(split, data.prepared_folder(config.data.prepared))
    return data.open_source(
        config.data.name, split, root=config.data.root, prepared_dir=config.data.prepared
    )


def cached(config: ConfigDict, source: data.Source) -> data.Source:
    """`source`, kept decoded on disk where ``data.cache`` says so.

    Raises:
      UserError: it is no segmentation data, or there is no room.
    """
    if config.data.cache == "none" or isinstance(source, data.Decoded):
        return source
    info = dataset_info(config)
    check(
        info.task == "segmentation",
        f"data.cache={config.data.cache} is for masks; {info.name} is a {info.task} data set, so "
        "set data.cache=none.",
    )
    return data.Decoded(
        source, info, data.prepared_folder(config.data.prepared), config.data.cache_gb
    )


def max_skipped(config: ConfigDict) -> int | None:
    """Records that may turn out to be unreadable; None where none may."""
    return config.data.max_skipped if config.data.on_error == "skip" else None


def readable(config: ConfigDict, source: data.Source) -> data.Source:
    """`source`, with other examples in place of unreadable ones where those may be skipped."""
    most = max_skipped(config)
    return source if most is None else data.Replacing(source, most)


def geometry(config: ConfigDict) -> data.RandomGeometry | data.RandomResizedCrop:
    """What happens to training images on the host."""
    if dataset_info(config).task == "classification":
        chosen = config.augment.randaugment
        return data.RandomResizedCrop(
            crop=config.data.crop,
            scale=config.augment.rrc_scale,
            ratio=config.augment.rrc_ratio,
            flip=config.data.flip,
            rotation=config.augment.rotation,
            interpolation=config.augment.interpolation,
            randaugment=data.parse_randaugment(chosen) if chosen else None,
        )
    return data.RandomGeometry(
        crop=config.data.crop,
        resize=config.data.resize,
        keep_ratio=config.data.keep_ratio,
        scale=config.data.scale,
        scale_step=config.data.scale_step,
        flip=config.data.flip,
        flip_vertical=config.data.flip_vertical,
        rotation=config.augment.rotation,
        cat_max_ratio=config.data.cat_max_ratio,
        pad=config.data.pad,
    )


def eval_transform(config: ConfigDict) -> data.EvalResize | data.CentreCrop:
    """What happens to evaluated images on the host."""
    if dataset_info(config).task == "classification":
        return data.CentreCrop(
            crop=config.data.crop,
            share=config.eval.crop_pct,
            interpolation=config.augment.interpolation,
        )
    return eval_views(config).fit


def train_batches(config: ConfigDict, source: data.Source, start_step: int) -> Iterator[Batch]:
    """Batches from number `start_step` on, endless."""
    return data.train_batches(
        source,
        geometry=geometry(config),
        batch_size=config.data.batch_size,
        seed=config.seed,
        start_step=start_step,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        max_skipped=max_skipped(config),
    )


def eval_batches(config: ConfigDict, source: data.Source, mesh: Mesh) -> Iterator[Batch]:
    """This process's examples of `source`, in batches padded to a size its devices can share."""
    share = _share(source)
    if not len(share):
        return iter(())
    rows = -(-config.eval.batch_size // mesh.size) * mesh.size
    return data.eval_batches(
        share,
        transform=eval_transform(config),
        batch_size=rows // jax.process_count(),
        max_skipped=max_skipped(config),
    )


def eval_examples(config: ConfigDict, source: data.Source) -> Iterator[Example]:
    """This process's examples of `source` as they are, one after the other."""
    return data.eval_examples(_share(source), max_skipped(config))


def _share(source: data.Source) -> data.Source:
    """What this process evaluates: every so many-th example."""
    count = jax.process_count()
    check(len(source) > 0, f"{source!r} has no examples.")
    if count == 1:
        return source
    return Subset(source, range(jax.process_index(), len(source), count))


def training_steps(config: ConfigDict, source: data.Source) -> int:
    """Length of training on `source` in updates."""
    if config.train.epochs is None:
        return config.train.steps
    epoch = data.steps_per_epoch(source, config.data.batch_size)
    return max(1, round(config.train.epochs * epoch))


def apply_functions(model) -> tuple[Callable, Callable]:
    """The model as functions of variables and images, for training and for evaluation."""

    def apply_train(params, batch_stats, images, key):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return outputs, updates.get("batch_stats", {})

    def apply_eval(params, batch_stats, images):
        return model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)

    return apply_train, apply_eval


def init_function(config: ConfigDict, model) -> Callable[[jax.Array], dict[str, Any]]:
    """``key -> variables`` at random."""
    image = jnp.zeros((1, *config.data.crop, 3), jnp.float32)
    return functools.partial(model.init, images=image, train=False)


def import_weights(config: ConfigDict, model, variables: dict[str, Any]) -> dict[str, Any]:
    """Initial variables with those of ``init.weights`` in place."""
    size = config.data.crop
    return load_weights(model, config.init.weights, image_size=size, variables=variables)[0]


def with_layout(config: ConfigDict, say: Callable[[str], None]) -> None:
    """Gives the model the fields that the format of ``init.weights`` implies, and reports.

    They become part of the configuration, so that resuming and evaluating build the same network.
    """
    for part, fields in implied_fields(build_model(config), config.init.weights).items():
        for field, value in fields.items():
            config.model[part][field] = value
    say(load_weights(build_model(config), config.init.weights)[1].summary())


def build_evaluation(config: ConfigDict, source: data.Source) -> Evaluation:
    """What evaluating on `source` needs."""
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    model = build_model(config)
    views, masks = eval_views(config), dataset_info(config).task == "segmentation"
    plain = is_plain(views)
    check(
        masks or plain,
        "eval.mode, eval.scales, eval.flip and eval.bucket are of segmentation; "
        f"{config.data.name} is a classification data set: leave them out.",
    )
    return Evaluation(
        init=init_function(config, model),
        apply=apply_functions(model)[1],
        task=build_task(config),
        batches=functools.partial(eval_batches, config, cached(config, source), mesh),
        mesh=mesh,
        views=None if plain else views,
        examples=functools.partial(eval_examples, config, source),
        windows=config.eval.batch_size,
        boundary=config.eval.boundary if masks else 0.0,
    )


def build_job(config: ConfigDict, *, train: data.Source, val: data.Source) -> Job:
    """Everything the loop needs.

    Raises:
      UserError: sizes that do not fit the devices or the data.
    """
    train, val = cached(config, train), cached(config, val)
    evaluation = build_evaluation(config, val)
    part = config.data.batch_size // config.train.accumulate
    check_batch_size(evaluation.mesh, part, "data.batch_size / train.accumulate")
    model = build_model(config)
    steps = training_steps(config, train)
    schedule = make_schedule(
        config.schedule.name,
        lr=config.optim.lr,
        steps=steps,
        warmup_steps=config.schedule.warmup_steps,
        warmup_ratio=config.schedule.warmup_ratio,
        power=config.schedule.power,
        end_lr=config.schedule.end_lr,
        every=config.schedule.every,
        gamma=config.schedule.gamma,
    )
    tx = make_optimizer(
        config.optim.name,
        schedule=schedule,
        rules=[Rule(*rule) for rule in config.optim.rules],
        params=jax.eval_shape(evaluation.init, jax.random.key(0))["params"],
        weight_decay=config.optim.weight_decay,
        betas=config.optim.betas,
        momentum=config.optim.momentum,
        nesterov=config.optim.nesterov,
        layer_decay=config.optim.layer_decay,
        clip_norm=config.optim.clip_norm,
    )
    return Job(
        evaluation=evaluation,
        import_weights=(
            functools.partial(import_weights, config, model) if config.init.weights else None
        ),
        apply_train=apply_functions(model)[0],
        tx=tx,
        schedule=schedule,
        train_batches=functools.partial(train_batches, config, train),
        batch_size=config.data.batch_size,
        steps=steps,
        seed=config.seed,
        accumulate=config.train.accumulate,
        ema=config.train.ema,
        log_every=config.log.every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        split=config.eval.split,
        meta={"config": to_dict(config), **data_meta(config)},
        nonfinite=config.train.nonfinite,
        max_nonfinite=config.train.max_nonfinite,
    )


def data_meta(config: ConfigDict) -> dict[str, Any]:
    """What a checkpoint stores of the data: classes, palette, label map, normalisation."""
    info = dataset_info(config)
    return {
        "classes": list(info.classes),
        "palette": np.asarray(info.palette).tolist(),
        "label_map": {str(k): v for k, v in info.label_map.items()},
        "normalisation": [list(values) for values in info.normalisation],
    }
