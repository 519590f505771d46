"""Coded terms of structures, so that other programs know what a segment is whatever its name.

The built-in table holds only codes that stand in DICOM's own dictionary of SNOMED CT; every other name gets a private
code of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from voxelsam.errors import LabelError

SNOMED = "SCT"
"""DICOM's name of SNOMED CT."""

PRIVATE = "99VOXELSAM"
"""Scheme of the codes of structures that have none in the table."""

Side = Literal["", "left", "right"]

_SHORT = 16
"""Characters of a code's value and scheme in DICOM."""
_LONG = 64
"""Characters of a code's meaning in DICOM."""


@dataclass(frozen=True)
class Code:
    """A coded term, as DICOM writes it.

    Raises:
        LabelError: a part is empty, longer than DICOM allows, or holds a backslash; the side is none.
    """

    value: str
    """At most 16 characters, ``10200004``."""
    scheme: str
    """Who says what the value means, at most 16 characters: ``SCT`` for SNOMED CT."""
    meaning: str
    """The term in words, at most 64 characters."""
    side: Side = ""
    """Of structures that come in pairs."""
    abnormal: bool = False
    """Whether it is something that a healthy body does not have."""

    def __post_init__(self) -> None:
        for part, text, longest in (
            ("value", self.value, _SHORT),
            ("scheme", self.scheme, _SHORT),
            ("meaning", self.meaning, _LONG),
        ):
            if not isinstance(text, str) or not text.strip() or len(text) > longest or "\\" in text:
                raise LabelError(
                    f"the {part} of a code has 1 to {longest} characters and no backslash, but {text!r} came"
                )
        if self.side not in ("", "left", "right"):
            raise LabelError(f"the side of a code is left, right or empty, not {self.side!r}")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """A code from ``to_json``.

        Raises:
            LabelError: a part is missing, unknown or not valid.
        """
        known = {"value", "scheme", "meaning", "side", "abnormal"}
        if not isinstance(fields, Mapping) or set(fields) - known or not {"value", "scheme", "meaning"} <= set(fields):
            raise LabelError(f"a code has a value, a scheme and a meaning (and a side, abnormal), but {fields!r} came")
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Its parts; a side and ``abnormal`` only where they say something."""
        extra = ({"side": self.side} if self.side else {}) | ({"abnormal": True} if self.abnormal else {})
        return {"value": self.value, "scheme": self.scheme, "meaning": self.meaning, **extra}


def code_of(name: str) -> Code:
    """The code of a structure's name: SNOMED CT where the table has it, else a private one made from the name.

    Spelling of English, upper and lower case, underscores and plurals of the table do not matter; ``left`` and
    ``right`` become a side where the structure comes in pairs.
    """
    words = name.casefold().replace("_", " ").replace("-", " ").split()
    if known := _TERMS.get(" ".join(words)):
        return Code(known[0], SNOMED, known[1], abnormal=" ".join(words) in _ABNORMAL)
    for side in ("left", "right"):
        rest = " ".join(word for word in words if word != side)
        if side in words and rest in _PAIRED:
            value, meaning = _TERMS[rest]
            return Code(value, SNOMED, meaning, "left" if side == "left" else "right")
    value = hashlib.sha256(name.encode()).hexdigest()[:_SHORT].upper()
    meaning = name.replace("\\", "/")[:_LONG].strip() or "unnamed"
    return Code(value, PRIVATE, meaning, abnormal=any(sign in name.casefold() for sign in _SIGNS))


_TERMS = {
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "kidney": ("64033007", "Kidney"),
    "kidneys": ("64033007", "Kidney"),
    "pancreas": ("15776009", "Pancreas"),
    "gallbladder": ("28231008", "Gallbladder"),
    "gall bladder": ("28231008", "Gallbladder"),
    "oesophagus": ("32849002", "Esophagus"),
    "esophagus": ("32849002", "Esophagus"),
    "stomach": ("69695003", "Stomach"),
    "duodenum": ("38848004", "Duodenum"),
    "small intestine": ("30315005", "Small intestine"),
    "small bowel": ("30315005", "Small intestine"),
    "colon": ("71854001", "Colon"),
    "rectum": ("34402009", "Rectum"),
    "aorta": ("15825003", "Aorta"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "ivc": ("64131007", "Inferior vena cava"),
    "postcava": ("64131007", "Inferior vena cava"),
    "superior vena cava": ("48345005", "Superior vena cava"),
    "portal vein": ("32764006", "Portal vein"),
    "splenic vein": ("35819009", "Splenic vein"),
    "pulmonary artery": ("81040000", "Pulmonary artery"),
    "adrenal": ("23451007", "Adrenal gland"),
    "adrenals": ("23451007", "Adrenal gland"),
    "adrenal gland": ("23451007", "Adrenal gland"),
    "adrenal glands": ("23451007", "Adrenal gland"),
    "bladder": ("89837001", "Bladder"),
    "urinary bladder": ("89837001", "Bladder"),
    "prostate": ("41216001", "Prostate"),
    "peripheral zone": ("279706003", "Peripheral zone of the prostate"),
    "transition zone": ("399384005", "Transition zone of the prostate"),
    "uterus": ("35039007", "Uterus"),
    "heart": ("80891009", "Heart"),
    "left atrium": ("82471001", "Left atrium"),
    "right atrium": ("73829009", "Right atrium"),
    "left ventricle": ("87878005", "Left ventricle"),
    "right ventricle": ("53085002", "Right ventricle"),
    "left ventricle myocardium": ("49848007", "Left Ventricle Myocardium"),
    "lung": ("39607008", "Lung"),
    "lungs": ("39607008", "Lung"),
    "trachea": ("44567001", "Trachea"),
    "mediastinum": ("72410000", "Mediastinum"),
    "brain": ("12738006", "Brain"),
    "cerebellum": ("113305005", "Cerebellum"),
    "hippocampus": ("5366008", "Hippocampus"),
    "spinal cord": ("2748008", "Spinal cord"),
    "femur": ("71341001", "Femur"),
    "humerus": ("85050009", "Humerus"),
    "clavicle": ("51299004", "Clavicle"),
    "optic disc": ("81016008", "Optic disc structure (body structure)"),
    "optic disk": ("81016008", "Optic disc structure (body structure)"),
    "nucleus": ("84640000", "Nucleus"),
    "tumour": ("108369006", "Neoplasm"),
    "tumor": ("108369006", "Neoplasm"),
    "neoplasm": ("108369006", "Neoplasm"),
    "lesion": ("52988006", "Lesion"),
    "skin lesion": ("95324001", "Skin lesion"),
    "mass": ("4147007", "Mass"),
    "cyst": ("367643001", "Cyst"),
    "metastasis": ("128462008", "Metastasis"),
    "oedema": ("79654002", "Edema"),
    "edema": ("79654002", "Edema"),
    "necrosis": ("6574001", "Necrosis"),
}

_PAIRED = frozenset(
    {"kidney", "adrenal", "adrenal gland", "lung", "hippocampus", "femur", "humerus", "clavicle", "optic disc"}
)

_ABNORMAL = frozenset(
    {
        "tumour", "tumor", "neoplasm", "lesion", "skin lesion", "mass", "cyst", "metastasis", "oedema", "edema",
        "necrosis",
    }
)  # fmt: skip

_SIGNS = (
    "tumour", "tumor", "lesion", "cancer", "carcinoma", "metasta", "polyp", "cyst", "oedema", "edema", "necro",
    "enhancing", "nodule", "infarct", "haemorrhage", "hemorrhage",
)  # fmt: skip
"""Parts of names that say that a structure is none of a healthy body."""
