"""Some examples of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from attnseg import data


@dataclasses.dataclass(frozen=True)
class Subset:
    """The examples of `source` with these `indices`."""

    source: data.Source
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.source[self.indices[index]]
