"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Accept = Annotated[
    list[str] | None, typer.Option(help="Go on where this check stops (its code, such as DCM-01). Repeatable.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the image encoder first: about a minute, for graphics cards.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Ending = Annotated[
    str | None,
    typer.Option("--format", help="Ending of the masks: nii.gz, nrrd, seg.nrrd, dcm …; default: the image's."),
]
Film = Annotated[
    bool, typer.Option("--film", help="Folders of numbered pictures are films; else each picture is a case.")
]
Frame = Annotated[int | None, typer.Option(min=0, help="Which volume of a file that holds several, from 0.")]
GoOn = Annotated[bool, typer.Option("--continue", help="Keep masks that are there already.")]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
Masks = Annotated[Path, typer.Option("-o", "--output", help="Folder for the masks (for one file also a file name).")]
Model = Annotated[Path, typer.Option("-m", "--model", help="Bundle folder, e.g. run/best.")]
Models = Annotated[
    list[Path],
    typer.Option(
        "-m", "--model", help="Bundle folder, e.g. run/best, or a folder of folds. Repeat it to average several models."
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(min=0, help="Slices that neighbouring stacks share; 0 encodes each once. Default: the model's."),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "int8"],
    typer.Option(help="fp32; faster and rounded: bf16, fp16 (not on processors), int8 (only there)."),
]
Preview = Annotated[bool, typer.Option("--preview", help="Write a picture of each case with its mask.")]
Scans = Annotated[
    Path, typer.Option("-i", "--input", help="Image file, DICOM series (folder or zip), or folder of them.")
]
Series = Annotated[
    str | None, typer.Option(help="Which DICOM series of a folder that holds several; without it they are listed.")
]
Weights = Annotated[Path | None, typer.Option(help="The backbone's checkpoint, if it has moved.")]
