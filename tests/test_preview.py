"""Previews: structures are tinted where they are and nowhere else; files are whole or not there."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from voxelsam import preview
from voxelsam.errors import GeometryError, InputError, LabelError, OutputError
from voxelsam.preview import save_preview, tinted
from voxelsam.space.grid import Grid
from voxelsam.volumes import LabelMap, Labels, Volume

TABLE = Labels({"background": 0, "polyp": 1, "Gefäß": 2}, ignore=255)
LPS = np.diag([-1.0, -1, 1, 1])


def film(count: int = 5, size: tuple[int, int] = (64, 48), channels: int = 3) -> tuple[Volume, LabelMap]:
    """Grey frames, with a square that moves to the right."""
    grid = Grid((*size, count), LPS @ np.diag([1, 1, 0.2, 1]), "time")
    labels = np.zeros(grid.shape, np.uint8)
    for k in range(count):
        labels[4 + 8 * k : 20 + 8 * k, 10:30, k] = 1
    return Volume(np.full((channels, *grid.shape), 90, np.uint8), grid, "VIDEO"), LabelMap(labels, grid, TABLE)


def scan() -> tuple[Volume, LabelMap]:
    """Black, with an organ at the patient's right and front on slice 2."""
    grid = Grid((30, 30, 7), LPS @ np.diag([1, 1, 3, 1]))
    data = np.zeros(grid.shape, np.uint8)
    data[4:12, 3:9, 2] = 1
    return Volume(np.full((1, *grid.shape), -1000, np.int16), grid, "CT"), LabelMap(data, grid, TABLE)


