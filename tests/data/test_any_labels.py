"""Class lists and label maps: whatever is written, a label map that holds or one sentence."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnseg import UserError
from attnseg.data.class_list import read_class_list, read_names
from attnseg.data.info import DatasetInfo, map_labels

steady = settings(derandomize=True, deadline=None, max_examples=150)
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(("ignore", "road", "car 7", '"a 1" #ff0000 1-9', "tree 1,2", "#123456", "9-3")),
)
items = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 70_000), st.floats(), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(("name", "colour", "ids", "x")), inner, max_size=4),
    ),
    max_leaves=12,
)


def consistent_or_one_sentence(path):
    try:
        read_names(path)
        found = read_class_list(path)
    except UserError as error:
        assert str(error)
        return
    info = found.info
    assert len(info.palette) == info.num_classes >= 1
    raw = np.array([sorted(info.label_map)], np.int32)
    mapped = map_labels(raw, info)
    assert mapped.tolist() == [[info.label_map[r] for r in sorted(info.label_map)]]
    assert len(found.colours) == len(set(found.colours)) == len(found.colour_ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lists")


@steady
@given(lines=st.lists(words, max_size=6))
def test_any_text(folder, lines):
    path = folder / "classes.txt"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    consistent_or_one_sentence(path)


@steady
@given(data=st.binary(max_size=60))
def test_any_bytes(folder, data):
    for name in ("classes.txt", "classes.json"):
        (folder / name).write_bytes(data)
        consistent_or_one_sentence(folder / name)


@steady
@given(content=st.one_of(st.lists(items, max_size=5), items))
def test_any_json(folder, content):
    (folder / "classes.json").write_text(json.dumps(content))
    consistent_or_one_sentence(folder / "classes.json")


def test_json_that_is_too_deep(folder):
    (folder / "classes.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="is no JSON"):
        read_class_list(folder / "classes.json")


@steady
@given(
    label_map=st.dictionaries(st.integers(-1, 300), st.integers(-1, 260), min_size=1, max_size=8),
    classes=st.integers(0, 6),
    raw=st.lists(st.integers(-300, 70_000), max_size=20),
    dtype=st.sampled_from((np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, bool)),
)
def test_any_label_map(label_map, classes, raw, dtype):
    try:
        info = DatasetInfo(
            name="any",
            task="segmentation",
            classes=tuple(f"class {i}" for i in range(classes)),
            palette=tuple((i, i, i) for i in range(classes)),
            label_map=label_map,
            citation="",
            licence="",
        )
    except UserError:
        return
    labels = np.array(raw).astype(dtype)
    known = np.issubdtype(dtype, np.integer) and all(int(v) in label_map for v in labels)
    try:
        mapped = map_labels(labels, info)
    except UserError:
        assert not known
    else:
        assert known and mapped.tolist() == [label_map[int(v)] for v in labels]
