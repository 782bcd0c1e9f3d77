"""Sequences that keep little in memory. Only the standard library is imported."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class MadeOnAccess(Sequence[Item]):
    """A sequence whose items are made each time that they are asked for, as there may be millions of them."""

    @abstractmethod
    def make(self, index: int) -> Item:
        """The item of an index, 0 <= index < len(self)."""

    def __iter__(self) -> Iterator[Item]:
        """The items in their order, which Sequence would ask for until there are no more, at twice the cost."""
        return map(self.make, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        numbers = range(len(self))[index]
        return self.make(numbers) if isinstance(numbers, int) else [self.make(number) for number in numbers]
