import subprocess
import sys

import cv2
import numpy as np
import pytest

from attnseg.core.errors import UserError
from attnseg.viz import (
    class_table,
    colourise,
    comparison,
    overlay,
    plot_class_scores,
    plot_confusion,
    plot_curves,
    save_png,
)
from attnseg.viz.curves import smooth
from attnseg.viz.overlay import HATCH, _flow

PALETTE = np.array([[200, 20, 10], [5, 180, 90], [30, 60, 250]])
NAMES = ["road", "car", "sky $x_1"]


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def test_colourise_paints_classes_and_stripes_ignored():
    labels = np.array([[0, 1, 2] * 8, [255] * 24])
    painted = colourise(labels, PALETTE)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[0], PALETTE[labels[0]])
    assert {tuple(p) for p in painted[1].tolist()} == set(HATCH)


def test_colourise_names_a_label_without_a_colour():
    with pytest.raises(UserError, match=r"\[7\] \(2 pixels.*0\.\.2"):
        colourise(np.array([[0, 7, 7]]), PALETTE)


def test_overlay_blends_in_proportion():
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 2]] * 2)
    np.testing.assert_array_equal(overlay(image, labels, PALETTE, 0.0), image)
    np.testing.assert_array_equal(overlay(image, labels, PALETTE, 1.0), PALETTE[labels])
    np.testing.assert_array_equal(overlay(image, labels, PALETTE, 0.5)[0, 0], [150, 60, 55])
    with pytest.raises(UserError, match="image under the label map"):
        overlay(image[:1], labels, PALETTE)


@pytest.mark.parametrize("size, factor", [((128, 160), 2), ((300, 290), 1)])
def test_comparison_holds_the_three_panels_unchanged(size, factor):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    label = rng.choice([0, 1, 255], size)
    prediction = rng.integers(0, 2, size)
    sheet = comparison(image, label, prediction, PALETTE, NAMES)
    assert sheet.dtype == np.uint8
    h, w = size[0] * factor, size[1] * factor
    top, gap = _place(sheet, np.kron(image, np.ones((factor, factor, 1), np.uint8)))
    big = [np.kron(x, np.ones((factor, factor), int)) for x in (label, prediction)]
    enlarged = sheet[top : top + h, gap : gap + w]
    for index, labels in enumerate(big, start=1):
        left = gap + index * (w + gap)
        panel = sheet[top : top + h, left : left + w]
        np.testing.assert_array_equal(panel, overlay(enlarged, labels, PALETTE))


def _place(sheet, image):
    """Row and column at which `image` stands in `sheet`."""
    for top in range(sheet.shape[0] - image.shape[0] + 1):
        for left in range(12):
            window = sheet[top : top + image.shape[0], left : left + image.shape[1]]
            if window.shape == image.shape and (window == image).all():
                return top, left
    raise AssertionError("the image is not in the sheet")


def test_comparison_legend_names_only_what_occurs():
    image = np.zeros((64, 64, 3), np.uint8)
    label = np.full((64, 64), 2)
    label[:20] = 255
    sheet = comparison(image, label, np.full((64, 64), 1), PALETTE, NAMES)
    below = sheet[-30:].reshape(-1, 3)

    def shown(colour):
        return bool((np.abs(below.astype(int) - colour).max(-1) == 0).any())

    assert [shown(c) for c in PALETTE] == [False, True, True]
    assert all(shown(np.array(c)) for c in HATCH)
    with pytest.raises(UserError, match="2 class names for a palette of 3"):
        comparison(image, label, label, PALETTE, NAMES[:2])


def test_flow_starts_a_new_line_where_one_is_full():
    assert _flow([40, 40, 40, 300], 100, 10) == [(0, 0), (50, 0), (0, 1), (0, 2)]


