"""Own tasks: `tasks.yaml` in a catalogue folder adds tasks to EMDIV without code (docs/tasks.md).

A task reads one fact of each feedback row and asks for it: as yes or no, as a choice among answers, or openly. PT and PP
are written in the same form (tasks.py).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtive_nb.data.emdiv.questions import options_text
from mtive_nb.data.records import OWN_NAME, TASKS
from mtive_nb.data.rows import FACT_TYPES, FALSE, TRUE
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.params import ParameterError, close_to, load_yaml, similar

FILE = "tasks.yaml"
KINDS = ("yes/no", "choice", "open")
MAX_TEXT = 200  # characters of a question or an answer
MAX_ANSWERS = 50  # of a choice
_YES_NO = dict.fromkeys(TRUE, "yes") | dict.fromkeys(FALSE, "no")


@dataclass(frozen=True)
class OwnTask:
    """A task as data; `read` finds its answer in a row's facts.

    questions: the canonical wording, then paraphrases; `{options}` stands for a choice's answers. answers: of a choice,
    in order; empty until `settled` finds them in the catalogue. yes_no: a choice's yes/no question about `{answer}`.
    """

    name: str
    kind: str  # one of KINDS
    fact: str  # key of a feedback row's facts
    questions: tuple[str, ...]
    answers: tuple[str, ...] = ()
    yes_no: str = ""

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of EMDIV that the task has: aug needs a paraphrase, yes/no has no gen, open has no bin."""
        there = {"gen": self.kind != "yes/no", "aug": len(self.questions) > 1, "bin": self.kind != "open"}
        return tuple(variant for variant, has in there.items() if has)

    @property
    def question(self) -> str:
        """The canonical question, with the answers of a choice in it."""
        return self.worded(self.questions[0])

    def worded(self, question: str) -> str:
        """One of `questions` with the answers in the place of `{options}`."""
        return question.replace("{options}", options_text(self.answers) if self.answers else "...")

    def asking(self, answer: str) -> str:
        """The yes/no question whether `answer` is the right choice."""
        return (self.yes_no or f"{self.question} Is it {{answer}}?").replace("{answer}", answer)

    def read(self, facts: Mapping[str, Any]) -> tuple[str, str]:
        """The task's answer in a row's facts as (answer, ""), or ("", the reason why there is none)."""
        value, text = facts.get(self.fact), _text(facts.get(self.fact))
        if value in (None, ""):
            return "", f"facts do not name the {self.fact}"
        if text is None:
            return "", self._unusable(value, f"text of 1 to {MAX_TEXT} characters, a number, true or false")
        if self.kind == "yes/no":
            answer = _YES_NO.get(text.casefold(), "")
            return answer, "" if answer else self._unusable(value, "true, false, yes or no")
        if self.kind == "open":
            return text, ""
        if not 2 <= len(self.answers) <= MAX_ANSWERS:
            few = len(self.answers) < 2
            many = f"{len(self.answers)} values of {self.fact} in the catalogue, more than {MAX_ANSWERS}: use kind open"
            return "", f"one {self.fact} alone in the catalogue" if few else many
        same = [text] if text in self.answers else [a for a in self.answers if a.casefold() == text.casefold()]
        expected = f"{options_text(self.answers)}{similar(text, list(self.answers))}"
        return (same[0], "") if same else ("", self._unusable(value, expected))

    def _unusable(self, value: object, expected: str) -> str:
        return f"facts.{self.fact}: found {ascii(value):.60}, expected {expected}"

    def settled(self, rows: Iterable[Mapping[str, Any] | None]) -> OwnTask:
        """The task with its answers; a choice without answers gets the values found in the rows' facts.

        Of spellings that differ in capitals alone, the most frequent one counts.
        """
        if self.kind != "choice" or self.answers:
            return self
        found = Counter(text for facts in rows if (text := _text((facts or {}).get(self.fact))))
        spelled: dict[str, str] = {}
        for text, _ in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            spelled.setdefault(text.casefold(), text)
        return dataclasses.replace(self, answers=tuple(sorted(spelled.values())))


FIELDS = tuple(f.name for f in dataclasses.fields(OwnTask) if f.name != "name")


def own_tasks(folder: str | Path) -> dict[str, OwnTask]:
    """The tasks of `folder`/tasks.yaml by name; {} without the file.

    Errors: ParameterError with file, task, field, what was found and what was expected.
    """
    path = Path(folder) / FILE
    if (other := path.with_suffix(".yml")).is_file():
        raise ParameterError(f"{other}: expected the name {FILE}; rename the file")
    if not os.path.lexists(path):
        return {}
    try:
        content = load_yaml(path)
    except ParameterError as error:
        raise ParameterError(f"{error}\nA text with a colon, a brace or a hash needs quotes around it") from None
    return {name: _task(name, fields, where=f"{path}, task {str(name):.60}") for name, fields in content.items()}


