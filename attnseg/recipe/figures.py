"""Pictures of a run: predictions beside the truth, curves, IoU of each class."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from attnseg import data
from attnseg.core.types import ID, IMAGE, LABEL
from attnseg.recipe import assemble
from attnseg.recipe.subset import Subset
from attnseg.training.evaluate import jit_predict_step, predict_examples, predict_views
from attnseg.training.log import FILE, MetricLog, read_metrics
from attnseg.training.loop import Job
from attnseg.training.state import TrainState
from attnseg.viz import comparison, plot_class_scores, plot_curves, save_png
from attnseg.viz.memory import plot_memory

FOLDER = "figures"


class Overlays:
    """Draws the predictions for a few examples, to ``WORKDIR/figures`` and TensorBoard."""

    def __init__(self, config: ConfigDict, source: data.Source, job: Job, workdir: Path):
        self._config, self._job, self._folder = config, job, Path(workdir) / FOLDER
        masks = assemble.dataset_info(config).task == "segmentation"
        count = min(config.eval.overlays, len(source)) if masks else 0
        # Spread over the split: neighbours are often frames of one video.
        picks = np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist()
        self._examples = Subset(assemble.readable(config, source), tuple(picks))

        self._predict = jit_predict_step(job.evaluation)

    def __call__(self, log: MetricLog, step: int, state: TrainState) -> None:
        """Draws with the parameters that are evaluated."""
        if not len(self._examples) or jax.process_count() > 1:
            return
        info = assemble.dataset_info(self._config)
        predictions = self._predictions(state)
        for index in range(len(self._examples)):
            example = self._examples[index]
            picture = comparison(
                example[IMAGE],
                example[LABEL],
                predictions[example[ID]],
                info.palette,
                info.classes,
            )
            save_png(self._folder / f"overlay_{index}.png", picture)
            log.image(step, f"{self._job.split}/overlay_{index}", picture)

    def _predictions(self, state: TrainState) -> dict[str, np.ndarray]:
        """Label maps by id, made in the way that is evaluated."""
        evaluation, examples = self._job.evaluation, self._examples
        if evaluation.views is not None:
            picked = (examples[index] for index in range(len(examples)))
            return {e[ID]: predict_views(evaluation, state, e) for e in picked}
        found = {}
        for batch in assemble.eval_batches(self._config, examples, evaluation.mesh):
            rows = predict_examples(self._predict, state, batch, evaluation.mesh)
            found |= dict(zip(batch[ID], rows, strict=False))
        return found


def draw_figures(
    workdir: Path, info: data.DatasetInfo, scores: dict[str, float], headline: str
) -> None:
    """Curves, with the score SPLIT/NAME called `headline`, and a score of each class as PNG."""
    folder = workdir / FOLDER
    metrics = read_metrics(workdir / FILE)
    plot_curves(metrics, folder / "curves.png", headline)
    plot_memory(metrics, folder / "memory.png")
    if info.task == "classification":
        accuracies = {k.removeprefix("acc/"): v for k, v in scores.items() if k.startswith("acc/")}
        if accuracies:
            plot_class_scores(accuracies, folder / "class_accuracy.png", score="Accuracy")
        return
    ious = {k.removeprefix("iou/"): v for k, v in scores.items() if k.startswith("iou/")}
    palette = dict(zip(info.classes, info.palette, strict=True))
    plot_class_scores(ious, folder / "class_iou.png", palette)
