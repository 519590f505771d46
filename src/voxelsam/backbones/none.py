"""No backbone: for methods that bring a whole network of their own and train it from scratch.

It has no weights and takes images of any size. Pixels of 0..1 become -2..2, which is near mean 0 and deviation 1 for
most scans, as nnU-Net's z-score (spec of its planner) wants them.
"""

from collections.abc import Mapping

from voxelsam.backbones._weights import Rename
from voxelsam.nn.backbone import Backbone, Variant
from voxelsam.nn.no_backbone import NoBackbone

VARIANTS = {
    "none": Variant(
        "none",
        dim=0,
        depth=0,
        heads=0,
        global_blocks=(),
        patch=8,
        image_size=(512, 512),
        pixel_mean=(127.5, 127.5, 127.5),
        pixel_std=(63.75, 63.75, 63.75),
    )
}

DIALECTS: Mapping[str, Rename] = {}
"""There are no checkpoints."""


def build(variant: Variant, image_size: tuple[int, int] | None = None) -> Backbone:
    """Nothing, for images of that size."""
    return NoBackbone(variant, image_size)
