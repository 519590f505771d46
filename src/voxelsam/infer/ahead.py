"""Work that is done in the background while its results are used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, the next one being made in a thread while the last one is used.

    What making an item raises comes out where the item would have come, and the checks that it meets report to the
    watch of whoever called. Closing the iterator waits for the item that is being made.
    """
    iterator, context = iter(items), copy_context()

    def following() -> T:
        return context.run(next, iterator, _END)

    with ThreadPoolExecutor(1, thread_name_prefix="voxelsam-ahead") as pool:
        coming = pool.submit(following)
        while (item := coming.result()) is not _END:
            coming = pool.submit(following)
            yield item
