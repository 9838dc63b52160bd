"""The demo of the experts: choose photos, ask a question, and read several answers side by side as they arrive.

An answerer (`Way`) is a callable that takes a record (data/records.py) and returns an iterator over the answer's text.
The iterator may have `cancel`, which ends the answer early, and `close`; serve/engine.py's Request has `cancel`. A
server that does not stream yields one piece. Clicks return at once: answers and pool changes run in their own threads.
"""

from __future__ import annotations

import hashlib
import html
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML

from mtive_nb.data.photos import PhotoError, photo_fault
from mtive_nb.data.records import assistant_turn, question_of, user_turn
from mtive_nb.evaluate.grounding.attention import AnswerAttention
from mtive_nb.run.atomic import write_atomic
from mtive_nb.show.grounding import grounding_figure
from mtive_nb.show.pictures import answer_table, figure_html

Way = Callable[[dict], Iterable[str]]
LookAt = Callable[[dict, str], AnswerAttention]  # takes a record with its answer, and the answerer's name
PHOTOS = 2  # maximum: matching compares two


def record_of(question: str, images: Sequence[str]) -> dict:
    """Return a question on photos as a record. Errors: ValueError for an empty question or a wrong number of photos."""
    if not question.strip():
        raise ValueError("question: found none, expected a question about the photos")
    if not 1 <= len(images) <= PHOTOS:
        raise ValueError(f"photos: found {len(images)}, expected 1 or {PHOTOS}")
    return {"id": "demo", "product_id": "demo", "task": "own", "variant": "gen", "images": list(images), "answer": "",
            "messages": [user_turn(question.strip(), images=len(images)), assistant_turn("")]}  # fmt: skip


class ExpertService(Protocol):
    """Adds, updates and removes experts: serve/pool.py's ExpertPool, or a server's client (serve/vllm.py)."""

    def add(self, expert: str, folder: Path) -> object: ...

    def update(self, expert: str, folder: Path) -> object: ...

    def remove(self, expert: str) -> None: ...

    def state(self) -> list[dict]: ...


class LiveAnswer:
    """One answerer's answer so far; `state` is "" until the answer ends, then its outcome or the error message."""

    def __init__(self, name: str, way: Way, record: dict, *, tell: Callable[[], None]) -> None:
        self.name, self.text, self.state, self.seconds = name, "", "", 0.0
        self.record, self._way, self._tell, self._stop = record, way, tell, threading.Event()
        self._asked: object = None
        self.thread = threading.Thread(target=self._work, name=f"demo {name}", daemon=True)

    @property
    def who(self) -> str:
        """The version that answers, or the answerer's name if the version is unknown."""
        return getattr(self._asked, "expert", None) or self.name

    @property
    def as_record(self) -> dict:
        """The question's record with the text so far as its answer."""
        text = self.text.strip()
        return self.record | {"answer": text, "messages": [*self.record["messages"][:-1], assistant_turn(text)]}

    def cancel(self) -> None:
        """End the answer, at its next piece at the latest."""
        self._stop.set()
        if hasattr(self._asked, "cancel"):
            self._asked.cancel()

    def _work(self) -> None:
        started = time.monotonic()
        try:
            self._asked = self._way(self.record)
            for piece in self._asked:
                self.text, self.seconds = self.text + piece, time.monotonic() - started
                if self._stop.is_set():
                    self.cancel()  # `cancel` came before the answerer returned its iterator
                    break
                self._tell()
            self.state = "cancelled" if self._stop.is_set() else getattr(self._asked, "outcome", None) or "done"
        except Exception as error:  # the person at the page must see any error
            self.state = "cancelled" if self._stop.is_set() else f"{type(error).__name__}: {error}"
        finally:
            if hasattr(self._asked, "close"):
                self._asked.close()
        self.seconds = time.monotonic() - started
        self._tell()


