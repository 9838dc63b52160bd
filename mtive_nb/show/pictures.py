"""Photos with captions, and tables of photos with question, truth and answers."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

from mtive_nb.data.photos import data_url, load_image
from mtive_nb.data.records import question_of
from mtive_nb.show.style import new_figure

AnyPhoto = str | Path | Image.Image | np.ndarray


def _image(photo: AnyPhoto) -> Image.Image:
    if isinstance(photo, Image.Image):
        return photo
    return Image.fromarray(photo) if isinstance(photo, np.ndarray) else load_image(Path(photo))


def photo_grid(photos: Sequence[AnyPhoto], captions: Sequence[str] | None = None, *, columns: int = 6, side_in: float = 1.45,
               boxes: Sequence[Sequence[float] | None] | None = None, title: str = "") -> Figure:  # fmt: skip
    """Plot photos in rows with short captions below; `boxes` are XYXY in pixels of each photo. Without photos: a note."""
    if not len(photos):
        figure = new_figure(6.0, 0.5)
        figure.text(0.5, 0.5, f"{title}: no photo".lstrip(": "), ha="center", va="center", fontsize=9)
        return figure
    captions, boxes = captions or [""] * len(photos), boxes or [None] * len(photos)
    rows = -(-len(photos) // columns)
    deepest = max((fill(c, 24).count("\n") + 1 if c else 0 for c in captions), default=0)
    images = [_image(photo) for photo in photos]
    tallest = max(image.height / image.width for image in images)
    figure = new_figure(side_in * columns, rows * (side_in * tallest + 0.14 * deepest) + (0.35 if title else 0))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, photo, caption, box in zip(grid, images, captions, boxes, strict=False):
        axes.imshow(photo)
        axes.set_title(fill(caption, 24), fontsize=6.5, y=-0.04, va="top", pad=0, parse_math=False)
        if box:
            x0, y0, x1, y1 = box
            axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="#e45756", linewidth=1)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def caption_of(facts: Mapping) -> str:
    """What is true of a customer's photo, for the caption below it: category, damage, placement, composited."""
    shown = (facts.get("attributes") or {}).get("category"), facts.get("damage"), facts.get("placement")
    return ", ".join(filter(None, (*shown, "composited" if facts.get("composited") else "")))


def dates_caption_of(facts: Mapping) -> str:
    """The dates as printed on a close-up, for the caption below it; a dash for a date that is not there."""
    prints = {name: facts["dates"].get(f"{name}_text") or "-" for name in ("expiry", "production")}
    return "; ".join(f"{name}: {text}" for name, text in prints.items())


def _thumbnail(path: Path, side_px: int) -> str:
    image = load_image(path)
    image.thumbnail((side_px, side_px))
    return f'<img src="{data_url(image, kind="JPEG", quality=80)}" style="margin:2px">'


def figure_html(figure: Figure) -> str:
    """Return a figure as an HTML image with inline data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img src="{data_url(buffer.getvalue())}" style="max-width:100%">'


def answer_table(rows: pd.DataFrame, *, side_px: int = 110) -> HTML:
    """Return rows (images, question, truth, one column per system) as an HTML table; correct answers are green."""
    columns = [c for c in rows.columns if c != "images"]
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in ["photo", *columns])
    body = []
    for row in rows.to_dict("records"):
        photos = "".join(_thumbnail(Path(p), side_px) for p in row["images"])
        cells = []
        for column in columns:
            right = (
                "truth" in row
                and column not in ("task", "question", "truth")
                and str(row[column]).strip().lower() == str(row["truth"]).strip().lower()
            )
            style = ' style="color:#1f7a5c;font-weight:600"' if right else ""
            cells.append(f"<td{style}>{html.escape(str(row[column]))}</td>")
        body.append(f"<tr><td>{photos}</td>{''.join(cells)}</tr>")
    style = "<style>.answers td,.answers th{text-align:left;vertical-align:top;font-size:12px;padding:4px 8px}</style>"
    return HTML(f'{style}<table class="answers tex2jax_ignore mathjax_ignore"><tr>{head}</tr>{"".join(body)}</table>')


def as_text(text: str) -> str:
    """Return a text of others as Markdown that shows it literally: no HTML, no links, no formulas."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|~$-])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def record_rows(records: Sequence[dict], names: Sequence[str]) -> pd.DataFrame:
    """Records as rows for `answer_table`: images, task (here the record's name), question, truth."""
    rows = [
        (r["images"], name, question_of(r) or "(no question)", r["answer"])
        for r, name in zip(records, names, strict=True)
    ]
    return pd.DataFrame(rows, columns=["images", "task", "question", "truth"])
