"""Photos with captions, and tables of photos with question, truth and answers."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill, shorten

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

from mtive_nb.data.photos import data_url, load_image
from mtive_nb.data.records import question_of
from mtive_nb.show.style import new_figure

GALLERY = """
.gallery .card {display: inline-block; width: 172px; margin: 4px; vertical-align: top; font-size: 12px}
.gallery img {display: block; height: 120px; max-width: 100%; object-fit: contain; object-position: left}
.gallery p {margin: 1px 0; line-height: 1.3; text-align: left; overflow-wrap: anywhere}
.gallery .right {color: #1f7a5c; font-weight: 600}
.gallery .wrong {color: #b3403f}
"""
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
    chars = round(16.5 * side_in)
    captions = ["\n".join(fill(line, chars) for line in caption.splitlines()) for caption in captions]
    deepest = max((caption.count("\n") + 1 if caption else 0 for caption in captions), default=0)
    images = [_image(photo) for photo in photos]
    tallest = max(image.height / image.width for image in images)
    figure = new_figure(side_in * columns, rows * (side_in * tallest + 0.14 * deepest) + (0.35 if title else 0))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, photo, caption, box in zip(grid, images, captions, boxes, strict=False):
        axes.imshow(photo)
        axes.set_title(caption, fontsize=6.5, y=-0.04, va="top", pad=0, parse_math=False)
        if box:
            x0, y0, x1, y1 = box
            axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="#e45756", linewidth=1)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    """Return the photos of one question side by side, as high as the lowest."""
    height = min(image.height for image in images)
    shrunk = [image.resize((max(1, image.width * height // image.height), height)) for image in images]
    whole = Image.new("RGB", (sum(image.width for image in shrunk), height))
    for k, image in enumerate(shrunk):
        whole.paste(image, (sum(left.width for left in shrunk[:k]), 0))
    return whole


def gallery(
    records: Sequence[dict], answers: Mapping[str, Sequence[str]], systems: Mapping[str, str], *, each: int = 12
) -> HTML:
    """Return `each` records of every task, spread over its list: photo, question, truth, and each system's answer.

    `answers`: by system, in the records' order. `systems`: name in the gallery -> name in `answers`. An answer that is
    the truth to the letter is marked.
    """
    cards = [f"<style>{GALLERY}</style>"]
    for task in dict.fromkeys(record["task"] for record in records):
        own = [k for k, record in enumerate(records) if record["task"] == task]
        cards.append(f"<h4>{html.escape(task)}</h4>")
        for k in own[:: max(1, len(own) // each)][:each]:
            truth = records[k]["answer"]
            said = {name: answers[system][k] for name, system in systems.items() if system in answers}
            lines = [f"<q>{html.escape(question_of(records[k]))}</q>", f"truth: {html.escape(truth)}"]
            for name, text in said.items():
                right = to_the_letter(text, truth)
                shown = html.escape(f"{'✓' if right else '✗'} {name}: {shorten(text, 60, placeholder=' …')}")
                lines.append(f'<span class="{"right" if right else "wrong"}">{shown}</span>')
            photo = side_by_side_url(records[k]["images"], width_px=168, height_px=120)
            cards.append(
                f'<div class="card"><img alt="" src="{photo}">{"".join(f"<p>{line}</p>" for line in lines)}</div>'
            )
    return HTML(f'<div class="gallery tex2jax_ignore mathjax_ignore">{"".join(cards)}</div>')


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


def side_by_side_url(images: Sequence[str | Path], *, width_px: int, height_px: int) -> str:
    """Return the photos of one question as one picture within these bounds, as a data URL. Errors: PhotoError."""
    shown = _beside([load_image(Path(image)) for image in images])
    shown.thumbnail((width_px, height_px))
    return data_url(shown, kind="JPEG", quality=80)


def figure_html(figure: Figure) -> str:
    """Return a figure as an HTML image with inline data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img src="{data_url(buffer.getvalue())}" style="max-width:100%">'


def to_the_letter(said: object, truth: object) -> bool:
    """Return whether an answer is the truth, whatever the case and the blanks around it."""
    return str(said).strip().lower() == str(truth).strip().lower()


def answer_table(rows: pd.DataFrame, *, side_px: int = 110) -> HTML:
    """Return rows (images, question, truth, one column per system) as an HTML table; correct answers are green."""
    columns = [c for c in rows.columns if c != "images"]
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in ["photo", *columns])
    body = []
    for row in rows.to_dict("records"):
        photos = "".join(_thumbnail(Path(p), side_px) for p in row["images"])
        cells = []
        for column in columns:
            system = "truth" in row and column not in ("task", "question", "truth")
            right = system and to_the_letter(row[column], row["truth"])
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
