"""Which layout is it?"""

import pytest

from voxelsam import plugins
from voxelsam.errors import ConfigError, InputError
from voxelsam.layouts import Layout, open_dataset


@pytest.mark.parametrize("name", plugins.names("layouts"))
def test_every_module_offers_what_a_layout_must(name: str) -> None:
    assert isinstance(plugins.load("layouts", name), Layout)


def test_unknown_folders_get_the_list_of_what_is_known(tmp_path) -> None:
    with pytest.raises(InputError, match="no known layout") as caught:
        open_dataset(tmp_path)
    for name in plugins.names("layouts"):
        assert f"{name}: {plugins.load('layouts', name).EXPECTS}" in str(caught.value)


def test_several_layouts_need_a_choice(touch, note, tmp_path) -> None:
    touch("images/a.nii", "labels/a.nii")
    note("cases.csv", "image,label\nimages/a.nii,labels/a.nii\n")
    note("labels.json", {"background": 0, "organ": 1})
    with pytest.raises(InputError, match=r"several layouts(.|\n)*pairs: (.|\n)*table: ") as caught:
        open_dataset(tmp_path)
    assert "nnunet" not in str(caught.value)
    assert open_dataset(tmp_path, "pairs").layout == "pairs"
    assert open_dataset(tmp_path, "table").layout == "table"


def test_layouts_and_folders_that_do_not_exist(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no plug-in 'bids'"):
        open_dataset(tmp_path, "bids")
    with pytest.raises(InputError, match="no such folder"):
        open_dataset(tmp_path / "gone")
