"""Trains in two processes, of which the second is killed in the second epoch; see ``test_processes.py``.

Arguments: data set, run folder, recipe as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from voxelsam.errors import TrainingError
from voxelsam.train import distributed, run
from voxelsam.train.module import TrainingModule

STEP = TrainingModule.training_step


def dying(module: TrainingModule, batch: Any, index: int) -> Any:
    if module.current_epoch == 1 and index == 1 and not distributed.current().first:
        os.kill(os.getpid(), signal.SIGKILL)
    return STEP(module, batch, index)


def work(data: str, folder: Path, recipe: dict[str, Any]) -> str:
    TrainingModule.training_step = dying  # type: ignore[method-assign]
    with distributed.group():
        return str(run.fit(run.start(data, folder, recipe)))


if __name__ == "__main__":
    try:
        distributed.launch(2, work, sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
    except TrainingError as error:
        sys.stdout.write(json.dumps({"message": str(error), "facts": error.facts}) + "\n")
