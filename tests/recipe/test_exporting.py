"""The exported file is the network: any size, alone with JAX, and never a wrong one."""

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import tiny
from saved_run import fill, random_variables, save_run

from attnseg import create_model
from attnseg.core.errors import UserError
from attnseg.core.types import IMAGENET
from attnseg.infer import export
from attnseg.ops.resize import resize_bilinear
from attnseg.recipe import exporting
from attnseg.recipe.trained import load_published, load_trained
from attnseg.tasks.augment import normalise

SMALL = dict(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1))
RESNET = dict(depths=(1, 1, 1, 1), width=4, stem_width=4)
# Name, backbone, head, multiple of which sides must be (0: fixed).
ZOO = [
    ("segnext_t", SMALL, dict(width=16, groups=4, rank=4), 1),
    ("ccnet_r50", RESNET, dict(width=8), 1),
    ("pspnet_r50", RESNET, dict(width=8), 1),
    ("deeplabv3plus_r50", RESNET, dict(width=8), 1),
    ("danet_r50", RESNET, dict(width=8), 1),
    ("emanet_r50", RESNET, dict(width=8), 1),
    ("nonlocal_r50", RESNET, dict(width=8), 1),
    ("conv2former_t+upernet", dict(SMALL, kernel=5), dict(width=8), 1),
    ("conv2former_n", dict(SMALL, kernel=5), {}, 1),
    ("mit_b0", dict(SMALL, heads=(1, 2, 3, 4)), {}, 1),
    ("botnet50", RESNET | {"stem_width": None}, {}, 32),
    ("botnet50+fcn", RESNET | {"stem_width": None}, dict(width=8), 32),
    ("swin_t", dict(SMALL, heads=(1, 2, 3, 4)), {}, 0),
    ("upernet_swin_t", dict(SMALL, heads=(1, 2, 3, 4)), dict(width=8), 0),
]


def load_program(path):
    """What ``launch/run_exported.py`` makes of a file."""
    source = tiny.ROOT / "launch" / "run_exported.py"
    spec = importlib.util.spec_from_file_location("run_exported", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, and its variables."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(train__ema=0.9, model__dtype="bfloat16")
    variables = random_variables(config)
    save_run(workdir, config, {3: (variables, {"miou": 0.5})}, ema=True)
    return workdir, variables


@pytest.fixture(scope="module")
def exported(run):
    """The file that the command writes, and what it says."""
    command = [sys.executable, "launch/export.py", f"--workdir={run[0]}"]
    done = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run[0] / "export" / "segformer_b0.stablehlo", done.stdout


def test_any_size_gives_the_labels_of_the_network(run, exported):
    path, said = exported
    assert "images of any size from 32x32 pixels, any number of them (uint8)" in said
    program, about = load_program(path)
    model = exporting.float32_model(load_trained(run[0]))
    forward = jax.jit(functools.partial(model.apply, train=False))
    for shape in [(1, 32, 32, 3), (3, 61, 83, 3), (2, 128, 96, 3)]:
        images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        x = normalise(images, IMAGENET)
        logits = forward(run[1], x)["logits"]
        scores = np.asarray(resize_bilinear(logits, shape[1:3]))
        labels = np.asarray(program(images))
        assert labels.dtype == np.uint8 and labels.shape == shape[:3]
        chosen = np.take_along_axis(scores, labels[..., None].astype(int), -1)[..., 0]
        assert (scores.max(-1) - chosen).max() < 1e-4
        assert (labels == scores.argmax(-1)).mean() > 0.999
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["classes"][:2] == ["background", "disc"] and about["step"] == 3
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_loader_needs_nothing_of_ours(exported, tmp_path):
    path, _ = exported
    for file in (path, path.with_suffix(".json"), tiny.ROOT / "launch" / "run_exported.py"):
        shutil.copy(file, tmp_path)
    image = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), image[..., ::-1])
    # Whatever of ours or of flax would be imported is an error.
    (tmp_path / "attnseg.py").write_text("raise ImportError('not needed')")
    (tmp_path / "flax.py").write_text("raise ImportError('not needed')")
    subprocess.run(
        [sys.executable, "run_exported.py", path.name, "in.png", "out.png"],
        cwd=tmp_path,
        check=True,
    )
    from PIL import Image

    written = Image.open(tmp_path / "out.png")
    program, about = load_program(path)
    np.testing.assert_array_equal(np.asarray(written), program(image[None])[0])
    assert written.getpalette()[3:6] == about["palette"][1]