class Ticks(widgets.HBox):
    """A checkbox for each of `options`; `value` holds the ticked ones. New options are ticked."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(flex_flow="row wrap"))

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(box.description for box in self.children)

    @options.setter
    def options(self, names: Iterable[str]) -> None:
        look = {"indent": False, "layout": widgets.Layout(width="auto")}
        self.children = [widgets.Checkbox(value=True, description=name, **look) for name in names]

    @property
    def value(self) -> tuple[str, ...]:
        return tuple(box.description for box in self.children if box.value)

    @value.setter
    def value(self, names: Iterable[str]) -> None:
        names = set(names)
        for box in self.children:
            box.value = box.description in names


class ExpertDemo(widgets.VBox):
    """A page with photos, a question and the answerers to ask; below, the answers and the pool of experts.

    `ways` returns the answerers that are available now, by name. `samples` are example records. Uploaded photos lie in
    a folder of this page's own below `uploads`. The path field opens photos in and below `folders` alone; default: the
    folders of the samples' photos. With `pool`, the page can add, update and remove experts. With `look`, the page can
    show the attention of the answers' words on the photos. Each answer to a sample is marked against its truth.
    """

    def __init__(self, ways: Callable[[], Mapping[str, Way]], samples: Sequence[dict], *, uploads: Path,
                 folders: Sequence[str | Path] = (), pool: ExpertService | None = None, look: LookAt | None = None,
                 side_px: int = 240) -> None:  # fmt: skip
        super().__init__(layout=widgets.Layout(max_width="900px"))
        self._ways, self._samples, self._uploads = ways, list(samples), Path(uploads).resolve()
        named = folders or {Path(image).parent for sample in self._samples for image in sample["images"]}
        self._folders, self._own_uploads = [Path(folder).expanduser().resolve() for folder in named], None
        self._pool, self._look_at, self._side_px, self._lock = pool, look, side_px, threading.RLock()
        self.images: list[str] = []
        self.answers: list[LiveAnswer] = []
        self._task: threading.Thread | None = None
        self._build()
        self._connect()
        self._handle(self._show_all)

    def _build(self) -> None:
        wide = widgets.Layout(width="100%")
        options = [(f"{r['task']}: {question_of(r)}", k) for k, r in enumerate(self._samples)]
        self.sample = widgets.Dropdown(options=options, description="Sample", layout=wide)
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=True, description="Upload photos", layout=widgets.Layout(min_width="150px")
        )
        self.path = widgets.Text(placeholder="or a photo's path, and Enter", continuous_update=False, layout=wide)
        self.photos, self.error, self.said, self.looked = (widgets.HTML() for _ in range(4))
        self.question = widgets.Text(description="Question", continuous_update=False, layout=wide)
        self.who = Ticks()
        self.ask = widgets.Button(description="Ask", button_style="success")
        self.cancel = widgets.Button(description="Cancel", disabled=True)
        self.look = widgets.Button(description="Where they looked", disabled=True)
        buttons = [self.ask, self.cancel, *([self.look] if self._look_at else [])]
        self.children = [
            self.sample, widgets.HBox([self.upload, self.path]), self.photos, self.question, self.who,
            widgets.HBox(buttons), self.error, self.said, self.looked,
        ]  # fmt: skip
        if self._pool is not None:
            self._build_pool()

    def _build_pool(self) -> None:
        self.state, self.expert = widgets.HTML(), widgets.Text(placeholder="name of the expert")
        self.folder = widgets.Text(placeholder="its folder: .../stack", layout=widgets.Layout(width="100%"))
        self.changes = {what: widgets.Button(description=what) for what in ("Add", "Update", "Remove")}
        wrapped = widgets.Layout(flex_flow="row wrap")
        buttons = widgets.HBox([self.expert, self.folder, *self.changes.values()], layout=wrapped)
        self.children = [*self.children, widgets.HTML("<b>Experts in service</b>"), self.state, buttons]

    def _connect(self) -> None:
        self.sample.observe(lambda _: self._handle(self._show_sample), "value")
        self.upload.observe(lambda _: self._handle(self._take_uploads), "value")
        self.path.observe(lambda _: self._handle(self._take_path), "value")
        self.ask.on_click(lambda _: self._handle(self._ask))
        self.cancel.on_click(lambda _: self._handle(self._cancel))
        self.look.on_click(lambda _: self._in_background(self._look))
        for what, button in getattr(self, "changes", {}).items():
            button.on_click(lambda _, what=what: self._in_background(lambda: self._change(what)))

    def _handle(self, action: Callable[[], None]) -> None:
        """Run one handler under the lock and show its error in the page: elsewhere, nobody would see it."""
        with self._lock:
            self._try(action)

    def _try(self, action: Callable[[], None]) -> None:
        self.error.value = ""
        try:
            action()
        except Exception as error:
            text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            self.error.value = f'<b style="color:#e45756">{html.escape(text)}</b>'

    def _in_background(self, action: Callable[[], None]) -> None:
        """Run a slow action in its own thread, so that answers continue meanwhile."""
        self._task = threading.Thread(target=self._try, args=(action,), name="demo task", daemon=True)
        self._task.start()

    def _show_all(self) -> None:
        self._show_who()
        self._show_pool()
        self._show_sample()

    def _show_sample(self) -> None:
        if self.sample.value is not None:
            record = self._samples[self.sample.value]
            self.question.value = question_of(record)
            self._show_photos(list(record["images"]))

    def _take_uploads(self) -> None:
        """Save the uploaded files and show them as photos.

        Each file lies in a folder named by the hash of its bytes, since phones call every photo image.jpg. No other
        page and no other user can read this page's folder.
        Errors: PhotoError, which names a file that is not a photo; the shown photos do not change.
        """
        paths = []
        if self.upload.value and self._own_uploads is None:
            self._uploads.mkdir(parents=True, exist_ok=True)
            self._own_uploads = Path(tempfile.mkdtemp(dir=self._uploads))  # readable by its owner alone
        for sent in self.upload.value:
            content = bytes(sent["content"])
            folder = self._own_uploads / hashlib.sha256(content).hexdigest()[:16]
            write_atomic(path := folder / (Path(sent["name"]).name[-60:] or "photo"), content)
            paths.append(str(path))
        if paths:
            self._show_photos(paths)

    def _take_path(self) -> None:
        if not self.path.value.strip():
            return
        path = Path(self.path.value.strip()).expanduser().resolve()  # a link counts as what it leads to
        if path.is_relative_to(self._uploads) or not any(path.is_relative_to(folder) for folder in self._folders):
            names = ", ".join(map(str, self._folders)) or "none are named: upload the photo"
            raise PhotoError(f"{path.name}: not in one of the folders that this page may open ({names})")
        self._show_photos([str(path)])

    def _show_photos(self, images: list[str]) -> None:
        for image in images:
            if fault := photo_fault(image):
                raise PhotoError(f"{Path(image).name}: {fault}")
        rows = pd.DataFrame([{"images": images, "file": ", ".join(Path(i).name for i in images)}])
        self.photos.value = answer_table(rows, side_px=self._side_px).data
        self.images = images

    def _show_who(self) -> None:
        """Offer the answerers that are available now; selected answerers stay selected."""
        now, chosen = list(self._ways()), self.who.value
        self.who.options = now
        self.who.value = [name for name in chosen if name in now] or now

    def _ask(self) -> None:
        if not self.who.value:
            raise ValueError("Ask: found nobody chosen, expected one or more")
        record, ways = record_of(self.question.value, self.images), self._ways()
        self.ask.disabled, self.cancel.disabled, self.look.disabled, self.looked.value = True, False, True, ""
        self.answers = [LiveAnswer(name, ways[name], record, tell=self._show_answers) for name in self.who.value]
        for answer in self.answers:
            answer.thread.start()

    def _cancel(self) -> None:
        for answer in self.answers:
            answer.cancel()

    def _show_answers(self) -> None:
        """Show the answers so far; the answers' threads call this."""
        with self._lock:
            truth = self._truth()
            rows = "".join(
                f"<tr><th>{html.escape(a.who)}</th><td>{html.escape(a.text) or '…'}</td><td>{a.seconds:.1f} s</td>"
                f"<td>{html.escape(a.state) or 'answers'}</td>{_mark(a, truth)}</tr>"
                for a in self.answers
            )
            known = f"<tr><th>truth</th><td>{html.escape(truth)}</td></tr>" if truth else ""
            self.said.value = f"{_STYLE}<table class='demo'>{known}{rows}</table>"
            if all(a.state for a in self.answers):
                self.ask.disabled, self.cancel.disabled = False, True
                self.look.disabled = not any(a.text.strip() for a in self.answers)

    def _truth(self) -> str:
        """Return the answer of the sample that was asked; empty for a question or photos of one's own."""
        record = self.answers[0].record
        asked = (record["images"], question_of(record))
        known = (r for r in self._samples if (list(r["images"]), question_of(r)) == asked)
        return str(next(known, {"answer": ""})["answer"])

    def _look(self) -> None:
        """Show the attention of every answer's words on its photos, computed by its answerer, one after the other."""
        said = [answer for answer in self.answers if answer.text.strip()]
        rows, self.looked.value = [], "<i>looking …</i>"
        try:
            for answer in said:
                record = answer.as_record
                rows.append(([Path(i) for i in record["images"]], record["answer"], self._look_at(record, answer.name)))
        finally:
            self.looked.value = ""
        self.looked.value = figure_html(grounding_figure(rows, captions=[answer.who for answer in said]))

    def _change(self, what: str) -> None:
        """Add, update or remove the expert that the fields name."""
        name, folder = self.expert.value.strip(), self.folder.value.strip()
        if not name or (what != "Remove" and not Path(folder).is_dir()):
            raise ValueError(
                f"{what}: found name {name!r} and folder {folder!r}, expected an expert's name and its folder"
            )
        if what == "Remove":
            self._pool.remove(name)
        else:
            {"Add": self._pool.add, "Update": self._pool.update}[what](name, Path(folder))
        with self._lock:
            self._show_who()
            self._show_pool()

    def _show_pool(self) -> None:
        if self._pool is not None:
            table = pd.DataFrame(self._pool.state()).to_html(index=False, border=0, classes="demo")
            self.state.value = _STYLE + table

    def wait(self) -> None:
        """Wait until every answer and the last task have ended, for notebooks that run without a person."""
        for thread in [*(answer.thread for answer in self.answers), *([self._task] if self._task else [])]:
            thread.join()

    def still(self) -> HTML:
        """Return the current page as static HTML, for a page without a kernel."""
        pool = "" if self._pool is None else f"<p><b>Experts in service</b></p>{self.state.value}"
        asked = html.escape(self.question.value)
        return HTML(f"{self.photos.value}<p>{asked}</p>{self.error.value}{self.said.value}{self.looked.value}{pool}")


def _mark(answer: LiveAnswer, truth: str) -> str:
    """Return a cell that says whether a finished answer is the truth to the letter; nothing without a truth."""
    if not truth or answer.state != "done":
        return ""
    right = answer.text.strip().lower() == truth.strip().lower()
    return f"<td style='color:{'#0d6b3f' if right else '#a11d2b'}'>{'✔ right' if right else '✘ not the truth'}</td>"


_STYLE = (
    "<style>.demo td,.demo th{text-align:left;vertical-align:top;font-size:13px;padding:4px 10px}"
    ".demo th{white-space:nowrap}</style>"
)
