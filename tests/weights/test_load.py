"""Weight files: recognised, translated, refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

import attnseg
from attnseg.core.tree import flat

TINY = dict(widths=(8, 16, 24, 32), depths=(1, 2, 2, 1), heads=(1, 2, 3, 4), ratios=(4, 4, 3, 2))


def tiny(classes=7):
    return attnseg.create_model("segformer_b0", classes, backbone=TINY, head=dict(width=20))


def test_files_give_what_the_state_dict_gives(tmp_path):
    from safetensors.numpy import save_file

    state = Golden("hf_segformer_tiny").state()
    expected = flat(attnseg.load_weights(tiny(), state)[0])
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **state)
    for file in ("w.safetensors", "w.npz"):
        ours = flat(attnseg.load_weights(tiny(), tmp_path / file)[0])
        assert ours.keys() == expected.keys()
        assert all(np.array_equal(ours[k], expected[k]) for k in ours)


def test_torch_containers(tmp_path):
    torch = pytest.importorskip("torch")
    state = Golden("hf_segformer_tiny").state()
    tensors = {f"module.{k}": torch.from_numpy(np.array(v)) for k, v in state.items()}
    torch.save({"meta": {"epoch": 3}, "state_dict": tensors}, tmp_path / "w.pth")
    ours = flat(attnseg.load_weights(tiny(), tmp_path / "w.pth")[0])
    expected = flat(attnseg.load_weights(tiny(), state)[0])
    assert all(np.array_equal(ours[k], expected[k]) for k in expected)


def test_another_number_of_classes_keeps_the_rest():
    state = Golden("hf_segformer_tiny").state()
    variables, report = attnseg.load_weights(tiny(classes=3), state)
    assert set(report.skipped) == {"params/head/classifier/kernel", "params/head/classifier/bias"}
    assert variables["params"]["head"]["classifier"]["kernel"].shape == (20, 3)
    assert "not loaded: params/head/classifier/bias" in report.summary()
    given = jax.tree_util.tree_map(lambda x: jnp.full_like(x, 5.0), variables)
    again, _ = attnseg.load_weights(tiny(classes=3), state, variables=given)
    assert np.all(np.asarray(again["params"]["head"]["classifier"]["kernel"]) == 5.0)


def test_encoder_without_head_and_without_prefix():
    state = {
        k.removeprefix("segformer."): v
        for k, v in Golden("hf_segformer_tiny").state().items()
        if k.startswith("segformer.")
    }
    _, report = attnseg.load_weights(tiny(), state)
    assert all(name.split("/")[1] == "head" for name in report.skipped)


def test_another_network_is_refused():
    state = Golden("hf_segformer_tiny").state()
    deeper = attnseg.create_model(
        "segformer_b0", 7, backbone=dict(TINY, depths=(2, 2, 2, 2)), head=dict(width=20)
    )
    with pytest.raises(attnseg.UserError, match="of another network: they fill"):
        attnseg.load_weights(deeper, state)
    _, report = attnseg.load_weights(deeper, state, allow_partial=True)
    assert any("stage1_block2" in name for name in report.skipped)
    shallower = attnseg.create_model(
        "segformer_b0", 7, backbone=dict(TINY, depths=(1, 1, 1, 1)), head=dict(width=20)
    )
    with pytest.raises(attnseg.UserError, match="Not in the model: params/backbone/stage2_block2"):
        attnseg.load_weights(shallower, state)


def test_unreadable_input(tmp_path):
    with pytest.raises(attnseg.UserError, match="no weight file"):
        attnseg.load_weights(tiny(), tmp_path / "absent.safetensors")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(attnseg.UserError, match="unknown suffix"):
        attnseg.load_weights(tiny(), tmp_path / "w.h5")
    (tmp_path / "w.safetensors").write_bytes(b"not a file")
    with pytest.raises(attnseg.UserError, match="not a readable safetensors"):
        attnseg.load_weights(tiny(), tmp_path / "w.safetensors")
    with pytest.raises(attnseg.UserError, match="no known format"):
        attnseg.load_weights(tiny(), {"layer.weight": np.zeros(3)})
    state = Golden("hf_segformer_tiny").state()
    with pytest.raises(attnseg.UserError, match=r"unknown keys decode_head\.extra"):
        attnseg.load_weights(tiny(), {**state, "decode_head.extra": np.zeros(3)})


KEYS = json.loads((Path(__file__).parent / "segformer_keys.json").read_text())


@pytest.mark.parametrize("source", KEYS)
def test_every_key_of_the_published_layouts_has_a_place(source):
    """Names and shapes of full-size checkpoints, without their values."""
    entry = KEYS[source]
    state = {k: np.zeros(shape, np.float32) for k, shape in entry["keys"].items()}
    model = attnseg.create_model(entry["model"], entry.get("classes", 150), head=entry["head"])
    _, report = attnseg.load_weights(model, state)
    assert not report.skipped and not report.unused
