"""REFUGE2, ISIC and TN-SCUI: pictures beside masks, each in the folders of its challenge."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from voxelsam.errors import InputError, LabelError
from voxelsam.layouts import Split, isic, open_dataset, read_label, refuge2, tnscui

Make = Callable[..., None]


@pytest.fixture
def picture(tmp_path: Path) -> Make:
    """Writes grey pictures of 6 × 4 pixels whose first column has another value."""

    def make(*names: str, value: int | None = None, first: int | None = None) -> None:
        for name in names:
            data = np.full((4, 6), 40 if value is None else value, np.uint8)
            data[:, 0] = first if first is not None else 90 if value is None else value
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data).save(tmp_path / name)

    return make


class TestRefuge:
    @pytest.fixture
    def small(self, picture: Make, tmp_path: Path) -> Path:
        picture("train/images/g0001.jpg", "train/images/n0001.jpg", "val/images/V0001.jpg", "test/images/T0001.jpg")
        picture("train/mask/g0001.bmp", "train/mask/n0001.bmp", "val/mask/V0001.png", value=255, first=128)
        return tmp_path

    def test_sides_are_the_organisers(self, small: Path) -> None:
        dataset = open_dataset(small)
        assert dataset.layout == "refuge2"
        assert dataset.splits == (Split(("g0001", "n0001"), ("V0001",)),)
        assert [(case.id, case.label) for case in dataset.test] == [("T0001", None)]
        assert len(dataset.train) == 3

    def test_the_disc_holds_the_cup(self, small: Path, picture: Make) -> None:
        picture("train/mask/g0001.bmp", value=128, first=0)
        dataset = open_dataset(small)
        labels = dataset.labels
        assert labels is not None
        assert (labels.names, dict(labels.regions)) == (("optic_disc_only", "optic_cup"), {"optic_disc": (1, 2)})
        cup_in_disc, rim = (read_label(case, labels).data for case in dataset.train[:2])
        assert (cup_in_disc[0] == 2).all()
        assert (cup_in_disc[1:] == 1).all()
        assert (rim[0] == 1).all()
        assert (rim[1:] == 0).all()

    def test_validation_without_masks_is_for_testing(self, small: Path) -> None:
        (small / "val" / "mask" / "V0001.png").unlink()
        (small / "val" / "mask").rmdir()
        dataset = refuge2.read(small)
        assert dataset.splits == ()
        assert [case.id for case in dataset.test] == ["V0001", "T0001"]

    def test_a_grey_that_means_nothing_is_refused(self, small: Path, picture: Make) -> None:
        picture("train/mask/g0001.bmp", value=127)
        dataset = refuge2.read(small)
        with pytest.raises(LabelError, match=r"255, 128, 0.*127 \(24 voxels\)"):
            read_label(dataset.train[0], dataset.labels)

    def test_problems_come_together(self, small: Path, picture: Make) -> None:
        picture("train/images/n0002.jpg", "train/images/g0001.png", "val/masks/V0001.png")
        (small / "train" / "images" / "n0001.jpg").unlink()
        with pytest.raises(InputError, match="problems: 4") as caught:
            refuge2.read(small)
        for text in ("n0002.jpg has no mask", "n0001.bmp has no picture", "have this name", "both mask and masks"):
            assert text in str(caught.value)

    def test_without_training_pictures(self, picture: Make, tmp_path: Path) -> None:
        picture("test/images/T0001.jpg")
        with pytest.raises(InputError, match="no training cases"):
            open_dataset(tmp_path)

    def test_other_pictures_in_such_folders_are_not_its(self, picture: Make, tmp_path: Path) -> None:
        picture("train/images/cat.jpg", "train/mask/cat.png")
        assert not refuge2.recognises(tmp_path)


class TestIsic:
    @pytest.fixture
    def small(self, picture: Make, tmp_path: Path) -> Path:
        picture(*(f"ISIC2018_Task1-2_Training_Input/ISIC_000000{n}.jpg" for n in range(2)))
        picture("ISIC2018_Task1-2_Validation_Input/ISIC_0000007.jpg", "ISIC2018_Task1-2_Test_Input/ISIC_0000009.jpg")
        parts = {"Training": (0, 1), "Validation": (7,), "Test": (9,)}
        for part, numbers in parts.items():
            for n in numbers:
                name = f"ISIC2018_Task1_{part}_GroundTruth/ISIC_000000{n}_segmentation.png"
                picture(name, value=0, first=255)
        return tmp_path

    def test_sides_are_the_organisers(self, small: Path) -> None:
        dataset = open_dataset(small)
        assert (dataset.layout, dataset.name, dataset.channels) == ("isic", "ISIC 2018", ("image",))
        assert dataset.splits == (Split(("ISIC_0000000", "ISIC_0000001"), ("ISIC_0000007",)),)
        assert [(case.id, case.label is not None) for case in dataset.test] == [("ISIC_0000009", True)]
        label = read_label(dataset.train[0], dataset.labels)
        assert label.data[:, :, 0].tolist() == [[1] * 4] + [[0] * 4] * 5

    @pytest.mark.parametrize("nested", [False, True])
    def test_2016_has_test_pictures_with_or_without_masks(self, picture: Make, tmp_path: Path, nested: bool) -> None:
        def home(part: str) -> str:
            folder = f"ISBI2016_ISIC_Part1_{part}"
            return f"{folder}/{folder}" if nested else folder

        picture(f"{home('Training_Data')}/ISIC_1.jpg", f"{home('Test_Data')}/ISIC_2.jpg")
        picture(f"{home('Training_GroundTruth')}/ISIC_1_Segmentation.png", value=255)
        dataset = open_dataset(tmp_path)
        assert (dataset.name, [case.id for case in dataset.train], dataset.splits) == ("ISIC 2016", ["ISIC_1"], ())
        assert [(case.id, case.label) for case in dataset.test] == [("ISIC_2", None)]

    def test_superpixels_of_2017_are_no_pictures(self, picture: Make, tmp_path: Path) -> None:
        picture("ISIC-2017_Training_Data/ISIC_1.jpg", "ISIC-2017_Training_Data/ISIC_1_superpixels.png")
        picture("ISIC-2017_Training_Part1_GroundTruth/ISIC_1_segmentation.png")
        assert [case.id for case in open_dataset(tmp_path).train] == ["ISIC_1"]

    def test_problems_come_together(self, small: Path, picture: Make) -> None:
        (small / "ISIC2018_Task1-2_Training_Input" / "ISIC_0000000.jpg").unlink()
        (small / "ISIC2018_Task1_Test_GroundTruth" / "ISIC_0000009_segmentation.png").unlink()
        picture("ISIC2018_Task1-2_Validation_Input/ISIC_0000001.jpg")
        picture("ISIC2018_Task1_Validation_GroundTruth/ISIC_0000001_segmentation.png")
        with pytest.raises(InputError, match="problems: 3") as caught:
            isic.read(small)
        for text in ("has no picture", "has no mask", "id ISIC_0000001 occurs twice"):
            assert text in str(caught.value)

    def test_two_challenges_in_one_folder_are_refused(self, small: Path, picture: Make) -> None:
        picture("ISBI2016_ISIC_Part1_Test_Data/ISIC_2.jpg")
        with pytest.raises(InputError, match="ISIC 2016 and ISIC 2018 lie in one folder"):
            isic.read(small)

    def test_a_mask_with_other_values_is_refused(self, small: Path, picture: Make) -> None:
        picture("ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png", value=1)
        dataset = isic.read(small)
        with pytest.raises(LabelError, match=r"numbers 0, 255, but also holds 1 \(24 voxels\)"):
            read_label(dataset.train[0], dataset.labels)

    def test_empty_folders(self, tmp_path: Path) -> None:
        assert not isic.recognises(tmp_path)
        (tmp_path / "ISBI2016_ISIC_Part1_Training_Data").mkdir()
        with pytest.raises(InputError, match="no cases"):
            open_dataset(tmp_path)


class TestTnscui:
    @pytest.fixture
    def small(self, picture: Make, tmp_path: Path) -> Path:
        picture("image/1.PNG", "image/2.PNG")
        picture("mask/1.PNG", "mask/2.PNG", value=0, first=255)
        (tmp_path / "train.csv").write_text("ID,CATE\n1.PNG,0\n2.PNG,1\n")
        return tmp_path

    def test_it_goes_before_plain_pairs(self, small: Path) -> None:
        dataset = open_dataset(small)
        assert (dataset.layout, dataset.kind, dataset.channels) == ("tnscui", "PICTURE", ("image",))
        assert [case.id for case in dataset.train] == ["1", "2"]
        assert read_label(dataset.train[1], dataset.labels).data.sum() == 4

    def test_problems_come_together(self, small: Path, picture: Make) -> None:
        picture("image/3.PNG", "mask/4.PNG")
        (small / "train.csv").write_text("ID,CATE\n1.PNG,0\n3.PNG,0\n9.PNG,1\n")
        with pytest.raises(InputError, match="problems: 4") as caught:
            tnscui.read(small)
        for text in ("3.PNG has no mask", "4.PNG has no picture", "9: train.csv names it", "2.PNG is not in train.csv"):
            assert text in str(caught.value)

    @pytest.mark.parametrize("header", [b"name,class\n", b"", b"\xff\xfe"])
    def test_another_table_makes_it_plain_pairs(self, small: Path, header: bytes) -> None:
        (small / "train.csv").write_bytes(header)
        assert not tnscui.recognises(small)

    def test_no_pictures(self, tmp_path: Path) -> None:
        for name in ("image", "mask"):
            (tmp_path / name).mkdir()
        (tmp_path / "train.csv").write_text("ID,CATE\n")
        with pytest.raises(InputError, match="no cases"):
            open_dataset(tmp_path)
