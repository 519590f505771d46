"""The texts of every check, by code; ``docs/reference/checks.md`` is made from them."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Check:
    """What one code stands for."""

    code: str
    """Stable name, ``GEO-02``."""
    title: str
    """What is looked at, in a few words."""
    severity: Severity
    """The worst that it can be."""
    verdict: str
    """When it is an error and when a warning."""
    cause: str
    """One line: what was found."""
    fix: str
    """One line: what to do."""
    why: str
    """What goes wrong where nobody looks."""
    example: str
    """A file, a header or a number that shows it."""
    accepted: str = ""
    """What happens when its error is accepted; empty where there is nothing to go on with."""

    @property
    def acceptable(self) -> bool:
        """Whether work can go on when its error is accepted."""
        return bool(self.accepted)


_GEOMETRY = (
    Check(
        "GEO-01",
        "shapes of image and label",
        "error",
        "error",
        cause="image and label, or two channels of an image, have different numbers of voxels",
        fix="look for a mixed-up file name; else put the label on the image's voxels: `voxelsam fix --fix GEO-01`",
        why="a label cut or padded to fit lies on the wrong anatomy, and training learns that",
        example="image 512 × 512 × 94, label 512 × 512 × 93: a slice was lost in an export",
    ),
    Check(
        "GEO-02",
        "place of image and label",
        "error",
        "error above 0.5 mm at any corner; warning above 0.001 mm",
        cause="image and label have equal shapes, but their headers put them in different places",
        fix="find out which header is right; if both are, resample the label: `voxelsam fix --fix GEO-02`",
        why="indices match and positions do not: masks, volumes in ml and distances are wrong, and nothing fails",
        example="a label saved with an identity affine beside an image of 0.7 × 0.7 × 5 mm",
        accepted="image and label are matched voxel by voxel, and the image's place counts",
    ),
    Check(
        "GEO-03",
        "right angles between the axes",
        "warning",
        "warning above a cosine of 0.0005",
        cause="the axes of the voxel grid are not at right angles",
        fix="nothing if the shear is real, as in a tilted CT; else `voxelsam fix --fix GEO-03`",
        why="programs that store a rotation only drop the shear and move slices by centimetres",
        example="a CT with a gantry tilt of 15 degrees, converted with its sheared affine",
    ),
    Check(
        "GEO-04",
        "statements of a NIfTI header",
        "warning",
        "warning above 0.5 mm at any corner",
        cause="sform, qform and voxel sizes of one NIfTI header contradict each other",
        fix="keep one of the two: `voxelsam fix --fix GEO-04` keeps the sform, which is what is used here",
        why="one program believes the sform, another the qform: they see one file in two places",
        example="sform 2 mm, pixdim 1 mm: nibabel gives an affine of 2 mm, ITK a spacing of 1 mm",
    ),
    Check(
        "GEO-05",
        "orientation",
        "error",
        "error for a singular affine or a voxel size of 0; warning where only voxel sizes are known",
        cause="the file does not say which way the patient lies, or says it in numbers that span no volume",
        fix="convert the scan again from its source; if that is lost, `voxelsam fix --axes RAS --spacing 1 1 5`",
        why="left and right may be swapped, and every program invents another place",
        example="a NIfTI file with sform_code 0 and qform_code 0",
    ),
    Check(
        "GEO-06",
        "unusual orientation",
        "warning",
        "warning where a file asks to be turned on display; other axis orders are read in silence",
        cause="a picture's EXIF tag asks to be turned or mirrored on display",
        fix="store the picture as it is shown, and check that its mask was drawn on that",
        why="a mask drawn on the picture as shown does not lie on the pixels as stored",
        example="a photograph from a telephone with EXIF orientation 6",
    ),
    Check(
        "GEO-07",
        "anisotropy and number of slices",
        "warning",
        "warning for voxels more than 4 times as long as wide, and for fewer slices than a stack has",
        cause="voxels are far longer than wide, or there are fewer slices than the model sees at once",
        fix="nothing: slices are cut across the longest axis; check that this is the plane you expect",
        why="a network that treats all axes alike loses thin structures, and short stacks repeat slices",
        example="cine MRI of 1.5 × 1.5 × 10 mm with 9 slices",
    ),
    Check(
        "GEO-08",
        "plausible size",
        "warning",
        "warning for a spacing below 0.05 or above 20 mm, a unit other than mm, a scan longer than 3 m",
        cause="the voxel spacing fits no human body, or the header counts in another unit",
        fix="look up the true spacing in the scanner's record and correct the header",
        why="the plan, every distance in mm and every volume in ml follow from the spacing",
        example="spacing 0.0007 × 0.0007 × 0.005: written in metres",
    ),
)

_VALUES = (
    Check(
        "VAL-01",
        "finite voxels",
        "error",
        "error",
        cause="voxels are not a number, or infinite",
        fix="in a ratio map they are 0 divided by 0; `voxelsam fix --fix VAL-01` sets the smallest value",
        why="one such voxel turns the mean, and with it the whole normalised scan, into nothing",
        example="an ADC map with NaN outside the body",
        accepted="each such voxel gets the smallest finite value of the file",
    ),
    Check(
        "VAL-02",
        "constant image",
        "error",
        "error where structures are drawn on it; else warning",
        cause="every voxel has the same value",
        fix="fetch or export the image again; leave the case out if nothing better comes",
        why="an image that shows nothing cannot teach or be segmented, but its mask still counts",
        example="a conversion that failed and left zeros",
        accepted="the case is used; a constant channel becomes 0 before the network",
    ),
    Check(
        "VAL-03",
        "family of intensities",
        "error",
        "warning; error for a MetaImage whose header asks for a scaling that ITK leaves out",
        cause="intensities are not what the modality promises, or differ in kind from the other cases",
        fix="export again in Hounsfield units with rescale slope and intercept; prepare all cases alike",
        why="a window in Hounsfield units turns a CT of 0 to 255 into one grey",
        example="CT with values from 0 to 255, or from 0 to 4095 because the intercept was lost",
        accepted="the numbers are used as they are stored",
    ),
    Check(
        "VAL-04",
        "range of the number type",
        "error",
        "error",
        cause="a value does not fit into the type that it is to be stored in",
        fix="use label values from 0 to 65535, and store intensities as 32-bit floats",
        why="300 stored in 8 bits becomes 44, and no program says so",
        example="label values 1000 and 2000 of a FreeSurfer table in an 8-bit mask",
    ),
    Check(
        "VAL-05",
        "one image per file",
        "error",
        "error; warning for a TIFF whose tags call three samples per pixel grey",
        cause="the file holds several volumes or pages, complex or transparent voxels, or 16-bit colours",
        fix="choose a frame (`--frame`), or write one file per channel: `voxelsam fix --split`",
        why="programs that keep the first volume in silence train on the wrong one",
        example="a 4D perfusion series given as a scan",
    ),
    Check(
        "VAL-06",
        "channels",
        "error",
        "error for a wrong number; warning for two channels with equal voxels",
        cause="there are not as many channels as the data set or the model takes, or one stands for another",
        fix="give the files of each case in the order of the data set's channel names",
        why="a network fed T2 where it learnt FLAIR answers with confidence",
        example="CASE_0000 and CASE_0001 are copies of one file",
    ),
)

_LABELS = (
    Check(
        "LAB-01",
        "whole label values",
        "error",
        "error; values within 0.001 of a whole number are rounded",
        cause="a label file holds fractions, colours or values that a lossy format changed",
        fix="make the mask again with nearest neighbours, as integers; near ones: `voxelsam fix --fix LAB-01`",
        why="cutting off the fraction turns 1.176 and 2.353 into other structures",
        example="label values 0, 1.176, 2.353: saved as floats with an 8-bit type",
        accepted="shares of a fractional DICOM SEG of one half and more count as yes; anything else stays an error",
    ),
    Check(
        "LAB-02",
        "label values against the table",
        "error",
        "error; warning for 255 beside other values where there is no table",
        cause="a label file holds values that the label table does not know",
        fix="map the values as proposed, `voxelsam fix --relabel 255=1`, or add them to the table",
        why="an unknown value is dropped or becomes another class, case by case",
        example="a mask of 0 and 255 where the table says 0 and 1",
    ),
    Check(
        "LAB-03",
        "structures that occur",
        "error",
        "error for a structure absent from training; warning if absent from validation, and for an empty label",
        cause="no voxel of a structure is drawn where it is needed",
        fix="add a case that shows it, choose another split, or take the structure out of the table",
        why="a structure that is never shown is never found, and its missing score looks like a bug",
        example="fold 0 trains on 40 cases, none of which shows the gallbladder",
        accepted="training goes on, and the structure will never be found",
    ),
    Check(
        "LAB-04",
        "one name, one value",
        "error",
        "error between data sets that are used together, and for a file whose names are not in the table",
        cause="one value has two names, or one name has two values, in tables that are used together",
        fix="write one table for both, and map the values of one data set to it in a copy",
        why="two organs are trained as one, and the score looks merely poor",
        example="3 is the left kidney in one data set and the gallbladder in the other",
        accepted="of a .seg.nrrd the numbers count, whatever their names; a DICOM SEG, and data sets that are joined "
        "in one file, stay an error",
    ),
    Check(
        "LAB-05",
        "one structure per voxel",
        "error",
        "error",
        cause="structures overlap, or each has a volume of its own in one file",
        fix="draw them into one map whose values say what is on top; nest structures by regions",
        why="a map holds one value per voxel: what is drawn last wins in silence",
        example="a DICOM SEG with liver and tumour, both true inside the tumour",
        accepted="of overlapping segments (SEG, .seg.nrrd) the later wins; a file of several volumes stays an error",
    ),
    Check(
        "LAB-06",
        "stray labels",
        "warning",
        "warning",
        cause="a structure has tiny parts far from its main part, or lies mostly in the air around the patient",
        fix="look at the case; erase slips of the pen, and turn a mirrored label round",
        why="one stray voxel makes a surface distance of 200 mm; a label in the air is a label mirrored or moved",
        example="2 voxels of spleen, 140 mm from the spleen",
    ),
)

_SETS = (
    Check(
        "SET-01",
        "complete data set",
        "error",
        "error for missing files and double names; warning for equal content and a wrong declared count",
        cause="a file has no partner, a case occurs twice, or two cases hold the same voxels",
        fix="add or remove the files that are named",
        why="a case in two copies counts twice, and may stand on both sides of a split",
        example="labelsTr/case_7.nii.gz without imagesTr/case_7_0000.nii.gz",
    ),
    Check(
        "SET-02",
        "leaks between training and validation",
        "error",
        "error; warning where only the names of cases suggest one patient",
        cause="one case, one patient or the same voxels are on both sides of a split",
        fix="split by patient: name the patient of each case (`groups`, column `group`), then split again",
        why="a network recognises the patient, and validation promises more than it can keep",
        example="patient002_frame01 in training, patient002_frame12 in validation",
        accepted="the split is used as it stands, and its validation scores are too good",
    ),
    Check(
        "SET-03",
        "readable files",
        "error",
        "error",
        cause="the file is cut off, damaged, empty, of no known format, or no image at all",
        fix="fetch or export the file again; the message says what it really is",
        why="a library's traceback does not say that a download failed",
        example="a web page or a Git LFS pointer under the name scan.nii.gz",
    ),
)

_DICOM = (
    Check(
        "DCM-01",
        "distance of slices",
        "error",
        "error; warning for steps that differ by little, and for a stated thickness that is not the real step",
        cause="a series has a gap, several slices at one position, or steps of different length",
        fix="fetch the series again; copies of slices are left out by `voxelsam fix`",
        why="readers spread the slices evenly, and each one lies up to a slice away from the truth",
        example="19 slices of 3 mm, the tenth missing: read as 18 slices of 3.18 mm",
        accepted="exact copies are left out, and uneven slices are resampled linearly onto even steps; slices shifted "
        "sideways stay an error",
    ),
    Check(
        "DCM-02",
        "gantry tilt",
        "warning",
        "warning",
        cause="slices are shifted against each other: the gantry was tilted",
        fix="nothing: the sheared grid is kept, resampled for the model and restored in the mask",
        why="programs that assume right angles move the last slice by centimetres",
        example="a head CT with 14 degrees of tilt",
    ),
    Check(
        "DCM-03",
        "one series",
        "error",
        "error; `voxelsam doctor` warns, and looks at each series",
        cause="there are several series, orientations, time points or b-values, so that no single volume is meant",
        fix="choose one of the listed series: `--series`",
        why="slices of two scans interleaved look like a volume",
        example="a localiser in three planes beside the scan",
    ),
    Check(
        "DCM-04",
        "enhanced objects",
        "error",
        "error where the functional groups are incomplete; warning for frames that share one position",
        cause="a multi-frame object does not say where each of its frames lies",
        fix="export the series as single images, or convert it with the vendor's tool",
        why="frames in the order of the file are not always slices in the order of the body",
        example="eight frames with one position for all",
    ),
    Check(
        "DCM-05",
        "compressed pixels",
        "error",
        "error",
        cause="the pixels cannot be decoded: the decoder is not installed, or the stream is damaged",
        fix="install what the message names: `pip install 'voxelsam[dicom]'`, or export without compression",
        why="without a decoder there are no pixels; a lossy one changes Hounsfield units",
        example="JPEG 2000 without pylibjpeg-openjpeg",
    ),
    Check(
        "DCM-06",
        "stored values to intensities",
        "warning",
        "warning",
        cause="rescale slope and intercept differ by slice or are missing, or padding values are in the image",
        fix="nothing: each slice is scaled by itself; check the values if no slope is given",
        why="one slope for all slices makes steps in PET, and padding looks like bone or air",
        example="pixel padding -2000 around a round field of view",
    ),
    Check(
        "DCM-07",
        "colour and display",
        "error",
        "error for colours that are not red, green and blue; warning for MONOCHROME1, which is inverted, and for "
        "pixels that the header says text is burnt into",
        cause="the pixels are colours or inverted, or text is burnt into them",
        fix="export grey images; blank burnt-in text before the pictures leave the house",
        why="an inverted image is another modality to a network, and burnt-in text may name the patient",
        example="a chest X-ray stored as MONOCHROME1",
    ),
    Check(
        "DCM-08",
        "frame of reference",
        "error",
        "error where order or size would be a guess, and where a DICOM SEG is to be written; else warning",
        cause="the images do not say in which frame of reference or at which position they lie",
        fix="export from the archive that holds the original series",
        why="an object that refers to the images cannot be placed on them",
        example="a secondary capture without ImagePositionPatient",
        accepted="images without positions are stacked by their instance numbers, and pixels count as 1 mm apart; a "
        "DICOM SEG of such images stays an error",
    ),
    Check(
        "DCM-09",
        "values of the standard",
        "error",
        "warning; error for an orientation that is none",
        cause="tags hold what the standard does not allow, such as direction cosines that are no unit vectors",
        fix="nothing if the numbers in the message look right: they were normalised",
        why="strict readers refuse the file, and lenient ones take a wrong spacing from it",
        example="direction cosines 1.002 long, DS values with 20 digits",
    ),
)

_OTHERS = (
    Check(
        "PHI-01",
        "names, dates and ids",
        "warning",
        "warning, only looked for by `voxelsam doctor --phi`",
        cause="file names or headers may say who the patient is",
        fix="rename the files and write them anew without the fields that are named; values are never shown here",
        why="a shared data set, a log or a screenshot gives a patient away",
        example="MUELLER^ANNA_19540312.nii.gz, or the NIfTI field descrip with a name",
    ),
    Check(
        "VID-01",
        "films",
        "error",
        "error for a damaged end, missing frames, transparent pixels and frames of several sizes; else a warning",
        cause="a film has frames of unequal length, a rotation, an alpha channel, or a damaged end",
        fix="write it anew with a constant frame rate and without rotation if frames must be exact",
        why="times in seconds and turned masks go wrong although every frame looks right",
        example="a variable-rate recording of a telephone, with a rotation tag",
        accepted="frames before the damage, and colours without their transparency; several sizes stay an error",
    ),
    Check(
        "WEI-01",
        "identity of the backbone",
        "error",
        "error",
        cause="the backbone's checkpoint is not the one that the model was trained on",
        fix="give the checkpoint whose SHA-256 the message names",
        why="adapters on other weights give masks that look plausible and are wrong",
        example="a model trained on SAM ViT-B, loaded on MedSAM ViT-B",
    ),
)

_QUALITY = (
    Check(
        "QUA-01",
        "certainty of a mask",
        "warning",
        "warning below the threshold that validation gave, else below 0.7",
        cause="the probabilities within a structure are low, or ensemble members or augmented views disagree about it",
        fix="look at the mask before you use it; correct it with `voxelsam prompt`, or average several models",
        why="a mask looks equally sharp whether the model was sure or not",
        example="liver: expected dice 0.55, below 0.70 (default)",
    ),
    Check(
        "QUA-02",
        "scans like those of training",
        "warning",
        "warning for a spacing 1.5 times or a size 2 times outside the training range, and for intensity quantiles "
        "more than 0.15 of the model's scale outside",
        cause="the scan's spacing, number of slices, size or intensities are unlike those of the training scans",
        fix="check modality, sequence and units; train with scans of this kind if they are meant to be segmented",
        why="what a model does with scans that it has never seen was never measured, and it may be sure and wrong",
        example="slices lie 10 mm apart, training had 1 to 1.5 mm (median 1.25)",
    ),
    Check(
        "QUA-03",
        "volume of a predicted structure",
        "warning",
        "warning for a volume 2 times outside the training range, and for a missing structure that every training case "
        "shows",
        cause="a predicted structure is far smaller or larger than in every training scan, or is missing",
        fix="look at the mask: the structure may be cut off, removed, missed, or joined with a neighbour",
        why="a mask of the wrong organ has the wrong size more often than the wrong certainty",
        example="spleen has 12 ml, training had 90 to 480 ml (median 210)",
    ),
)

_PROMPTS = tuple(
    Check(code, title, "error", "error", cause, fix, why, example)
    for code, title, cause, fix, why, example in (
        (
            "PRM-01",
            "shape of a prompt",
            "a prompt is none: wrong coordinates, a box without size, an instance below 1, an unknown space",
            "correct the prompt that is named",
            "an inverted box selects nothing or everything",
            "a box whose `low` is above its `high`",
        ),
        (
            "PRM-02",
            "place of a prompt",
            "a prompt lies outside the scan",
            "check its space: voxel, ras or lps",
            "a click in the wrong space is a click on another organ",
            "LPS millimetres given as RAS",
        ),
        (
            "PRM-03",
            "structure of a prompt",
            "a prompt names the background or a structure that is not in the label table",
            "use a name of the model's label table",
            "a prompt for an unknown structure cannot be answered",
            "`Liver` where the table says `liver`",
        ),
        (
            "PRM-04",
            "number of prompts",
            "more than 1000 prompts, or a scribble of more than 1000 points",
            "thin the scribble out, or use a mask",
            "thousands of points say no more than a mask, and take hours",
            "a scribble exported with one point per pixel",
        ),
        (
            "PRM-05",
            "contradictions",
            "points on one voxel contradict each other",
            "remove one of them",
            "which of the two counts would be left to chance",
            "a click inside and a click outside on one voxel",
        ),
        (
            "PRM-06",
            "masks as prompts",
            "a mask is empty, of another shape than the scan, or too small to be seen on any picture",
            "give a mask on the voxels of the scan",
            "a mask that is not seen prompts nothing",
            "a mask of 2 voxels in a scan of 512 × 512, at a picture size of 96",
        ),
        (
            "PRM-07",
            "prompt files",
            "a prompt file cannot be read: no JSON, unknown or missing keys, wrong values, a newer version",
            "follow the schema in docs/reference/prompts.schema.json",
            "a misspelt key would be a prompt that does not count",
            "`labels` in place of `label`",
        ),
        (
            "PRM-08",
            "the prompt file's scan",
            "a prompt file is about another scan, or lacks the case that was asked for",
            "give the prompt file of this scan",
            "prompts of one patient land on another one",
            "shape 320 × 260 × 40 in the file, 512 × 512 × 94 in the scan",
        ),
    )
)

CATALOGUE: dict[str, Check] = {
    check.code: check for check in (*_GEOMETRY, *_VALUES, *_LABELS, *_SETS, *_DICOM, *_OTHERS, *_QUALITY, *_PROMPTS)
}
"""Every check, by code."""
