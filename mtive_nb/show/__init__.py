"""Figures and tables, one function each; figures are returned as Figure objects, so that `run.figure` can save them."""

from mtive_nb.show.bars import bars_with_intervals
from mtive_nb.show.charts import confusions, curves, gaps, lines, matrix, reliability, stacked_shares
from mtive_nb.show.pictures import answer_table, as_text, caption_of, dates_caption_of, gallery, photo_grid, record_rows

__all__ = [
    "answer_table",
    "as_text",
    "bars_with_intervals",
    "caption_of",
    "confusions",
    "curves",
    "dates_caption_of",
    "gallery",
    "gaps",
    "lines",
    "matrix",
    "photo_grid",
    "record_rows",
    "reliability",
    "stacked_shares",
]
