"""Files of weights: every kind is read, none is run, and a damaged one is told in a sentence."""

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from golden import Golden
from safetensors.numpy import save_file

import attnseg
from attnseg.core.tree import flat
from attnseg.weights.export import write_state
from attnseg.weights.read import read_state

ROOT = Path(__file__).parents[2]
STATE = {
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.bias": np.asfortranarray(np.arange(4.0).reshape(2, 2)),
    "bn.num_batches_tracked": np.array(7),
}


def same(ours, theirs=STATE):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)


class Tensor:
    """A tensor as Paddle pickles it: a call of tuple."""

    def __init__(self, name, array):
        self.content = (name, array)

    def __reduce__(self):
        return tuple, (self.content,)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_files(tmp_path, protocol):
    path = tmp_path / "model.pdparams"
    names = {"StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}}
    tensors = {key: Tensor(f"parameter_{key}", value) for key, value in STATE.items()}
    for content in (
        dict(STATE) | names,
        OrderedDict(STATE | names),
        tensors | names,
        {"state_dict": {f"module.{k}": v for k, v in STATE.items()}, "epoch": 3, 0: "x"},
    ):
        path.write_bytes(pickle.dumps(content, protocol))
        same(read_state(path))


def test_paddle_files_of_either_numpy(tmp_path):
    path = tmp_path / "model.pdparams"
    written = pickle.dumps(STATE, 2)
    old = written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for content in (old, old.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")):
        path.write_bytes(content)
        same(read_state(path))


def test_paddle_files_of_python_2(tmp_path):
    """Their strings are bytes."""
    array = np.array([-1.5, 1e-9, 3e9], np.float32)
    data = array.tobytes()
    written = pickle.dumps({"a": array}, 3)
    of_bytes, of_string = (code + bytes([len(data)]) + data for code in (b"C", b"U"))
    assert written.count(of_bytes) == 1
    (tmp_path / "w.pdparams").write_bytes(written.replace(of_bytes, of_string))
    same(read_state(tmp_path / "w.pdparams"), {"a": array})


def test_paddle_weights_load(tmp_path):
    state = Golden("post_conv2former_tiny").state()
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(state, 4))
    fields = dict(widths=(8, 16, 32, 64), depths=(1, 2, 2, 1))
    model = attnseg.create_model("conv2former_n_cifar", 10, backbone=fields)
    variables, report = attnseg.load_weights(model, tmp_path / "w.pdparams")
    assert not report.skipped and not report.unused
    expected = flat(attnseg.load_weights(model, state)[0])
    same(flat(variables), expected)


class Call:
    """Unpickled without care, it runs a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, protocol):
    path, mark = tmp_path / "w.pdparams", tmp_path / "mark"
    touch = f"open({str(mark)!r}, 'w').close()"
    calls = (
        (Call(os.system, f"touch {mark}"), "system"),
        (Call(builtins.eval, touch), "eval"),
        (Call(builtins.exec, touch), "exec"),
        (Call(io.open, str(mark), "w"), "open"),
        (Call(np.fromfile, "/etc/hostname"), "fromfile"),
    )
    for call, name in calls:
        for content in ({**STATE, "x": call}, {"state_dict": {"x": (call, STATE)}}):
            path.write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(attnseg.UserError, match=rf"it calls \S+\.{name}, and no code") as e:
                read_state(path)
            assert len(str(e.value).splitlines()) == 1
    assert not mark.exists()


def test_no_attribute_of_what_is_admitted_can_be_reached(tmp_path):
    """Protocol 4 names "a.b" by its path."""
    path = tmp_path / "w.pdparams"
    name = b"ndarray.tofile"
    stack = b"\x8c\x05numpy\x8c" + bytes([len(name)]) + name + b"\x93"
    path.write_bytes(b"\x80\x04" + stack + b".")
    with pytest.raises(attnseg.UserError, match=r"it calls numpy\.ndarray\.tofile"):
        read_state(path)


def test_objects_are_no_weights(tmp_path):
    things = np.array([{}, 1], dtype=object)
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"a": things}, 4))
    np.savez(tmp_path / "w.npz", a=things)
    for source in (tmp_path / "w.pdparams", {"a": things}):
        with pytest.raises(attnseg.UserError, match="objects that are no numbers"):
            read_state(source)
    with pytest.raises(attnseg.UserError, match="not a readable npz file"):
        read_state(tmp_path / "w.npz")
    for content in ([1], {"a": 1}, {3: np.ones(3)}):
        (tmp_path / "w.pdparams").write_bytes(pickle.dumps(content, 4))
        with pytest.raises(attnseg.UserError, match="holds (a list|no weights)"):
            read_state(tmp_path / "w.pdparams")


def files(folder):
    """A good file of each kind."""
    save_file({k: np.ascontiguousarray(v) for k, v in STATE.items()}, folder / "w.safetensors")
    np.savez_compressed(folder / "w.npz", **STATE)
    (folder / "w.pdparams").write_bytes(pickle.dumps(STATE, 4))
    return [folder / f"w.{suffix}" for suffix in ("safetensors", "npz", "pdparams")]


def test_damaged_files_are_told_in_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    for path in files(tmp_path):
        good = path.read_bytes()
        same(read_state(path) | {"bn.num_batches_tracked": np.array(7)})
        damaged = [b"", b"\x00", good[:10], good[: len(good) // 2], good[:-1], rng.bytes(999)]
        for place in rng.integers(0, len(good), 20):
            damaged.append(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
        for content in damaged:
            path.write_bytes(content)
            try:
                read_state(path)  # a flipped bit of a number cannot be told
            except attnseg.UserError as error:
                assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        for content in damaged[:3]:
            path.write_bytes(content)
            with pytest.raises(attnseg.UserError, match="is not a readable"):
                read_state(path)


def test_sizes_no_memory_holds(tmp_path):
    array = pickle.dumps({"a": np.zeros(3)}, 2)
    shape = b"K\x03\x85"  # the tuple (3,)
    assert array.count(shape) == 1
    huge = array.replace(shape, b"\x8a\x08" + struct.pack("<q", 1 << 60) + b"\x85")
    (tmp_path / "w.pdparams").write_bytes(huge)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}})
    content = struct.pack("<Q", len(header)) + header.encode()
    (tmp_path / "w.safetensors").write_bytes(content)
    buffer = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (1 << 60,)}
    np.lib.format.write_array_header_1_0(buffer, about)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", buffer.getvalue())
    for suffix in ("safetensors", "npz", "pdparams"):
        with pytest.raises(attnseg.UserError, match="is not a readable") as error:
            read_state(tmp_path / f"w.{suffix}")
        assert len(str(error.value).splitlines()) == 1


def test_half_precision(tmp_path):
    """bfloat16 becomes float32, which every file can hold."""
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}})
    numbers = np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2].tobytes()
    content = struct.pack("<Q", len(header)) + header.encode() + numbers
    (tmp_path / "w.safetensors").write_bytes(content)
    array = read_state(tmp_path / "w.safetensors")["a"]
    assert array.dtype == np.float32 and array.tolist() == [1.5, -2.0]


def test_containers_of_timm():
    """Those of a trainer that keeps averages beside the weights."""
    same(read_state({"epoch": 3, "arch": "x", "state_dict": STATE, "state_dict_ema": {}}))


def test_written_files_are_read(tmp_path):
    for path in (tmp_path / "w.safetensors", tmp_path / "w.npz"):
        write_state(path, STATE)
        same(read_state(path))
        assert read_state(path)["bn.num_batches_tracked"].shape == ()


def run(*arguments):
    program = [sys.executable, str(ROOT / "launch" / "import_weights.py"), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True)


def test_the_program_reports_and_converts(tmp_path):
    keys = json.loads((ROOT / "tests/weights/segformer_keys.json").read_text())
    keys = keys["nvlabs_segformer_b0_150"]["keys"]
    state = {k: np.full(shape, 0.5, np.float32) for k, shape in keys.items()}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(state, 4))
    model = ("--model=segformer_b0", "--classes=19")
    done = run(f"--weights={tmp_path / 'w.pdparams'}", *model, f"--output={tmp_path / 'w.npz'}")
    assert done.returncode == 0, done.stderr
    for line in (
        "NVlabs MiT with NVlabs SegFormer decoder: 208 arrays loaded. Licence: NVIDIA",
        "not loaded: params/head/classifier/bias (shape (150,) instead of (19,))",
        "implied: backbone.layout = 'nvlabs'",
        f"{len(state)} arrays written to {tmp_path / 'w.npz'}",
    ):
        assert line in done.stdout
    same(read_state(tmp_path / "w.npz"), state)
    config = f"--config={ROOT / 'configs' / 'segformer_b0.py'}"
    done = run(f"--weights={tmp_path / 'w.npz'}", config)
    assert done.returncode == 0 and "not loaded: params/head/classifier/bias" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights=absent.npz", "--model=segformer_b0"), "give either --model=NAME together"),
        (("--weights=absent.npz", "--model=segformer_b0", "--classes=3"), "no weight file absent"),
        (("--weights=x", "--model=segfromer_b0", "--classes=3"), 'Did you mean "segformer_b0"?'),
        (("--weights=x", "--model=mit_b0", "--classes=3", "--output=x.h5"), "unknown suffix"),
        (("--weights=x", "--model=mit_b0", "--classes=3", "--config.a=1"), "give --config=FILE"),
    ],
)
def test_the_program_tells_mistakes_in_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
