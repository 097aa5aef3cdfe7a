"""Batches for training, without end, and for evaluation, each example once.

Both are numpy and u8 until they reach the device. With several processes (hosts), `batch_size` is
that of the global batch and every process loads its own rows of it.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from attnseg.core.errors import check
from attnseg.core.types import ID, IGNORE, IMAGE, LABEL, MASK, SIZE, Batch, Example
from attnseg.data.failures import SKIPPED, Attempts, CarrySkipped, Replacing, Tally
from attnseg.data.sources import Source
from attnseg.data.workers import shielded, start_worker

EVAL_THREADS = 2
# Examples of rare sizes that wait for company, beyond which a batch goes out part-empty.
EVAL_MAX_WAITING = 128


def steps_per_epoch(source: Source, batch_size: int) -> float:
    """Returns how many global batches hold as many examples as `source` does."""
    return len(source) / batch_size


class TrainBatches(Iterator[Batch]):
    """The endless iterator that `train_batches` returns; call `close` when done with it.

    Attributes:
      tally: the records left out of the batches returned so far; None where none may be.
    """

    def __init__(self, dataset: grain.IterDataset, tally: Tally | None = None):
        self._iterator = iter(dataset)
        self._started = False  # the first batch starts the workers
        self.tally = tally

    def __next__(self) -> Batch:
        with contextlib.nullcontext() if self._started else shielded():
            batch = next(self._iterator)
        self._started = True
        if self.tally is not None:
            self.tally.add(batch[SKIPPED])
        return {
            # A copy, since a worker's shared memory must be free to go at any time.
            IMAGE: np.array(batch[IMAGE], subok=False),
            LABEL: np.array(batch[LABEL], np.int32, subok=False),
            MASK: np.ones(len(batch[IMAGE]), np.float32),
        }

    def close(self) -> None:
        """Ends threads and worker processes and frees shared memory; may be called twice.

        Afterwards the iterator is at its end.
        """
        if isinstance(self._iterator, grain.DatasetIterator):
            self._iterator.close()
        self._iterator = iter(())  # lets go of the workers' semaphores as well


def train_batches(
    source: Source,
    *,
    geometry: Callable[[Example, np.random.Generator], Example],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    max_skipped: int | None = None,
) -> TrainBatches:
    """Returns this process's rows of the batches `start_step`, `start_step` + 1, ...

    Which examples a batch holds, and what `geometry` does to them, depends on `seed` and the
    batch's number only: not on workers, nor on the step it was started from. Every epoch has its
    own order; batches run across the ends of epochs.

    Args:
      source: examples by index.
      geometry: makes image u8 [h w 3] and label, u8 [h w] or i32 [], of one size from an
        example; must be picklable if `workers` > 0.
      batch_size: rows of the global batch, a multiple of `process_count`.
      seed: 0..2**32-1.
      start_step: number of the first batch.
      workers: processes that load; 0 for threads in this process.
      prefetch: batches loaded ahead, by each worker if there are any.
      process_index, process_count: this process among all.
      max_skipped: records that may be unreadable, each then replaced by the next one, by index,
        that can be read; None allows none. This process counts its own; see `Tally.include`.

    Returns:
      iterator of {image u8 [n h w 3], label i32 [n h w] or [n], mask f32 [n] of ones}, where n is
      ``batch_size / process_count``.

    Raises:
      UserError: an argument does not fit; while iterating, whatever `source` finds wrong.
    """
    rows = _local_rows(source, batch_size, process_count)
    check(workers >= 0 and prefetch >= 1, "workers must be at least 0 and prefetch at least 1.")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads a flag; scripts and notebooks parse none
    tally = None
    if max_skipped is not None:
        tally = Tally(source, max_skipped)
        source, geometry = Replacing(source, max_skipped), CarrySkipped(geometry)
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(geometry)
    # Share p of batch b is number b * process_count + p of the smaller batches.
    dataset = dataset.batch(rows, drop_remainder=True)
    dataset = dataset[start_step * process_count + process_index :: process_count]
    if not workers:
        threads = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
        return TrainBatches(dataset.to_iter_dataset(threads), tally)
    sequential = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
    dataset = dataset.to_iter_dataset(sequential)
    return TrainBatches(dataset.mp_prefetch(processes, worker_init_fn=start_worker), tally)


def eval_batches(
    source: Source,
    *,
    transform: Callable[[Example], Example],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    max_skipped: int | None = None,
) -> Iterator[Batch]:
    """Yields every example once, in batches of one size of image and one of label each.

    Examples are gathered by size. Rows that only fill up a batch have black images, labels of
    `IGNORE` and mask 0. With several processes each takes every `process_count`-th example, and
    all see the same number of batches, so the examples must be of one size.

    Args:
      source: examples by index.
      transform: `EvalResize`, `CentreCrop` or the like, applied to each example.
      batch_size: rows of the global batch, a multiple of `process_count`.
      process_index, process_count: this process among all.
      max_skipped: records that this process may find unreadable, which are then left out; None
        allows none.

    Yields:
      {image u8 [n h w 3], label i32 [n h' w'] or [n], mask f32 [n], id: list of n str ("" for
      filling), size i32 [n 2]}, where n is ``batch_size / process_count``.

    Raises:
      UserError: an argument does not fit, or several processes meet examples of several sizes.
    """
    rows = _local_rows(source, batch_size, process_count)
    share = slice(process_index, None, process_count)
    examples = _eval_examples(source, transform, share, max_skipped)
    if process_count == 1:
        for group in _grouped(examples, rows):
            yield _filled(group, rows)
        return
    shape = _shapes(transform(source[0]))
    batches = -(-len(source) // batch_size)
    for group in _alike(examples, rows, batches, shape):
        yield _filled(group, rows, shape)


def eval_examples(source: Source, max_skipped: int | None = None) -> Iterator[Example]:
    """Yields every example once and as it is, one read ahead: for images of any size.

    Args:
      source: examples by index.
      max_skipped: records that may turn out unreadable, which are then left out; None: none.
    """
    return _eval_examples(source, _as_it_is, slice(None), max_skipped, threads=1, ahead=1)


def _as_it_is(example: Example) -> Example:
    return example


def _local_rows(source: Source, batch_size: int, process_count: int) -> int:
    check(len(source) > 0, f"{source!r} has no examples.")
    check(
        batch_size > 0 and batch_size % process_count == 0,
        f"a batch of {batch_size} cannot be shared equally by {process_count} processes.",
    )
    return batch_size // process_count


def _eval_examples(
    source: Source,
    transform: Callable[[Example], Example],
    share: slice,
    max_skipped: int | None,
    threads: int = EVAL_THREADS,
    ahead: int = 4 * EVAL_THREADS,
) -> Iterator[Example]:
    if not range(len(source))[share]:
        return
    tally = None if max_skipped is None else Tally(source, max_skipped)
    records = source if tally is None else Attempts(source)
    dataset = grain.MapDataset.source(records)[share]
    dataset = dataset.map(lambda example: transform(example) if IMAGE in example else example)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        for example in iterator:
            if tally is not None and IMAGE not in example:
                tally.add(example[SKIPPED])
            else:
                yield example
    finally:
        iterator.close()


def _shapes(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return example[IMAGE].shape, example[LABEL].shape


def _grouped(examples: Iterator[Example], rows: int) -> Iterator[list[Example]]:
    """Gathers examples of equal shapes into lists of `rows`, and what is left into shorter ones."""
    waiting: dict[tuple, list[Example]] = collections.defaultdict(list)
    for example in examples:
        group = waiting[_shapes(example)]
        group.append(example)
        if len(group) == rows:
            yield waiting.pop(_shapes(example))
        elif sum(map(len, waiting.values())) > EVAL_MAX_WAITING:
            yield waiting.pop(max(waiting, key=lambda shapes: len(waiting[shapes])))
    yield from waiting.values()


def _alike(examples, rows: int, batches: int, shapes) -> Iterator[list[Example]]:
    """Gathers examples, all of `shapes`, into exactly `batches` lists of at most `rows`."""
    for _ in range(batches):
        group = [example for _, example in zip(range(rows), examples, strict=False)]
        for example in group:
            check(
                _shapes(example) == shapes,
                f'example "{example[ID]}" differs in size from the first one; evaluation on '
                "several processes needs examples of one size, so evaluate on one process.",
            )
        yield group


def _filled(group: list[Example], rows: int, shapes=None) -> Batch:
    """Stacks a group into a batch, filled up to `rows`; an empty group needs `shapes`."""
    image_shape, label_shape = shapes or _shapes(group[0])
    batch = {
        IMAGE: np.zeros((rows, *image_shape), np.uint8),
        LABEL: np.full((rows, *label_shape), IGNORE, np.int32),
        MASK: (np.arange(rows) < len(group)).astype(np.float32),
        ID: [example[ID] for example in group] + [""] * (rows - len(group)),
        SIZE: np.zeros((rows, 2), np.int32),
    }
    for row, example in enumerate(group):
        for key in (IMAGE, LABEL, SIZE):
            batch[key][row] = example[key]
    return batch
