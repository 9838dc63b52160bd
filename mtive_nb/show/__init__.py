"""One function a figure or table; every figure comes back as a Figure object, so that `run.figure` can keep it."""

from mtive_nb.show.charts import bars_with_intervals, gaps, lines, matrix, stacked_shares
from mtive_nb.show.pictures import answer_table, photo_grid

__all__ = ["answer_table", "bars_with_intervals", "gaps", "lines", "matrix", "photo_grid", "stacked_shares"]
