"""Words for axes and names for arrays, used in every signature.

Axes of arrays in patient space are ``i j k`` (k counts slices). Axes of tensors are ``batch depth channels height
width``; ``frames`` means batch times depth with depth varying fastest. Points on a picture are (x, y), x along the
width. World coordinates are millimetres in RAS+ (x to the patient's right, y to the front, z to the head).
"""

import numpy as np
from jaxtyping import Float64, Integer, Shaped

Affine = Float64[np.ndarray, "4 4"]
"""Index of a voxel centre to millimetres, RAS+."""

Pixels = Shaped[np.ndarray, "channels i j k"]
"""Intensities of a volume."""

LabelArray = Integer[np.ndarray, "i j k"]
"""Label values of a volume."""
