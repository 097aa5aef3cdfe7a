"""``launch/predict.py``: names, sizes, kinds of answers, and files that cannot be read."""

import csv
import subprocess
import sys

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from own_folders import write
from PIL import Image
from saved_run import random_variables, save_run

import attnseg
from attnseg.core.errors import UserError
from attnseg.data import DatasetInfo
from attnseg.infer import Predictor
from attnseg.recipe import answers, video
from attnseg.recipe.inputs import find_inputs
from attnseg.recipe.predict import predict
from attnseg.viz import save_png

PALETTE = ((10, 10, 200), (200, 0, 0), (0, 200, 0))
INFO = DatasetInfo("mine", "segmentation", ("a", "b", "c"), PALETTE, {4: 0, 5: 1, 900: 2}, "", "")
KINDS = DatasetInfo("kinds", "classification", ("a", "b", "c"), (), {0: 0, 1: 1, 2: 2}, "", "")


class Brightest(nn.Module):
    """The class of a pixel is its strongest colour; of an image, that of their mean."""

    whole: bool = False

    @nn.compact
    def __call__(self, images, train):
        return {"logits": images.mean((1, 2)) if self.whole else images}


def predictor(batch=2):
    return Predictor(Brightest(), {}, INFO, batch=batch)


def picture(seed, size):
    """Patches of three colours, and the class of each pixel."""
    rng = np.random.default_rng(seed)
    label = cv2.resize(
        rng.integers(0, 3, (3, 4), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST
    )
    image = np.full((*size, 3), 20, np.uint8)
    image[np.arange(size[0])[:, None], np.arange(size[1]), label] = 230
    return image, label


def read(path):
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


def rows(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(given, output, **options):
    given = [given] if isinstance(given, str) else [str(g) for g in given]
    return predict(predictor, given, output, say=lambda _: None, **options)


@pytest.fixture
def photos(tmp_path):
    """Images of several sizes in sub-folders, two with one stem, and other files."""
    found = {}
    for seed, (name, size) in enumerate(
        {
            "b.png": (20, 30),
            "a.png": (24, 18),
            "deep/er/a.png": (20, 30),
            "deep/c d.bmp": (20, 30),
            "deep/twin.png": (24, 18),
            "deep/twin.bmp": (9, 11),
        }.items()
    ):
        image, label = picture(seed, size)
        write(tmp_path / "in" / name, image)
        found[name] = (image, label)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "deep" / "._b.png").write_text("what macOS leaves behind")
    return tmp_path / "in", found


def test_sizes_and_names_are_kept(photos, tmp_path):
    folder, images = photos
    out = tmp_path / "out"
    report = run([folder], out, save="index,raw,colour,overlay,contour,probs", opacity=0.5)
    assert report.images == 6 and not report.failed
    names = {name: name.rsplit(".", 1)[0] for name in images}
    names |= {name: name for name in ("deep/twin.png", "deep/twin.bmp")}  # one stem: keep endings
    for name, (image, label) in images.items():
        stem = names[name]
        np.testing.assert_array_equal(read(out / "index" / f"{stem}.png"), label)
        np.testing.assert_array_equal(
            read(out / "raw" / f"{stem}.png"), np.array([4, 5, 900])[label]
        )
        colours = np.array(PALETTE)[label]
        np.testing.assert_array_equal(read(out / "colour" / f"{stem}.png"), colours)
        half = image + 0.5 * (colours - image.astype(float))
        np.testing.assert_allclose(read(out / "overlay" / f"{stem}.png"), half, atol=0.5)
        drawn = read(out / "contour" / f"{stem}.png")
        assert ((drawn == image) | (drawn == colours)).all() and (drawn != image).any()
        with np.load(out / "probs" / f"{stem}.npz") as probs:
            assert probs["probs"].dtype == np.float16 and probs["classes"].tolist() == [
                "a",
                "b",
                "c",
            ]
            np.testing.assert_array_equal(probs["probs"].argmax(-1), label)
    written = {
        p.relative_to(out / "index").with_suffix("").as_posix()
        for p in (out / "index").rglob("*.png")
    }
    assert written == set(names.values())
    table = rows(out)
    assert [row["file"] for row in table] == sorted(row["file"] for row in table)
    for row in table:
        _, label = images[row["file"].removeprefix(f"{folder}/")]
        assert (int(row["height"]), int(row["width"])) == label.shape and row["frame"] == ""
        for index, name in enumerate("abc"):
            assert float(row[f"share/{name}"]) == pytest.approx((label == index).mean(), abs=1e-6)


def test_a_second_time_into_the_same_folder(photos, tmp_path):
    folder, images = photos
    inner = folder / "out"
    assert run([folder], inner).images == len(images)
    before = {p: p.read_bytes() for p in inner.rglob("*") if p.is_file()}
    assert run([folder], inner).images == len(images)  # its own answers are no input
    assert {p: p.read_bytes() for p in inner.rglob("*") if p.is_file()} == before
    assert {p.name for p in inner.iterdir()} == {*answers.USUAL, answers.TABLE}


def test_files_patterns_and_what_is_not_there(photos, tmp_path):
    folder, _ = photos

    def names(*given, output=tmp_path / "out"):
        return [item.name for item in find_inputs([str(g) for g in given], output)]

    assert names(folder / "b.png") == ["b"]
    assert names(folder / "b.png", folder / "b.png") == ["b"]  # given twice, predicted once
    assert names(folder / "a.png", folder / "deep/er/a.png") == ["a.png", "a.png_2"]
    assert names(f"{folder}/*.png") == ["a", "b"]
    assert names(f"{folder}/**/*.bmp") == ["deep/c d", "deep/twin"]
    assert names(folder / "notes.txt") == ["notes"]  # named outright: reading it will tell
    write(tmp_path / "odd" / "x[1].png", picture(0, (8, 8))[0])
    assert names(tmp_path / "odd" / "x[1].png") == ["x[1]"]
    (tmp_path / "empty").mkdir()
    for given, output, told in (
        ([tmp_path / "nothing"], "out", "there is no file or folder"),
        ([tmp_path / "empty"], "out", "no image or video in .*empty; known types are .avi "),
        ([f"{folder}/*.gif"], "out", "no image or video matches"),
        ([folder], folder, "is the input folder itself"),
        ([folder], folder / "b.png", "is a file; --output is a folder"),
    ):
        with pytest.raises(UserError, match=told):
            names(*given, output=output)


def test_names_that_differ_in_case_only_or_meet_otherwise(tmp_path):
    for name in ("A.png", "a.bmp", "a.bmp.png", "x/y.png", "x/Y.bmp"):
        write(tmp_path / name, picture(0, (8, 8))[0])
    names = [item.name for item in find_inputs([str(tmp_path)], tmp_path / "out")]
    assert len({name.lower() for name in names}) == 5
    assert {"A.png", "a.bmp", "x/y.png", "x/Y.bmp"} < set(names)


def test_unreadable_files_are_named_and_skipped(photos, tmp_path):
    folder, images = photos
    whole = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "clip.mp4").write_text("no video")
    report = run([folder], tmp_path / "out")
    assert report.images == len(images) == len(rows(tmp_path / "out"))
    assert {path.name for path, _ in report.failed} == {
        "cut.png", "text.jpg", "empty.png", "clip.mp4"
    }  # fmt: skip
    for path, reason in report.failed:
        assert str(path) in reason

    def load():
        pytest.fail("the network was loaded before the files were looked at")

    with pytest.raises(UserError, match="empty.png is empty"):
        predict(load, [str(folder)], tmp_path / "o2", on_error="raise", say=lambda _: None)
    with pytest.raises(UserError, match="cut.png cannot be decoded"):
        run([folder / "cut.png"], tmp_path / "o3", on_error="raise")
    assert rows(tmp_path / "o3") == []
    only = predict(load, [str(folder / "text.jpg")], tmp_path / "o4", say=lambda _: None)
    assert only.images == 0 and len(only.failed) == 1