def shown(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


class TestFilms:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_structure_is_tinted_where_it_is_and_nowhere_else(self, tmp_path, channels) -> None:
        volume, label_map = film(channels=channels)
        save_preview(tmp_path / "a.mp4", volume, label_map)
        frames = shown(tmp_path / "a.mp4")
        assert len(frames) == 5
        inside = np.rint(0.5 * 90 + 0.5 * np.array(TABLE.colour(1)))
        for k, frame in enumerate(frames):
            mask = label_map.data[:, :, k].T.astype(bool)
            deep = mask & np.roll(mask, 4, 0) & np.roll(mask, -4, 0) & np.roll(mask, 4, 1) & np.roll(mask, -4, 1)
            far = ~(mask | np.roll(mask, 4, 0) | np.roll(mask, -4, 0) | np.roll(mask, 4, 1) | np.roll(mask, -4, 1))
            np.testing.assert_allclose(frame[:48][deep].mean(axis=0), inside, atol=8)
            np.testing.assert_allclose(frame[:48][far], 90, atol=14)

    def test_time_is_kept(self, tmp_path) -> None:
        save_preview(tmp_path / "a.mp4", *film())
        with av.open(str(tmp_path / "a.mp4")) as container:
            assert float(container.streams.video[0].average_rate) == pytest.approx(5)

    def test_names_stand_below(self, tmp_path) -> None:
        volume, label_map = film(size=(96, 48))
        save_preview(tmp_path / "a.mp4", volume, label_map)
        strip = shown(tmp_path / "a.mp4")[0, 48:]
        assert strip.shape[0] >= 20
        assert (np.abs(strip - np.array(TABLE.colour(1))).max(axis=-1) < 40).sum() > 60
        assert (strip.min(axis=-1) > 130).sum() > 20
        save_preview(tmp_path / "b.mp4", volume, LabelMap(label_map.data * 0, label_map.grid, TABLE))
        assert shown(tmp_path / "b.mp4").shape[1] == 48

    def test_a_long_legend_takes_several_rows(self) -> None:
        table = Labels({"background": 0, **{f"structure {n}": n for n in range(1, 9)}})
        grid = Grid((120, 4, 2), LPS, "time")
        data = np.zeros(grid.shape, np.uint8)
        data[:9, 0, 0] = np.arange(9)
        strip = preview._legend(LabelMap(data, grid, table), 120)
        assert strip.shape == (8 * 22, 120, 3)

    def test_a_film_of_deep_numbers_is_windowed(self, tmp_path) -> None:
        volume, label_map = film(channels=1)
        deep = np.random.default_rng(2).integers(1000, 3000, volume.data.shape).astype(np.uint16)
        save_preview(tmp_path / "a.mp4", Volume(deep, volume.grid, "US"), label_map)
        assert 90 < shown(tmp_path / "a.mp4")[0, 40:48].mean() < 160
        save_preview(tmp_path / "b.mp4", Volume(deep, volume.grid, "US"), label_map, window=(5000, 6000))
        assert shown(tmp_path / "b.mp4")[0, 40:48].mean() < 10

    def test_a_film_as_a_picture(self, tmp_path) -> None:
        save_preview(tmp_path / "a.png", *film(), slices=2)
        assert np.asarray(Image.open(tmp_path / "a.png")).shape[1] > 400

    def test_ignored_pixels_are_grey(self) -> None:
        frame = tinted(np.zeros((6, 6, 3), np.uint8), np.full((6, 6), 255), TABLE)
        np.testing.assert_array_equal(frame[3, 3], 64)

    def test_edges_are_firm_and_the_frame_is_not_changed(self) -> None:
        frame = np.full((9, 9, 3), 90, np.uint8)
        labels = np.zeros((9, 9), np.uint8)
        labels[2:7, 3:8] = 1
        result = tinted(frame, labels, TABLE)
        np.testing.assert_array_equal(result[2, 5], TABLE.colour(1))
        np.testing.assert_array_equal(result[4, 5], np.rint(45 + 0.5 * np.array(TABLE.colour(1))))
        np.testing.assert_array_equal(result[labels == 0], 90)
        np.testing.assert_array_equal(frame, 90)


class TestPictures:
    def test_a_scan_is_shown_as_radiologists_see_it(self, tmp_path) -> None:
        volume, label_map = scan()
        save_preview(tmp_path / "a.png", volume, label_map, slices=1)
        pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
        organ = (np.abs(pixels - np.array(TABLE.colour(1)) * 0.5) < 15).all(axis=-1)
        assert organ.sum() > 500
        down, right = np.argwhere(organ).mean(axis=0) / organ.shape
        assert down < 0.5
        assert right < 0.5
        save_preview(tmp_path / "b.png", volume, LabelMap(label_map.data * 0, label_map.grid, TABLE), slices=1)
        empty = np.asarray(Image.open(tmp_path / "b.png").convert("RGB")).astype(int)
        assert not (np.abs(empty - np.array(TABLE.colour(1)) * 0.5) < 15).all(axis=-1).any()

    def test_plane_window_and_number_of_slices_count(self, tmp_path) -> None:
        volume, label_map = scan()
        for name, how in (("a", {}), ("b", {"plane": "coronal"}), ("c", {"window": (-1100, -1000)}), ("d", {})):
            save_preview(tmp_path / f"{name}.png", volume, label_map, **how)
        a, b, c, d = ((tmp_path / f"{name}.png").read_bytes() for name in "abcd")
        assert a == d
        assert len({a, b, c}) == 3


class TestRefusals:
    @pytest.mark.parametrize("name", ["a.gif", "a.jpg", "a", "a.avi"])
    def test_other_endings(self, tmp_path, name) -> None:
        with pytest.raises(OutputError, match=r"a preview is a \.png file"):
            save_preview(tmp_path / name, *film())

    def test_a_scan_is_no_film(self, tmp_path) -> None:
        with pytest.raises(OutputError, match=r"a preview is a \.png file, of a film also an \.mp4"):
            save_preview(tmp_path / "a.mp4", *scan())

    @pytest.mark.parametrize("name", ["a.png", "a.mp4"])
    def test_labels_elsewhere(self, tmp_path, name) -> None:
        volume, label_map = film()
        other = film(size=(60, 48))[1]
        with pytest.raises(GeometryError):
            save_preview(tmp_path / name, volume, other)
        moved = LabelMap(label_map.data, Grid(label_map.grid.shape, LPS, "time"), TABLE)
        with pytest.raises(GeometryError):
            save_preview(tmp_path / name, volume, moved)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a.png", "a.mp4"])
    def test_values_outside_the_table_and_missing_folders(self, tmp_path, name) -> None:
        volume, label_map = film()
        with pytest.raises(LabelError, match="7"):
            save_preview(tmp_path / name, volume, LabelMap(label_map.data * 7, label_map.grid, TABLE))
        with pytest.raises(OutputError, match="cannot be written"):
            save_preview(tmp_path / "none" / name, volume, label_map)
        assert list(tmp_path.iterdir()) == []

    def test_no_slices(self, tmp_path) -> None:
        with pytest.raises(InputError, match="1 slice or more"):
            save_preview(tmp_path / "a.png", *scan(), slices=0)

    def test_an_old_preview_stays_if_a_new_one_fails(self, tmp_path, monkeypatch) -> None:
        save_preview(tmp_path / "a.png", *scan())
        before = (tmp_path / "a.png").read_bytes()

        def full(path: Path, write: object) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(preview, "store", full)
        with pytest.raises(OutputError, match="No space left"):
            save_preview(tmp_path / "a.png", *scan())
        assert (tmp_path / "a.png").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.shared
def test_a_polyp_is_tinted_on_its_own_frame(shared: Path, tmp_path: Path) -> None:
    from voxelsam.formats import read_frames, read_labels

    folder = shared / "data" / "Dataset510_PolypVideo"
    images = sorted((folder / "imagesTr").glob("seq03_*.png"))[:4]
    volume = read_frames(images, 0.2)
    parts = [read_labels(folder / "labelsTr" / path.name.replace("_0000", "")) for path in images]
    polyp = np.concatenate([(part.data > 0).astype(np.uint8) for part in parts], axis=2)
    save_preview(tmp_path / "a.mp4", volume, LabelMap(polyp, volume.grid, TABLE))
    plain = volume.data.transpose(3, 2, 1, 0).astype(int)
    frames = shown(tmp_path / "a.mp4")[:, : plain.shape[1], : plain.shape[2]]
    for k in range(len(images)):
        mask = polyp[:, :, k].T.astype(bool)
        difference = np.abs(frames[k] - plain[k]).mean(axis=-1)
        assert difference[mask].mean() > 4 * difference[~mask].mean()
