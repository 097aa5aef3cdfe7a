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
from attnseg.core.types import Batch
from attnseg.models import zoo
from attnseg.recipe.load import to_dict
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
    return lookup(data.DATASETS, config.data.name, "data set")


def build_model(config: ConfigDict):
    """The linen module."""
    return zoo.create_model(
        config.model.name,
        dataset_info(config).num_classes,
        backbone=_given(config.model.backbone),
        head=_given(config.model.head),
        aux_head=_given(config.model.aux_head) if config.model.aux else False,
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
    check(
        info.task == "segmentation",
        f"{info.name} is a classification data set; training on those is not here yet.",
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


def eval_batches(config: ConfigDict, source: data.Source, mesh: Mesh) -> Iterator[Batch]:
    """Every example of `source` once, in batches padded to a size the devices can share."""
    return data.eval_batches(
        source,
        resize=config.eval.resize,
        batch_size=-(-config.eval.batch_size // mesh.size) * mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


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
    return Evaluation(
        init=init_function(config, model),
        apply=apply_functions(model)[1],
        task=build_task(config),
        batches=functools.partial(eval_batches, config, source, mesh),
        mesh=mesh,
    )


def build_job(config: ConfigDict, *, train: data.Source, val: data.Source) -> Job:
    """Everything the loop needs.

    Raises:
      UserError: sizes that do not fit the devices or the data.
    """
    evaluation = build_evaluation(config, val)
    part = config.data.batch_size // config.train.accumulate
    check_batch_size(evaluation.mesh, part, "data.batch_size / train.accumulate")
    info, model = dataset_info(config), build_model(config)
    steps = training_steps(config, train)
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
        params=jax.eval_shape(evaluation.init, jax.random.key(0))["params"],
        weight_decay=config.optim.weight_decay,
        betas=config.optim.betas,
        momentum=config.optim.momentum,
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
        meta={
            "config": to_dict(config),
            "classes": list(info.classes),
            "palette": np.asarray(info.palette).tolist(),
            "label_map": {str(k): v for k, v in info.label_map.items()},
        },
    )
