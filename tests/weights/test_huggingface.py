"""A folder that transformers loads, with the same logits. Skipped where transformers is missing."""

import functools
import json

import jax
import numpy as np
import pytest
from saved_run import fill

from attnseg import create_model
from attnseg.core.errors import UserError
from attnseg.core.types import IMAGENET
from attnseg.weights.huggingface import FILES, export_huggingface, model_config

MIT = dict(widths=(8, 16, 24, 32), depths=(1, 2, 1, 1), heads=(1, 2, 3, 4), reductions=(4, 2, 2, 1))
NAMES = ("road", "sky, or \u00e4ther", "car")


@functools.cache
def network(name, layout="hf"):
    head = dict(width=24) if name == "segformer_b0" else {}
    model = create_model(name, 3, backbone=dict(MIT, layout=layout), head=head)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return model, fill(shapes, 5)


def write(name, folder):
    model, variables = network(name)
    return export_huggingface(model, variables, folder, classes=NAMES, normalisation=IMAGENET)


@pytest.mark.parametrize("name", ["segformer_b0", "mit_b0"])
def test_transformers_gives_the_same_logits(name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = write(name, tmp_path / "hf")
    kind = {"segformer_b0": "SemanticSegmentation", "mit_b0": "ImageClassification"}[name]
    cls = getattr(transformers, f"SegformerFor{kind}")
    theirs, loading = cls.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert theirs.config.id2label == dict(enumerate(NAMES))
    model, variables = network(name)
    for size in [(64, 64), (96, 64), (67, 101)]:
        x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
        with torch.no_grad():
            logits = theirs.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2))).logits.numpy()
        ours = np.asarray(model.apply(variables, x, train=False)["logits"])
        ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
        np.testing.assert_allclose(logits, ours, atol=1e-4, rtol=1e-4)


def test_their_processor_prepares_images_as_we_do(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write("segformer_b0", tmp_path)
    processor = getattr(transformers, "SegformerImageProcessorPil", None)  # of transformers 5
    processor = (processor or transformers.SegformerImageProcessor).from_pretrained(folder)
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    found = np.asarray(processor(image, return_tensors="np")["pixel_values"])[0]
    expected = (image - np.array(IMAGENET.mean)) / IMAGENET.std
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-4)


def test_what_the_folder_holds(tmp_path):
    folder = write("segformer_b0", tmp_path / "hf")
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_sizes"] == [8, 16, 24, 32] and config["sr_ratios"] == [4, 2, 2, 1]
    assert config["id2label"]["1"] == NAMES[1] and config["label2id"]["car"] == 2
    assert config["decoder_hidden_size"] == 24
    with pytest.raises(UserError, match="holds config.json.*not overwritten"):
        write("segformer_b0", folder)


def test_what_transformers_has_not_is_refused(tmp_path):
    with pytest.raises(UserError, match="MSCAN with LightHamHead.*stablehlo or onnx"):
        model_config(create_model("segnext_t", 3), NAMES)
    model, _ = network("segformer_b0", "mmseg")
    variables = network("segformer_b0")[1]
    with pytest.raises(UserError, match="epsilon"):
        export_huggingface(model, variables, tmp_path / "x", classes=NAMES, normalisation=IMAGENET)
    assert not (tmp_path / "x").exists()
