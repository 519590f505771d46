"""Pictures: the array that is shown, upright; masks that keep their numbers."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from voxelsam.errors import FormatError, InputError, InputWarning, LabelError, OutputError
from voxelsam.formats import frames, picture, read, read_channels, read_labels, read_numbers, write_labels, write_volume
from voxelsam.space.grid import Grid, VoxelBox
from voxelsam.stacks.cut import cut
from voxelsam.stacks.intensity import PICTURE
from voxelsam.stacks.plan import StackPlan
from voxelsam.volumes import LabelMap, Labels, Volume, check_pair

HEIGHT, WIDTH = 5, 7
TABLE = Labels({"background": 0, "a": 1, "b": 2, "many": 300})


def letter() -> np.ndarray:
    """Grey rows that any flip or swap of axes changes."""
    return np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 7


def colour() -> np.ndarray:
    return np.stack([letter(), letter()[::-1], letter()[:, ::-1]], -1)


def png(path: Path, samples: np.ndarray, kind: int, bits: int, extra: bytes = b"") -> Path:
    """A PNG made by hand, for what Pillow does not write; ``kind`` is its colour type."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    if bits == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        places = np.arange(bits - 1, -1, -1)
        rows = np.packbits((samples.reshape(height, -1)[..., None] >> places & 1).reshape(height, -1), axis=1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + extra + data + chunk(b"IEND", b""))
    return path


