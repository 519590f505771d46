"""Two patients: the first with two pictures and three contours, the second with one."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (30, 40)
TRIANGLE = ((5, 5), (20, 5), (5, 20))
SQUARE = ((22, 10), (36, 10), (36, 24), (22, 24))


def make(root: Path) -> None:
    write_case(root, "1", {"1": [SQUARE, TRIANGLE], "2": [TRIANGLE]})
    write_case(root, "12", {"1": [SQUARE]})


def write_case(root: Path, patient: str, contours: dict[str, list[tuple[tuple[int, int], ...]]]) -> None:
    marks = ""
    for number, polygons in contours.items():
        random = np.random.default_rng([int(patient), int(number)])
        picture = Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8))
        picture.save(root / f"{patient}_{number}.jpg")
        shapes = [
            {"points": [{"x": x, "y": y} for x, y in polygon], "annotation": {}, "regionType": "freehand"}
            for polygon in polygons
        ]
        marks += f"<mark><image>{number}</image><svg>{json.dumps(shapes) if shapes else ''}</svg></mark>"
    (root / f"{patient}.xml").write_text(f"<case><number>{patient}</number><sex>F</sex>{marks}</case>")
