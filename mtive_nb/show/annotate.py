"""The annotation form: photos, question and a prefilled answer that a person accepts, corrects or skips.

Enter in the answer field accepts an unchanged prefill and saves a changed one; "?" and Enter skips, "<" and Enter takes
the last decision back. A question with few possible answers has a button for each. Every decision is stored before the
next record is shown. A lock makes handlers run one at a time, because ipykernel calls them from its main thread or from
another thread, depending on its version.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML

from mtive_nb.data.annotations import AnnotationStore
from mtive_nb.data.records import question_of
from mtive_nb.run.progress import duration
from mtive_nb.show.controls import PAGE_CSS, page_of_its_own
from mtive_nb.show.pictures import answer_table

LOOK_S = 0.5  # anything faster is no judgement, but the second click of a double click or a held key
SKIP, UNDO = "?", "<"  # typed as the answer
CHOICES = 6  # a question with more possible answers has no buttons
LAST = 5  # decisions listed below the form
GUIDELINE = (
    "Answer from the photos alone. Correct the answer where it is wrong, in the same form. Skip what the photos do not "
    f"settle. Keys: Enter accepts or saves, {SKIP} Enter skips, {UNDO} Enter takes the last decision back."
)
SETTLE_S = 0.15  # on Enter, the browser sends the key before the typed text


def _after_settling(action: Callable[[], None]) -> None:
    threading.Timer(SETTLE_S, action).start()


class AnnotationForm(widgets.VBox):
    """A form over `records` with one prefill each; it starts at the first record without a decision.

    `side_px` is the photos' longest side on the page; `clock` returns seconds; `guideline` stands above the photos.
    """

    def __init__(self, records: Sequence[dict], prefills: Sequence[str], store: AnnotationStore, *, side_px: int = 280,
                 guideline: str = GUIDELINE, clock: Callable[[], float] = time.monotonic,
                 later: Callable[[Callable[[], None]], None] = _after_settling) -> None:  # fmt: skip
        """`later` runs Enter's action once the typed text is there. Errors: ValueError unless one prefill a record."""
        if len(records) != len(prefills):
            raise ValueError(f"AnnotationForm: {len(prefills)} prefills for {len(records)} records; expected one each")
        super().__init__(layout=widgets.Layout(max_width="760px"))
        self.records, self.prefills, self.store = list(records), [text.strip() for text in prefills], store
        self._side_px, self._clock, self._lock = side_px, clock, threading.Lock()
        self._at: int | None = None
        self._choices = _choices_of(self.records)
        self._build(guideline)
        page_of_its_own(self)
        self._connect(later)
        self._handle(self._show_first_open)

    def _build(self, guideline: str) -> None:
        self.head, self.error, self.last = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.guideline = widgets.HTML(f"<p><i>{html.escape(guideline)}</i></p>")
        wrapped = widgets.Layout(flex_flow="row wrap")
        self.choices = widgets.HBox(layout=wrapped)
        # No updates while typing: ipywidgets delays fast keystrokes, and Enter would overtake them.
        self.answer = widgets.Text(continuous_update=False, layout=widgets.Layout(width="auto"))
        self.save = widgets.Button(description="Accept or save", button_style="success", tooltip="Enter")
        narrow = widgets.Layout(width="auto")
        self.skip, self.undo = (widgets.Button(description=name, layout=narrow) for name in ("Skip", "Undo"))
        self.bar, self.status = widgets.IntProgress(max=max(1, len(self.records))), widgets.Label()
        buttons = widgets.HBox([self.save, self.skip, self.undo], layout=wrapped)
        progress = widgets.HBox([self.bar, self.status], layout=wrapped)
        self.children = [
            self.guideline, self.head, self.choices, self.answer, buttons, self.error, progress, self.last
        ]  # fmt: skip

    def _connect(self, later: Callable[[Callable[[], None]], None]) -> None:
        self.save.on_click(lambda _: self._handle(self._save))
        self.skip.on_click(lambda _: self._handle(self._skip))
        self.undo.on_click(lambda _: self._handle(self._undo))
        # The browser's message for Enter; `on_submit` does the same but is deprecated.
        self.answer.on_msg(lambda _, sent, __: sent == {"event": "submit"} and later(lambda: self._handle(self._save)))

    def _handle(self, action: Callable[[], None]) -> None:
        """Run one handler under the lock and show its error in the form: elsewhere, nobody would see it."""
        with self._lock:
            self.error.value = ""
            try:
                action()
            except Exception as error:
                text = html.escape(f"{type(error).__name__}: {error}")
                self.error.value = f'<b style="color:#e45756">{text}</b>'

    def _save(self) -> None:
        {SKIP: self._skip, UNDO: self._undo}.get(self.answer.value.strip(), self._save_answer)()

    def _save_answer(self) -> None:
        self._decide(self.answer.value)

    def _skip(self) -> None:
        self._decide(None)

    def _decide(self, answer: str | None) -> None:
        seconds = self._clock() - self._shown_s
        if self._at is None:
            return
        if seconds < LOOK_S:
            raise RuntimeError(f"decision not saved: it came within {LOOK_S} s of the photo; look, then decide")
        record_id = self.records[self._at]["id"]
        self.store.decide(record_id, prefill=self.prefills[self._at], answer=answer, seconds=seconds)
        self._show_first_open()

    def _undo(self) -> None:
        """Return to the last decided record and show its answer."""
        places = {record["id"]: k for k, record in enumerate(self.records)}
        last = next((record_id for record_id in reversed(self.store.annotations) if record_id in places), None)
        if last is None:
            raise RuntimeError("nothing is decided yet, so nothing can be taken back")
        taken_back = self.store.undo(last)
        self._show(places[last], answer=taken_back.answer)

    def _show_first_open(self) -> None:
        done = self.store.annotations
        self._show(next((k for k, record in enumerate(self.records) if record["id"] not in done), None))

    def _show(self, at: int | None, *, answer: str | None = None) -> None:
        self._at, self._shown_s = at, self._clock()
        self._show_progress()
        # One message for all changes: a field that is disabled in between would lose the focus.
        with self.answer.hold_sync(), self.save.hold_sync():
            self.answer.value = "" if at is None else answer or self.prefills[at]
            self.answer.disabled = self.save.disabled = True
            self.skip.disabled = at is None
            self._show_head(at)  # if it fails, nothing can be accepted unseen
            self.answer.disabled = self.save.disabled = at is None
        self._show_choices(at)
        self.answer.focus()

    def _show_choices(self, at: int | None) -> None:
        """Show a button for each possible answer of a record whose kind has few."""
        record = self.records[at] if at is not None else {}
        buttons = []
        for text in self._choices.get((record.get("task"), record.get("variant")), ()):
            buttons.append(widgets.Button(description=text, tooltip=f"answer {text}"))
            buttons[-1].on_click(lambda _, text=text: self._handle(lambda: self._decide(text)))
        self.choices.children = buttons

    def _show_head(self, at: int | None) -> None:
        """Show a record's photos and question; if a photo cannot be read, its name stays visible."""
        self.choices.children = ()  # until the photos are there
        if at is None:
            self.head.value = f"<b>Every record is decided.</b> Thank you. {self._counts()}. You can close this page."
            return
        record = self.records[at]
        self.head.value = html.escape(f"Record {record['id']}, photos {', '.join(record['images'])}")
        row = {"images": record["images"], "task": record["task"], "question": question_of(record)}
        self.head.value = answer_table(pd.DataFrame([row]), side_px=self._side_px).data

    def _counts(self) -> str:
        """Return how many records were accepted, corrected and skipped, and the file that holds the decisions."""
        decided = [a.decision for r in self.records if (a := self.store.annotations.get(r["id"]))]
        kinds = ("accepted", "corrected", "skipped")
        return html.escape(f"{', '.join(f'{decided.count(k)} {k}' for k in kinds)}; saved in {self.store.path.name}")

    def _show_progress(self) -> None:
        decided = [a for r in self.records if (a := self.store.annotations.get(r["id"]))]
        questions = {record["id"]: question_of(record) for record in self.records}
        latest = [(i, a) for i, a in self.store.annotations.items() if i in questions][: -LAST - 1 : -1]
        rows = [f"<li>{html.escape(f'{questions[i]} {a.answer or chr(8211)} ({a.decision})')}</li>" for i, a in latest]
        self.last.value = f"<p>Last decisions, newest first</p><ul>{''.join(rows)}</ul>" if rows else ""
        elapsed_s, left = sum(a.seconds for a in decided), len(self.records) - len(decided)
        self.bar.value, self.undo.disabled = len(decided), not decided
        self.status.value = f"{len(decided)} of {len(self.records)}"
        self.status.value += f", {duration(elapsed_s)}" if decided else ""
        self.status.value += f", about {duration(elapsed_s / len(decided) * left)} left" if decided and left else ""

    def still(self) -> HTML:
        """Return the current form as static HTML, for a page without a kernel."""
        choices, buttons = (
            " ".join(f"<button disabled>{html.escape(b.description)}</button>" for b in row)
            for row in (self.choices.children, (self.save, self.skip, self.undo))
        )
        return HTML(
            f'<style>{PAGE_CSS}</style><div class="own-page" style="max-width:760px">{self.guideline.value}{self.head.value}<p>{choices}</p>'
            f'<input value="{html.escape(self.answer.value)}" disabled style="width:100%"><p>{buttons}</p>{self.error.value}'
            f'<progress max="{self.bar.max}" value="{self.bar.value}"></progress> {self.status.value}{self.last.value}</div>'
        )


def _choices_of(records: Sequence[dict]) -> dict[tuple[str, str], list[str]]:
    """Return the possible answers by (task, variant) where each record's answer is its label, and there are few labels.

    A kind of question whose labels are yes and no always offers both.
    """
    labels: dict[tuple[str, str], set[str]] = {}
    for record in records:
        labels.setdefault((record["task"], record["variant"]), set()).add(
            record["label"] if record.get("label") == record["answer"] else ""  # "yes, both show a cup" is no choice
        )
    found = {kind: ["yes", "no"] if some <= {"yes", "no"} else sorted(some) for kind, some in labels.items()}
    return {kind: some for kind, some in found.items() if "" not in some and len(some) <= CHOICES}
