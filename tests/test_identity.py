"""A model goes with the backbone that it was trained on, and with no other."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from voxelsam.bundle import Bundle
from voxelsam.errors import WeightsError


def test_another_backbone_than_the_one_of_the_training(learnt: Callable[..., Bundle]) -> None:
    bundle = learnt()
    other = replace(bundle.description.backbone, sha256="0" * 64)
    with pytest.raises(WeightsError, match="another checkpoint") as caught:
        replace(bundle, description=replace(bundle.description, backbone=other)).segmenter()
    assert caught.value.code == "WEI-01"