@pytest.mark.slow
def test_probabilities_of_normalised_images(run, tmp_path):
    trained = load_trained(run[0])
    path = tmp_path / "p.stablehlo"
    options = dict(images="float32", result="probabilities", size=(64, 96))
    exporting.export_program(trained, path, **options, say=lambda _: None)
    program, about = load_program(path)
    assert about["images"]["size"] == [64, 96]
    x = np.random.default_rng(3).normal(size=(2, 64, 96, 3)).astype(np.float32)
    logits = exporting.float32_model(trained).apply(run[1], x, train=False)["logits"]
    expected = jax.nn.softmax(resize_bilinear(logits, (64, 96)), -1)
    np.testing.assert_allclose(program(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="shape"):
        program(x[:, :32])
    with pytest.raises(UserError, match="exists and is not overwritten"):
        exporting.export_program(trained, path, **options)


def test_a_program_that_differs_is_not_written(run, tmp_path, monkeypatch):
    trained, good = load_trained(run[0]), export.to_stablehlo

    def off(server, sizes):
        return good(export.Server(lambda x: server.serve(x) + 1e-3, None, server.dtype), sizes)

    monkeypatch.setattr(export, "to_stablehlo", off)
    with pytest.raises(UserError, match=r"p.stablehlo differs .* nothing was written"):
        exporting.export_program(
            trained, tmp_path / "p.stablehlo", result="probabilities", size=(64, 64)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_weights_of_others(run, tmp_path):
    """A published file with its configuration, in place of a run."""
    from attnseg.weights import export_torch

    trained = load_trained(run[0])
    export_torch(trained.model, run[1], tmp_path / "w.safetensors")
    config, said = tiny.config(), []
    again = load_published(config, tmp_path / "w.safetensors", say=said.append)
    assert "Hugging Face" in said[0] and again.info.classes == trained.info.classes
    x = np.zeros((1, 64, 64, 3), np.float32)
    results = [
        exporting.make_server(
            exporting.float32_model(t), t.variables, IMAGENET, "float32", "logits"
        )
        for t in (trained, again)
    ]
    np.testing.assert_allclose(results[0].serve(x), results[1].serve(x), atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "tflite"}, 'unknown format "tflite"'),
        ({"output": "a.onnx"}, 'should end in ".stablehlo"'),
        ({"size": "64"}, "write --size=HEIGHT,WIDTH"),
        ({"result": "mask"}, 'unknown result "mask"'),
        ({"images": "int8"}, 'unknown kind of images "int8"'),
    ],
)
def test_mistakes_are_told(run, options, message, tmp_path, monkeypatch, capsys):
    options = {"output": tmp_path / "b0.stablehlo", **options}
    arguments = [f"--{key}={value}" for key, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["export.py", f"--workdir={run[0]}", *arguments])
    source = tiny.ROOT / "launch" / "export.py"
    with pytest.raises(SystemExit):
        exec(compile(source.read_text(), str(source), "exec"), {"__name__": "__main__"})
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name, backbone, head, multiple", ZOO)
def test_every_family(name, backbone, head, multiple):
    fields = {k: v for k, v in backbone.items() if v is not None}
    aux = {} if "_r50" not in name and "upernet_" not in name else {"aux_head": False}
    model = create_model(name, 5, backbone=fields, head=head, **aux)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = fill(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image))
    server = exporting.make_server(model, variables, IMAGENET, result="probabilities")
    program, sizes = export.widest(lambda s: export.to_stablehlo(server, s), None, (64, 64))
    assert sizes.multiple == multiple
    assert export.verify(server, export.run_stablehlo(program), sizes, name) < 1e-4
