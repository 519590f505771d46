"""What can be wrong with images and labels that can be read: facts measured once, and rules that judge them.

``measure`` turns voxels into facts, in one pass over a case that is in memory anyway. The rules are pure: facts in,
findings out. ``case`` judges one case, ``dataset`` what only shows across cases, ``tables`` label tables that are to be
used together. ``checks.settle`` tells warnings and raises errors.
"""

from voxelsam.examine.across import SPREAD, copies, dataset, tables
from voxelsam.examine.alone import ANISOTROPY, DEPTH, READING, case, image, label, mapping, pair
from voxelsam.examine.facts import CaseFacts, ChannelFacts, ImageFacts, LabelFacts, Speck, image_facts, measure

__all__ = [
    "ANISOTROPY",
    "DEPTH",
    "READING",
    "SPREAD",
    "CaseFacts",
    "ChannelFacts",
    "ImageFacts",
    "LabelFacts",
    "Speck",
    "case",
    "copies",
    "dataset",
    "image",
    "image_facts",
    "label",
    "mapping",
    "measure",
    "pair",
    "tables",
]
