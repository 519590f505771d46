"""Rules for one case: its image, its label map, and the two together."""

from collections.abc import Collection, Iterable, Mapping

from voxelsam.checks import Finding
from voxelsam.examine.facts import CaseFacts, ImageFacts, LabelFacts
from voxelsam.formats._values import PLAUSIBLE_MM
from voxelsam.space.orientation import plane_of
from voxelsam.space.placement import canonical
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.pair import NOTICE_MM, TOLERANCE_MM

ANISOTROPY = 4.0
"""Voxels this many times as long as wide are worth a warning."""

DEPTH = 5
"""Slices of a stack, unless the plan says otherwise."""

LONGEST_MM = 3000.0
"""No scan is longer."""

OUT = 0.5
"""A structure with more than this share of its voxels in the air around the patient is in the wrong place."""

READING = frozenset({"GEO-01", "GEO-02", "GEO-08", "VAL-02"})
"""Codes that are told where files are read and compared."""

_SCORES = 20.0
"""CT whose values all lie below this, up and down, is not in Hounsfield units."""


def case(
    facts: CaseFacts, labels: Labels | None = None, depth: int = DEPTH, *, told: Collection[str] = ()
) -> list[Finding]:
    """Everything that is wrong with one case.

    Args:
        facts: of the case.
        labels: the label table, where there is one.
        depth: slices of a stack in the plan.
        told: codes that were told already: ``READING`` where ``formats`` has read the files and ``check_pair`` has
            compared them. VAL-02 is left out as a warning only.
    """
    found = [] if facts.image is None else image(facts.image, facts.id, depth)
    if facts.label is not None:
        found += label(facts.label, facts.id, labels, facts.unlabelled)
    if facts.image is not None and facts.label is not None:
        found += pair(facts.image, facts.label, facts.id)
    return [one for one in found if one.code not in told or (one.code, one.severity) == ("VAL-02", "error")]


def image(facts: ImageFacts, where: str, depth: int = DEPTH) -> list[Finding]:
    """Rules for an image alone: GEO-07, GEO-08, VAL-02, VAL-03, VAL-06.

    Args:
        facts: of the image.
        where: case or file.
        depth: slices of a stack in the plan.
    """
    rules = (_anisotropy(facts), _depth(facts, depth), _size(facts), _constant(facts), _family(facts), _twins(facts))
    return [Finding(code, "warning", text, where) for code, text in filter(None, rules)]


def label(facts: LabelFacts, where: str, labels: Labels | None = None, unlabelled: Iterable[str] = ()) -> list[Finding]:
    """Rules for a label map alone: LAB-02, LAB-03, LAB-06.

    Args:
        facts: of the label map.
        where: case or file.
        labels: the table that its values must be in.
        unlabelled: structures that nobody looked for.
    """
    found = []
    if labels is not None and (strange := _strange(facts.counts, labels)):
        found.append(Finding("LAB-02", "error", _outside_table(strange, facts.counts, labels), where))
    if facts.empty and not (labels is not None and set(labels.names) <= set(unlabelled)):
        found.append(Finding("LAB-03", "warning", "the label is empty: no voxel of any structure is drawn", where))
    for value, specks in facts.specks.items():
        far = max(specks, key=lambda speck: speck.apart_mm)
        parts, voxels = _many(len(specks), "tiny part"), _many(far.voxels, "voxel")
        distance = f"{far.apart_mm:.0f} {'pixels' if facts.grid.along_k == 'single' else 'mm'}"
        text = (
            f"{_name(value, labels)} has {parts} far from its main part, such as {voxels} {distance} away at {far.at}"
        )
        found.append(Finding("LAB-06", "warning", text, where))
    for value, share in facts.outside.items():
        if share > OUT and not (labels is not None and value == labels.ignore):
            text = f"{share:.0%} of {_name(value, labels)} lies in the air around the patient"
            found.append(Finding("LAB-06", "warning", text, where))
    return found


def pair(facts: ImageFacts, label_facts: LabelFacts, where: str) -> list[Finding]:
    """Rules for an image with its label map: GEO-01, GEO-02, VAL-02.

    Args:
        facts: of the image.
        label_facts: of the label map.
        where: case.
    """
    found = []
    apart = facts.grid.displacement(label_facts.grid)
    limits = f"noticed above {NOTICE_MM} mm, refused above {TOLERANCE_MM} mm"
    if facts.grid.shape != label_facts.grid.shape:
        text = f"the label has {label_facts.grid.shape} voxels, but the image has {facts.grid.shape}"
        found.append(Finding("GEO-01", "error", text, where))
    elif apart > NOTICE_MM:
        text = f"the label lies up to {apart:.3g} mm away from the image ({limits})"
        found.append(Finding("GEO-02", "error" if apart > TOLERANCE_MM else "warning", text, where))
    if facts.flat and not label_facts.empty:
        text = f"structures are drawn on an image whose every voxel is {facts.channels[0].low:g}"
        found.append(Finding("VAL-02", "error", text, where))
    return found


