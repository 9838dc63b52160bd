"""The rule-based judge: accuracy, relevancy and hallucination of an answer against structured truth.

A named stand-in for the paper's judge, Claude Sonnet 4.5 (MTIVE, section 4.2 and appendix F). Differences:
- T12's judge sees the photo and scores accuracy and relevancy 1-10. The rule-based judge compares statements with the
  record's facts and scores 0-100. The paper does not say how 1-10 became the points of T1, so levels do not compare.
- T11's judge labels segments, and the paper does not say how labels become a score. Here hallucination is a share of
  statements.
- A statement about something outside the facts counts as inaccurate, even if the photo shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import pandas as pd

from mtive_nb.data.dates import parse_date
from mtive_nb.evaluate.metrics import (
    DATE_ATTRIBUTES,
    accepted_dates,
    accepted_values,
    facts_of,
    printed_date,
)
from mtive_nb.evaluate.reading import UNANSWERABLE, is_abstention, normalise_answer
from mtive_nb.evaluate.statements import Segment, Statement, StatementReader, Vocabulary, vocabulary_of

ACCURATE, ANALYSIS, INACCURATE = "accurate", "analysis", "inaccurate"
_NO_DAMAGE = {"none", "no", "no damage", UNANSWERABLE}


@dataclass(frozen=True)
class Judgement:
    """A judge's result for one answer: scores in [0, 100], counts of statements, and each segment with its label.

    accuracy: share of asked facts that are stated correctly (with a correct statement and no wrong statement).
    relevancy: number of asked attributes that the answer addresses, correctly or not, divided by the number of asked
      attributes plus extra attributes (absent from the question and from the correct answer).
    hallucination: share of distinct statements that are inaccurate. An answer without statements scores 0, so read
      hallucination together with accuracy.
    """

    accuracy: float
    relevancy: float
    hallucination: float
    statements: int
    inaccurate: int
    segments: tuple[tuple[str, str], ...] = ()  # (text, accurate | analysis | inaccurate)


class Judge(Protocol):
    """Anything that judges one answer to one record."""

    name: str

    def judge(self, record: Mapping[str, Any], answer: str) -> Judgement: ...


class RuleJudge:
    """Judges by rule with one vocabulary (attribute -> possible values)."""

    name = "rule-based judge (stand-in)"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._reader = StatementReader(vocabulary)

    def judge(self, record: Mapping[str, Any], answer: str) -> Judgement:
        """Judge an answer to a record with facts. Errors: ValueError for a record without facts."""
        facts = facts_of(record)
        if facts is None:
            raise ValueError(
                f"judge: record {record.get('id')!r} has no facts['asked']; judge generative and augmented records only"
            )
        asked, known = facts
        truth = truth_of(asked, known=known)
        reference = str(record.get("answer") or "")
        segments = self._reader.read(answer, asked=asked, truth=truth, reference=reference)
        right = self._reader.read(reference, asked=asked, truth=truth, reference=reference)
        verdicts = {c: label_of_statement(c, truth, asked=asked, known=known) for s in segments for c in s.statements}
        expected = set(asked) | {statement.attribute for segment in right for statement in segment.statements}
        stated = {statement.attribute for statement in verdicts}
        wrong = sum(v == INACCURATE for v in verdicts.values())
        return Judgement(
            accuracy=100 * sum(_rightly_stated(name, verdicts) for name in asked) / len(asked),
            relevancy=100 * len(stated & set(asked)) / (len(asked) + len(stated - expected)),
            hallucination=100 * wrong / max(len(verdicts), 1),
            statements=len(verdicts),
            inaccurate=wrong,
            segments=tuple((segment.text, label_of(segment, verdicts)) for segment in segments),
        )


class LetterJudge:
    """The simplest judge: an answer is correct when it equals the reference after `normalise_answer`.

    A team's judge before a better judge exists: no synonyms, no paraphrases, no partial credit.
    """

    name = "letter by letter (stand-in)"

    def judge(self, record: Mapping[str, Any], answer: str) -> Judgement:
        """Judge an answer with all points or none.

        An empty answer or a wrong "cannot tell" scores 0 for relevancy and for hallucination.
        """
        said, right = normalise_answer(answer), normalise_answer(str(record["answer"]))
        spoke = bool(said) and (said == right or not is_abstention(said))
        wrong = int(spoke and said != right)
        return Judgement(100.0 * (said == right), 100.0 * spoke, 100.0 * wrong, statements=int(spoke), inaccurate=wrong)


def truth_of(asked: Mapping[str, Any], *, known: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the normalised accepted values of each attribute; each value of a list is correct (two photos)."""
    truth: dict[str, set[str]] = {}
    for facts in (known, asked):
        for name, value in facts.items():
            stem = name.removesuffix("_iso").removesuffix("_also")
            if stem != name and stem in DATE_ATTRIBUTES:
                continue
            values = accepted_values(value)
            if name == "differs":
                values = [part for text in values for part in str(text).split(",")]
            texts = {"yes" if v is True else "no" if v is False else normalise_answer(v) for v in values}
            truth.setdefault(name, set()).update(texts)
    # A sound product has no kind of damage, whether or not the facts spell it out.
    if "damage" in truth and truth["damage"] & _NO_DAMAGE:
        truth["damage"] |= _NO_DAMAGE
    return truth


def label_of_statement(
    statement: Statement, truth: Mapping[str, set[str]], *, asked: Mapping[str, Any], known: Mapping[str, Any]
) -> str:
    """Return T11's label of a statement: accurate, inaccurate, or analysis (`Unanswerable` where an answer exists)."""
    accepted = truth.get(statement.attribute)
    if accepted and statement.value in accepted:
        return ACCURATE
    if is_abstention(statement.value):
        return ACCURATE if accepted and any(map(is_abstention, accepted)) else ANALYSIS
    if accepted and statement.attribute in DATE_ATTRIBUTES:
        printed = printed_date(statement.value) in {printed_date(value) for value in accepted}
        same_day = parse_date(statement.value) in accepted_dates(statement.attribute, asked=asked, known=known)
        return ACCURATE if printed or same_day else INACCURATE
    return INACCURATE


def label_of(segment: Segment, verdicts: Mapping[Statement, str]) -> str:
    """Label a segment: inaccurate with any inaccurate statement, else accurate with any accurate one, else analysis."""
    labels = {verdicts[statement] for statement in segment.statements}
    return next((label for label in (INACCURATE, ACCURATE) if label in labels), ANALYSIS)


def _rightly_stated(name: str, verdicts: Mapping[Statement, str]) -> bool:
    labels = {label for statement, label in verdicts.items() if statement.attribute == name}
    return ACCURATE in labels and INACCURATE not in labels


def judge_all(
    records: Iterable[Mapping[str, Any]],
    answers: Sequence[str],
    vocabulary: Vocabulary | None = None,
    *,
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Judge one answer per record; a row per answer, in order: id, product_id, task, variant, fields of `Judgement`.

    Errors: ValueError when the numbers of records and answers differ.
    """
    records = list(records)
    if len(records) != len(answers):
        raise ValueError(f"judge_all: {len(answers)} answers for {len(records)} records; expected one each")
    judge = judge or RuleJudge(vocabulary_of(records) if vocabulary is None else vocabulary)
    keys = ("id", "product_id", "task", "variant")
    rows = [
        {key: record[key] for key in keys} | asdict(judge.judge(record, answer))
        for record, answer in zip(records, answers, strict=True)
    ]
    return pd.DataFrame(rows, columns=None if rows else [*keys, *(field.name for field in fields(Judgement))])
