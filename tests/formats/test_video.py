"""Films: the right frame in the right colours at the right time; nothing lost in silence."""

import json
import struct
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from voxelsam import checks, formats
from voxelsam.errors import (
    FormatError,
    GeometryError,
    InputError,
    InputWarning,
    LabelError,
    MissingExtra,
    OutputError,
    VoxelSamError,
)
from voxelsam.formats import _video_file, read, read_frames, read_labels, video
from voxelsam.space.grid import Grid
from voxelsam.space.orientation import plane_of
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes import LabelMap, Labels, Volume, check_pair

HEIGHT, WIDTH, COUNT = 32, 48, 12
TABLE = Labels({"background": 0, "a": 1, "b": 2, "many": 300})


def clip(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Noise that no axis can be mixed up in, with the number of each frame in its first pixels."""
    frames = np.random.default_rng(3).integers(0, 256, (count, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[0, :8] = 255 * (number >> np.arange(8) & 1)[:, None]
    return frames


def number_of(frame: np.ndarray) -> int:
    """What is written in the first pixels of a frame (i j)."""
    return int(((frame[:8, 0] > 127) << np.arange(8)).sum())


def encode(
    path: Path, frames: np.ndarray, codec: str = "ffv1", form: str = "bgr0", times: list[int] | None = None, **how: str
) -> Path:
    """A film by PyAV at 25 frames a second; ``times`` counts 1/25 s."""
    source = {2: "gray", 3: "rgb24", 4: "rgba"}[frames.shape[-1] if frames.ndim == 4 else 2]
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25, options=how)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, source)
            image.pts, image.time_base = (times or range(len(frames)))[number], Fraction(1, 25)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def cut(path: Path, part: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


def pictures(folder: Path, names: list[str], size: tuple[int, int] = (6, 4)) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (number, 2 * number, 200)).save(folder / name)
    return folder


def masks(count: int = 3, seconds: float = 0.04) -> LabelMap:
    data = np.random.default_rng(1).choice([0, 1, 2, 300], (7, 5, count)).astype(np.uint16)
    return LabelMap(data, Grid((7, 5, count), np.diag([-1, -1, seconds, 1]), "time"), TABLE)


class TestFiles:
    @pytest.mark.parametrize("ending", [".mkv", ".avi"])
    def test_lossless_frames_come_out_exactly(self, tmp_path, ending) -> None:
        film = read(encode(tmp_path / f"a{ending}", clip()))
        assert (film.kind, film.grid.along_k, film.grid.shape) == ("VIDEO", "time", (WIDTH, HEIGHT, COUNT))
        np.testing.assert_array_equal(film.data, clip().transpose(3, 2, 1, 0))
        assert film.data.dtype == np.uint8
        assert film.grid.spacing == pytest.approx((1, 1, 0.04))
        assert (film.source.format, formats.frames(tmp_path / f"a{ending}")) == ("video", 1)

    @pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
    def test_every_frame_of_a_packed_film_is_in_its_place(self, tmp_path, ending) -> None:
        """Frames that refer to later ones are stored in another order than they are shown."""
        frames = clip(60)
        frames[:, 8:] = np.linspace(0, 255, 60, dtype=np.uint8)[:, None, None, None]
        path = encode(tmp_path / f"a{ending}", frames, "libx264", "yuv444p", qp="0", bf="3", g="20")
        film = read(path)
        assert [number_of(film.data[0, :, :, k]) for k in range(60)] == list(range(60))
        np.testing.assert_allclose(film.data[:, :, 9:].mean(axis=(0, 1, 2)), np.linspace(0, 255, 60), atol=3)

    def test_colours_are_the_right_ones(self, tmp_path) -> None:
        colours = np.array([(250, 10, 10), (10, 240, 10), (10, 10, 250), (128, 128, 128), (255, 255, 255)], np.uint8)
        frames = np.broadcast_to(colours[:, None, None], (5, HEIGHT, WIDTH, 3)).copy()
        film = read(encode(tmp_path / "a.mp4", frames, "libx264", "yuv420p", crf="5"))
        np.testing.assert_allclose(film.data.mean(axis=(1, 2)).T, colours, atol=6)

    def test_a_picture_folder_and_a_film_of_the_same_frames_agree(self, tmp_path) -> None:
        (tmp_path / "frames").mkdir()
        for number, frame in enumerate(clip()):
            Image.fromarray(frame).save(tmp_path / "frames" / f"f_{number}.png")
        film = read(encode(tmp_path / "a.mkv", clip()))
        folder = video.read(tmp_path / "frames", seconds=0.04)
        np.testing.assert_array_equal(film.data, folder.data)
        np.testing.assert_allclose(film.grid.affine, folder.grid.affine, atol=1e-9)
        listed = read_frames([tmp_path / "frames" / f"f_{n}.png" for n in range(COUNT)], seconds=0.04)
        np.testing.assert_array_equal(listed.data, folder.data)
        np.testing.assert_array_equal(listed.grid.affine, folder.grid.affine)

    def test_a_grey_film_has_one_channel(self, tmp_path) -> None:
        film = read(encode(tmp_path / "a.mkv", clip()[..., 0], form="gray"))
        np.testing.assert_array_equal(film.data[0], clip()[..., 0].transpose(2, 1, 0))
        assert film.channels == 1

    def test_a_plan_cuts_it_upright(self, tmp_path) -> None:
        grid = read(encode(tmp_path / "a.mkv", clip())).grid
        reordering = StackPlan(plane="auto").placement(grid).reordering
        assert (reordering.order, reordering.flips, plane_of(grid)) == ((0, 1, 2), (False,) * 3, "axial")

    def test_a_part_is_read(self, tmp_path) -> None:
        path = encode(tmp_path / "a.mkv", clip())
        film = video.read(path, start=3, stop=7)
        np.testing.assert_array_equal(film.data, clip()[3:7].transpose(3, 2, 1, 0))
        np.testing.assert_array_equal(video.read(path, start=10).data, clip()[10:].transpose(3, 2, 1, 0))
        np.testing.assert_array_equal(video.read(path, frame=0, stop=2).data, clip()[:2].transpose(3, 2, 1, 0))
        with pytest.raises(FormatError, match="no frame from 50 on"):
            video.read(path, start=50)
        for start, stop in ((-1, 2), (4, 4), (5, 2)):
            with pytest.raises(InputError, match="are none") as caught:
                video.read(path, start=start, stop=stop)
            assert caught.value.code == "VAL-05"
        with pytest.raises(InputError, match="one volume"):
            read(path, frame=3)

    def test_odd_sizes_are_read(self, tmp_path) -> None:
        frames = clip(3, 31, 47)
        np.testing.assert_array_equal(read(encode(tmp_path / "a.mkv", frames)).data, frames.transpose(3, 2, 1, 0))

    @pytest.mark.parametrize("ending", [".mkv", ".avi"])
    def test_a_film_too_large_for_memory_is_refused_early(self, tmp_path, monkeypatch, ending) -> None:
        path = encode(tmp_path / f"a{ending}", clip())
        monkeypatch.setattr(_video_file, "LIMIT", 5 * HEIGHT * WIDTH * 3)
        with pytest.raises(InputError, match=r"frames or more of 48 × 32 .*stop=5") as caught:
            read(path)
        assert caught.value.code == "VAL-05"
        assert video.read(path, stop=5).grid.shape[2] == 5

    def test_without_the_package_it_is_named(self, tmp_path, monkeypatch) -> None:
        path = encode(tmp_path / "a.mkv", clip(2))
        monkeypatch.setitem(__import__("sys").modules, "av", None)
        with pytest.raises(MissingExtra, match=r"pip install 'voxelsam\[video\]'"):
            read(path)


class TestOddFilms:
    def test_uneven_frames_are_told(self, tmp_path) -> None:
        times = [0, 1, 2, 5, 6, 7, 12, 13, 14, 15, 16, 17]
        for ending, codec, form in ((".mkv", "ffv1", "bgr0"), (".mp4", "libx264", "yuv420p")):
            path = encode(tmp_path / f"a{ending}", clip(), codec, form, times)
            with pytest.warns(InputWarning, match=r"VID-01: .*0.04 to 0.2 s apart; all count as 0.0618"):
                film = read(path)
            assert film.grid.spacing[2] == pytest.approx(17 / 11 / 25)
            assert film.grid.shape[2] == COUNT

    @pytest.mark.parametrize(
        ("matrix", "turned"),
        [
            ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
            ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
            ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
            ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
            ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ],
    )
    def test_a_film_that_asks_to_be_turned_is_turned(self, tmp_path, matrix, turned) -> None:
        path = encode(tmp_path / "a.mp4", clip(3), "libx264", "yuv444p", qp="0")
        plain = read(path).data[..., 0].transpose(2, 1, 0)
        patch_matrix(path, *matrix)
        with pytest.warns(InputWarning, match="VID-01: .*asks to be turned"):
            film = read(path)
        np.testing.assert_array_equal(film.data[..., 0].transpose(2, 1, 0), turned(plain))

    def test_an_oblique_film_is_told(self, tmp_path) -> None:
        path = encode(tmp_path / "a.mp4", clip(3), "libx264", "yuv420p")
        patch_matrix(path, 0.7, 0.7, -0.7, 0.7)
        with pytest.warns(InputWarning, match="VID-01: .*at an angle"):
            assert read(path).grid.shape == (WIDTH, HEIGHT, 3)

    def test_transparency_is_refused_unless_it_hides_nothing(self, tmp_path) -> None:
        frames = np.concatenate([clip(3), np.full((3, HEIGHT, WIDTH, 1), 255, np.uint8)], -1)
        with pytest.warns(InputWarning, match="VID-01: .*alpha channel .*left out"):
            film = read(encode(tmp_path / "a.mov", frames, "png", "rgba"))
        np.testing.assert_array_equal(film.data, clip(3).transpose(3, 2, 1, 0))
        frames[1, 4, 5, 3] = 9
        path = encode(tmp_path / "b.mov", frames, "png", "rgba")
        with (
            pytest.warns(InputWarning, match="alpha"),
            pytest.raises(InputError, match="1 pixels of frame 1 are transparent") as caught,
        ):
            read(path)
        assert caught.value.code == "VID-01"

    def test_accepted_transparency_is_dropped_and_told_once(self, tmp_path) -> None:
        frames = np.concatenate([clip(3), np.zeros((3, HEIGHT, WIDTH, 1), np.uint8)], -1)
        path = encode(tmp_path / "a.mov", frames, "png", "rgba")
        with warnings.catch_warnings(), checks.watching(accept={"VID-01"}) as watch:
            warnings.simplefilter("ignore", InputWarning)
            np.testing.assert_array_equal(read(path).data, clip(3).transpose(3, 2, 1, 0))
        assert len(watch.findings) == 2

    def test_deeper_samples_are_told(self, tmp_path) -> None:
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "gray16le"
            for frame in clip(3)[..., 0]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint16) * 257, "gray16le")))
            container.mux(stream.encode())
        with pytest.warns(InputWarning, match="VID-01: .*16 bits are read as 8"):
            film = read(tmp_path / "a.mkv")
        np.testing.assert_allclose(film.data[0], clip(3)[..., 0].transpose(2, 1, 0), atol=1)

    @pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
    @pytest.mark.parametrize("part", [0.5, 0.8])
    def test_a_damaged_end_is_refused_and_the_rest_can_be_accepted(self, tmp_path, name, part) -> None:
        codec = ("libx264", "yuv420p") if name == "a.mp4" else ("ffv1", "bgr0")
        path = cut(encode(tmp_path / name, clip(40), *codec, **({"g": "5"} if name == "a.mp4" else {})), part)
        with pytest.raises(FormatError, match=r"the film is damaged: .*accept the \d+ frames") as caught:
            read(path)
        assert caught.value.code == "VID-01"
        with warnings.catch_warnings(), checks.watching(accept={"VID-01"}) as watch:
            warnings.simplefilter("ignore", InputWarning)
            film = read(path)
        assert [finding.code for finding in watch.findings] == ["VID-01"]
        assert 0 < film.grid.shape[2] < 40
        if name != "a.mp4":
            shown = film.data.transpose(3, 2, 1, 0)
            np.testing.assert_array_equal(shown, clip(40)[: len(shown)])

    def test_damage_behind_the_part_that_is_read_does_not_count(self, tmp_path) -> None:
        path = cut(encode(tmp_path / "a.mkv", clip(40)), 0.8)
        np.testing.assert_array_equal(video.read(path, stop=8).data, clip(40)[:8].transpose(3, 2, 1, 0))

    def test_a_film_without_its_table_is_refused(self, tmp_path) -> None:
        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for frame in clip():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        with pytest.raises(FormatError, match="cut off or damaged") as caught:
            read(cut(tmp_path / "a.mp4", 0.6))
        assert caught.value.code == "SET-03"

    def test_sound_is_no_film(self, tmp_path) -> None:
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
        with pytest.raises(FormatError, match="holds no film") as caught:
            read(tmp_path / "a.mkv")
        assert caught.value.code == "SET-03"

    @pytest.mark.parametrize(
        ("head", "film"),
        [
            (b"\0\0\0\x18ftypisom", True),
            (b"\0\0\0\x18ftypqt  ", True),
            (b"\0\0\0\x18ftypheic", False),
            (b"\0\0\0\x18ftypavif", False),
            (b"RIFF\0\0\0\0AVI LIST", True),
            (b"RIFF\0\0\0\0WAVEfmt ", False),
            (b"RIFF\0\0\0\0WEBPVP8 ", False),
            (b"\x1a\x45\xdf\xa3", True),
            (b"NRRD0004\n", False),
            (b"", False),
        ],
    )
    def test_what_is_recognised(self, tmp_path, head, film) -> None:
        assert video.recognises(tmp_path / "a", head) is film

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=5))
    def test_damage_anywhere_gives_a_film_or_an_error_of_ours(self, tmp_path, edits) -> None:
        whole = tmp_path / "whole.mp4"
        if not whole.exists():
            encode(whole, clip(6), "libx264", "yuv420p")
        content = bytearray(whole.read_bytes())
        for place, new in edits:
            at = 12 + int(place * (len(content) - 24))
            content[at : at + len(new)] = new
        (tmp_path / "a.mp4").write_bytes(content)
        codes = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            try:
                read(tmp_path / "a.mp4")
            except VoxelSamError as error:
                codes.append(error.code)
        assert all(codes)


def patch_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Overwrites the display matrix in the track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    start += 4 + (32 if content[start] else 20) + 16
    one = 1 << 16
    numbers = (int(a * one), int(b * one), 0, int(c * one), int(d * one), 0, 0, 0, 1 << 30)
    content[start : start + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(content)


class TestFolders:
    def test_frames_are_in_the_order_of_their_numbers(self, tmp_path) -> None:
        names = [f"frame_{n}.png" for n in range(8, 13)]
        film = video.read(pictures(tmp_path / "a", names))
        np.testing.assert_array_equal(film.data[0, 0, 0], range(5))
        assert (film.grid.along_k, film.grid.shape, film.kind) == ("time", (6, 4, 5), "VIDEO")
        assert film.grid.spacing[2] == 1
        np.testing.assert_array_equal(video.read(tmp_path / "a", start=1, stop=3).data, film.data[..., 1:3])

    @pytest.mark.parametrize(
        "names",
        [
            ["f1.png", "f2.png", "f3.png"],
            ["0009.png", "0010.png"],
            ["seq03_f051_0000.png", "seq03_f052_0000.png"],
            ["a 1.jpg", "a 2.jpg", "notes.txt", ".DS_Store", "frames.json"],
        ],
    )
    def test_what_could_be_a_film(self, tmp_path, names) -> None:
        folder = pictures(tmp_path / "a", [name for name in names if name.endswith((".png", ".jpg"))])
        for name in set(names) - {path.name for path in folder.iterdir()}:
            (folder / name).write_text('{"seconds": 2}')
        assert video.recognises(folder, b"")
        assert formats.family(folder) == "video"

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["f1.png"], "at least two pictures"),
            (["f1.png", "f3.png"], "without a gap, but f3.png follows 1"),
            (["f1.png", "f01.png"], "one number that counts|without a gap"),
            (["liver.png", "spleen.png"], "one name with a number"),
            (["a1.png", "b2.png"], "one name with a number"),
            (["f1.png", "f2.jpg"], "one name with a number"),
            (["s1_f1.png", "s1_f2.png", "s2_f3.png"], "one number that counts"),
            (["f1.png", "f2.png", "scan.dcm"], "there is scan.dcm"),
            (["f1.png", "f2.png", "IM0001"], "there is IM0001"),
            (["f1.png", "f2.png", "scan.nii.gz"], "there is scan.nii.gz"),
            (["f1.png", "f2.png", "masks/"], "there is masks"),
            (["f1.png", "f2.png", *[f"{n}.txt" for n in range(6)]], "6 other files"),
        ],
    )
    def test_what_is_none(self, tmp_path, names, message) -> None:
        folder = pictures(tmp_path / "a", [name for name in names if name.endswith((".png", ".jpg"))])
        for name in set(names) - {path.name for path in folder.iterdir()}:
            (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("x")
        assert not video.recognises(folder, b"")
        for reader in (video.read, video.read_numbers):
            with pytest.raises(FormatError, match=message) as caught:
                reader(folder)
            assert caught.value.code == "SET-03"

    def test_frames_of_other_sizes_are_refused(self, tmp_path) -> None:
        folder = pictures(tmp_path / "a", ["f1.png", "f2.png", "f3.png"])
        Image.new("RGB", (6, 5)).save(folder / "f3.png")
        assert not video.recognises(folder, b"")
        Image.new("RGB", (6, 5), (1, 2, 3)).save(folder / "f2.png")
        Image.effect_noise((6, 4), 9).convert("RGB").save(folder / "f3.png")
        assert video.recognises(folder, b"")
        with pytest.raises(
            FormatError, match=r"f2.png: 3 channels of 6 × 5 pixels .*frames of a film are alike"
        ) as caught:
            video.read(folder)
        assert caught.value.code == "VID-01"

    def test_too_many_frames_are_refused(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(video, "LIMIT", 6 * 4 * 3 * 2)
        folder = pictures(tmp_path / "a", ["f1.png", "f2.png", "f3.png"])
        with pytest.raises(InputError, match="stop=2"):
            video.read(folder)
        assert video.read(folder, stop=2).grid.shape[2] == 2

    def test_the_sidecar_says_how_far_apart_frames_are(self, tmp_path) -> None:
        folder = pictures(tmp_path / "a", ["f1.png", "f2.png"])
        (folder / "frames.json").write_text('{"seconds": 0.25}')
        assert video.read(folder).grid.spacing[2] == 0.25
        assert video.read(folder, seconds=2).grid.spacing[2] == 2
        for text in ("{", "[]", '{"seconds": 0}', '{"seconds": "x"}', '{"seconds": NaN}'):
            (folder / "frames.json").write_text(text)
            with pytest.raises(FormatError, match=r"frames.json: should be"):
                video.read(folder)


class TestMasks:
    def test_values_and_time_come_back(self, tmp_path) -> None:
        label_map = masks()
        video.write_frames(tmp_path / "out" / "masks", label_map)
        again = read_labels(tmp_path / "out" / "masks", TABLE)
        np.testing.assert_array_equal(again.data, label_map.data)
        check_pair(Volume(np.zeros((1, 7, 5, 3)), label_map.grid), again)
        assert again.data.dtype == np.uint16
        names = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
        assert names == ["00000.png", "00001.png", "00002.png", "frames.json"]
        assert json.loads((tmp_path / "out" / "masks" / "frames.json").read_text()) == {"seconds": 0.04}
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "out" / "masks" / "00001.png")), label_map.data[..., 1].T
        )

    def test_a_film_of_one_frame(self, tmp_path) -> None:
        video.write_labels(tmp_path / "a", masks(1))
        np.testing.assert_array_equal(read_labels(tmp_path / "a").data, masks(1).data)

    def test_masks_are_replaced_by_whole_ones_only(self, tmp_path, monkeypatch) -> None:
        video.write_frames(tmp_path / "a", masks(5))
        video.write_frames(tmp_path / "a", masks(2))
        assert read_labels(tmp_path / "a").grid.shape[2] == 2
        monkeypatch.setattr(video, "read_numbers", lambda path: Volume(np.zeros((1, 7, 5, 4)), masks(4).grid))
        with pytest.raises(OutputError, match="does not read back"):
            video.write_frames(tmp_path / "a", masks(4))
        monkeypatch.undo()
        assert read_labels(tmp_path / "a").grid.shape[2] == 2
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_folder_of_other_things_is_left_alone(self, tmp_path) -> None:
        for name in ("thesis.docx", "photo_1.png", "00000.png.bak"):
            (tmp_path / "a").mkdir(exist_ok=True)
            (tmp_path / "a" / name).write_text("mine")
            with pytest.raises(OutputError, match="something else"):
                video.write_frames(tmp_path / "a", masks())
            assert [path.read_text() for path in (tmp_path / "a").iterdir()] == ["mine"]
            (tmp_path / "a" / name).unlink()
        (tmp_path / "b").write_text("mine")
        with pytest.raises(OutputError, match="something else"):
            video.write_frames(tmp_path / "b", masks())

    def test_only_films_have_frames(self, tmp_path) -> None:
        scan = LabelMap(masks().data, Grid((7, 5, 3), np.eye(4)), TABLE)
        with pytest.raises(OutputError, match="masks of a film"):
            video.write_frames(tmp_path / "a", scan)
        strange = LabelMap(masks().data + 1, masks().grid, TABLE)
        with pytest.raises(LabelError, match="should hold the values"):
            video.write_frames(tmp_path / "a", strange)
        assert list(tmp_path.iterdir()) == []

    def test_film_files_hold_no_masks(self, tmp_path) -> None:
        path = encode(tmp_path / "a.mkv", clip(2))
        with pytest.raises(LabelError, match="cannot hold masks") as caught:
            read_labels(path)
        assert caught.value.code == "LAB-01"
        with pytest.raises(OutputError, match="not written as data"):
            video.write_volume(tmp_path / "b.mp4", read(path))


class TestWriteFilm:
    @pytest.mark.parametrize("size", [(32, 48), (31, 47), (2, 3)])
    def test_what_is_written_looks_the_same(self, tmp_path, size) -> None:
        smooth = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 2)
        frames = (smooth[None, ..., None] + np.arange(10)[:, None, None, None] * 5 + np.zeros(3)).astype(np.uint8)
        video.write_film(tmp_path / "a.mp4", frames, 0.1)
        film = read(tmp_path / "a.mp4")
        even = tuple(length + length % 2 for length in size)
        assert film.grid.shape == (even[1], even[0], 10)
        assert film.grid.spacing[2] == pytest.approx(0.1)
        shown = film.data.transpose(3, 2, 1, 0)[:, : size[0], : size[1]].astype(int)
        assert np.abs(shown - frames).mean() < 4
        with av.open(str(tmp_path / "a.mp4")) as container:
            context = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

    def test_what_is_no_film_is_refused(self, tmp_path) -> None:
        with pytest.raises(OutputError, match=r"end with .mp4"):
            video.write_film(tmp_path / "a.gif", clip(2))
        with pytest.raises(OutputError, match="no film"):
            video.write_film(tmp_path / "a.mp4", clip(2)[:0])
        with pytest.raises(OutputError, match="no film"):
            video.write_film(tmp_path / "a.mp4", clip(2), 0.0)
        with pytest.raises(OutputError, match="cannot be written"):
            video.write_film(tmp_path / "none" / "a.mp4", clip(2))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
class TestPolypVideo:
    def test_a_sequence_as_a_film_and_back(self, shared, tmp_path) -> None:
        folder = shared / "data" / "Dataset510_PolypVideo" / "imagesTr"
        assert not video.recognises(folder, b"")  # several sequences: cases, not a film
        files = sorted(folder.glob("seq03_*.png"))
        (tmp_path / "seq").mkdir()
        for file in files:
            (tmp_path / "seq" / file.name).symlink_to(file)
        film = video.read(tmp_path / "seq", seconds=0.04)
        np.testing.assert_array_equal(film.data, read_frames(files).data)
        video.write_film(tmp_path / "a.mp4", film.data.transpose(3, 2, 1, 0), 0.04)
        again = read(tmp_path / "a.mp4")
        check_pair(film, LabelMap(np.zeros(again.grid.shape, np.uint8), again.grid, TABLE))
        difference = np.abs(again.data.astype(int) - film.data)
        assert difference.mean() < 6
        shuffled = np.abs(again.data[..., ::-1].astype(int) - film.data)
        assert shuffled.mean() > 1.5 * difference.mean()

    def test_a_gap_in_a_sequence_is_no_film(self, shared, tmp_path) -> None:
        files = sorted((shared / "data" / "Dataset510_PolypVideo" / "imagesTr").glob("seq03_*.png"))
        for file in (*files[:3], *files[4:]):
            (tmp_path / file.name).symlink_to(file)
        with pytest.raises(FormatError, match="without a gap"):
            video.read(tmp_path)


def test_geometry_of_a_film_is_not_that_of_a_scan(tmp_path) -> None:
    film = read(encode(tmp_path / "a.mkv", clip(3)))
    with pytest.raises(GeometryError):
        check_pair(film, LabelMap(np.zeros((WIDTH, HEIGHT, 2), np.uint8), Grid((WIDTH, HEIGHT, 2), np.eye(4)), TABLE))


def test_a_mask_of_a_film_as_nifti_lies_on_it(tmp_path) -> None:
    film = read(encode(tmp_path / "a.mkv", clip(3)))
    label_map = LabelMap((film.data[0] > 99).astype(np.uint8), film.grid, TABLE)
    target = tmp_path / "a.nii.gz"
    formats.write_labels(target, label_map, like=film)
    with pytest.warns(InputWarning, match="GEO-08"):  # NIfTI takes the seconds between frames for millimetres
        again = read_labels(target, TABLE)
    check_pair(film, again)
    np.testing.assert_array_equal(again.data, label_map.data)


def test_the_mask_of_a_film_is_a_folder_by_default(tmp_path) -> None:
    film = read(encode(tmp_path / "a.mkv", clip(3)))
    label_map = LabelMap((film.data[0] > 99).astype(np.uint8), film.grid, TABLE)
    target = tmp_path / f"a{formats.mask_ending(tmp_path / 'a.mkv')}_mask"
    formats.write_labels(target, label_map, like=film)
    assert len(list(target.glob("*.png"))) == 3
    again = read_labels(target, TABLE)
    check_pair(film, again)
    np.testing.assert_array_equal(again.data, label_map.data)


@pytest.mark.parametrize("ending", [".png", ".txt"])
def test_files_of_a_folder_are_not_compared_with_each_other(tmp_path, monkeypatch, ending) -> None:
    for number in range(300):
        (tmp_path / f"{number:05d}{ending}").touch()
    kind, compared = type(tmp_path), []
    original = kind.__eq__
    monkeypatch.setattr(kind, "__eq__", lambda self, other: compared.append(1) or original(self, other))
    assert not video.recognises(tmp_path, b"")
    assert len(compared) <= 600
