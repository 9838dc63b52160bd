"""Run notebooks: checked parameters, the notebook graph, run folders, metrics, staleness. Importing loads no torch."""

from mtive_nb.run.folder import Run, start_run
from mtive_nb.run.progress import progress

__all__ = ["Run", "progress", "start_run"]
