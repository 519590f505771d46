"""Two releases with two sequences each, a repaired mask, and a test sequence, in the folders of the challenge."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"background-tissue": (0, 0, 0), "instrument-shaft": (0, 255, 0), "thread": (187, 155, 25)}
VALUES = {"background-tissue": 0, "instrument-shaft": 1, "thread": 6}
SIZE = (12, 16)


def make(root: Path) -> None:
    first = root / "miccai_challenge_2018_release_1"
    second = root / "miccai_challenge_release_2"
    tested = root / "test_data" / "test_data"
    numbers = {first: (1, 2), second: (5, 9, 15, 16), tested: (1,)}
    for folder, own in numbers.items():
        for number in own:
            for frame in range(2):
                random = np.random.default_rng([len(folder.parts), number, frame])
                sequence(folder / f"seq_{number}", f"frame{frame:03}", random)
    write_table(first / "labels.json", ("background-tissue", "instrument-shaft"))
    write_table(second / "labels.json", ("background-tissue", "thread", "instrument-shaft"))
    entries = [{"name": n, "color": [*CLASSES[n], 128], "classid": VALUES[n], "active": True} for n in CLASSES]
    (tested / "labels.json").write_text(json.dumps({"classes": entries}))
    repaired = root / "repairs" / "seq_1_frame001.png"
    repaired.parent.mkdir()
    mask(np.full(SIZE, 2)).save(repaired)
    shadow = root / "__MACOSX" / "seq_1" / "left_frames"
    shadow.mkdir(parents=True)
    (shadow / "._frame000.png").write_bytes(b"\0\5\26\7")


def sequence(folder: Path, frame: str, random: np.random.Generator) -> None:
    for part in ("left_frames", "right_frames", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / "left_frames" / f"{frame}.png")
    Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / "right_frames" / f"{frame}.png")
    mask(random.integers(0, 3, SIZE)).save(folder / "labels" / f"{frame}.png")


def mask(classes: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array(list(CLASSES.values()), np.uint8)[classes])


def write_table(path: Path, names: tuple[str, ...]) -> None:
    entries = [{"name": name, "color": list(CLASSES[name]), "classid": VALUES[name]} for name in names]
    path.write_text(json.dumps(entries))
