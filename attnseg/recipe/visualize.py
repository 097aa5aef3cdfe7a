"""Looks inside a network: attention of chosen pixels, maps of its layers, receptive fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from attnseg import data
from attnseg.core.errors import UserError, check
from attnseg.core.types import IMAGE
from attnseg.data.decode import decode_image
from attnseg.infer.inside import look_inside
from attnseg.infer.receptive_field import (
    SHARES,
    field_names,
    has_patches,
    receptive_fields,
    square_side,
    stage_maps,
)
from attnseg.recipe import assemble
from attnseg.recipe.load import load_config, override, validate
from attnseg.recipe.trained import Trained, load_trained
from attnseg.recipe.views import eval_views
from attnseg.tasks.augment import normalise
from attnseg.training.checkpoint import write_json
from attnseg.viz.attention import heat, marked, plot_panels
from attnseg.viz.field import FieldPanel, plot_fields

Say = Callable[[str], None]
NOISE = "noise"  # in place of an image: independent normal numbers
NOISE_SIZE = (224, 224)
EVEN = 4.0  # times the mean: the brightest of an attention map at least
COLUMNS = 9  # pictures in a line
SHOWN_SHARES = (0.5, 0.9)  # of the field, drawn as squares


def open_network(
    *,
    workdir: str | None = None,
    config: str | None = None,
    checkpoint: str = "best",
    changes: dict[str, Any] | None = None,
) -> Trained:
    """The network of a run, or of a configuration with ``init.weights`` or random weights.

    Raises:
      UserError: not exactly one of the two is given, or there is no such run or configuration.
    """
    check(
        bool(workdir) != bool(config),
        "give either --workdir=DIR of a run, or --config=FILE for a network without one.",
    )
    if workdir:
        trained = load_trained(workdir, checkpoint)
        override(trained.config, changes or {})
        validate(trained.config)
        return trained
    chosen = load_config(config, changes)
    info = assemble.dataset_info(chosen)
    if chosen.init.weights:
        assemble.with_layout(chosen, _silent)
    model = assemble.build_model(chosen)
    variables = jax.jit(assemble.init_function(chosen, model))(jax.random.key(chosen.seed))
    if chosen.init.weights:
        variables = assemble.import_weights(chosen, model, variables)
    return Trained(model, variables, info, chosen)


def _silent(_: str) -> None:
    """What a weight file holds is told by `launch/import_weights.py`."""


def read_image(network: Trained, image: str | None, size: tuple[int, int] | None) -> np.ndarray:
    """A picture as the network is evaluated on it, u8 [h w 3].

    Args:
      network: its configuration says how images are resized.
      image: a file; ``SPLIT:NUMBER``, an example of the network's data set counted from 0; None
        stands for the first of ``eval.split``.
      size: (h, w) to stretch it to in place of the configuration's.

    Raises:
      UserError: no such file or example.
    """
    config = network.config
    if image is not None and Path(image).is_file():
        pixels = decode_image(Path(image).read_bytes())
    else:
        split, colon, number = (image or f"{config.eval.split}:0").partition(":")
        check(
            bool(colon) and number.isdigit(),
            f'there is no image "{image}"; give a file, or SPLIT:NUMBER for an example of '
            f"{config.data.name}.",
        )
        source = assemble.open_split(config, split)
        check(
            int(number) < len(source),
            f"{image}: {config.data.name} has {len(source)} examples in {split}, 0 to "
            f"{len(source) - 1}.",
        )
        pixels = source[int(number)][IMAGE]
    if size is not None:
        return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    if network.info.task == "classification":
        resized = data.CentreCrop(config.data.crop, config.eval.crop_pct)({IMAGE: pixels})
    else:
        resized = eval_views(config).fit({IMAGE: pixels})
    return resized[IMAGE]


def normalised(network: Trained, image: np.ndarray) -> np.ndarray:
    """f32 [h w 3] as the network takes it."""
    return np.asarray(normalise(jnp.asarray(image)[None], network.info.normalisation)[0])


def attention(
    network: Trained,
    image: np.ndarray,
    pixels: Sequence[tuple[int, int]],
    path: str | Path,
    layers: str | None = None,
    say: Say = print,
) -> None:
    """Draws where each layer looks for each of some pixels (y, x) of `image` into a PNG.

    Args:
      layers: regular expression that names of maps must contain; None: the last block of each
        stage.

    Raises:
      UserError: a network without attention between pixels, a pixel outside, or no map whose name
        fits.
    """
    inside = look_inside(network.model, network.variables, normalised(network, image))
    rows = []
    for pixel in pixels:
        maps = inside.attention(pixel)
        check(
            bool(maps),
            f"{network.config.model.name} has no attention from pixel to pixel; `bases` draws what "
            "else it has.",
        )
        chosen = _chosen(maps, layers)
        place = f"y={pixel[0]} x={pixel[1]}"
        panels = [(name, heat(image, values, pixel, even=EVEN)) for name, values in chosen.items()]
        rows.append((place, [("image", marked(image, pixel)), *panels]))
        say(f"{place}: {', '.join(chosen)}")
    plot_panels(rows, path, COLUMNS)
    say(f"written to {path}")


def activations(
    network: Trained,
    image: np.ndarray,
    path: str | Path,
    layers: str | None = None,
    say: Say = print,
) -> None:
    """Draws maps that belong to no pixel: bases, gates, modulation. Arguments as in `attention`.

    Raises:
      UserError: the network forms none, or none fits.
    """
    inside = look_inside(network.model, network.variables, normalised(network, image))
    maps = inside.activations()
    check(
        bool(maps),
        f"{network.config.model.name} has neither bases nor gates; `attention` draws where its "
        "layers look.",
    )
    chosen = _chosen(maps, layers)
    panels = [(name, heat(image, values)) for name, values in chosen.items()]
    plot_panels([("", [("image", image), *panels])], path, COLUMNS)
    say(f"{', '.join(chosen)}\nwritten to {path}")


_BLOCK = re.compile(r"^(stage\d+) block(\d+)")


def _chosen(maps: dict[str, np.ndarray], layers: str | None) -> dict[str, np.ndarray]:
    """Maps whose names fit, or those of the last block of each stage that has any."""
    if layers is not None:
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise UserError(f'--layers="{layers}" is no regular expression ({error}).') from error
        found = {name: values for name, values in maps.items() if pattern.search(name)}
        check(bool(found), f'no map fits --layers="{layers}"; there are: {", ".join(maps)}.')
        return found
    last: dict[str, int] = {}
    for name in maps:
        if match := _BLOCK.match(name):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return {
        name: values
        for name, values in maps.items()
        if not (match := _BLOCK.match(name)) or int(match[2]) == last[match[1]]
    }


def fields(
    networks: Sequence[Trained],
    images: Sequence[str],
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    draws: int = 4,
    say: Say = print,
) -> dict[str, dict[str, dict[str, float]]]:
    """Draws the effective receptive field of every stage of some networks, one row each.

    Beside the PNG a JSON of the same name holds the widths.

    Args:
      images: as in `read_image`, or ``noise`` once for each example of random numbers.
      size: (h, w) of all images; None: 224x224 for noise, the first image's otherwise.
      draws: of random signs, see `attnseg.infer.receptive_field`.

    Returns:
      model -> stage -> share of the field -> side of the square that holds it, in pixels.
    """
    rows, widths = [], {}
    for network in networks:
        batch = _field_images(network, images, size)
        maps = stage_maps(network.model)
        patches = has_patches(network.model)
        found = receptive_fields(maps, network.variables, batch, draws=draws, patches=patches)
        name = network.config.model.name
        label = name if name not in widths else f"{name} ({len(widths) + 1})"
        panels, widths[label] = [], {}
        for stage, field in zip(field_names(found, network.model), found, strict=True):
            sides = {share: square_side(field, share) for share in SHARES}
            widths[label][stage] = {f"{share:g}": round(side, 1) for share, side in sides.items()}
            shown = {share: sides[share] for share in SHOWN_SHARES}
            panels.append(FieldPanel(stage, field.values, field.centre, shown))
            told = ", ".join(f"{share:.0%} in {side:.0f}" for share, side in sides.items())
            say(f"{label} {stage}: {told} pixels")
        rows.append((label, panels))
    plot_fields(rows, path)
    table = Path(path).with_suffix(".json")
    h, w = batch.shape[1:3]
    write_json(table, {"images": list(images), "size": [h, w], "draws": draws, "sides": widths})
    say(f"written to {path} and {table}")
    return widths


def _field_images(
    network: Trained, images: Sequence[str], size: tuple[int, int] | None
) -> np.ndarray:
    """Normalised images f32 [n h w 3] of one size."""
    batch = []
    for index, image in enumerate(images):
        if image == NOISE:
            shape = (*(size or NOISE_SIZE), 3)
            batch.append(np.random.default_rng(index).normal(size=shape).astype(np.float32))
        else:
            pixels = read_image(network, image, size)
            size = size or pixels.shape[:2]
            if pixels.shape[:2] != size:
                pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
            batch.append(normalised(network, pixels))
        size = size or batch[0].shape[:2]
    return np.stack(batch)
