"""The chapters' parts of the report: numbers, figures with captions, examples with photos, provenance."""

import csv
import io
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from mtive_nb.data.photos import data_url, load_image
from mtive_nb.data.records import question_of
from mtive_nb.evaluate.judge.rule import RuleJudge
from mtive_nb.evaluate.metrics import facts_of
from mtive_nb.report.tables import cell_of, number, pivoted, table_files
from mtive_nb.run.graph import Project
from mtive_nb.run.metrics import read_metrics
from mtive_nb.run.progress import duration
from mtive_nb.run.stale import read_run
from mtive_nb.show.pictures import to_the_letter

FIGURE_PX, THUMBNAIL_PX = 1100, 132
CARDS, MOST_CARDS = "tables/cards.json", 24  # a chapter's examples as the page shows them, for a copy without records
ABOUT_EXAMPLES = ("id", "task", "question", "truth")


def run_folders(profile_dir: Path) -> list[Path]:
    """Return the folders of a profile's good results, in order; failed and partial runs are left out."""
    found = profile_dir.glob("[0-9][0-9]_*") if profile_dir.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and p.suffix == "")


def chapter_title(project: Project, name: str) -> str:
    """Return a chapter's title, e.g. "07 Evaluation: seven systems, four tasks"; without its notebook, the name."""
    path = project.notebooks / f"{name}.ipynb"
    if not path.exists():
        return name.replace("_", " ")
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
    return "".join(first).splitlines()[0].lstrip("# ")


@cache
def captions() -> dict[str, str]:
    """Read what each figure shows, by chapter and figure, e.g. "07/T1_accuracy"."""
    return yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))


def caption_of(chapter: str, figure: str) -> str:
    """Return a figure's caption; that of "06/loss" serves "06/loss_AE" with its name in front."""
    known, key = captions(), f"{chapter[:2]}/{figure}"
    if key in known:
        return known[key]
    name = figure.rpartition("_")
    return f"{name[2]}: {known[near]}" if (near := f"{chapter[:2]}/{name[0]}") in known else figure.replace("_", " ")


def small_picture(data: bytes, *, side_px: int) -> bytes:
    """Return a picture, at most `side_px` wide, as a PNG of 128 colours or a JPEG, whichever is smaller."""
    image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG")).convert("RGB")
    image.thumbnail((side_px, 4 * side_px))
    packed = [io.BytesIO(), io.BytesIO()]
    image.quantize(128).save(packed[0], "PNG", optimize=True)
    image.save(packed[1], "JPEG", quality=82)
    return min((p.getvalue() for p in packed), key=len)


def picture_kind(data: bytes) -> str:
    """Return what a small picture is, PNG or JPEG."""
    return "PNG" if data.startswith(b"\x89PNG") else "JPEG"


def picture_url(data: bytes) -> str:
    """Return a PNG or JPEG file as a data URL."""
    return data_url(data, kind=picture_kind(data))


def figure_paths(folder: Path) -> list[Path]:
    """Return the files of a run folder's figures, by name; a reference holds its photos as JPEG."""
    return sorted(path for path in (folder / "figures").glob("*") if path.suffix in (".png", ".jpeg"))


def figure_files(folder: Path) -> list[dict[str, Any]]:
    """Return the figures of a run folder: caption, data URL, width and height in pixels."""
    figures = []
    for path in figure_paths(folder):
        data = small_picture(path.read_bytes(), side_px=FIGURE_PX)
        width, height = Image.open(io.BytesIO(data)).size
        about = {"name": path.stem, "caption": caption_of(folder.name, path.stem), "uri": picture_url(data)}
        figures.append(about | {"width": width, "height": height})
    return figures


def records_by_id(folders: Iterable[Path], ids: set[str]) -> dict[str, dict[str, Any]]:
    """Return the records with these ids from the run folders' records/*.jsonl, with absolute photo paths."""
    found: dict[str, dict[str, Any]] = {}
    for path in (p for folder in folders for p in sorted((folder / "records").glob("*.jsonl")) if ids - found.keys()):
        with path.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if record.get("id") in ids - found.keys():
                    images = [path.parent / image for image in record.get("images", [])]
                    found[record["id"]] = record | {"images": images}
    return found


