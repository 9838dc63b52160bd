"""The demo of the experts: choose photos, ask a question, and read several answers side by side as they arrive.

Or score the photos: each expert answers its own question about each photo, in a table to download. Clicks return at
once: answers, scores and pool changes run in their own threads. Voilà shows the page alone, without the notebook.
"""

from __future__ import annotations

import hashlib
import html
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML

from mtive_nb.data.photos import PhotoError, photo_fault
from mtive_nb.data.records import question_of
from mtive_nb.evaluate.grounding.attention import AnswerAttention
from mtive_nb.run.atomic import write_atomic
from mtive_nb.serve.answer import QUESTIONS, Experts, task_question
from mtive_nb.show.controls import Samples, Ticks, page_of_its_own
from mtive_nb.show.grounding import grounding_figure
from mtive_nb.show.live import STYLE, LiveAnswer, Way, answers_html, record_of, scores_html
from mtive_nb.show.pictures import answer_table, figure_html

SCORED_PX = 64  # longest side of a scored photo in its table
LookAt = Callable[[dict, str], AnswerAttention]  # takes a record with its answer, and the answerer's name


class ExpertService(Protocol):
    """Adds, updates and removes experts: serve/pool.py's ExpertPool, or a server's client (serve/vllm.py)."""

    def add(self, expert: str, folder: Path) -> object: ...

    def update(self, expert: str, folder: Path) -> object: ...

    def remove(self, expert: str) -> None: ...

    def state(self) -> list[dict]: ...


