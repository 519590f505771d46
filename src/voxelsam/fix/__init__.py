"""Repairs of what checks find, always into a copy, and with a log of what was done.

``fix_file`` repairs one file, ``fix_dataset`` copies a data set and repairs what needs it. What loses nothing is done
unasked; everything else only if ``Wishes`` ask for its code. The repairs themselves are a table in ``fix.repairs``.
"""

from voxelsam.fix.dataset import fix_dataset
from voxelsam.fix.file import fix_file
from voxelsam.fix.log import LOG, Fixed
from voxelsam.fix.repairs import REPAIRS, Change, Repair
from voxelsam.fix.wishes import Wishes

__all__ = ["LOG", "REPAIRS", "Change", "Fixed", "Repair", "Wishes", "fix_dataset", "fix_file"]
