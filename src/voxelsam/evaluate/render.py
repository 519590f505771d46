"""One HTML page from a template.

A page is a single file that shows the same without a network: styles and pictures are inside it, and there are no
scripts. It follows the reader's light or dark setting and fits a telephone. Whatever is put into it is escaped.
"""

import base64
import math
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from voxelsam.evaluate.statistics import Interval


def render(template: str, **values: Any) -> str:
    """The page.

    Args:
        template: File of this package, such as ``report.html.jinja``.
        **values: What stands in it.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str:
        return files(__package__).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(source)
    )
    environment.filters |= {"score": score, "probability": probability, "limits": limits, "inline": _inline}
    return environment.get_template(template).render(version=version("voxelsam"), **values)


def score(value: float, digits: int = 3) -> str:
    """A number as it stands in a table; a dash if it is not defined."""
    return "–" if not math.isfinite(value) else f"{value:.{digits}f}"


def probability(value: float) -> str:
    """A p value as it stands in a table: none is 0."""
    return "<0.001" if value < 0.001 else score(value)


def limits(mean: Interval, digits: int = 3) -> str:
    """The interval of a mean as it stands in a table; nothing where there is none."""
    return "" if math.isnan(mean.low) else f"[{score(mean.low, digits)}, {score(mean.high, digits)}]"


def interval(mean: Interval, digits: int = 3) -> str:
    """A mean with its interval as it stands in a table."""
    return f"{score(mean.value, digits)} {limits(mean, digits)}".rstrip()


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