def saved(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def table_on(data: np.ndarray) -> LabelMap:
    """A label map from rows of values."""
    return LabelMap(data.T[:, :, None], picture.lattice(data.shape[1], data.shape[0]), TABLE)


class TestPlace:
    def test_the_first_row_of_the_file_is_the_first_row_of_the_models_picture(self, tmp_path) -> None:
        volume = read(saved(tmp_path / "a.png", colour()))
        assert (volume.grid.shape, volume.grid.along_k) == ((WIDTH, HEIGHT, 1), "single")
        plan = StackPlan(depth=1, size=(HEIGHT, WIDTH), channels="rgb")
        shown = cut(plan.placement(volume.grid).bring(volume.data), plan, 0, PICTURE.measure(volume.data))
        np.testing.assert_allclose(shown[0].permute(1, 2, 0) * 255, colour(), atol=1e-4)

    def test_no_axis_moves_in_the_canonical_grid(self, tmp_path) -> None:
        grid = read(saved(tmp_path / "a.png", letter())).grid
        reordering = StackPlan().placement(grid).reordering
        assert (reordering.order, reordering.flips) == ((0, 1, 2), (False, False, False))

    def test_print_resolution_says_nothing_about_millimetres(self, tmp_path) -> None:
        image = read(saved(tmp_path / "a.png", letter(), dpi=(72, 300)))
        assert image.grid.spacing == (1, 1, 1)
        check_pair(image, read_labels(saved(tmp_path / "b.png", letter() * 0)))

    @pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
    @pytest.mark.parametrize("turn", range(1, 9))
    def test_what_is_read_is_what_is_shown(self, tmp_path, suffix, turn) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        options = {"tiffinfo": {274: turn}} if suffix == "tif" else {"exif": exif, "quality": 100}
        path = saved(tmp_path / f"a.{suffix}", np.repeat(np.repeat(letter(), 8, 0), 8, 1), **options)
        shown = letter()
        shown = shown.T if turn > 4 else shown
        shown = shown[::-1] if turn in (3, 4, 7, 8) else shown
        shown = shown[:, ::-1] if turn in (2, 3, 6, 7) else shown
        if turn == 1:
            volume = read(path)
        else:
            with pytest.warns(InputWarning, match=rf"GEO-06: .*a.{suffix}: .*orientation {turn}"):
                volume = read(path)
        np.testing.assert_allclose(volume.data[0, 4::8, 4::8, 0].T.astype(int), shown, atol=3)


class TestPixels:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
    def test_grey_and_colour_come_as_they_are(self, tmp_path, suffix) -> None:
        for array, channels in ((letter()[..., None], 1), (colour(), 3)):
            volume = read(saved(tmp_path / f"a.{suffix}", array.squeeze()))
            assert (volume.kind, volume.data.dtype, volume.channels) == ("PICTURE", np.uint8, channels)
            np.testing.assert_array_equal(volume.data[..., 0].transpose(2, 1, 0), array)

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_sixteen_bits_keep_their_numbers_and_are_no_0_to_255(self, tmp_path, suffix) -> None:
        volume = read(saved(tmp_path / f"a.{suffix}", letter().astype(np.uint16) * 200))
        assert (volume.kind, volume.data.dtype) == ("UNKNOWN", np.uint16)
        np.testing.assert_array_equal(volume.data[0, :, :, 0].T, letter().astype(int) * 200)

    def test_floating_point_tiff(self, tmp_path) -> None:
        values = letter().astype(np.float32) / 3
        np.testing.assert_array_equal(read(saved(tmp_path / "a.tif", values)).data[0, :, :, 0].T, values)
        values[0, 0] = np.nan
        with pytest.raises(InputError, match="1 voxels are not a number") as caught:
            read(saved(tmp_path / "a.tif", values))
        assert caught.value.code == "VAL-01"

    def test_black_and_white_is_0_and_255(self, tmp_path) -> None:
        path = saved(tmp_path / "a.png", letter() > 90)
        np.testing.assert_array_equal(read(path).data[0, :, :, 0].T, np.where(letter() > 90, 255, 0))
        np.testing.assert_array_equal(read_labels(path).data[:, :, 0].T, letter() > 90)

    def test_palettes_of_colours_have_three_channels_those_of_greys_one(self, tmp_path) -> None:
        for name, palette, channels in (("c", [9, 9, 9, 255, 0, 3], 3), ("g", [9, 9, 9, 77, 77, 77], 1)):
            image = Image.fromarray((letter() > 90).astype(np.uint8), "L").convert("P")
            image.putpalette(palette)
            image.save(tmp_path / f"{name}.png")
            volume = read(tmp_path / f"{name}.png")
            assert volume.channels == channels
            assert set(np.unique(volume.data[0])) == {9, palette[3]}

    @pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
    def test_opaque_alpha_is_dropped_and_transparency_refused(self, tmp_path, mode, channels) -> None:
        image = Image.fromarray(colour()).convert(mode)
        image.save(tmp_path / "a.png")
        assert read(tmp_path / "a.png").channels == channels
        image.putpixel((2, 3), (*[0] * channels, 254))
        image.save(tmp_path / "b.png")
        for reader in (read, read_labels):
            with pytest.raises(InputError, match=r"b.png: 1 transparent pixels") as caught:
                reader(tmp_path / "b.png")
            assert caught.value.code == "VAL-05"

    def test_a_key_colour_that_is_transparent(self, tmp_path) -> None:
        path = saved(tmp_path / "a.png", letter(), transparency=7)
        with pytest.raises(InputError, match="1 transparent pixels"):
            read(path)
        path = saved(tmp_path / "b.png", letter().astype(np.uint16), transparency=7)
        with pytest.raises(InputError, match="a value that stands for transparent"):
            read(path)

    @pytest.mark.parametrize("kind", [2, 4, 6])
    def test_sixteen_bit_colours_are_refused_not_halved(self, tmp_path, kind) -> None:
        samples = np.random.default_rng(1).integers(0, 65536, (4, 6, {2: 3, 4: 2, 6: 4}[kind]))
        with pytest.raises(InputError, match=r"16 bits.*lose half of their bits") as caught:
            read(png(tmp_path / "a.png", samples, kind, 16))
        assert caught.value.code == "VAL-05"

    def test_deep_tiffs_whose_zero_is_white_are_refused(self, tmp_path) -> None:
        saved(tmp_path / "a.tif", letter().astype(np.uint16), tiffinfo={262: 0})
        content = (tmp_path / "a.tif").read_bytes()
        place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
        (tmp_path / "a.tif").write_bytes(content[:place] + bytes(2) + content[place + 2 :])
        with pytest.raises(InputError, match="0 stands for white"):
            read(tmp_path / "a.tif")

    def test_print_colours_are_refused(self, tmp_path) -> None:
        Image.fromarray(colour()).convert("CMYK").save(tmp_path / "a.jpg")
        with pytest.raises(InputError, match="CMYK; store red, green and blue"):
            read(tmp_path / "a.jpg")

    def test_a_constant_picture_is_told(self, tmp_path) -> None:
        with pytest.warns(InputWarning, match="VAL-02"):
            read(saved(tmp_path / "a.png", letter() * 0))


class TestPages:
    def test_pages_are_chosen_or_become_channels(self, tmp_path) -> None:
        pages = [Image.fromarray(letter() + number) for number in range(3)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        assert frames(tmp_path / "a.tif") == 3
        np.testing.assert_array_equal(read(tmp_path / "a.tif", frame=2).data[0, :, :, 0].T, letter() + 2)
        np.testing.assert_array_equal(read_channels([tmp_path / "a.tif"], 3).data[1, :, :, 0].T, letter() + 1)
        for frame, message in ((None, "holds 3 pages; choose one"), (3, "frame 3 was asked for"), (-1, "frame -1")):
            with pytest.raises(InputError, match=message) as caught:
                read(tmp_path / "a.tif", frame=frame)
            assert caught.value.code == "VAL-05"
        with pytest.raises(InputError, match="holds 3 pages"):
            read_labels(tmp_path / "a.tif")

    def test_a_colour_picture_is_one_file_of_three_channels(self, tmp_path) -> None:
        path = saved(tmp_path / "a.png", colour())
        assert (frames(path), read_channels([path], 3).channels) == (1, 3)
        with pytest.raises(InputError, match="expected 1 channels, but there are 3"):
            read_channels([path], 1)


class TestMasks:
    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_bits_are_not_stretched(self, tmp_path, bits) -> None:
        values = letter() % 2**bits
        path = png(tmp_path / "a.png", values, 0, bits)
        np.testing.assert_array_equal(read_labels(path).data[:, :, 0].T, values)
        assert read(path).data.max() == 255

    def test_palette_indices_count_and_their_transparency_does_not(self, tmp_path) -> None:
        image = Image.fromarray(letter() % 3).convert("P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(tmp_path / "a.png", transparency=0)
        np.testing.assert_array_equal(read_labels(tmp_path / "a.png", TABLE).data[:, :, 0].T, letter() % 3)

    def test_colour_files_without_colours_are_masks(self, tmp_path) -> None:
        grey = np.repeat((letter() % 3)[..., None], 3, -1)
        np.testing.assert_array_equal(read_labels(saved(tmp_path / "a.png", grey)).data[:, :, 0].T, letter() % 3)
        with pytest.raises(LabelError, match=r"colours \(RGB\).*colours_to_labels") as caught:
            read_labels(saved(tmp_path / "b.png", colour()))
        assert caught.value.code == "LAB-01"

    def test_jpeg_is_never_a_mask(self, tmp_path) -> None:
        with pytest.raises(LabelError, match=r"JPEG changes values.*holds \d+ values \(0, ") as caught:
            read_labels(saved(tmp_path / "a.jpg", letter()))
        assert caught.value.code == "LAB-01"

    def test_0_255_masks_are_refused(self, tmp_path) -> None:
        path = saved(tmp_path / "a.png", np.where(letter() > 9, 255, 0).astype(np.uint8))
        with pytest.raises(LabelError, match=r"a.png should hold.*0/255 mask: write 1"):
            read_labels(path, Labels({"background": 0, "a": 1}))

    def test_fractions_are_refused(self, tmp_path) -> None:
        with pytest.raises(LabelError, match="labels must be integers"):
            read_labels(saved(tmp_path / "a.tif", letter().astype(np.float32) / 2))

    def test_numbers_need_no_table(self, tmp_path) -> None:
        values = letter().astype(np.uint16) * 250
        numbers = read_numbers(saved(tmp_path / "a.png", values))
        np.testing.assert_array_equal(numbers.data[0, :, :, 0].T, values)


class TestWriting:
    @pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "PNG"])
    def test_masks_read_back_anywhere(self, tmp_path, suffix) -> None:
        values = letter() % 3
        write_labels(tmp_path / f"a.{suffix}", table_on(values))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a.{suffix}")), values)
        again = read_labels(tmp_path / f"a.{suffix}", TABLE)
        np.testing.assert_array_equal(again.data, table_on(values).data)

    def test_large_values_take_sixteen_bits(self, tmp_path) -> None:
        values = np.where(letter() > 99, 300, 1)
        write_labels(tmp_path / "a.png", table_on(values))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), values)
        with pytest.raises(OutputError, match="I;16"):
            write_labels(tmp_path / "a.bmp", table_on(values))
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_a_mask_lies_on_its_picture(self, tmp_path) -> None:
        image = read(saved(tmp_path / "a.jpg", colour()))
        write_labels(tmp_path / "mask.png", table_on(letter() % 3), like=image)
        check_pair(image, read_labels(tmp_path / "mask.png"))

    def test_frames_of_a_film_can_be_written(self, tmp_path) -> None:
        affine = np.diag([-1.0, -1.0, 0.04, 1.0])
        film = Grid((WIDTH, HEIGHT, 3), affine, "time")
        data = np.repeat((letter() % 3).T[:, :, None], 3, 2)
        with pytest.raises(OutputError, match="one slice, but there are 3; write one file for each"):
            write_labels(tmp_path / "a.png", LabelMap(data, film, TABLE))
        one = film.crop(VoxelBox((0, 0, 2), (WIDTH, HEIGHT, 3)))
        write_labels(tmp_path / "a.png", LabelMap(data[:, :, 2:], one, TABLE))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), letter() % 3)

    def test_scans_do_not_fit_into_a_picture(self, tmp_path, oblique) -> None:
        scan = LabelMap(np.zeros((4, 5, 1), np.uint8), Grid((4, 5, 1), oblique), TABLE)
        with pytest.raises(OutputError, match=r"where in the patient.*write a .nii.gz"):
            write_labels(tmp_path / "a.png", scan)

    def test_values_outside_the_table_are_not_written(self, tmp_path) -> None:
        with pytest.raises(LabelError, match="77"):
            write_labels(tmp_path / "a.png", table_on(letter()))
        assert not list(tmp_path.iterdir())

    def test_what_does_not_read_back_leaves_the_old_file(self, tmp_path, monkeypatch) -> None:
        write_labels(tmp_path / "a.png", table_on(letter() % 3))
        before = (tmp_path / "a.png").read_bytes()
        monkeypatch.setattr(picture, "_native", lambda image: np.asarray(image) + 1)
        with pytest.raises(OutputError, match="does not read back"):
            write_labels(tmp_path / "a.png", table_on(letter() % 2))
        assert (tmp_path / "a.png").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    @pytest.mark.parametrize(
        "array", [letter()[..., None], colour(), (letter().astype(np.uint16) * 200)[..., None]], ids=["L", "RGB", "16"]
    )
    def test_pictures_survive(self, tmp_path, array) -> None:
        grid = picture.lattice(WIDTH, HEIGHT)
        volume = Volume(array.transpose(2, 1, 0)[..., None], grid)
        write_volume(tmp_path / "a.png", volume)
        np.testing.assert_array_equal(read(tmp_path / "a.png").data, volume.data)

    @pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint8), (3, np.uint16), (1, np.int16), (1, np.float32)])
    def test_other_images_are_no_pictures(self, tmp_path, channels, dtype) -> None:
        volume = Volume(np.zeros((channels, WIDTH, HEIGHT, 1), dtype), picture.lattice(WIDTH, HEIGHT))
        with pytest.raises(OutputError, match=f"but the image has {channels} of {np.dtype(dtype)}"):
            write_volume(tmp_path / "a.png", volume)


