"""Whatever stands in a configuration: it loads, or one sentence says why not."""

import json

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import attnseg
from attnseg.recipe import load_config
from attnseg.recipe.load import from_dict, leaves, to_dict
from attnseg.recipe.run import _read_config

steady = settings(derandomize=True, deadline=None, max_examples=150)
few = settings(steady, max_examples=40)  # each makes a whole configuration
USUAL = load_config(tiny.CONFIG)
KEYS = sorted(leaves(USUAL))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(("poly", "rand-m9-mstd0.5-inc1", "(", "segformer_b0", "float32")),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=6,
)


def loads_or_one_sentence(load):
    try:
        config = load()
    except attnseg.UserError as error:
        assert str(error).endswith((".", "?")) and len(str(error)) < 3000
    else:
        assert leaves(from_dict(to_dict(config))) == leaves(config)  # what is saved is read again


@steady
@given(st.sampled_from(KEYS), values)
def test_any_value_of_any_key(key, value):
    loads_or_one_sentence(lambda: load_config(tiny.CONFIG, {key: value}))


@steady
@given(st.text(max_size=30), values)
def test_any_key(key, value):
    loads_or_one_sentence(lambda: load_config(tiny.CONFIG, {key: value}))


@few
@given(
    st.one_of(
        values,
        st.fixed_dictionaries(
            {"model": st.one_of(values, st.fixed_dictionaries({"name": values}))}
        ),
        st.tuples(st.sampled_from(KEYS), values),
    )
)
def test_any_config_of_a_run(tmp_path_factory, content):
    if isinstance(content, tuple) and content and content[0] in KEYS:
        saved = to_dict(USUAL)
        *sections, name = content[0].split(".")
        node = saved
        for section in sections:
            node = node[section]
        node[name] = content[1]
        content = saved
    path = tmp_path_factory.getbasetemp() / "any_config.json"
    try:
        path.write_text(json.dumps(content))
    except (TypeError, ValueError):  # e.g. integers of too many digits
        return
    loads_or_one_sentence(lambda: _read_config(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": True}, "data.batch_size=True is a bool, expected a int"),
        ({"optim.lr": False}, "optim.lr=False is a bool, expected a float"),
        ({"optim.lr": "1e-3"}, "optim.lr='1e-3' is a str, expected a float"),
        ({"data.photometric": 1}, "data.photometric=1 is a int, expected a bool"),
        ({"data.root": (1,)}, r"data.root=\(1,\) is a tuple, expected a str"),
        ({"data.crop": 96}, "data.crop=96 is a int, expected a tuple"),
        ({"train.steps": {"a": 1}}, "is a dict, expected a int"),
        ({"optim.lr": float("nan")}, "optim.lr=nan is no finite number"),
        ({"data.scale": (0.5, float("inf"))}, r"data.scale=\(0.5, inf\) is no finite number"),
        ({"data.batch_size": 10**12}, "data.batch_size=1000000000000 is too large"),
        ({"seed": -1}, "seed=-1 is too small"),
        ({"loss.class_weights": ("a", 1)}, r"is of the wrong kind; write it like \(1.0,\)"),
        ({"data.split_ratios": (0.5, "0.5", 0)}, "data.split_ratios=.* is of the wrong kind"),
        ({"model.backbone.widths": (8, "16", 40, 64)}, r"widths=.*like \(32, 64, 160, 256\)"),
        ({"model.backbone.depths": (1.5, 1, 1, 1)}, r"model\.backbone\.depths=.* wrong kind"),
        ({"model.backbone.drop_path": "much"}, "is a str, expected a float"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(changes, message):
    with pytest.raises(attnseg.UserError, match=message):
        load_config(tiny.CONFIG, changes)


def test_a_configuration_file_that_is_no_python(tmp_path):
    (tmp_path / "c.py").write_text("def get_config():\n    return (\n")
    with pytest.raises(attnseg.UserError, match=r"c\.py line 2 is no Python: '\(' was never cl"):
        load_config(str(tmp_path / "c.py"))