def test_save_png_keeps_rgb_and_makes_the_folder(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    save_png(tmp_path / "a" / "b.png", picture)
    np.testing.assert_array_equal(read(tmp_path / "a" / "b.png"), picture)
    with pytest.raises(UserError, match="cannot write"):
        save_png(tmp_path / "a", picture)


def records(steps=60):
    train = [
        {
            "step": s,
            "split": "train",
            "train/loss": 2 / (1 + s / 20) if s != 9 else None,
            "train/lr": 1e-3,
        }
        for s in range(1, steps)
    ]
    return [*train, *({"step": s, "split": "val", "val/miou": s / 100} for s in (20, 40, 60))]


def test_curves_give_one_panel_for_each_recorded_metric(tmp_path):
    plot_curves(records(), tmp_path / "f" / "all.png")
    plot_curves([r for r in records() if r["split"] == "val"], tmp_path / "one.png")
    every, one = read(tmp_path / "f" / "all.png"), read(tmp_path / "one.png")
    assert every.shape[1] == pytest.approx(3 * one.shape[1], abs=3)
    assert len(np.unique(every.reshape(-1, 3), axis=0)) > 50
    with pytest.raises(UserError, match="nothing to draw"):
        plot_curves([{"step": 1, "split": "test", "test/loss": 1.0}], tmp_path / "none.png")


@pytest.mark.parametrize("length", [1, 3, 60, 4000])
def test_smoothing_keeps_a_level_and_bridges_gaps(length):
    values = np.full(length, 3.0)
    values[1::7] = np.nan
    line = smooth(values)
    np.testing.assert_allclose(line[np.isfinite(values)], 3.0)
    assert line.shape == values.shape
    assert np.isnan(line[~np.isfinite(values)]).all()


def test_class_bars_show_palette_and_leave_out_nan(tmp_path):
    ious = {"road": 0.9, "car": 0.4, "ghost": float("nan")}
    colours = {"road": (250, 10, 200), "car": (10, 250, 30)}
    plot_class_scores(ious, tmp_path / "plain.png")
    plot_class_scores(ious, tmp_path / "coloured.png", colours)
    for colour in colours.values():
        near = [(np.abs(read(tmp_path / f).astype(int) - colour).max(-1) < 8).sum() for f in
                ("plain.png", "coloured.png")]  # fmt: skip
        assert near[0] == 0 and near[1] > 20
    with pytest.raises(UserError, match="no class has a value of IoU"):
        plot_class_scores({"ghost": float("nan")}, tmp_path / "none.png")


def test_class_table_rows_dashes_and_means():
    summary = {"iou/road": 0.9123, "acc/road": 1.0, "f1/road": 0.5, "iou/[b]x": 0.0, "miou": 0.456}
    lines = class_table(summary, ["road", "[b]x", "never"]).splitlines()
    assert lines[0].startswith("Class")
    assert lines[0].split() == ["Class", "IoU", "Acc", "F1"]
    assert lines[2].split() == ["road", "91.23", "100.00", "50.00"]
    assert lines[3].split() == ["[b]x", "0.00", "-", "-"]
    assert lines[4].split() == ["never", "-", "-", "-"]
    assert lines[-1] == "mIoU 45.60"


def test_no_global_plotting_state(tmp_path):
    code = f"""
import sys
from attnseg.viz import plot_class_scores
assert "matplotlib" not in sys.modules
plot_class_scores({{"road": 0.5}}, {str(tmp_path / "bars.png")!r})
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_confusion_has_a_cell_for_each_pair(tmp_path):
    matrix = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 9]], np.int64)
    plot_confusion(matrix, ["a", "[b]", "$c$"], tmp_path / "f" / "confusion.png")
    picture = cv2.imread(str(tmp_path / "f" / "confusion.png"))
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    found = {tuple(c): n for c, n in zip(colours.tolist(), counts, strict=True)}
    grey, pale = found[(217, 217, 217)], found[(255, 251, 247)]
    # Three cells of the class without a label; two without a pixel, of Blues' first colour.
    assert 1.35 < grey / pale < 1.65
    with pytest.raises(UserError, match="2 class names"):
        plot_confusion(matrix, ["a", "b"], tmp_path / "no.png")