class TestDamage:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
    @pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_cut_off_files_are_named(self, tmp_path, suffix, part) -> None:
        noise = np.random.default_rng(2).integers(0, 256, (40, 40), np.uint8)
        path = saved(tmp_path / f"a.{suffix}", noise)
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        for reader in (read, read_labels):
            with pytest.raises(FormatError, match=rf"a.{suffix}: \d+ bytes, cut off or damaged") as caught:
                reader(path)
            assert caught.value.code == "SET-03"

    def test_content_counts_not_the_name(self, tmp_path) -> None:
        saved(tmp_path / "a.png", letter()).rename(tmp_path / "a.nii.gz")
        assert read(tmp_path / "a.nii.gz").source.format == "picture"
        (tmp_path / "b.png").write_bytes(b"<html>sorry</html>")
        with pytest.raises(FormatError, match="web page"):
            read(tmp_path / "b.png")

    def test_two_letters_make_no_bmp(self, tmp_path) -> None:
        (tmp_path / "a.bmp").write_bytes(b"BMI of all patients: unknown")
        with pytest.raises(FormatError, match="no known format"):
            read(tmp_path / "a.bmp")

    def test_a_tiff_that_calls_its_colours_grey(self, tmp_path) -> None:
        path = saved(tmp_path / "a.tif", colour())
        content = bytearray(path.read_bytes())
        place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
        content[place : place + 2] = struct.pack("<H", 1)
        path.write_bytes(content)
        with pytest.warns(InputWarning, match=r"VAL-05: .*a.tif: .*says that it is grey"):
            volume = read(path)
        np.testing.assert_array_equal(volume.data[..., 0].transpose(2, 1, 0), colour())

    def test_bombs_are_refused(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(FormatError, match="too large"):
            read(saved(tmp_path / "a.png", letter()))


class TestSize:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
    def test_it_is_told_without_decoding(self, tmp_path, suffix, monkeypatch) -> None:
        path = saved(tmp_path / f"a.{suffix}", letter())
        monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
        assert picture.read_size(path) == (WIDTH, HEIGHT)

    def test_what_is_no_picture_has_none(self, tmp_path) -> None:
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
        with pytest.raises(FormatError, match="cut off or damaged") as caught:
            picture.read_size(tmp_path / "a.png")
        assert caught.value.code == "SET-03"


class TestPillow:
    def two_pages(self, path: Path) -> bytearray:
        pages = [Image.fromarray(letter()), Image.fromarray(letter()[::-1])]
        pages[0].save(path, save_all=True, append_images=pages[1:])
        return bytearray(path.read_bytes())

    def second_directory(self, content: bytearray) -> int:
        first = int.from_bytes(content[4:8], "little")
        after = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
        return int.from_bytes(content[after : after + 4], "little")

    def test_a_second_page_without_a_width_is_an_error_of_ours(self, tmp_path) -> None:
        content = self.two_pages(tmp_path / "a.tif")
        place = self.second_directory(content) + 2
        assert int.from_bytes(content[place : place + 2], "little") == ExifTags.Base.ImageWidth
        content[place : place + 2] = (40960).to_bytes(2, "little")
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(FormatError, match="cut off or damaged") as caught:
            frames(tmp_path / "a.tif")
        assert caught.value.code == "SET-03"

    def test_errors_without_words_are_named(self, tmp_path, monkeypatch) -> None:
        path = saved(tmp_path / "a.png", letter())
        monkeypatch.setattr(Image.Image, "getexif", lambda self: (_ for _ in ()).throw(EOFError))
        with pytest.raises(FormatError, match=r"\(EOFError\)"):
            read(path)

    def test_odd_tags_are_no_warning_of_pillow(self, tmp_path) -> None:
        content = self.two_pages(tmp_path / "a.tif")
        place = self.second_directory(content) + 2 + 6 * 12
        assert int.from_bytes(content[place : place + 2], "little") == ExifTags.Base.RowsPerStrip
        content[place : place + 8] = struct.pack("<HHI", 37500, 7, 1 << 30)
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.warns(UserWarning, match="Tag data larger"), Image.open(tmp_path / "a.tif") as image:
            image.seek(1)
        np.testing.assert_array_equal(read(tmp_path / "a.tif", frame=1).data[0, ..., 0].T, letter()[::-1])
