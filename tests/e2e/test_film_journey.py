"""Films through the command: a film file, or a folder of frames, to a folder of masks and a film to look at."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from voxelsam import adapt, backbones, bundle, formats
from voxelsam.formats.video import write_film
from voxelsam.model import Segmenter
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan

Run = Callable[..., tuple[int, str, str]]
COUNT, WIDTH, HEIGHT = 7, 64, 48


@pytest.fixture(scope="module", params=[1, 5], ids=["pictures", "films"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for colours without training, of stacks of one or five frames."""
    import torch

    options = {"rank": 4, "width": 16, "init": "official"}
    backbone, report = backbones.obtain("sam-tiny", None, (32, 32))
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("model") / "film"
    bundle.describe(
        Segmenter(backbone, adapt.build("ma_sam", options, backbone, 3)),
        labels={"background": 0, "polyp": 1, "tool": 2},
        channels=("R", "G", "B"),
        kind="PICTURE" if request.param == 1 else "VIDEO",
        stack=StackPlan(depth=request.param, size=(32, 32), plane="axial", channels="rgb"),
        intensity=Intensity("unit"),
        adapt={"name": "ma_sam", **options},
        prompts=bundle.PromptsLearnt(True, ("point",), False),
        backbone=bundle.BackboneIdentity("sam-tiny", report.sha256),
    ).save(folder)
    return folder


