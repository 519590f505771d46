"""Every check of the input: its code, what it means, and who may pass it over.

A check that finds something either refuses (an error, the case stops) or notices (a warning, work goes on). Whoever
knows better accepts a refusal by its code; the finding is then a warning and stands in the record of the run. Checks
whose finding leaves nothing to work with (a file that cannot be read) cannot be accepted.
"""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from voxelsam.errors import ConfigError, InputError, InputWarning

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Check:
    """What one code stands for."""

    code: str
    """Stable name, ``GEO-02``."""
    title: str
    """What is looked at, in a few words."""
    severity: Severity
    """The worst that it can be."""
    acceptable: bool
    """Whether work can go on when its error is accepted."""
    cause: str
    """One line: what was found."""
    fix: str
    """One line: what to do."""
    why: str
    """What goes wrong where nobody looks."""
    example: str
    """A file, a header or a number that shows it."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    code: str
    severity: Severity
    message: str
    where: str = ""
    """File, series or case; empty where the message names it."""


@dataclass
class Watch:
    """What was found so far, and which errors count as warnings."""

    accepted: frozenset[str] = frozenset()
    findings: list[Finding] = field(default_factory=list)


CATALOGUE: dict[str, Check] = {}

_watch: ContextVar[Watch | None] = ContextVar("voxelsam_watch", default=None)


@contextmanager
def watching(accept: Collection[str] = ()) -> Iterator[Watch]:
    """Collects what checks find inside the block.

    Args:
        accept: codes whose errors become warnings, and whose warnings are not shown; those that an outer block
            accepts stay accepted.

    Raises:
        ConfigError: a code is unknown, or its error leaves nothing to work with.
    """
    for code in accept:
        if code not in CATALOGUE:
            raise ConfigError(f"there is no check {code}; there are {', '.join(CATALOGUE)}")
        if CATALOGUE[code].severity == "error" and not CATALOGUE[code].acceptable:
            raise ConfigError(f"{code} ({CATALOGUE[code].title}) cannot be accepted: {CATALOGUE[code].fix}")
    outer = _watch.get()
    watch = Watch(frozenset(accept) | (outer.accepted if outer else frozenset()))
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)
        if outer is not None:
            outer.findings.extend(watch.findings)


def refuse(code: str, message: str, kind: type[InputError] = InputError) -> None:
    """Stops the case, unless the code is accepted: then it is noticed, and the caller goes on.

    Raises:
        InputError: of that kind, with that code.
    """
    watch = _watch.get()
    if watch is None or code not in watch.accepted:
        raise kind(message, code=code)
    watch.findings.append(Finding(code, "warning", message))


def notice(code: str, message: str, *, stacklevel: int = 2) -> None:
    """Warns, unless the code is accepted; a watch keeps it either way."""
    watch = _watch.get()
    if watch is not None:
        watch.findings.append(Finding(code, "warning", message))
    if watch is None or code not in watch.accepted:
        warnings.warn(f"{code}: {message}", InputWarning, stacklevel=stacklevel + 1)