def test_photos_are_answered_upright(tmp_path):
    image, label = picture(1, (20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png", exif=exif)
    run([tmp_path / "in"], tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out/index/a.png"), np.rot90(label, -1))


@pytest.mark.parametrize("kind", ["mp4", "avi", "mkv", "webm"])
def test_videos(tmp_path, kind):
    """Frames in order, rate and size as they were."""
    labels, size = [], (48, 66)
    clip = tmp_path / f"clip.{kind}"
    codec = {"avi": "MJPG", "webm": "VP80"}.get(kind, "mp4v")
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*codec), 12.5, size[::-1])
    for seed in range(5):
        image, label = picture(seed, size)
        labels.append(label)
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    out = tmp_path / "out"
    report = run([clip], out, save="index,overlay,colour", opacity=0.4)
    assert (report.frames, report.images, report.failed) == (5, 0, [])
    ending = "mp4" if kind == "webm" else kind
    for number, label in enumerate(labels):
        index = read(out / "index" / "clip" / f"{number:06d}.png")
        assert (index == label).mean() > 0.9  # what compression leaves
    written = video.Frames(out / "colour" / f"clip.{ending}")
    assert written.rate == pytest.approx(12.5, rel=1e-3)
    frames = list(written)
    assert len(frames) == 5
    for frame, label in zip(frames, labels, strict=True):
        assert frame.shape == (*size, 3)
        nearest = ((frame[..., None, :].astype(int) - np.array(PALETTE)) ** 2).sum(-1).argmin(-1)
        assert (nearest == label).mean() > 0.85
    assert {p.name for p in (out / "overlay").iterdir()} == {f"clip.{ending}"}
    assert [int(row["frame"]) for row in rows(out)] == list(range(5))


def test_animations_are_videos_and_single_gifs_images(tmp_path):
    frames = [Image.fromarray(picture(seed, (32, 48))[0]) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(tmp_path / "b.gif")
    report = run([tmp_path], tmp_path / "out")
    assert (report.frames, report.images) == (3, 1)
    movie = video.Frames(tmp_path / "out/overlay/a.mp4")
    assert movie.rate == pytest.approx(10) and len(list(movie)) == 3


def test_a_video_that_is_not_finished_leaves_nothing(tmp_path):
    path = tmp_path / "v" / "a.mp4"
    movie = video.VideoFile(path, 5.0, (33, 35))
    movie.write(picture(0, (33, 35))[0])
    movie.close(complete=False)
    assert not list((tmp_path / "v").iterdir())
    movie = video.VideoFile(path, 5.0, (33, 35))
    movie.write(picture(0, (33, 35))[0])
    movie.close(complete=True)
    [frame] = list(video.Frames(path))
    assert frame.shape == (32, 34, 3)  # codecs want even sides


def test_classes_of_whole_images(photos, tmp_path):
    folder, images = photos

    def load():
        return Predictor(Brightest(whole=True), {}, KINDS)

    predict(load, [str(folder)], tmp_path / "out", say=lambda _: None)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    for row in rows(tmp_path / "out"):
        chances = [float(row[f"probability_{i}"]) for i in (1, 2, 3)]
        assert sum(chances) == pytest.approx(1, abs=1e-5) and chances == sorted(chances)[::-1]
        assert row["class_1"] in "abc"
    assert len(rows(tmp_path / "out")) == len(images)
    with pytest.raises(UserError, match="--save=index: kinds has a class for a whole image"):
        predict(load, [str(folder)], tmp_path / "o", save="index", say=lambda _: None)


def test_mistakes_in_the_arguments(photos, tmp_path):
    folder, _ = photos
    for options, told in (
        (dict(save="overlays"), '"overlays" is not known. Did you mean "overlay"'),
        (dict(save=" , "), "names nothing"),
        (dict(opacity=60), "opacity=60 is not a share"),
        (dict(on_error="stop"), '"stop" is none of skip, raise'),
    ):
        with pytest.raises(UserError, match=told):
            run([folder], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(UserError, match="cannot make the folder"):
        run([folder], blocked / "out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a tiny SegFormer, without the training."""
    place = tmp_path_factory.mktemp("trained")
    config = tiny.config()
    variables = random_variables(config)
    save_run(place / "work", config, {3: (variables, {"miou": 0.5})})
    return place, config, variables


def command(*arguments):
    return subprocess.run(
        [sys.executable, "launch/predict.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tiny.ROOT,
    )


def test_the_command_and_the_class_agree(trained, tmp_path):
    place, config, variables = trained
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save_png(tmp_path / "in" / "a.png", image)
    (tmp_path / "in" / "b.png").write_text("broken")
    done = command(f"--workdir={place / 'work'}", f"--input={tmp_path / 'in'}",
                   f"--output={tmp_path / 'out'}", "--config.eval.resize=(48, 48)")  # fmt: skip
    assert done.returncode == 1, done.stderr  # one of two could not be read
    assert "1 images predicted" in done.stdout
    assert "b.png is no image" in done.stderr and "Traceback" not in done.stderr
    own = attnseg.Predictor.from_workdir(place / "work", changes={"eval.resize": (48, 48)})
    prediction = own(tmp_path / "in" / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "out/index/a.png"), prediction.labels)
    # By hand: the checkpoint's parameters, the data set's normalisation.
    info = attnseg.recipe.assemble.dataset_info(config)
    assert own.info.classes == info.classes
    seen = cv2.resize(image, (48, 48), interpolation=cv2.INTER_LINEAR)
    x = (seen - np.asarray(info.normalisation.mean)) / np.asarray(info.normalisation.std)
    apply = jax.jit(lambda v, x: own.model.apply(v, x, train=False)["logits"])
    logits = apply(variables, jnp.asarray(x, jnp.float32)[None])[0]
    wide = cv2.resize(np.asarray(logits), (64, 64), interpolation=cv2.INTER_LINEAR)
    assert (prediction.labels == wide.argmax(-1)).mean() > 0.999


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--workdir=nowhere"], "nowhere holds no trained run"),
        (["--workdir=W", "--checkpoint=9"], 'no checkpoint "9"'),
        (["--workdir=W", "--config.optim.lr=1"], "optim.lr changes nothing once"),
        (["--workdir=W", "--config.eval.mod=slide"], 'Did you mean "eval.mode"'),
        (["--workdir=W", "--weights=w"], "give either --workdir=DIR alone"),
        (["--weights=w"], "together with --config=FILE"),
        (["--workdir=W", "--batch=0"], "batch=0 is too small"),
    ],
)
def test_a_mistake_is_one_line(trained, tmp_path, monkeypatch, capsys, arguments, told):
    """The program's own arguments, within this process: starting takes seconds."""
    import importlib.util

    from attnseg.recipe import command as program

    spec = importlib.util.spec_from_file_location("launch_predict", tiny.ROOT / "launch/predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    save_png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    work = str(trained[0] / "work")
    arguments = [a.replace("--workdir=W", f"--workdir={work}") for a in arguments]
    rest = [f"--input={tmp_path / 'a.png'}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as stopped:
        program.run(module.parser, module.main, [*arguments, *rest])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1, error


def test_a_weight_file(trained, tmp_path):
    place, config, variables = trained
    model = attnseg.recipe.assemble.build_model(config)
    attnseg.export_torch(model, variables, str(tmp_path / "w.safetensors"))
    own = attnseg.Predictor.from_weights(tmp_path / "w.safetensors", config)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = attnseg.Predictor.from_workdir(place / "work")(image).labels
    assert (own(image).labels == expected).mean() > 0.999