@pytest.fixture
def pixels() -> np.ndarray:
    """A bright disc that wanders over a reddish ground."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.full((COUNT, HEIGHT, WIDTH, 3), (120, 50, 40), np.uint8)
    for number, frame in enumerate(frames):
        frame[(rows - 24) ** 2 + (columns - 12 - 6 * number) ** 2 < 80] = (230, 200, 180)
    return frames


@pytest.fixture
def film(tmp_path: Path, pixels: np.ndarray) -> Path:
    write_film(tmp_path / "clip.mp4", pixels, 0.04)
    return tmp_path / "clip.mp4"


def pictures(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / f"seq3_f{51 + number:03}.png")
    return folder


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_film_gets_a_mask_per_frame_and_a_film_to_look_at(run: Run, model: Path, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("predict", "-m", model, "-i", film, "-o", out, "--device", "cpu", "--preview", "--save-probabilities")
    code, *_ = run(*arguments)
    assert code == 0
    assert sorted(path.name for path in (out / "clip").iterdir()) == [
        *(f"{number:05}.png" for number in range(COUNT)),
        "frames.json",
    ]
    masks, image = formats.read_labels(out / "clip"), formats.read(film)
    assert masks.grid.same_place(image.grid)
    assert masks.data.shape == image.grid.shape == (WIDTH, HEIGHT, COUNT)
    assert masks.data.any()
    assert count_frames(out / "previews" / "clip.mp4") == COUNT
    assert sorted(path.name for path in (out / "probabilities").iterdir()) == ["clip_polyp.nii.gz", "clip_tool.nii.gz"]
    chance = np.asarray(nib.load(out / "probabilities" / "clip_polyp.nii.gz").dataobj)
    assert chance.shape == (WIDTH, HEIGHT, COUNT)
    assert not masks.data[chance > 0.52].any() or (masks.data[chance > 0.52] == 1).all()
    code, said, _ = run(*arguments, "--continue", "--json")
    assert (code, json.loads(said)[0]["status"]) == (0, "kept")


def test_a_folder_of_frames_is_a_film_only_if_somebody_says_so(
    run: Run, model: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    source = pictures(tmp_path / "frames", pixels)
    arguments = ("predict", "-m", model, "-i", source, "--device", "cpu", "--json", "--preview")
    code, out, _ = run(*arguments, "-o", tmp_path / "film", "--film")
    assert (code, [case["id"] for case in json.loads(out)]) == (0, ["frames"])
    masks = formats.read_labels(tmp_path / "film" / "frames").data
    assert masks.shape == (WIDTH, HEIGHT, COUNT)
    assert count_frames(tmp_path / "film" / "previews" / "frames.mp4") == COUNT
    code, out, _ = run(*arguments, "-o", tmp_path / "pictures")
    assert (code, [case["id"] for case in json.loads(out)]) == (0, [f"seq3_f{51 + n:03}" for n in range(COUNT)])
    alone = np.stack(
        [np.asarray(Image.open(tmp_path / "pictures" / f"seq3_f{51 + n:03}.png")).T for n in range(COUNT)], axis=-1
    )
    assert alone.shape == masks.shape
    depth = json.loads((model / "bundle.json").read_text())["stack"]["depth"]
    assert np.array_equal(alone, masks) == (depth == 1)


def test_folders_of_frames_beside_films(run: Run, model: Path, film: Path, tmp_path: Path, pixels: np.ndarray) -> None:
    source = tmp_path / "in"
    pictures(source / "one", pixels)
    pictures(source / "two", pixels[:4])
    film.rename(source / "three.mp4")
    arguments = ("predict", "-m", model, "-i", source, "--device", "cpu", "--json")
    code, out, err = run(*arguments, "-o", tmp_path / "all", "--film")
    assert (code, [case["id"] for case in json.loads(out)]) == (0, ["one", "three", "two"])
    assert "left out" not in err
    assert formats.read_labels(tmp_path / "all" / "two").data.shape[2] == 4
    code, out, err = run(*arguments, "-o", tmp_path / "files")
    assert (code, [case["id"] for case in json.loads(out)]) == (0, ["three"])
    assert "--film takes them: one, two" in err


def test_only_folders_of_frames_and_nobody_says_that_they_are_films(
    run: Run, model: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    pictures(tmp_path / "in" / "one", pixels)
    code, _, err = run("predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert "--film takes them: one" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--format", "png"), "a picture holds one slice, but there are 7"),
        (("-o", "masks.mp4"), "take the name of a folder"),
        (("--series", "1"), "only DICOM has series"),
    ],
)
def test_what_no_film_can_have_is_refused_before_anything_is_made(
    run: Run,
    model: Path,
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("predict", "-m", model, "-i", film, "-o", "out", "--device", "cpu", *more)
    assert code == 2
    assert complaint in out + err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_broken_film_stops_no_other(run: Run, model: Path, film: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    content = film.rename(tmp_path / "in" / "good.mp4").read_bytes()
    (tmp_path / "in" / "bad.mp4").write_bytes(content[: len(content) // 3])
    code, out, _ = run(
        "predict", "-m", model, "-i", tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu", "--preview", "--json"
    )
    assert (code, {case["id"]: case["status"] for case in json.loads(out)}) == (1, {"bad": "failed", "good": "done"})
    assert not list((tmp_path / "out").rglob("bad*"))


def test_info_of_films_and_their_masks(run: Run, model: Path, film: Path, tmp_path: Path, pixels: np.ndarray) -> None:
    run("predict", "-m", model, "-i", film, "-o", tmp_path / "out", "--device", "cpu")
    facts = json.loads(run("info", film, "--json")[1])
    assert (facts["what"], facts["shape"], facts["seconds_per_frame"]) == ("film", [WIDTH, HEIGHT, COUNT], 0.04)
    facts = json.loads(run("info", pictures(tmp_path / "frames", pixels), "--json")[1])
    assert (facts["what"], facts["shape"][2]) == ("film", COUNT)
    facts = json.loads(run("info", tmp_path / "out" / "clip", "--json")[1])
    found = formats.read_labels(tmp_path / "out" / "clip").data
    assert facts["what"] == "label map"
    assert {one["number"]: one["voxels"] for one in facts["structures"]} == {
        int(value): int((found == value).sum()) for value in np.unique(found) if value
    }


@pytest.mark.shared
def test_frames_of_a_real_film(run: Run, model: Path, shared: Path, tmp_path: Path) -> None:
    frames = sorted((shared / "data" / "Dataset510_PolypVideo" / "imagesTr").glob("seq03*"))[:COUNT]
    source = tmp_path / "seq03"
    source.mkdir()
    for path in frames:
        (source / path.name.replace("_0000", "")).symlink_to(path)
    code, *_ = run("predict", "-m", model, "-i", source, "-o", tmp_path / "out", "--film", "--device", "cpu")
    assert code == 0
    masks = formats.read_labels(tmp_path / "out" / "seq03").data
    with Image.open(frames[0]) as first:
        assert masks.shape == (*first.size, COUNT)
