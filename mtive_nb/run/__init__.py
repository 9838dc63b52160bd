"""Running notebooks: checked parameters, the graph, run folders, the report. No torch."""

from mtive_nb.run.folder import Run, start_run
from mtive_nb.run.progress import progress

__all__ = ["Run", "progress", "start_run"]
