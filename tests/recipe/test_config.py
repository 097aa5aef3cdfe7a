"""Configurations: every file, every mistake."""

import itertools
import re
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import tiny

import attnseg
from attnseg.core.tree import match_rules
from attnseg.recipe import (
    assemble,
    command,
    convolutional,
    inspect,
    load_config,
    run,
    segformer,
)
from attnseg.recipe.load import from_dict, leaves, to_dict

FILES = sorted(path.stem for path in (tiny.ROOT / "configs").glob("*.py"))


def check_config(path, model, data):
    config = load_config(f"{tiny.ROOT}/configs/{path}")
    assert config.model.name == model
    assert config.data.name == data
    params = jax.eval_shape(
        assemble.init_function(config, assemble.build_model(config)), jax.random.key(0)
    )["params"]
    # Every rule finds something and every parameter has one.
    match_rules([(pattern, decay) for pattern, _, decay in config.optim.rules], params, "rules")
    assert leaves(from_dict(to_dict(config))) == leaves(config)


def test_there_is_a_configuration_for_every_model():
    # ResNet-C and its dilated form are there for decoders.
    models = {name for name in attnseg.list_models() if not name.endswith(("c", "c_d8"))}
    assert models == set(FILES) - {"pair"}


@pytest.mark.parametrize("name", FILES)
def test_every_configuration_file_loads(name):
    config = load_config(f"{tiny.ROOT}/configs/{name}.py")
    assert config.data.name == "shapes"
    assemble.build_task(config)
    assemble.build_model(config)


@pytest.mark.parametrize("name", ["segformer_b0", "segnext_t", "upernet_swin_t"])
@pytest.mark.parametrize("data", sorted(set(segformer.DATA) - {"folder"}))
def test_segformer_and_segnext_recipes(name, data):
    check_config(f"{name}.py:{data}", name, data.removesuffix("_full"))


@pytest.mark.parametrize("data", sorted(set(convolutional.DATA) - {"folder"}))
def test_convolutional_recipes(data):
    name = {"camvid_post": "camvid32", "camvid_full": "camvid", "cityscapes_official": "cityscapes"}
    name = name.get(data, data)
    check_config(f"ccnet_r50.py:{data}", "ccnet_r50", name)


@pytest.mark.parametrize(
    "data", ["shapes", "camvid", "camvid_full", "imagenet2012", "cifar10", "cifar10_post"]
)
@pytest.mark.parametrize(
    ("name", "head"), [("botnet18", "segformer"), ("swin_t", "upernet"), ("resnet18", "segformer")]
)
def test_classifiers_and_their_features(name, head, data):
    model = name if data.startswith(("imagenet", "cifar")) else f"{name}+{head}"
    check_config(f"{name}.py:{data}", model, data.removesuffix("_full").removesuffix("_post"))


@pytest.mark.parametrize("model", ["mscan_t+fcn", "resnet18c_d8+emanet", "mit_b0+upernet"])
def test_any_pair(model):
    check_config(f"pair.py:{model}@camvid", model, "camvid")
    with pytest.raises(attnseg.UserError, match="is not MODEL@DATA"):
        load_config(f"{tiny.ROOT}/configs/pair.py:{model}")