def example_cards(folder: Path, folders: list[Path]) -> list[dict[str, Any]]:
    """Return a run folder's examples (tables named *examples) as cards: thumbnails, question, truth, marked answers.

    A copy of the results has its cards in CARDS. Without these and without the records, a card has no photo, and an
    answer is right if it equals the truth.
    """
    if (folder / CARDS).exists():
        return json.loads((folder / CARDS).read_text(encoding="utf-8"))
    rows = []
    for path in sorted((folder / "tables").glob("*examples.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += [row for row in csv.DictReader(file) if set(ABOUT_EXAMPLES) <= row.keys()]
    rows = rows[:MOST_CARDS]
    records = records_by_id([*folders, folder], {row["id"] for row in rows}) if rows else {}
    words = next((p for f in folders if (p := f / "records" / "vocabulary.json").exists()), None)
    judge = RuleJudge(json.loads(words.read_text(encoding="utf-8"))) if words and records else None
    cards = []
    for row in rows:
        record = records.get(row["id"], {})
        photos = [_thumbnail(image) for image in record.get("images", []) if image.is_file()]
        answers = [(s, a or "(empty)", _mark(record, row, a, judge)) for s, a in row.items() if s not in ABOUT_EXAMPLES]
        question = question_of(record) if record else row["question"]
        cards.append(
            {"task": row["task"], "question": question, "truth": row["truth"], "photos": photos, "answers": answers}
        )
    return cards


def _thumbnail(path: Path) -> str:
    image = load_image(path)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return data_url(image, kind="JPEG", quality=78)


def _mark(record: dict[str, Any], row: dict[str, str], answer: str, judge: RuleJudge | None) -> str:
    """Return right, partly or wrong: by the rule-based judge if the record has facts, else letter by letter.

    An answer that states all that was asked, but also something false, is partly right.
    """
    if to_the_letter(answer, row["truth"]):
        return "right"
    if judge is None or record.get("variant") == "bin" or not record or facts_of(record) is None:
        return "wrong"
    judged = judge.judge(record, answer)
    if judged.accuracy >= 100 and not judged.inaccurate:
        return "right"
    return "partly" if judged.accuracy > 0 else "wrong"


def notebook_part(project: Project, folder: Path, folders: list[Path], *, page_dir: Path) -> dict[str, Any]:
    """Return one run folder's part of the page: its own numbers, tables, figures, examples and provenance.

    `folders`: the profile's run folders, whose records hold the examples' photos. `page_dir`: the page's folder, from
    which it links the executed notebook if the notebook is there.
    """
    record = read_run(folder)
    groups: dict[str, list[dict[str, Any]]] = {}
    for metric in (m for m in read_metrics(folder) if m["paper"] == "own"):
        line = cell_of(metric) | {"row": metric["row"], "column": metric["column"], "unit": metric["unit"]}
        line["better"] = {"higher": "higher", "lower": "lower"}.get(metric["better"], "")
        groups.setdefault(metric["table"], []).append(line)
    notes = record.get("notes", {})
    git = record.get("git") or {}
    seconds = record.get("wall_seconds") or record.get("seconds")
    executed = f"{folder.name}/{folder.name}.ipynb"
    return {
        "name": folder.name,
        "title": chapter_title(project, folder.name),
        "link": executed if (page_dir / executed).exists() else "",
        "own": {name: {"lines": lines, "pivots": pivoted(lines)} for name, lines in groups.items()},
        "tables": [t for t in table_files(folder) if not t["name"].endswith("examples")],
        "figures": figure_files(folder),
        "examples": example_cards(folder, folders),
        "stand_ins": notes.get("stand_in", []),
        "missing": [*notes.get("missing", []), *filter(None, [notes.get("left_out")])],
        "notes": {k: v for k, v in notes.items() if k not in ("stand_in", "missing", "left_out")},
        "commit": (git.get("commit") or "none")[:10],
        "dirty": bool(git.get("dirty")),
        "device": record.get("device", "unknown"),
        "seconds": seconds or 0,
        "duration": duration(seconds) if seconds is not None else "not finished",
        "peak": number(round(record["peak_mib"])) if record.get("peak_mib") else "",
        "seed": record.get("seed", ""),
        "started": record.get("started", "").replace("T", " ").removesuffix("+00:00"),
        "command": record.get("command", ""),
        "parameters": record.get("parameters", {}),
        "versions": record.get("versions", {}),
    }
