"""Predictions for files, folders and videos: what ``launch/predict.py`` does."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnseg.core import memory
from attnseg.core.errors import UserError, check
from attnseg.data import picture_size, read_picture
from attnseg.infer import Predictor
from attnseg.recipe.answers import Answers, parse_kinds
from attnseg.recipe.inputs import Item, find_inputs
from attnseg.recipe.video import Frames

ON_ERROR = ("skip", "raise")
MANY_SIZES = 4  # sizes of images from which on it is said what compiling for each costs
T = TypeVar("T")
Say = Callable[[str], None]


@dataclasses.dataclass
class Report:
    """What became of the inputs.

    Attributes:
      images, frames: predicted images, and frames of videos.
      failed: files that could not be read, with the reason.
      table: the CSV file.
    """

    images: int = 0
    frames: int = 0
    failed: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    table: Path | None = None


@memory.keep_freed()
def predict(
    load: Callable[[], Predictor],
    given: Sequence[str],
    output: str | Path,
    *,
    save: str | None = None,
    opacity: float = 0.6,
    on_error: str = "skip",
    say: Say = print,
) -> Report:
    """Predicts everything that `given` names and writes the answers to `output`.

    Args:
      load: gives the predictor; called once the inputs are known to be there.
      given: files, folders and patterns.
      output: the folder, see `Answers`.
      save: kinds of answers, separated by commas; default those of `USUAL`.
      opacity: of overlays.
      on_error: of files that cannot be read: "skip" names them in the report and goes on, "raise"
        stops.
      say: takes each line for the terminal.

    Raises:
      UserError: nothing to predict, unknown kinds, answers that cannot be written, or with
        "raise" the first file that cannot be read.
    """
    check(on_error in ON_ERROR, f'--on_error="{on_error}" is none of {", ".join(ON_ERROR)}.')
    kinds = parse_kinds(save)
    check(0 <= opacity <= 1, f"--opacity={opacity} is not a share; use 0 to 1.")
    items = find_inputs(given, output)
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {output}: {error.strerror}.") from error
    report = Report()
    refuse = _Refuse(report, on_error == "raise")
    sizes = _sizes([item for item in items if not item.video], refuse)
    videos = [item for item in items if item.video]
    _announce(sizes, len(videos), say)
    if not sizes and not videos:
        return report
    predictor = load()
    check(
        save is None or predictor.segments,
        f"--save={save}: {predictor.info.name} has a class for a whole image, which goes into the "
        "table alone; leave --save out.",
    )
    answers = Answers(Path(output), predictor.info, kinds, opacity)
    console = Console(stderr=True)
    with _bar(console) as bar:
        try:
            _images(predictor, sizes, answers, report, refuse, bar)
            for item in videos:
                _video(predictor, item, answers, report, refuse, bar, say)
        finally:  # what was done before an error is told, too
            report.table = answers.write_table()
    return report


class _Refuse:
    """Notes a file that cannot be read, or stops because of it."""

    def __init__(self, report: Report, stop: bool):
        self._report, self._stop = report, stop

    def __call__(self, item: Item, error: UserError) -> None:
        if self._stop:
            raise error
        self._report.failed.append((item.path, str(error)))


def _sizes(items: list[Item], refuse: _Refuse) -> dict[Item, tuple[int, int] | None]:
    """(h, w) of each image as its first bytes tell it, without those that are not there."""
    sizes = {}
    for item in items:
        try:
            sizes[item] = picture_size(item.path)
            if sizes[item] is None:  # only decoding can tell
                sizes[item] = read_picture(item.path).shape[:2]
        except UserError as error:
            sizes.pop(item, None)
            refuse(item, error)
    return sizes


def _announce(sizes: dict[Item, Any], videos: int, say: Say) -> None:
    different = len(set(sizes.values()))
    parts = [f"{_number(len(sizes), 'image')} of {_number(different, 'size')}"] if sizes else []
    say(", ".join(parts + ([_number(videos, "video")] if videos else [])) or "nothing to predict")
    if different > MANY_SIZES:
        say(
            "each size compiles programs of its own, for exact results; --config.eval.mode=slide "
            "has one for all, and programs are kept for the next time"
        )


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _images(predictor, sizes, answers, report, refuse, bar) -> None:
    """Images of equal size together; the next ones are read and the last written meanwhile."""
    groups = collections.defaultdict(list)
    for item, size in sizes.items():
        groups[size].append(item)
    batches = [part for group in groups.values() for part in _parts(group, predictor.batch)]
    task = bar.add_task("images", total=len(sizes))
    probs = "probs" in answers.kinds
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(2) as writers:
        waiting: collections.deque = collections.deque()

        def finish(most: int) -> None:
            while len(waiting) > most:
                waiting.popleft().result()
                report.images += 1
                bar.advance(task)

        for batch in _ahead(reader, _read_batch, batches):
            pictures = {}
            for item, found in batch:
                if isinstance(found, UserError):
                    refuse(item, found)
                    bar.advance(task)
                else:
                    pictures[item] = found
            for item, prediction in _predicted(predictor, pictures, probs, refuse):
                waiting.append(writers.submit(answers.image, item, prediction))
            finish(2 * predictor.batch)
        finish(0)


def _predicted(predictor, pictures: dict[Item, np.ndarray], probs: bool, refuse):
    """Pairs of item and prediction; an image that the network cannot take is refused."""
    memory.ease()
    try:
        predictions = predictor.predict(list(pictures.values()), probs=probs)
    except UserError as error:
        for item in pictures:
            refuse(item, UserError(f"{item.path}: {error}"))
        return []
    return list(zip(pictures, predictions, strict=True))


def _read_batch(items: list[Item]) -> list[tuple[Item, np.ndarray | UserError]]:
    found = []
    for item in items:
        try:
            found.append((item, read_picture(item.path)))
        except UserError as error:
            found.append((item, error))
    return found


def _ahead(pool: ThreadPoolExecutor, function: Callable[[Any], T], work: Iterable) -> Iterator[T]:
    """Results in order, the next one being made while the caller works on this one."""
    waiting = None
    for part in work:
        coming = pool.submit(function, part)
        if waiting is not None:
            yield waiting.result()
        waiting = coming
    if waiting is not None:
        yield waiting.result()


def _parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while part := list(itertools.islice(iterator, size)):
        yield part


def _video(predictor, item, answers, report, refuse, bar, say) -> None:
    """One video; its answers appear when all of it is done."""
    number, complete, frames = 0, False, None
    task = None
    try:
        frames = Frames(item.path)
        task = bar.add_task(item.path.name, total=frames.count or None)
        probs = "probs" in answers.kinds
        for part in _parts(frames, predictor.batch):
            memory.ease()
            for prediction in predictor.predict(part, probs=probs):
                answers.frame(item, number, frames.rate, prediction)
                number += 1
                bar.advance(task)
        complete = True
        if number < frames.count:
            say(f"{item.path}: {number} frames of the {frames.count} that it claims to have")
    except UserError as error:
        refuse(item, error)
    finally:
        report.frames += number
        answers.end_video(complete)
        if frames is not None:
            frames.close()
