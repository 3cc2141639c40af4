"""Training: any method on any accepted backbone, by the method's own recipe, on timm's tasks, optimizers and data.

`job.py` says what to train and `starting.py` from what; `loop.py` has a run, `together.py` the updates of runs that
share their batches; `task.py` what one update computes, `distilling.py` what a teacher adds to it; `stream.py` which
images come when; `optim.py` who learns how fast; `state.py` what is saved and found again; `log.py` what is told;
`processes.py` one process or many.
"""

from __future__ import annotations

from tokenbench.training.job import RESULT, Job
from tokenbench.training.loop import Trained
from tokenbench.training.together import train, train_all

__all__ = ["RESULT", "Job", "Trained", "train", "train_all"]
