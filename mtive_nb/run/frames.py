"""How tables look in a notebook: texts on the left, numbers on the right, a dollar no formula."""

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

LEFT = 'style="text-align: left"'


def show_frames_well() -> None:
    """Set how this process shows data frames, in notebooks and as HTML."""
    import pandas

    pandas.set_option("display.html.use_mathjax", False)  # two prices are no formula
    pandas.set_option("styler.html.mathjax", False)
    pandas.set_option("display.max_colwidth", 160)  # a claim in full
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(pandas.DataFrame, left_aligned)


def left_aligned(frame: "pandas.DataFrame") -> str | None:
    """Return a table as pandas' HTML, with row names and columns of texts on the left; Jupyter puts all on the right."""
    import pandas
    from pandas.api.types import is_numeric_dtype

    page, numbers = frame._repr_html_(), [is_numeric_dtype(kind) for kind in frame.dtypes]
    if page is None or frame.columns.nlevels > 1 or 0 < pandas.get_option("display.max_columns") < len(numbers):
        return page  # a cell's place does not say its column

    def of_row(row: re.Match[str]) -> str:
        cells = re.split(r"(?=<t[hd][ >])", row[0])
        names = len(cells) - 1 - len(numbers)  # a row name that spans rows stands in the first alone
        right = [True, *[False] * names, *numbers]
        return "".join(c if r else f"{c[:3]} {LEFT}{c[3:]}" for c, r in zip(cells, right, strict=True))

    return re.sub(r"<tr.*?</tr>", of_row, page, flags=re.DOTALL)
