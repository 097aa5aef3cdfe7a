"""Weight files by strangers: no code is run, no memory filled, and one sentence says why."""

import importlib
import importlib.util
import io
import json
import os
import pickle
import pickletools
import resource
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from attnseg import UserError
from attnseg.weights import read
from attnseg.weights.read import read_state

TORCH = importlib.util.find_spec("torch") is not None
GIGABYTE_ISH = 2**28 + 2**20  # just more than a small file may unpack to


class Call:
    """Unpickled without care, it runs a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def refused(path, message):
    """The sentence, which must have taken less than 100 MB more than before."""
    if TORCH and path.suffix in read.TORCH_SUFFIXES:
        importlib.import_module("torch")  # which takes more than that
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as error:
        read_state(path)
    assert len(str(error.value).splitlines()) == 1 and str(path) in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    return str(error.value)


def torch_archive(path, pickled, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_with_code(tmp_path, suffix, zipped):
    path, mark = tmp_path / f"w{suffix}", tmp_path / "mark"
    pickled = pickle.dumps({"w": Call(os.system, f"touch {mark}")}, 2)
    if zipped:
        torch_archive(path, pickled)
    else:
        path.write_bytes(pickled)
    message = "files with pickled code are refused" if TORCH else "reading it needs torch"
    refused(path, message)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_a_zip_bomb(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (GIGABYTE_ISH,)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        with archive.open("archive/data/0.npy", "w") as entry:
            entry.write(header.getvalue())
            for _ in range(GIGABYTE_ISH >> 20):
                entry.write(bytes(2**20))
    assert path.stat().st_size < 2**22
    refused(path, r"has [\d,]+ bytes and would take 269,[\d,]+ in memory, more than the 268,435,4")


def test_an_archive_that_lies_about_its_sizes(tmp_path):
    """What the directory says is all that a reader takes; more is damage."""
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(2**20, np.uint8))
    data = bytearray(path.read_bytes())
    for place in (data.index(b"PK\x01\x02") + 24, data.index(b"PK\x03\x04") + 22):
        struct.pack_into("<I", data, place, 200)
    path.write_bytes(data)
    refused(path, "is not a readable npz file")


def test_compressed_weights_that_are_true_are_read(tmp_path):
    state = {"a": np.random.default_rng(0).normal(size=(99, 99)), "b": np.zeros(2**20)}
    np.savez_compressed(tmp_path / "w.npz", **state)
    found = read_state(tmp_path / "w.npz")
    assert all(np.array_equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "shape", "content"),
    [
        ("more", (2**40,), bytes(64)),
        ("much more", (2**60, 2**60), bytes(64)),
        ("less", (3,), bytes(64)),
        ("negative", (-16,), bytes(64)),
    ],
)
def test_an_npz_whose_header_lies(tmp_path, name, shape, content):
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + content)
    refused(tmp_path / "w.npz", "is not a readable npz file")


HEADERS = {
    "of terabytes": (None, {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "beyond the file": (None, {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "shorter than its shape": (
        None,
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}},
    ),
    "with a hole": (None, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
    "overlapping": (
        None,
        {k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"},
    ),
    "backwards": (None, {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
    "negative": (None, {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
    "of an unknown type": (None, {"a": {"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]}}),
    "longer than it says": (2**63, {}),
    "of a hundred gigabytes": (10**11, {}),
    "that is a list": (None, [1, 2]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_whose_header_lies(tmp_path, name):
    length, header = HEADERS[name]
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(tmp_path / "w.safetensors", "is not a readable safetensors file")


def test_a_pickle_that_doubles_itself(tmp_path):
    """Thirty calls of a codec that writes two bytes for one."""
    encode = b"c_codecs\nencode\n"
    data = b"\x80\x02" + encode * 30 + b"X\x10\x00\x00\x00" + b"a" * 16
    data += b"X\x03\x00\x00\x00hex\x86R" * 30 + b"."
    pickletools.dis(data, out=io.StringIO())  # it is a pickle
    (tmp_path / "w.pdparams").write_bytes(data)
    refused(tmp_path / "w.pdparams", "it encodes as hex, and arrays are latin1")


def test_a_pickle_that_asks_for_memory(tmp_path):
    for size in (2**33, 2**60):
        content = {"a": Call(np.ndarray, (size,), "u1")}
        (tmp_path / "w.pdparams").write_bytes(pickle.dumps(content, 4))
        refused(tmp_path / "w.pdparams", "would take 8,589,934,592 in memory|is not a readable")


def test_other_things_than_numbers(tmp_path):
    for thing in (np.array(["text"]), np.zeros(2, "V8"), np.array("2020", "M8[Y]")):
        (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"a": thing}, 4))
        with pytest.raises(UserError, match="other things than numbers|is not a readable"):
            read_state(tmp_path / "w.pdparams")


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
def test_torch_tensors_that_claim_more_than_they_hold(tmp_path):
    import torch

    torch.save({"a": torch.zeros(1, dtype=torch.bfloat16).expand(2**38)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "would take 549,755,813,888 in memory")
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r'"a" is no plain tensor|cannot be read'):
        read_state(tmp_path / "w.pth")


STATE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.int64)}


def whole(suffix):
    if suffix == ".safetensors":
        return save(STATE)
    if suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **STATE)
        return buffer.getvalue()
    return pickle.dumps(STATE, 4)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    suffix=st.sampled_from((".safetensors", ".npz", ".pdparams")),
    changes=st.lists(st.tuples(st.integers(0, 999), st.binary(min_size=1, max_size=3)), max_size=3),
    cut=st.integers(0, 40),
    foreign=st.one_of(st.none(), st.binary(max_size=80)),
)
def test_any_bytes(tmp_path_factory, suffix, changes, cut, foreign):
    data = bytearray(whole(suffix))
    for place, value in changes:
        data[place % len(data) : place % len(data) + len(value)] = value
    data = data[: len(data) - cut] if foreign is None else foreign
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(bytes(data))
    try:
        found = read_state(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(array.dtype.kind in "biufc" for array in found.values())


def test_limits_follow_the_size_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_SMALL", 2**10)
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(2**18))
    refused(tmp_path / "w.npz", "would take 2,097,280 in memory")
    np.savez(tmp_path / "w.npz", a=np.zeros(2**18))
    assert read_state(tmp_path / "w.npz")["a"].size == 2**18
