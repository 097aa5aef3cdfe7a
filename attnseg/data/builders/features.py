"""The record that every segmentation builder of attnseg writes."""

from __future__ import annotations

import tensorflow_datasets as tfds


def segmentation_features() -> tfds.features.FeaturesDict:
    """Returns the features of one record.

    image, label: encoded bytes as the file has them ([h w 3] RGB and [h w 1] raw ids);
    id: name of the example; file: the annotation's path as a person would look for it.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Image(shape=(None, None, 1)),
            "id": tfds.features.Text(),
            "file": tfds.features.Text(),
        }
    )