def test_defaults_are_the_papers():
    config = load_config(f"{tiny.ROOT}/configs/segformer_b5.py:ade20k")
    assert config.data.crop == (640, 640) and config.data.batch_size == 16
    assert config.optim.lr == 6e-5 and config.schedule.warmup_steps == 1500
    assert config.train.steps == 160_000 and config.schedule.power == 1.0
    assert load_config(f"{tiny.ROOT}/configs/segformer_b0.py:cityscapes").data.crop == (1024, 1024)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lrr": 1e-3}, r'unknown configuration key "optim.lrr". Did you mean "optim.lr"'),
        ({"train.stepz": 3}, r'Did you mean "train.steps"'),
        ({"optim.name": "sdg"}, r'optim.name="sdg" is not known. Did you mean "sgd"'),
        ({"schedule.name": "steps"}, r'Did you mean "step".*Allowed: poly, cosine, step, constant'),
        ({"schedule.every": 0}, r"schedule.every=0 is too small"),
        ({"schedule.gamma": 2.0}, r"schedule.gamma=2.0 is not a share"),
        ({"loss.name": "dicee"}, r'loss.name="dicee" is not known. Did you mean "dice"'),
        ({"loss.normalise": "none"}, r"Allowed: valid, all"),
        ({"loss.ohem_threshold": 7.0}, r"loss.ohem_threshold=7.0 is not a share"),
        ({"loss.ohem_keep": -1}, r"loss.ohem_keep=-1 is too small"),
        ({"loss.dice_weight": -1.0}, r"loss.dice_weight=-1.0 is too small"),
        ({"optim.layer_decay": 0.0}, r"optim.layer_decay=0 stops all but the head"),
        ({"optim.momentum": 1.1}, r"optim.momentum=1.1 is not a share"),
        ({"data.scale": (0.5, 2.0), "data.scale_step": 0.4}, r"data.scale_step=0.4 does not lead"),
        ({"data.flip_vertical": 3.0}, r"data.flip_vertical=3.0 is not a share"),
        ({"model.dtype": "float16"}, r"Allowed: float32, bfloat16"),
        ({"data.batch_size": 0}, r"data.batch_size=0 is too small; use at least 1"),
        ({"data.batch_size": "many"}, r"data.batch_size='many' is a str, expected a int"),
        ({"data.crop": (128,)}, r"data.crop=\(128,\) is not a size"),
        ({"data.crop": (128, -1)}, r"data.crop=\(128, -1\) is not a size"),
        ({"data.scale": (2.0, 0.5)}, r"use two numbers, 0 < low <= high"),
        ({"data.flip": 1.5}, r"data.flip=1.5 is not a share"),
        ({"data.scale": (1, "a")}, r"is not a range"),
        ({"data.crop": None}, r"data.crop has no value"),
        ({"optim.lr": None}, r"optim.lr has no value"),
        ({"train.epochs": -1.0}, r"train.epochs=-1.0 is too short"),
        ({"optim.betas": (0.9,)}, r"are not two numbers"),
        ({"optim.rules": ((".*", 1.0),)}, r"is not \(regex, learning-rate factor"),
        ({"optim.rules": (("(", 1.0, True),)}, r"is no regular expression"),
        ({"train.accumulate": 3}, r"does not split into train.accumulate=3 parts"),
    ],
)
def test_mistakes_are_told_in_one_sentence(changes, message):
    with pytest.raises(attnseg.UserError, match=message) as caught:
        load_config(tiny.CONFIG, changes)
    assert "\n" not in str(caught.value)


def test_mistakes_that_show_when_the_job_is_built():
    def planned(**changes):
        config = tiny.config(**changes)
        source = assemble.open_split(tiny.config(), "val")
        return assemble.build_job(config, train=source, val=source)

    with pytest.raises(attnseg.UserError, match="does not split over 4 devices"):
        planned(data__batch_size=6)
    with pytest.raises(attnseg.UserError, match="no rule covers"):
        planned(optim__rules=(("norm", 1.0, True),))
    with pytest.raises(attnseg.UserError, match='unknown data set "shape". Did you mean "shapes"'):
        assemble.build_task(tiny.config(data__name="shape"))
    with pytest.raises(attnseg.UserError, match="is a classification model"):
        assemble.build_task(tiny.config(model__name="mit_b0"))
    with pytest.raises(attnseg.UserError, match="mesh.data=3 x mesh.fsdp=1 needs 3 devices"):
        planned(mesh__data=3)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(attnseg.UserError, match="no configuration file"):
        load_config(str(tmp_path / "absent.py"))
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(attnseg.UserError, match="no function get_config"):
        load_config(str(tmp_path / "empty.py"))
    with pytest.raises(attnseg.UserError, match='unknown data set of this configuration "camvit"'):
        load_config(tiny.CONFIG + ":camvit")


