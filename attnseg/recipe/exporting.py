"""A trained network as a file for other programs: StableHLO, ONNX, Hugging Face."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnseg.core.errors import UserError, check, lookup
from attnseg.core.types import LOGITS, Normalisation
from attnseg.infer import export, onnx
from attnseg.ops.resize import resize_bilinear
from attnseg.recipe import assemble
from attnseg.recipe.trained import Trained
from attnseg.tasks.augment import normalise
from attnseg.training.checkpoint import versions, write_json
from attnseg.weights import huggingface

FORMATS = ("stablehlo", "onnx", "huggingface")
IMAGES = {"uint8": np.uint8, "float32": np.float32}
RESULTS = ("labels", "probabilities", "logits")
ABOUT = "attnseg export 1"  # version of the description


def make_server(
    model: nn.Module,
    variables: dict[str, Any],
    normalisation: Normalisation,
    images: str = "uint8",
    result: str = "labels",
) -> export.Server:
    """A network with normalisation before and enlarging to the image's size after it.

    Args:
      images: "uint8", RGB as in a file, or "float32", normalised.
      result: "labels", the class of each pixel u8 [n h w] or image i32 [n]; "probabilities" f32
        [n h w k] or [n k]; "logits", as the network gives them, [n h/s w/s k] or [n k].

    Raises:
      UserError: unknown `images` or `result`.
    """
    dtype = lookup(IMAGES, images, "kind of images")
    lookup({name: name for name in RESULTS}, result, "result")
    variables = jax.tree.map(np.asarray, variables)  # constants of the program

    def logits(x: Array) -> Array:
        x = normalise(x, normalisation) if images == "uint8" else x
        return model.apply(variables, x, train=False)[LOGITS]

    def scores(x: Array) -> Array:
        y = logits(x)
        return resize_bilinear(y, x.shape[1:3]) if y.ndim == 4 else y

    def labels(x: Array) -> Array:
        y = scores(x)
        return jnp.argmax(y, axis=-1).astype(jnp.uint8 if y.ndim == 4 else jnp.int32)

    def probabilities(x: Array) -> Array:
        return jax.nn.softmax(scores(x), axis=-1)

    serve = {"labels": labels, "probabilities": probabilities, "logits": logits}[result]
    return export.Server(serve, scores if result == "labels" else None, dtype)


def float32_model(trained: Trained) -> nn.Module:
    """The network without auxiliary head, computing in float32 whatever it was trained in."""
    config = trained.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.dtype, config.model.aux = "float32", False
    return assemble.build_model(config, trained.info.num_classes)


def export_program(
    trained: Trained,
    path: str | Path,
    *,
    format: str = "stablehlo",
    images: str = "uint8",
    result: str = "labels",
    size: tuple[int, int] | None = None,
    about: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes one file with the network and a description beside it, ``NAME.json``.

    The file is read back and compared with the network on three sizes before it is kept.

    Args:
      path: ends in .stablehlo or .onnx, as `format` says.
      images, result: see `make_server`.
      size: (h, w) to fix; None: any size, or multiples of 32, or the training crop, whichever is
        the most general that the network's arithmetic allows. ONNX files have one size.
      about: further entries of the description.

    Returns:
      The path.

    Raises:
      UserError: a path that exists, an unknown option, a missing extra, or a program that
        differs from the network.
    """
    path = _check_file(Path(path), format)
    info, config = trained.info, trained.config
    model = float32_model(trained)
    server = make_server(model, trained.variables, info.normalisation, images, result)
    crop = tuple(config.data.crop)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if format == "onnx":
            # jax2onnx 0.17 did not convert SegFormer with free height and width.
            sizes = export.fixed(size or crop)
            program = onnx.to_onnx(server, sizes)
            run = onnx.run_onnx(program)
        else:
            attempt = functools.partial(export.to_stablehlo, server)
            program, sizes = export.widest(attempt, size, crop)
            run = export.run_stablehlo(program)
        error = export.verify(server, run, sizes, path.name)
    description = {
        "format": ABOUT,
        "kind": format,
        "model": config.model.name,
        "task": info.task,
        **(about or {}),
        "images": {
            "dtype": images,
            "layout": "n h w 3, RGB",
            "normalised": images == "float32",
            "multiple": sizes.multiple,
            "size": sizes.size,
            "smallest": export.SMALLEST,
        },
        "result": result,
        "classes": list(info.classes),
        "palette": [list(colour) for colour in info.palette],
        "mean": list(info.normalisation.mean),
        "std": list(info.normalisation.std),
        "platforms": list(export.PLATFORMS) if format == "stablehlo" else [],
        "largest_error": error,
        "versions": versions(),
        "sha256": hashlib.sha256(program).hexdigest(),
    }
    _write(path, program)
    write_json(path.with_suffix(".json"), description)
    say(f"{path}, {len(program) / 2**20:.1f} MiB, takes {sizes.describe()} ({images})")
    say(f"gives {result}; verified on three sizes, largest error {error:.1e}")
    return path


def export_folder(
    trained: Trained, folder: str | Path, *, say: Callable[[str], None] = print
) -> Path:
    """Writes a folder for `from_pretrained` of Hugging Face transformers.

    Raises:
      UserError: see `attnseg.weights.huggingface.export_huggingface`.
    """
    folder = huggingface.export_huggingface(
        float32_model(trained),
        trained.variables,
        folder,
        classes=trained.info.classes,
        normalisation=trained.info.normalisation,
    )
    say(f"{folder} holds {', '.join(huggingface.FILES)}")
    return folder


def check_target(path: str | Path, format: str) -> Path:
    """The file or folder to be written, checked before long work.

    Raises:
      UserError: unknown format, wrong suffix, or something that is there already.
    """
    lookup({name: name for name in FORMATS}, format, "format")
    return huggingface.check_folder(path) if format == FORMATS[2] else _check_file(path, format)


def _check_file(path: str | Path, format: str) -> Path:
    path = Path(path)
    check(
        path.suffix == f".{format}",
        f'{path} should end in ".{format}", the format that is asked for.',
    )
    for file in (path, path.with_suffix(".json")):
        check(not file.exists(), f"{file} exists and is not overwritten; remove or rename it.")
    return path


def _write(path: Path, content: bytes) -> None:
    """Writes a file that is complete or not there."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}).") from error
