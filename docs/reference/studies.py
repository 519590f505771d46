"""Makes studies.md from the published protocols in the package.

Run it from the repository's root: ``python docs/reference/studies.py``.
"""

from pathlib import Path

from voxelsam.evaluate.studies import Study, Table, studies

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Studies: the papers' tables as data

Each study is a protocol that a paper printed figures for: data, split, order of the labels, recipe, scores, and the
figures with their source. `voxelsam reproduce NAME` runs it on your copy of the data, see
[reproduce a paper](../how-to/reproduce-a-paper.md).

**Every figure on this page is the authors' or of whom the source names. None was measured with this program.** What is
inferred, or was not obtained, says so. No study was attempted by us so far: the data sets need a registration, SAM's
weights and GPUs were not at hand.
"""


def page() -> str:
    """The whole text."""
    return HEAD + "".join(map(_section, studies().values()))


def _section(study: Study) -> str:
    lines = [
        f"\n## {study.name}\n",
        f"{study.title}. *{study.paper}*\n",
        f"- **Data:** layout `{study.data.layout}`, fold {study.data.fold}; {study.data.obtain}",
        f"- **Split:** {study.split}",
        f"- **Scores:** preset `{study.preset}`",
        f"- **Rows that can be trained** (`--arm`): {', '.join(f'`{arm}`' for arm in study.arms) or 'none'}",
        *(f"- **Not certain:** {line}" for line in study.unsure),
        f"- **Status:** {study.status.state}; {study.status.why}",
        "",
    ]
    return "\n".join(lines) + "".join(_table(study, table) for table in study.tables)


def _table(study: Study, table: Table) -> str:
    whole = any(row.values for row in table.figures.values())
    columns = [name.replace("_", " ") for name in study.columns] if whole else []
    head = ["method", *columns, "mean"]
    rows = [
        [
            name,
            *(f"{value:g}" for value in row.values or ()),
            *(["–"] * (len(columns) - len(row.values))),
            f"{row.mean:g}",
        ]
        for name, row in table.figures.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return f"\n{table.measure}, unit: {table.unit}. Source: {table.source}.\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
