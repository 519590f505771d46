"""Makes prompted.png: one phantom scan without a prompt, with 3D boxes, and with clicks on what is wrong.

Run it from the repository's root: ``python docs/pictures/prompted.py``. It takes a few minutes, and needs no data.
"""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
from PIL import Image

import voxelsam
from voxelsam.data import phantom
from voxelsam.layouts import open_dataset
from voxelsam.overlay import overlay
from voxelsam.study import StudyPlan, study
from voxelsam.train.run import train

SETTINGS = {
    "stack": {"size": [96, 96]},
    "prompts": {"free": 0.4, "kinds": ["point", "cuboid", "correction"]},
    "train": {"epochs": 8, "stacks_per_epoch": 140, "warmup": 50},
}

STEPS = {
    "none": "no prompt",
    "cuboid +0%": "a 3D box around each organ",
    "correct 3": "three clicks on errors per slice",
}


def main() -> None:
    """Trains, prompts, draws."""
    with TemporaryDirectory() as folder:
        root = phantom.make(Path(folder) / "data")
        predictor = voxelsam.load(train(root, Path(folder) / "run", settings=SETTINGS))
        case = open_dataset(root).split(0)[1][0]
        plan = StudyPlan(ways=("none", "correct", "cuboid"), clicks=3, relaxed=(0.0,))
        result = study(predictor, [case], plan, Path(folder) / "study")
        truth = voxelsam.read_labels(case.label, predictor.bundle.labels)
        figure, panels = plt.subplots(1, len(STEPS), figsize=(4 * len(STEPS), 4.2), layout="constrained")
        for panel, (step, title) in zip(panels, STEPS.items(), strict=True):
            session = predictor.open(case.images[0], base="free")
            name = f"{case.id}-{step.replace(' ', '-').replace('+', '')}.json"
            if step != "none":
                session.load_prompts(Path(folder) / "study" / "prompts" / name)
            png = overlay(session.volume, truth, session.result().labels, slices=1)
            panel.imshow(Image.open(io.BytesIO(png)))
            panel.set_title(f"{title}: mean Dice {result.mean(step):.2f}")
            panel.axis("off")
        figure.savefig(Path(__file__).with_name("prompted.png"), dpi=90)


if __name__ == "__main__":
    main()
