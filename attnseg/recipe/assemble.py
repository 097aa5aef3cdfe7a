"""From a configuration to the objects of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.errors import check, lookup
from attnseg.core.mesh import check_batch_size, make_mesh
from attnseg.core.types import Batch
from attnseg.models import zoo
from attnseg.recipe.load import to_dict
from attnseg.tasks.segmentation import Segmentation
from attnseg.train.loop import Job
from attnseg.train.optim import Rule, make_optimizer
from attnseg.train.schedule import make_schedule
from attnseg.weights import load_weights


def _given(section: ConfigDict) -> dict[str, Any]:
    return {k: v for k, v in section.items() if v is not None}


def dataset_info(config: ConfigDict) -> data.DatasetInfo:
    """Classes, palette, label map and normalisation of the data set."""
    return lookup(data.DATASETS, config.data.name, "data set")


def build_model(config: ConfigDict):
    """The linen module."""
    return zoo.create_model(
        config.model.name,
        dataset_info(config).num_classes,
        backbone=_given(config.model.backbone),
        head=_given(config.model.head),
        dtype=config.model.dtype,
    )


def build_task(config: ConfigDict) -> Segmentation:
    """Loss and scores."""
    info = dataset_info(config)
    spec = zoo.find_spec(config.model.name)
    check(
        spec.task == info.task,
        f"{config.model.name} is a {spec.task} model, {info.name} is a {info.task} data set.",
    )
    return Segmentation(
        classes=info.classes,
        normalisation=info.normalisation,
        photometric=config.data.photometric,
        class_weights=config.loss.class_weights,
        label_smoothing=config.loss.label_smoothing,
        aux_weight=config.loss.aux_weight,
    )


def open_split(config: ConfigDict, split: str) -> data.Source:
    """The examples of one split, prepared on first use."""
    return data.open_source(
        config.data.name, split, root=config.data.root, prepared_dir=config.data.prepared
    )


def geometry(config: ConfigDict) -> data.RandomGeometry:
    """Scale, crop, flip and padding of training images."""
    return data.RandomGeometry(
        crop=config.data.crop,
        resize=config.data.resize,
        scale=config.data.scale,
        flip=config.data.flip,
        cat_max_ratio=config.data.cat_max_ratio,
        pad=config.data.pad,
    )


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
    )


def eval_batches(config: ConfigDict, source: data.Source) -> Iterator[Batch]:
    """Every example of `source` once, in padded batches."""
    return data.eval_batches(
        source,
        resize=config.eval.resize,
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def training_steps(config: ConfigDict, examples: int) -> int:
    """Length of training in updates."""
    if config.train.epochs is None:
        return config.train.steps
    return max(1, round(config.train.epochs * examples / config.data.batch_size))


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


def with_weights(config: ConfigDict, model, say: Callable[[str], None]):
    """The model with the fields of `init.weights`' layout, and the function that loads them."""
    path = config.init.weights
    if path is None:
        return model, None
    report = load_weights(model, path)[1]
    say(report.summary())
    return report.model, lambda variables: load_weights(report.model, path, variables=variables)[0]


def build_job(
    config: ConfigDict,
    *,
    train: data.Source,
    val: data.Source,
    say: Callable[[str], None] = print,
) -> Job:
    """Everything the loop needs.

    Raises:
      UserError: sizes that do not fit the devices or the data.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    part = config.data.batch_size // config.train.accumulate
    check_batch_size(mesh, part, "data.batch_size / train.accumulate")
    check_batch_size(mesh, config.eval.batch_size, "eval.batch_size")
    info, task = dataset_info(config), build_task(config)
    model, import_weights = with_weights(config, build_model(config), say)
    apply_train, apply_eval = apply_functions(model)
    init = init_function(config, model)
    steps = training_steps(config, len(train))
    schedule = make_schedule(
        config.schedule.name,
        lr=config.optim.lr,
        steps=steps,
        warmup_steps=config.schedule.warmup_steps,
        warmup_ratio=config.schedule.warmup_ratio,
        power=config.schedule.power,
        end_lr=config.schedule.end_lr,
    )
    tx = make_optimizer(
        config.optim.name,
        schedule=schedule,
        rules=[Rule(*rule) for rule in config.optim.rules],
        params=jax.eval_shape(init, jax.random.key(0))["params"],
        weight_decay=config.optim.weight_decay,
        betas=config.optim.betas,
        momentum=config.optim.momentum,
        clip_norm=config.optim.clip_norm,
    )
    return Job(
        init=init,
        import_weights=import_weights,
        apply_train=apply_train,
        apply_eval=apply_eval,
        task=task,
        tx=tx,
        schedule=schedule,
        train_batches=functools.partial(train_batches, config, train),
        eval_batches=functools.partial(eval_batches, config, val),
        batch_size=config.data.batch_size,
        steps=steps,
        seed=config.seed,
        accumulate=config.train.accumulate,
        ema=config.train.ema,
        log_every=config.log.every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        mesh=mesh,
        meta={
            "config": to_dict(config),
            "classes": list(info.classes),
            "palette": np.asarray(info.palette).tolist(),
            "label_map": {str(k): v for k, v in info.label_map.items()},
        },
    )