def mapping(counts: Mapping[int, int], labels: Labels) -> dict[int, int] | None:
    """A guess at what the values of a label file stand for; None where there is no good one.

    Values in ascending order stand for the structures in the order of the table, if there are as many.

    Args:
        counts: voxels of each value in the file.
        labels: the table.
    """
    came = sorted(value for value in counts if value not in (0, labels.ignore))
    wanted = [value for value in labels.values.values() if value]
    if len(came) != len(wanted) or min(came) < 0:
        return None
    return {old: new for old, new in zip(came, wanted, strict=True) if old != new}


def _strange(counts: Mapping[int, int], labels: Labels) -> dict[int, int]:
    known = {*labels.values.values(), labels.ignore}
    return {value: count for value, count in counts.items() if value not in known}


def _outside_table(strange: Mapping[int, int], counts: Mapping[int, int], labels: Labels) -> str:
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(strange.items())[:20])
    proposal = mapping(counts, labels)
    hint = "no map can be proposed"
    if proposal:
        hint = "proposed map: " + ", ".join(f"{old} → {_name(new, labels)}" for old, new in proposal.items())
    return f"values outside the label table: {listed}; {hint}"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _name(value: int, labels: Labels | None) -> str:
    names = {} if labels is None else {number: name for name, number in labels.values.items()}
    return f"{value} ({names[value]})" if value in names else f"value {value}"


def _anisotropy(facts: ImageFacts) -> tuple[str, str] | None:
    spacing = facts.grid.spacing
    if facts.grid.along_k != "space" or facts.grid.shape[2] == 1 or max(spacing) <= ANISOTROPY * min(spacing):
        return None
    sizes = " × ".join(f"{size:.3g}" for size in spacing)
    return "GEO-07", f"voxels of {sizes} mm are {max(spacing) / min(spacing):.3g} times as long as wide"


def _depth(facts: ImageFacts, depth: int) -> tuple[str, str] | None:
    if facts.grid.along_k != "space":
        return None
    slices = canonical(facts.grid, plane_of(facts.grid)).target.shape[2]
    if slices >= depth:
        return None
    return "GEO-07", f"the scan has {_many(slices, 'slice')}, fewer than the {depth} of a stack"


def _size(facts: ImageFacts) -> tuple[str, str] | None:
    if facts.grid.along_k != "space":
        return None
    spacing, (low, high) = facts.grid.spacing, PLAUSIBLE_MM
    if min(spacing) < low or max(spacing) > high:
        return "GEO-08", f"a voxel spacing of {' × '.join(f'{size:.4g}' for size in spacing)} mm is unusual"
    longest = max(size * count for size, count in zip(spacing, facts.grid.shape, strict=True))
    return ("GEO-08", f"the scan is {longest / 1000:.3g} m long; check the unit") if longest > LONGEST_MM else None


def _constant(facts: ImageFacts) -> tuple[str, str] | None:
    flat = [number for number, channel in enumerate(facts.channels) if channel.low == channel.high]
    if facts.flat:
        return "VAL-02", f"every voxel is {facts.channels[0].low:g}"
    if flat and facts.kind not in ("PICTURE", "VIDEO"):
        return "VAL-02", f"channel {flat[0]} is constant: every voxel is {facts.channels[flat[0]].low:g}"
    return None


def _family(facts: ImageFacts) -> tuple[str, str] | None:
    if facts.kind != "CT" or facts.flat or not facts.channels:
        return None
    low = min(channel.low for channel in facts.channels)
    high = max(channel.high for channel in facts.channels)
    values = f"CT with values from {low:g} to {high:g}"
    if low > -_SCORES and high < _SCORES:
        return "VAL-03", f"{values} was normalised; Hounsfield units are needed"
    if low >= 0 and high <= 255:
        return "VAL-03", f"{values} was scaled to grey values; Hounsfield units are needed"
    return ("VAL-03", f"{values}: the intercept (-1024, as a rule) may be missing") if low >= 0 else None


def _twins(facts: ImageFacts) -> tuple[str, str] | None:
    colours = len(facts.channels) == 3 and facts.dtype == "uint8"
    if facts.grid.along_k != "space" or colours:
        return None
    seen: dict[str, int] = {}
    for number, channel in enumerate(facts.channels):
        if channel.digest in seen and channel.low != channel.high:
            return "VAL-06", f"channels {seen[channel.digest]} and {number} hold the same voxels"
        seen.setdefault(channel.digest, number)
    return None
