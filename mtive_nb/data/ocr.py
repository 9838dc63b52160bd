"""Text that an OCR engine reads from photos, to add to the prompt beside the photo (VIT-Pro, section 3.1).

The built-in engine is RapidOCR: PaddleOCR's models under onnxruntime, shipped in its wheel. Any other engine, such as
the paper's AWS Textract, is an object with a `name` and a `read` method.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mtive_nb.data.dates import dates_in
from mtive_nb.data.photos import file_sha256, load_image
from mtive_nb.data.records import UNANSWERABLE, numbered_lines, one_form, write_rows
from mtive_nb.run import progress
from mtive_nb.run.atomic import write_atomic

SIDE_PX = 736  # to which RapidOCR enlarges a shorter side by default


@dataclass(frozen=True)
class Line:
    """A printed line: its text, the engine's confidence from 0 to 1, and its XYXY box in pixels of the photo."""

    text: str
    score: float
    box: tuple[float, float, float, float]


def stored_line(row: Mapping) -> Line:
    """Return a line from its fields as JSON keeps them, where the box is a list."""
    return Line(**row | {"box": tuple(row["box"])})


class OcrEngine(Protocol):
    """An engine that reads the lines of text in an image, from top to bottom."""

    name: str

    def read(self, image: Image.Image) -> list[Line]: ...


class RapidOcr:
    """The built-in engine. Errors: ImportError that names the extra to install, if rapidocr is missing."""

    def __init__(self, *, side_px: int = SIDE_PX, turned: bool = True, threads: int | None = None) -> None:
        """Load the engine.

        threads: onnxruntime's threads; by default OMP_NUM_THREADS, the share of the cores that a chapter gets, else one a
        core. Threads that share a core wait for each other. side_px: a photo whose shorter side is below this is enlarged
        before lines are detected; smaller values are faster and miss more small print. turned: whether to recognise
        upside-down lines too, at the risk of turning upright lines.
        """
        self.name = (
            "rapidocr" if (side_px, turned) == (SIDE_PX, True) else f"rapidocr-{side_px}{'' if turned else '-upright'}"
        )
        try:
            from rapidocr import RapidOCR
        except ImportError:
            raise ImportError("OCR: found no rapidocr; install it by pip install -e '.[ocr]'") from None
        threads = threads or int(os.environ.get("OMP_NUM_THREADS") or -1)
        settings = {"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": threads}
        settings |= {"Det.limit_side_len": side_px, "Global.use_cls": turned}
        self._engine = RapidOCR(params=settings)

    def read(self, image: Image.Image) -> list[Line]:
        """Return the lines of one photo; an empty list where nothing is printed."""
        found = self._engine(np.asarray(image.convert("RGB"))[..., ::-1])  # the engine expects BGR
        if found.boxes is None:
            return []
        corners = [np.concatenate([box.min(0), box.max(0)]).tolist() for box in found.boxes]
        return [Line(t, float(s), tuple(c)) for t, s, c in zip(found.txts, found.scores, corners, strict=True)]


def read_photos(engine: OcrEngine, paths: Iterable[str | Path], *, cache: Path) -> dict[str, list[Line]]:
    """Read the lines of every photo, {path as passed: lines}. Results are cached under `cache` by the photo's hash."""
    found = {}
    for path in progress(list(dict.fromkeys(map(str, paths))), what=f"OCR by {engine.name}"):
        kept = Path(cache) / engine.name / f"{file_sha256(path)}.json"
        if kept.is_file():
            found[path] = list(map(stored_line, json.loads(kept.read_text())))
        else:
            found[path] = engine.read(load_image(path))
            write_atomic(kept, json.dumps([asdict(line) for line in found[path]], ensure_ascii=False))
    return found


def write_lines(lines: Mapping[str, Sequence[Line]], path: str | Path) -> Path:
    """Write the lines of photos, one photo per row, with photo paths as in `write_rows`; returns the path."""
    return write_rows(({"images": [photo], "lines": list(map(asdict, found))} for photo, found in lines.items()), path)


def load_lines(path: str | Path) -> dict[str, list[Line]]:
    """Read a file of `write_lines`: {absolute path of the photo: its lines}."""
    path, found = Path(path), {}
    for _, text in numbered_lines(path.read_text(encoding="utf-8")):
        row = json.loads(text)
        found[str((path.parent / row["images"][0]).resolve())] = list(map(stored_line, row["lines"]))
    return found


def with_print(
    records: Sequence[dict], lines: Mapping[str, Sequence[Line]], *, most_characters: int = 120
) -> list[dict]:
    """The records with the text printed on their photos before the question, cut at `most_characters`.

    `lines` maps a photo's path, as in the record, to its lines. Records of several turns get the text before the first.
    """
    changed = []
    for record in records:
        texts = [" | ".join(line.text for line in lines[image]) for image in record["images"]]
        said = "; ".join(f"image {k}: {text}" for k, text in enumerate(texts, 1)) if len(texts) > 1 else "".join(texts)
        first, *others = record["messages"]
        parts = [dict(part) for part in first["content"]]
        asked = [part for part in parts if part["type"] == "text"][-1]  # earlier text parts announce images
        asked["text"] = f"Printed: {said[:most_characters] or 'nothing'}. {asked['text']}"
        changed.append(record | {"messages": [{**first, "content": parts}, *others]})
    return changed


def expiry_of_print(lines: Sequence[Line]) -> str:
    """The expiry date by rule, without a model, as printed: the latest date labelled so; UNANSWERABLE if none.

    Without such a label, the latest date without any label that is a line of its own.
    """
    dates = [date for date in dates_in("\n".join(line.text for line in lines)) if date.iso]
    whole = {one_form(line.text).strip() for line in lines}
    chosen = [date for date in dates if date.label == "expiry"] or [
        date for date in dates if date.label is None and date.text in whole
    ]
    return max(chosen, key=lambda date: date.iso).text.upper() if chosen else UNANSWERABLE
