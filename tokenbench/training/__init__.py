"""Training: any method on any accepted backbone, by the method's own recipe, on timm's tasks, optimizers and data.

`job.py` says what to train and `starting.py` from what; `loop.py` has the run; `task.py` what one update computes;
`stream.py` which images come when; `optim.py` who learns how fast; `state.py` what is saved and found again; `log.py`
what is told; `processes.py` one process or many.
"""

from __future__ import annotations

from tokenbench.training.job import Job
from tokenbench.training.loop import train

__all__ = ["Job", "train"]
