"""Small folders of one's own, as users bring them."""

import cv2
import numpy as np

SIZE = (12, 16)
CLASSES = "road\ncar\ntree\n"


def write(path, pixels):
    """Writes an image (RGB) or an annotation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    assert cv2.imwrite(str(path), pixels)


def image(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def label(seed=0, size=SIZE, classes=3):
    return np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)


def pairs(root, ids, classes=CLASSES):
    """Segmentation data: ``images/ID.png``, ``labels/ID.png`` and ``classes.txt``."""
    for seed, name in enumerate(ids):
        write(root / "images" / f"{name}.png", image(seed))
        write(root / "labels" / f"{name}.png", label(seed))
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def classified(root, names):
    """Classification data: ``NAME.png`` for each name "CLASS/STEM"."""
    for seed, name in enumerate(names):
        write(root / f"{name}.png", image(seed))
    return root
