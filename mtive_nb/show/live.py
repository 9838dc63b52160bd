"""Answers that several answerers give at once, each in its own thread, and how they stand side by side.

An answerer (`Way`) is a callable that takes a record (data/records.py) and returns an iterator over the answer's text.
The iterator may have `cancel`, which ends the answer early, and `close`; serve/engine.py's Request has `cancel` and, at
the end, `chance`. A server that does not stream yields one piece.
"""

from __future__ import annotations

import base64
import html
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.evaluate.reading import parse_pairs
from mtive_nb.show.pictures import answer_table, to_the_letter

Way = Callable[[dict], Iterable[str]]
PHOTOS = 2  # maximum of a question: matching compares two
STYLE = (
    "<style>.demo td,.demo th{text-align:left;vertical-align:top;font-size:13px;padding:4px 10px}"
    ".demo td,.demo th{line-height:1.4}.demo .said{overflow-wrap:anywhere}.demo th,.demo .s{white-space:nowrap}"
    "@media(max-width:600px){.demo td,.demo th{padding:4px}}</style>"
)


def record_of(question: str, images: Sequence[str]) -> dict:
    """Return a question on photos as a record. Errors: ValueError for an empty question or a wrong number of photos."""
    if not question.strip():
        raise ValueError("question: found none, expected a question about the photos")
    if not 1 <= len(images) <= PHOTOS:
        raise ValueError(f"photos: found {len(images)}, expected 1 or {PHOTOS}")
    return {"id": "demo", "product_id": "demo", "task": "own", "variant": "gen", "images": list(images), "answer": "",
            "messages": [user_turn(question.strip(), images=len(images)), assistant_turn("")]}  # fmt: skip


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

    @property
    def chance(self) -> tuple[float | None, str, bool]:
        """The answer's probability, what it is the probability of, and whether it is calibrated (serve/chances.py)."""
        return getattr(self._asked, "chance", None) or (None, "", False)

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


def answers_html(answers: Sequence[LiveAnswer], *, truth: str, threshold: float) -> str:
    """Return a table of answers: who, text, below it its probability and whether it is the truth, seconds, state."""
    rows = "".join(
        f"<tr><th>{html.escape(a.who)}</th><td class='said'>{html.escape(a.text) or '…'}{_notes(a, truth, threshold)}</td>"
        f"<td class='s'>{a.seconds:.1f} s</td><td>{html.escape(a.state) or 'answers'}</td></tr>"
        for a in answers
    )
    known = f"<tr><th>truth</th><td>{html.escape(truth)}</td></tr>" if truth else ""
    return f"{STYLE}<table class='demo'>{known}{rows}</table>"


def scores_html(rows: pd.DataFrame, images: Sequence[str], *, threshold: float, side_px: int) -> str:
    """Return the rows of serve/score.py, one photo of `images` each, as a table with a link that downloads them all."""
    chances = zip(rows["probability"], rows["probability_of"], rows["calibrated"], strict=True)
    shown = {
        "images": [[image] for image in images],
        "task": rows["task"],
        "answer": rows["answer"].where(rows["error"] == "", rows["error"]),
        "probability": [chance_in_words(*chance, threshold=threshold) for chance in chances],
    }
    content = base64.b64encode(rows.to_csv(index=False).encode()).decode()
    look = "color:#0b57d0;text-decoration:underline"
    link = f"<a download='answers.csv' style='{look}' href='data:text/csv;base64,{content}'>Download answers.csv</a>"
    return f"{answer_table(pd.DataFrame(shown), side_px=side_px).data}<p>{link} ({len(rows)} rows)</p>"


def chance_in_words(probability: float | None, of: str, calibrated: bool | None, *, threshold: float) -> str:
    """Return an answer's probability, and whether it is below the threshold at which an expert decides alone.

    probability: of `of`, in [0, 1]; None or NaN for an open answer, which has none.
    """
    if probability is None or probability != probability:
        return ""
    sure = max(probability, 1 - probability) if of == "yes" else probability
    known = "" if calibrated else ", not calibrated"
    return f"{of} {probability:.2f}{known}{', ask a person' if sure < threshold else ''}"


def _notes(answer: LiveAnswer, truth: str, threshold: float) -> str:
    """Return lines below a finished answer: whether it is the truth to the letter, if that is known; its probability."""
    if answer.state != "done":
        return ""
    asked, said = parse_pairs(truth), parse_pairs(answer.text)
    right = sum(to_the_letter(said.get(name), value) for name, value in asked.items())
    if to_the_letter(answer.text, truth):
        mark, colour = "✔ right", "#0d6b3f"
    elif right:  # an answer of several facts
        mark, colour = f"◐ {right} of {len(asked)} facts right", "#7a4b00"
    else:
        mark, colour = "✘ not the truth", "#a11d2b"
    mark = f"<br><b style='color:{colour}'>{mark}</b>"
    chance = html.escape(chance_in_words(*answer.chance, threshold=threshold))
    return f"{mark if truth else ''}{f'<br><i>{chance}</i>' if chance else ''}"
