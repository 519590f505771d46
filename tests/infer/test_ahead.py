"""Work in the background comes in order, with its errors and findings, and ends when nobody wants it."""

import threading
import warnings
from collections.abc import Iterator

import pytest

from voxelsam import checks
from voxelsam.infer.ahead import ahead


def test_all_items_come_in_order() -> None:
    assert list(ahead(range(20))) == list(range(20))
    assert list(ahead([])) == []
    assert list(ahead([None, None])) == [None, None]


def test_the_next_item_is_made_while_the_last_one_is_used() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    coming = ahead(items())
    assert next(coming) == 0
    assert made.wait(20)
    assert next(coming) == 1


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no second item")

    coming = ahead(items())
    assert next(coming) == 0
    with pytest.raises(ValueError, match="no second item"):
        next(coming)


def test_findings_belong_to_the_watch_of_the_caller() -> None:
    def items() -> Iterator[int]:
        checks.notice("VAL-03", "odd")
        yield 0

    with warnings.catch_warnings(record=True) as shown, checks.watching(where="case") as watch:
        warnings.simplefilter("always")
        list(ahead(items()))
    assert [finding.code for finding in watch.findings] == ["VAL-03"]
    assert len(shown) == 1


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    coming = ahead(iter(int, 1))
    next(coming)
    coming.close()
    assert threading.active_count() == before
