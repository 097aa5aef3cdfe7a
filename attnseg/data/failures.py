"""What happens to records that cannot be read: left out, in a way that depends on nothing else.

Which records fail is a property of the files. Training puts the next readable record, by index,
in the place of one that fails; evaluation counts one fewer. Neither depends on the number of
workers or on the step a run was resumed from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from attnseg.core.errors import UserError, check
from attnseg.core.types import Example

if TYPE_CHECKING:
    from attnseg.data.sources import Source

SKIPPED = "skipped"  # i32 [2] in an example: the first index that failed, and how many from there
_STOP = (
    "{}; that makes {} records that cannot be read, more than data.max_skipped={}, so repair the "
    "files or raise it."
)


class Replacing:
    """A source where the next readable record, by index, takes the place of one that fails.

    Its examples have `SKIPPED` besides what those of `source` have.
    """

    def __init__(self, source: Source, most: int):
        """
        Args:
          source: the records.
          most: records that may fail; more than so many in a row are an error.
        """
        self.cache_dir = source.cache_dir
        self._source, self._most = source, most

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        for failed in range(min(self._most + 1, len(self))):
            try:
                example = self._source[(index + failed) % len(self)]
            except UserError as error:
                reason = _clause(error)
            else:
                return example | {SKIPPED: np.array([index, failed], np.int32)}
        raise UserError(_STOP.format(reason, failed + 1, self._most))

    def __repr__(self) -> str:
        return f"Replacing({self._source!r})"


class Attempts:
    """A source that answers with ``{SKIPPED: [index, 1]}`` alone where a record fails."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        try:
            return self._source[index]
        except UserError:
            return {SKIPPED: np.array([index, 1], np.int32)}

    def __repr__(self) -> str:
        return f"Attempts({self._source!r})"


class CarrySkipped:
    """Applies `transform` to an example and keeps its `SKIPPED`; can be pickled if that can."""

    def __init__(self, transform: Callable[..., Example]):
        self._transform = transform

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return self._transform(example, rng) | {SKIPPED: example[SKIPPED]}


class Tally:
    """The records that failed so far, each told once in the log.

    Attributes:
      failed: their indices.
    """

    def __init__(self, source: Source, most: int):
        """
        Args:
          source: the records.
          most: how many may fail.
        """
        self.failed: set[int] = set()
        self._source, self._most = source, most

    def add(self, skipped: np.ndarray) -> None:
        """Counts what `SKIPPED` (i32 [2], or [n 2] for a batch) says.

        Raises:
          UserError: more than the allowed number failed; names the last one and why.
        """
        for first, count in np.reshape(skipped, (-1, 2)).tolist():
            for index in range(first, first + count):
                self._add(index % len(self._source))

    def include(self, failed: Iterable[int]) -> None:
        """Counts records that failed in other processes, which have told of them.

        Raises:
          UserError: together they are more than the allowed number.
        """
        self.failed.update(failed)
        total = len(self.failed)
        check(
            total <= self._most,
            f"{total} records could not be read by the processes of the job, more than "
            f"data.max_skipped={self._most}; repair the files that the log names, or raise it.",
        )

    def _add(self, index: int) -> None:
        if index in self.failed:
            return
        self.failed.add(index)
        reason = self._reason(index)
        logging.warning("Record %d is left out: %s", index, reason)
        total = len(self.failed)
        check(total <= self._most, _STOP.format(reason, total, self._most))

    def _reason(self, index: int) -> str:
        try:  # once more: workers send back only numbers
            example = self._source[index]
        except UserError as error:
            return _clause(error)
        return f'"{example["id"]}" could not be read at first'


def _clause(error: UserError) -> str:
    return str(error).rstrip(".")
