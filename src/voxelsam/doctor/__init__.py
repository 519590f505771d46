"""Says what is wrong with a file, a series, a folder or a data set, and what to do about it.

Files are read as everywhere else, so that what the doctor finds is what training and prediction would find.
"""

from voxelsam.doctor.diagnosis import Diagnosis, diagnose
from voxelsam.doctor.look import Target
from voxelsam.doctor.targets import find

__all__ = ["Diagnosis", "Target", "diagnose", "find"]
