"""Makes checks.md from the catalogue of checks.

Run it from the repository's root: ``python docs/reference/checks.py``.
"""

from pathlib import Path

from voxelsam.checks import CATALOGUE, Check

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Checks and their codes

Every check has a code that does not change. An error stops the case or the command with exit code 2; after a warning
work goes on. `voxelsam doctor` looks for all of them at once, see [check your data](../how-to/check-your-data.md).
Readers, training, prediction and evaluation run the same checks.

Switching off: `voxelsam doctor --ignore CODE` leaves findings out and counts them. Training, prediction, prompts and
evaluation take `--accept CODE`, a recipe `data.accept: [CODE]`: an error that can be accepted becomes a warning, and a
warning is not shown. In Python the same holds inside

```python
from voxelsam import checks

with checks.watching(accept={"GEO-02"}) as watch:
    pass  # read, train, predict
assert watch.findings == []  # what was found, accepted or not
```

What was found and what was accepted stands in the record of a run, `run.json`.

"""

FOOT = """## How files are read

NIfTI: the sform is used where it has a code, else the qform. Spacing comes from the affine only. Labels are written as
unsigned integers with slope 1, read back and compared before the file gets its name.

Pictures (PNG, JPEG, BMP, TIFF): 8 bits are 0 to 255, deeper ones keep their numbers, whose range is measured. Pixels
count as 1 mm apart; the print resolution in a file is never a size. An opaque alpha channel is dropped, an image's
palette becomes its colours. In a mask the grey value or the index of the palette is the label; masks are written as
PNG, grey, with 8 or 16 bits.

What `voxelsam doctor --phi` looks at: file names; text fields and extensions of NIfTI headers; keys of NRRD and
MetaImage headers; text, EXIF and TIFF fields of pictures; DICOM tags about the patient, the institution and dates, and
the flag for burnt-in text. It does not look at pixels or at private DICOM tags, so an empty list is no proof.
"""


def page() -> str:
    """The whole text."""
    rows = [f"| {check.code} | {check.title} | {check.verdict.replace('|', '/')} |" for check in CATALOGUE.values()]
    table = "\n".join(["| code | what | verdict |", "|---|---|---|", *rows])
    return HEAD + table + "\n\n" + "\n".join(map(_section, CATALOGUE.values())) + "\n" + FOOT


def _section(check: Check) -> str:
    if check.accepted:
        switch = f"`{check.code}` can be accepted: {check.accepted}."
    elif check.severity == "error":
        switch = "cannot be accepted: there is nothing to go on with."
    else:
        switch = f"accepting `{check.code}` hides the warning."
    lines = (
        ("What", check.title),
        ("Verdict", check.verdict),
        ("Cause", check.cause),
        ("Why it matters", check.why),
        ("Example", check.example),
        ("Fix", check.fix),
    )
    items = "\n".join(f"- **{name}:** {text}." for name, text in lines)
    return f"## {check.code}\n\n{items}\n- **Switch:** {switch}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
