"""Executed chapters to read without running: small pictures, nothing of the machine, links from chapter to chapter."""

import base64
import json
import re
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from mtive_nb.report.chapters import chapter_title, picture_url, run_folders, small_picture
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import Project
from mtive_nb.run.progress import MARK
from mtive_nb.run.stale import read_run

MAX_BYTES = 600 * 1024
SIDES_PX = (900, 700, 500, 350)  # widths of figures, tried until the chapter fits
INLINE_PX = 96  # a photo inside a table
INLINE = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")
PICTURES = ("image/png", "image/jpeg")
CONTENTS = "README.md"


def copy_executed(project: Project, profile: str, *, target: Path, tell: Callable[[str], None] = print) -> list[str]:
    """Write each executed chapter of a profile to target/<name>/<name>.ipynb, and their contents to target/README.md.

    A chapter that does not fit into MAX_BYTES with its smallest pictures is left out and named. Returns the names of
    the written chapters.
    """
    folders = run_folders(project.outputs / profile)
    found = {f.name: notebook for f in folders if (notebook := _fitting(project, f, tell=tell))}
    titles = {name: chapter_title(project, name) for name in found}
    for name, notebook in found.items():
        links = chapter_links(name, titles)
        cells = [_cell(links, "links-top"), *notebook["cells"], _cell(links, "links-bottom")]
        write_atomic(target / name / f"{name}.ipynb", _packed(notebook | {"cells": cells}))
    write_atomic(target / CONTENTS, contents_page(project, profile, folders, executed=found))
    return list(found)


def chapter_links(name: str, titles: dict[str, str]) -> str:
    """Return the line of links of a chapter: the previous chapter, the contents, the next chapter."""
    names = list(titles)
    at = names.index(name)
    before, after = names[at - 1 : at], names[at + 1 : at + 2]
    links = [f"[← {titles[n]}](../{n}/{n}.ipynb)" for n in before] + [f"[Contents](../{CONTENTS})"]
    return " · ".join(links + [f"[{titles[n]} →](../{n}/{n}.ipynb)" for n in after])


def contents_page(project: Project, profile: str, folders: Iterable[Path], *, executed: Container[str]) -> str:
    """Return the contents of a profile's results in Markdown: a row a chapter, with links, time, device and commit."""
    page = "Written by `mtive-nb report`. All on one page, to be opened in a browser: [report.html](report.html)."
    lines = [f"# Results of profile {profile}", "", page, ""]
    lines += ["| chapter, executed | source | minutes | device | commit |", "| --- | --- | --- | --- | --- |"]
    for folder in folders:
        name, record = folder.name, read_run(folder)
        title = chapter_title(project, name)
        title = f"[{title}]({name}/{name}.ipynb)" if name in executed else title
        commit = ((record.get("git") or {}).get("commit") or "")[:10]
        source = f"[source](../../../notebooks/{name}.ipynb)"
        lines.append(f"| {title} | {source} | {_minutes(record)} | {record.get('device', '')} | {commit} |")
    return "\n".join(lines) + "\n"


def _minutes(record: dict[str, Any]) -> str:
    return f"{(record.get('wall_seconds') or record.get('seconds') or 0) / 60:.1f}"


def with_runs(page: str, reference: Path) -> str:
    """Return docs/chapters.md with the last three cells of each row, minutes, device and link, from results in `reference`."""

    def row(match: re.Match[str]) -> str:
        by_hand, name = match.groups()
        if not (reference / name).is_dir():
            return f"{by_hand} – | – | – |"
        record, notebook = read_run(reference / name), reference / name / f"{name}.ipynb"
        link = f"[executed](../outputs/reference/{reference.name}/{name}/{name}.ipynb)" if notebook.exists() else "–"
        return f"{by_hand} {_minutes(record)} | {record.get('device', '')} | {link} |"

    return re.sub(r"^(\| \[(\w+)\]\(\.\./notebooks/(?:[^|]*\|){3})[^\n]*$", row, page, flags=re.MULTILINE)


def _fitting(project: Project, folder: Path, *, tell: Callable[[str], None]) -> dict[str, Any] | None:
    path = folder / f"{folder.name}.ipynb"
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    for side_px in SIDES_PX:
        notebook = small_notebook(json.loads(text), side_px=side_px, home=project.home)
        if len(_packed(notebook).encode()) <= MAX_BYTES - 2048:  # room for the links
            return notebook
    tell(f"{folder.name}/{path.name}: larger than {MAX_BYTES // 1024} KiB with its smallest pictures, not copied")
    return None


def small_notebook(notebook: dict[str, Any], *, side_px: int, home: Path) -> dict[str, Any]:
    """Return an executed notebook with pictures at most `side_px` wide.

    Left out: papermill's metadata, states of widgets, progress lines, streams on stderr, and `home` in texts.
    """
    notebook["metadata"] = {
        k: notebook["metadata"][k] for k in ("kernelspec", "language_info") if k in notebook["metadata"]
    }
    for cell in notebook["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags"}
        if cell["cell_type"] == "code":
            kept = [_small_output(o, side_px=side_px, home=home) for o in cell["outputs"] if o.get("name") != "stderr"]
            cell["outputs"] = [output for output in kept if output]
    return notebook


def _small_output(output: dict[str, Any], *, side_px: int, home: Path) -> dict[str, Any] | None:
    if "metadata" in output:  # of display_data and execute_result
        output["metadata"] = {}
    if output["output_type"] == "stream":
        lines = "".join(output["text"]).splitlines(keepends=True)
        output["text"] = "".join(line for line in lines if MARK not in line).replace(f"{home}/", "")
        return output if output["text"] else None
    data = output.get("data", {})
    if any("widget" in kind for kind in data):  # a progress bar, or a page that needs a kernel
        return None
    for kind, value in list(data.items()):
        if kind in PICTURES:
            del data[kind]
            small = small_picture(base64.b64decode("".join(value)), side_px=side_px)
            data[PICTURES[not small.startswith(b"\x89PNG")]] = base64.b64encode(small).decode()
        elif isinstance(value := "".join(value) if isinstance(value, list) else value, str):
            inline = INLINE_PX if side_px > SIDES_PX[-1] else INLINE_PX // 2
            data[kind] = INLINE.sub(lambda m, px=inline: _inline(m, px), value).replace(f"{home}/", "")
    if any(kind in data for kind in PICTURES):
        data.pop("text/plain", None)  # "<Figure ...>"
    return output | ({"data": data} if "data" in output else {})


def _inline(match: re.Match[str], side_px: int) -> str:
    """Shrink a thumbnail in a table; a wide picture, as of a widget's page, keeps three times the width."""
    data = base64.b64decode(match[1])
    return picture_url(small_picture(data, side_px=side_px if len(data) < 40_000 else 4 * side_px))


def _cell(text: str, name: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def _packed(notebook: dict[str, Any]) -> str:
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