def write_tasks(tasks: Iterable[OwnTask], folder: str | Path) -> None:
    """Write tasks so that `own_tasks` reads them, with the answers of each choice; without tasks, write no file."""
    content = {}
    for task in tasks:
        whole = task if 2 <= len(task.answers) <= MAX_ANSWERS else dataclasses.replace(task, answers=())
        values = {name: getattr(whole, name) for name in FIELDS}
        content[task.name] = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v}
    if content:  # quotes keep a text such as 1e5 a text
        text = yaml.safe_dump(content, default_style='"', allow_unicode=True, sort_keys=False, width=10_000)
        write_atomic(Path(folder) / FILE, text)


def _text(value: object) -> str | None:
    """A fact as text: words, a number, yes or no; None for anything else, too long a text or invalid Unicode."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        return None
    text = " ".join(str(value).split())
    return text if 0 < len(text) <= MAX_TEXT and not re.search("[\ud800-\udfff]", text) else None


def _task(name: object, fields: object, *, where: str) -> OwnTask:
    """Check one entry of tasks.yaml."""
    if str(name).upper() in TASKS:
        raise _fault(where, name, "a name of its own: this task is built in")
    if not isinstance(name, str) or not OWN_NAME.fullmatch(name):
        slug = re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")[:30] or "my"
        near = slug if OWN_NAME.fullmatch(slug) else f"{slug}-task"
        wanted = "two or more words in small letters and digits, joined by hyphens, at most 40 characters"
        raise _fault(where, name, f"{wanted}, such as {near}")
    if not isinstance(fields, dict):
        raise _fault(where, fields, f"the fields {', '.join(FIELDS)}")
    for field in fields:
        if field not in FIELDS:
            raise _fault(where, field, f"one of the fields {', '.join(FIELDS)}{close_to(str(field), list(FIELDS))}")
    kind, fact = fields.get("kind"), fields.get("fact")
    if kind not in KINDS:
        raise _fault(f"{where}, field kind", kind, f"one of {', '.join(KINDS)}{close_to(str(kind), list(KINDS))}")
    if not isinstance(fact, str) or not fact.strip() or {dict, list} & set(FACT_TYPES.get(fact, ())):
        wanted = "the key of a fact that is a text, a number, true or false"
        raise _fault(f"{where}, field fact", fact, wanted)
    for field in ("answers", "yes_no"):
        if field in fields and kind != "choice":
            raise _fault(f"{where}, field {field}", fields[field], f"no such field: kind {kind} has none")
    questions = _texts(fields, "questions", where, {"{options}"} if kind == "choice" else set())
    answers = _texts(fields, "answers", where, None)
    yes_no = _texts(fields, "yes_no", where, {"{answer}"})
    if not questions:
        raise _fault(f"{where}, field questions", fields.get("questions"), "one question or more")
    if "answers" in fields and not 2 <= len(answers) <= MAX_ANSWERS:
        raise _fault(f"{where}, field answers", fields["answers"], f"2 to {MAX_ANSWERS} answers, or no such field")
    if "yes_no" in fields and (len(yes_no) != 1 or "{answer}" not in yes_no[0]):
        raise _fault(f"{where}, field yes_no", fields["yes_no"], "one question with {answer} in it")
    return OwnTask(name, kind, fact, questions, answers, "".join(yes_no))


def _texts(fields: Mapping[str, Any], field: str, where: str, placeholders: set[str] | None) -> tuple[str, ...]:
    """A field's texts, a text alone counting as a list of one; only these placeholders may occur (None: any text)."""
    rows = fields.get(field) or []
    texts = []
    for row in rows if isinstance(rows, list) else [rows]:
        text = _text(row)
        if text is None or (placeholders is not None and not isinstance(row, str)):
            hint = "; put quotes around a text with a colon or a brace" if isinstance(row, dict) else ""
            raise _fault(f"{where}, field {field}", row, f"text of 1 to {MAX_TEXT} characters{hint}")
        if placeholders is not None and (strange := set(re.findall(r"\{[^}]*\}?", text)) - placeholders):
            wanted = f"no braces but {placeholders.copy().pop()}" if placeholders else "no braces"
            raise _fault(f"{where}, field {field}", sorted(strange)[0], wanted)
        if text.casefold() in map(str.casefold, texts):
            raise _fault(f"{where}, field {field}", text, "each text once")
        texts.append(text)
    return tuple(texts)


def _fault(where: str, found: object, expected: str) -> ParameterError:
    return ParameterError(f"{where}: found {found!r:.80}, expected {expected}")