def test_overrides_on_the_command_line():
    line = "--workdir=x --config=c.py --config.train.steps=10 --config.data.crop (1,2)"
    line += " --config.data.photometric=false --config.data.name=shapes"
    rest, changes = command.split_overrides(line.split())
    assert rest == ["--workdir=x", "--config=c.py"]
    assert changes == {
        "train.steps": 10,
        "data.crop": (1, 2),
        "data.photometric": False,
        "data.name": "shapes",
    }
    config = load_config(tiny.CONFIG, {"optim.lr": 1, "data.root": 2020})
    assert config.optim.lr == 1.0 and config.data.root == "2020"


def test_show(tmp_path):
    config = tiny.config()
    assert "optim.weight_decay" in inspect.configuration(config)
    text = inspect.parameters(config)
    assert "backbone/stage1_embed/norm/scale" in text and "total: " in text
    assert re.search(r"MACs at 64x64: 0\.00\d+ G .*backbone 0\.00\d+ G, head 0\.00\d+ G\)", text)
    assert "cross" in inspect.labels(config, "val")
    assert "uint8 (8, 64, 64, 3)" in inspect.batch(config, str(tmp_path / "b.png"))
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_the_command_line_prints_one_line_and_no_traceback(tmp_path):
    program = [sys.executable, str(tiny.ROOT / "launch" / "main.py"), f"--config={tiny.CONFIG}"]
    done = subprocess.run(
        [*program, "--config.train.stepz=1"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.startswith("error: unknown configuration key")
    assert len(done.stderr.splitlines()) == 1


def test_data_mistakes_are_told_before_anything_compiles(tmp_path):
    """Through the call that training makes first."""

    def plan(**changes):
        return run.plan(tiny.config(**changes), tmp_path / "run", say=lambda _: None)

    with pytest.raises(attnseg.UserError, match="pass --config.data.root=FOLDER"):
        plan(data__name="camvid")
    with pytest.raises(attnseg.UserError, match="there is no weight file"):
        plan(init__weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(attnseg.UserError, match="absent"):
        plan(data__name="camvid", data__root=str(tmp_path / "absent"))
    with pytest.raises(attnseg.UserError, match="less than the crop of 128x128; pad it"):
        plan(data__crop=(128, 128), data__pad=False)
    with pytest.raises(attnseg.UserError, match="is read from a folder of yours"):
        plan(data__name="ade20k", loss__class_weights=None)
    assert not (tmp_path / "run").exists()


def test_a_label_outside_the_classes_names_file_value_and_count(tmp_path):
    root = tmp_path / "CamVid"
    for split in ("train", "val", "test"):
        image, label = np.zeros((2, 32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)
        if split == "train":
            label[:2, :3] = 77
        for folder, array in ((split, image[0]), (split + "annot", label)):
            (root / folder).mkdir(parents=True)
            cv2.imwrite(str(root / folder / "frame_1.png"), array)
    config = tiny.config(
        data__name="camvid", data__root=str(root), data__prepared=str(tmp_path / "prepared")
    )
    with pytest.raises(attnseg.UserError, match=r"frame_1.*77.*\b6\b"):
        run.plan(config, tmp_path / "run", say=lambda _: None)


def test_a_dry_run_describes_and_writes_nothing(tmp_path):
    text = run.plan(tiny.config(), tmp_path / "run", say=lambda _: None).describe()
    assert "segformer_b0, " in text and "shapes: 1600 training examples, 160 of val" in text
    assert "3000 steps of 8 (15.0 epochs), crop 64x64" in text
    assert not (tmp_path / "run").exists()


def test_every_key_has_a_comment():
    lines = (tiny.ROOT / "attnseg" / "recipe" / "defaults.py").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        assigned = line.strip().startswith("c.") and not line.rstrip().endswith("ConfigDict()")
        assert not assigned or "  # " in line or above.strip().startswith("# "), line


def test_evaluate_wants_a_run_or_weights_with_a_configuration(tmp_path):
    program = [sys.executable, str(tiny.ROOT / "launch" / "evaluate.py")]
    for arguments, message in (
        ([], "give either --workdir=DIR alone"),
        (["--weights=w.npz"], "give either --workdir=DIR alone"),
        ([f"--workdir={tmp_path}"], "holds no run"),
    ):
        done = subprocess.run([*program, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
