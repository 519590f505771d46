"""Every check of the input: its code, what it means, and who may pass it over.

A check that finds something either refuses (an error, the case stops) or notices (a warning, work goes on). Whoever
knows better accepts a refusal by its code; the finding is then a warning and stands in the record of the run. Checks
whose finding leaves nothing to work with (a file that cannot be read) cannot be accepted.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from voxelsam.catalogue import CATALOGUE, Check, Severity
from voxelsam.errors import ConfigError, InputError, InputWarning

__all__ = ["CATALOGUE", "Check", "Finding", "Severity", "Watch", "accepted", "notice", "refuse", "settle", "watching"]


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


_watch: ContextVar[Watch | None] = ContextVar("voxelsam_watch", default=None)


@contextmanager
def watching(accept: Collection[str] = (), where: str = "") -> Iterator[Watch]:
    """Collects what checks find inside the block.

    Args:
        accept: codes whose errors become warnings, and whose warnings are not shown; those that an outer block
            accepts stay accepted.
        where: case that findings without a place of their own belong to.

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
        watch.findings[:] = [replace(finding, where=finding.where or where) for finding in watch.findings]
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


def accepted(code: str) -> bool:
    """Whether the user takes responsibility for what that check finds."""
    watch = _watch.get()
    return watch is not None and code in watch.accepted


def accepted_codes() -> frozenset[str]:
    """Every code that is accepted here, to be accepted in another process too."""
    watch = _watch.get()
    return watch.accepted if watch is not None else frozenset()


def stops(finding: Finding) -> bool:
    """Whether a finding is an error that is not accepted."""
    return finding.severity == "error" and not (accepted(finding.code) and CATALOGUE[finding.code].acceptable)


def settle(findings: Iterable[Finding], kind: type[InputError] = InputError, *, stacklevel: int = 2) -> None:
    """Says what was found, as ``refuse`` and ``notice`` do: one warning per code, all errors in one exception.

    Errors of checks that cannot be accepted stop in any case.

    Args:
        findings: for example of ``examine``.
        kind: of the exception.
        stacklevel: of the warnings: 1 is this function's caller, 2 the caller's caller.

    Raises:
        InputError: of that kind, with the code of the first error that is not accepted.
    """
    errors: list[Finding] = []
    told: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity == "warning":
            told.setdefault(finding.code, []).append(finding)
        elif stops(finding):
            errors.append(finding)
        else:
            refuse(finding.code, finding.message, kind)
    for code, alike in told.items():
        _tell(code, alike, stacklevel + 1)
    if len(errors) == 1:
        raise kind(errors[0].message, code=errors[0].code)
    if errors:
        listed = "\n".join(f"  {error.code}: {error.message}" for error in errors)
        raise kind(f"checks found {len(errors)} errors:\n{listed}", code=errors[0].code)


def _tell(code: str, alike: Sequence[Finding], stacklevel: int) -> None:
    """Keeps warnings of one code, and shows the first of them with the number of the others."""
    watch = _watch.get()
    if watch is not None:
        watch.findings.extend(alike)
    if watch is None or code not in watch.accepted:
        others = [finding.where for finding in alike[1:]]
        listed = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        more = f" (and {len(others)} more: {listed})" if others else ""
        first = alike[0]
        place = f"{first.where}: " if first.where and first.where not in first.message else ""
        warnings.warn(f"{code}: {place}{first.message}{more}", InputWarning, stacklevel=stacklevel + 1)
