"""TFDS builder of `shapes`: an embedded segmentation set, drawn in seconds, without network.

The outline decides the class. Most shapes wear their class's colour, but some wear another's, and
so does the clutter; textures are shared by all. A model has to look at more than a pixel.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import cv2
import numpy as np
import tensorflow_datasets as tfds

from attnseg.data.builders.drawing import Difficulty, draw_scene
from attnseg.data.builders.features import segmentation_features

SEED = 0
TRAIN, VAL, TEST = 1600, 160, 160  # images in each split
DIFFICULTY = Difficulty()


def shapes_config(
    train: int = TRAIN,
    val: int = VAL,
    test: int = TEST,
    seed: int = SEED,
    difficulty: Difficulty = DIFFICULTY,
) -> ShapesConfig:
    """Returns the builder config for these counts, seed and difficulty.

    Its name is a digest of them, so that another setting is prepared into another folder.
    """
    settings = f"{train} {val} {test} {seed} {sorted(dataclasses.asdict(difficulty).items())}"
    name = "s" + hashlib.sha256(settings.encode()).hexdigest()[:12]
    counts = {"train": train, "val": val, "test": test}
    return ShapesConfig(name=name, counts=counts, seed=seed, difficulty=difficulty)


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
    """What `Shapes` draws; made by `shapes_config`."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    seed: int = SEED
    difficulty: Difficulty = DIFFICULTY


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Draws each example from (seed, split, index); needs a `ShapesConfig`."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when the drawing code changes
    RELEASE_NOTES = {"1.0.0": "Seven outlines on clutter."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=segmentation_features(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in self.builder_config.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        stream = list(config.counts).index(split)
        for index in range(config.counts[split]):
            rng = np.random.default_rng([config.seed, stream, index])
            image, label = draw_scene(rng, config.difficulty)
            name = f"{split}_{index:05d}"
            yield (
                index,
                {
                    "image": _png(image[..., ::-1]),
                    "label": _png(label),
                    "id": name,
                    "file": f"{name}.png",
                },
            )


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