class ExpertDemo(widgets.VBox):
    """A page with samples, photos, a question and the answerers to ask; below, the answers and the pool of experts.

    `ways` returns the answerers that are available now, by name. `samples` are example records. Uploaded photos lie in
    a folder of this page's own below `uploads`. The path field opens photos in and below `folders` alone; default: the
    folders of the samples' photos. With `experts`, the page can score the photos with those of them that are selected.
    With `pool`, it can add, update and remove experts. With `look`, it can show the attention of the answers' words on the
    photos. Each answer to a sample is marked against its truth.
    """

    def __init__(self, ways: Callable[[], Mapping[str, Way]], samples: Sequence[dict], *, uploads: Path,
                 folders: Sequence[str | Path] = (), experts: Experts | None = None, pool: ExpertService | None = None,
                 look: LookAt | None = None, max_new_tokens: int = 64, side_px: int = 240) -> None:  # fmt: skip
        """max_new_tokens: of a scored answer. side_px: the photos' longest side on the page."""
        super().__init__(layout=widgets.Layout(max_width="900px"))
        self._ways, self._samples, self._uploads = ways, list(samples), Path(uploads).resolve()
        named = folders or {Path(image).parent for sample in self._samples for image in sample["images"]}
        self._folders, self._own_uploads = [Path(folder).expanduser().resolve() for folder in named], None
        self._pool, self._look_at, self._side_px, self._lock = pool, look, side_px, threading.RLock()
        self._experts, self._max_new_tokens = experts, max_new_tokens
        self._scores: tuple[pd.DataFrame, list[str]] | None = None  # rows, and the photo of each
        self.images: list[str] = []
        self.answers: list[LiveAnswer] = []
        self._task: threading.Thread | None = None
        self._build()
        page_of_its_own(self)
        self._connect()
        self._handle(self._show_all, self.photo_error)

    def _build(self) -> None:
        wide, wrapped = widgets.Layout(width="auto"), widgets.Layout(flex_flow="row wrap")
        self.sample = Samples(self._samples)
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=True, description="Upload photos", layout=widgets.Layout(min_width="150px")
        )
        self.path = widgets.Text(placeholder="or a photo's path, and Enter", continuous_update=False)
        self.path.layout = widgets.Layout(flex="1 1 200px")
        self.photos, self.said, self.looked, self.scored = (widgets.HTML() for _ in range(4))
        # Each beside the controls that it is about.
        self.photo_error, self.error, self.pool_error = self.errors = [widgets.HTML() for _ in range(3)]
        self.by_task = widgets.Dropdown(options=self._questions(), description="By task", layout=wide)
        self.question = widgets.Text(description="Question", continuous_update=False, layout=wide)
        self.who = Ticks()
        self.ask = widgets.Button(description="Ask", button_style="success")
        self.cancel = widgets.Button(description="Cancel", disabled=True)
        self.look = widgets.Button(description="Where they looked", disabled=True)
        tip = "Ask each selected expert that reads one photo its own question about every photo above"
        self.score = widgets.Button(description="Score photos", tooltip=tip)
        self.threshold = widgets.FloatSlider(0.9, min=0.5, max=0.99, step=0.01, description="Threshold")
        buttons = [self.ask, self.cancel, *([self.look] if self._look_at else [])]
        self.buttons = widgets.HBox([*buttons, *([self.score] if self._experts else [])], layout=wrapped)
        self.children = [
            widgets.HTML("<b>Choose a sample or photos of your own, ask, and compare the answers.</b>"), self.sample,
            widgets.HBox([self.upload, self.path], layout=wrapped), self.photo_error, self.photos,
            self.by_task, self.question, self.who, self.buttons, self.error, self.threshold, self.said, self.looked,
            self.scored,
        ]  # fmt: skip
        if self._pool is not None:
            self._build_pool()

    def _build_pool(self) -> None:
        self.state, self.expert = widgets.HTML(), widgets.Text(placeholder="name of the expert")
        self.expert.layout = widgets.Layout(flex="1 1 120px")
        self.folder = widgets.Text(placeholder="its folder: .../stack", layout=widgets.Layout(flex="1 1 200px"))
        self.changes = {what: widgets.Button(description=what) for what in ("Add", "Update", "Remove")}
        wrapped = widgets.Layout(flex_flow="row wrap")
        buttons = widgets.HBox([self.expert, self.folder, *self.changes.values()], layout=wrapped)
        title = widgets.HTML("<b>Experts in service</b>")
        self.children = [*self.children, title, self.state, buttons, self.pool_error]

    def _questions(self) -> list[tuple[str, str]]:
        """Return the questions to choose from, with their tasks: the experts' own and the samples'."""
        asked = [(r["task"], question_of(r)) for r in self._samples]
        own = [(task, text) for task, (text, _) in self._own_questions().items()]
        return [("choose a question", ""), *((f"{t}: {q}", q) for t, q in dict.fromkeys([*own, *asked]))]

    def _connect(self) -> None:
        self.sample.observe(lambda _: self._handle(self._show_sample, self.photo_error), "value")
        self.upload.observe(lambda _: self._handle(self._take_uploads, self.photo_error), "value")
        self.path.observe(lambda _: self._handle(self._take_path, self.photo_error), "value")
        self.by_task.observe(lambda _: self._handle(self._take_question, self.error), "value")
        self.threshold.observe(lambda _: self._handle(self._show_chances, self.error), "value")
        self.ask.on_click(lambda _: self._handle(self._ask, self.error))
        self.cancel.on_click(lambda _: self._handle(self._cancel, self.error))
        self.look.on_click(lambda _: self._in_background(self._look, self.error))
        self.score.on_click(lambda _: self._in_background(self._score, self.error))
        for what, button in getattr(self, "changes", {}).items():
            button.on_click(lambda _, what=what: self._in_background(lambda: self._change(what), self.pool_error))

    def _handle(self, action: Callable[[], None], place: widgets.HTML) -> None:
        """Run one handler under the lock and show its error in the page: elsewhere, nobody would see it."""
        with self._lock:
            self._try(action, place)

    def _try(self, action: Callable[[], None], place: widgets.HTML) -> None:
        for shown in self.errors:
            shown.value = ""
        try:
            action()
        except Exception as error:
            text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            place.value = f'<b style="color:#c62828">{html.escape(text)}</b>'

    def _in_background(self, action: Callable[[], None], place: widgets.HTML) -> None:
        """Run a slow action in its own thread, so that answers continue meanwhile."""
        self._task = threading.Thread(target=self._try, args=(action, place), name="demo task", daemon=True)
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

    def _take_question(self) -> None:
        if self.by_task.value:
            self.question.value, self.by_task.value = self.by_task.value, ""

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
            self.sample.value = None

    def _take_path(self) -> None:
        if not self.path.value.strip():
            return
        path = Path(self.path.value.strip()).expanduser().resolve()  # a link counts as what it leads to
        if path.is_relative_to(self._uploads) or not any(path.is_relative_to(folder) for folder in self._folders):
            names = ", ".join(map(str, self._folders)) or "none are named: upload the photo"
            raise PhotoError(f"{path.name}: not in one of the folders that this page may open ({names})")
        self._show_photos([str(path)])
        self.sample.value = None

    def _show_photos(self, images: list[str]) -> None:
        for image in images:
            if fault := photo_fault(image):
                raise PhotoError(f"{Path(image).name}: {fault}")
        rows = pd.DataFrame([{"images": images, "file": ", ".join(Path(i).name for i in images)}])
        self.photos.value = answer_table(rows, side_px=self._side_px).data
        self.images = images
        self._cancel()
        with self._lock:  # answers about other photos go
            self.answers, self.said.value, self.looked.value = [], "", ""
            self.ask.disabled, self.cancel.disabled, self.look.disabled = False, True, True

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
            if not self.answers:  # cancelled by a change of photos
                return
            self.said.value = answers_html(self.answers, truth=self._truth(), threshold=self.threshold.value)
            if all(a.state for a in self.answers):
                self.ask.disabled, self.cancel.disabled = False, True
                self.look.disabled = not any(a.text.strip() for a in self.answers)

    def _show_chances(self) -> None:
        """Show answers and scores under the threshold as it is now."""
        if self.answers:
            self._show_answers()
        if self._scores is not None:
            rows, images = self._scores
            self.scored.value = scores_html(rows, images, threshold=self.threshold.value, side_px=SCORED_PX)

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

    def _own_questions(self) -> dict[str, tuple[str, int]]:
        """Return each expert's own question, if it has one, and the number of photos that it is about."""
        own, tasks = (self._experts.own, self._experts.tasks) if self._experts else ({}, [])
        return {task: task_question(task, own) for task in tasks if task in QUESTIONS or task in own}

    def _score(self) -> None:
        """Ask each selected expert that reads one photo its own question about every photo on the page."""
        able = [task for task, (_, photos) in self._own_questions().items() if photos == 1]
        tasks, images = [task for task in able if task in self.who.value], list(self.images)
        if not tasks or not images:
            raise ValueError(
                f"Score photos: found {len(images)} photos and {len(tasks)} selected experts, expected at least one of "
                f"both; the experts that read one photo: {', '.join(able) or 'none'}"
            )
        self.score.disabled, self.scored.value = True, "<i>scoring …</i>"
        try:
            asked = [{"id": Path(image).name, "photo": [image]} for image in images]
            rows = self._experts.score(asked, tasks=tasks, max_new_tokens=self._max_new_tokens)
            # The names of the user's files, not where they lie here.
            self._scores = rows.assign(photo=rows["id"]), [image for image in images for _ in tasks]
        finally:
            self.score.disabled, self.scored.value = False, ""
        self._show_chances()

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
            shown = ["expert", "version", "weight", "requests", "MiB"]  # as many as a phone is wide
            table = pd.DataFrame(self._pool.state(), columns=shown).to_html(index=False, border=0, classes="demo")
            self.state.value = STYLE + table

    def wait(self) -> None:
        """Wait until every answer and the last task have ended, for notebooks that run without a person."""
        for thread in [*(answer.thread for answer in self.answers), *([self._task] if self._task else [])]:
            thread.join()

    def still(self) -> HTML:
        """Return the current page as static HTML, for a page without a kernel."""
        pool = "" if self._pool is None else f"<p><b>Experts in service</b></p>{self.state.value}"
        asked, errors = html.escape(self.question.value), "".join(place.value for place in self.errors)
        shown = f"{self.said.value}{self.looked.value}{self.scored.value}{pool}"
        return HTML(f"{self.photos.value}<p>{asked}</p>{errors}{shown}")
