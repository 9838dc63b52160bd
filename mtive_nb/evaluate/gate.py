"""The gate before the experts: what stages 1 and 2 must have taught, and how well-formed an answer is."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mtive_nb.data.dates import parse_date
from mtive_nb.data.instructions.build import UNCERTAIN
from mtive_nb.evaluate.intervals import Interval, wilson_interval
from mtive_nb.evaluate.predict import CUT
from mtive_nb.evaluate.reading import is_abstention, normalise_answer
from mtive_nb.run.metrics import read_metrics

TABLE = "gate"  # of the metrics
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Part:
    """One condition: a number must reach `needed`; where the part is `strict`, its whole interval must lie above."""

    needed: float
    unit: str
    strict: bool = False

    def met(self, found: Interval) -> bool:
        return found.low > self.needed if self.strict else found.value >= self.needed


# Registered before the stages were searched.
FALL_1, FALL_2 = "held-out loss of stage 1, fall", "held-out loss of stage 2, fall"
FORMED_1, FORMED_2 = "well-formed answers after stage 1", "well-formed answers after stage 2"
EXAM_1, EXAM_2 = "the base's exam after stage 1, change", "the base's exam after stage 2, change"
OVER_ZERO_SHOT = "MTIVE_IT over zero-shot, "  # a task follows
GATE = {
    FALL_1: Part(30.0, "%"),
    FALL_2: Part(40.0, "%"),
    FORMED_1: Part(95.0, "%"),
    FORMED_2: Part(95.0, "%"),
    EXAM_1: Part(-3.0, "points"),
    EXAM_2: Part(-3.0, "points"),
    **{f"{OVER_ZERO_SHOT}{task}": Part(0.0, "points", strict=True) for task in ("AE", "DD", "PM", "EX")},
}


def gate_table(found: Mapping[str, Interval]) -> pd.DataFrame:
    """Return the gate's parts that were measured: part, found, low, high, needed, unit, met, n.

    A number that is NaN was not measured. A task that GATE does not name has the other tasks' condition.
    Errors: KeyError for an unknown part.
    """
    rows = []
    for name, number in found.items():
        part = GATE[f"{OVER_ZERO_SHOT}AE" if name.startswith(OVER_ZERO_SHOT) else name]
        if not math.isnan(number.value):
            needed = f"{'interval above' if part.strict else 'at least'} {part.needed:g}"
            ends = number.value, number.low, number.high
            rows.append((name, *ends, needed, part.unit, part.met(number), number.n))
    return pd.DataFrame(rows, columns=["part", "found", "low", "high", "needed", "unit", "met", "n"])


def recorded_gate(*folders: Path) -> pd.DataFrame:
    """Return gate_table of what chapters recorded in the table "gate" of their run folders."""
    lines = [line for folder in folders for line in read_metrics(Path(folder)) if line["table"] == TABLE]
    return gate_table({line["row"]: _interval_of(line) for line in lines})


def _interval_of(line: Mapping[str, Any]) -> Interval:
    low, high = (math.nan if line[end] is None else line[end] for end in ("low", "high"))
    return Interval(line["value"], low, high, line["n"])


def gate_sentence(gate: pd.DataFrame) -> str:
    """Return a gate_table as a sentence: met, or the parts that are not, with found and needed numbers."""
    if gate.empty:
        return "The gate was not measured."
    missed = [f"{r.part}: {r.found:.1f} {r.unit}, needed {r.needed}" for r in gate.itertuples() if not r.met]
    if not missed:
        return f"The gate is met in all {len(gate)} measured parts."
    return f"The gate is not met in {len(missed)} of {len(gate)} measured parts ({'; '.join(missed)})."


@dataclass(frozen=True)
class Fall:
    """Mean loss on `n` held-out records before and after a stage, in nats per token; NaN without records."""

    start: float
    end: float
    n: int

    @property
    def percent(self) -> float:
        """By how many per cent of its start the loss fell; negative where it rose."""
        return 100 * (self.start - self.end) / self.start

    def table(self) -> pd.DataFrame:
        """Return start, end and fall as rows for a run's metrics: column, value, unit, better, n."""
        rows = [
            ("held-out loss, start", self.start, "nats", "lower", self.n),
            ("held-out loss, end", self.end, "nats", "lower", self.n),
            ("held-out loss, fall", self.percent, "%", "higher", self.n),
        ]
        return pd.DataFrame(rows, columns=["column", "value", "unit", "better", "n"])

    def interval(self) -> Interval:
        """Return the fall in per cent as a number of the gate; it has no interval."""
        return Interval(self.percent, math.nan, math.nan, self.n)

    def __str__(self) -> str:
        if not self.n:
            return "No record is held out (split val), so no loss was measured"
        verb = "fell" if self.end < self.start else "rose"
        return (
            f"The held-out loss {verb} from {self.start:.2f} to {self.end:.2f} nats per token ({-self.percent:+.0f}%)"
        )


def shop_words(records: Iterable[Mapping[str, Any]], vocabulary: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Return the words of the records' answers and of a vocabulary's values, in lower case."""
    texts = [r["answer"] for r in records] + [str(value) for values in vocabulary.values() for value in values]
    return frozenset(word for text in texts for word in _WORD.findall(text.lower()))


def well_formed(record: Mapping[str, Any], answer: str, words: frozenset[str]) -> bool:
    """Return whether an answer has the form that the record asks for, whatever it states.

    It ended by itself (CUT), is not empty, and is made of `words` and numbers. Where the true answer is JSON, it is a
    JSON object; where that is yes or no, it is yes or no; where that is a date, it can be read as one. An abstention
    fits everywhere but in place of JSON.
    """
    said, truth = set(_WORD.findall(answer.lower())), record["answer"]
    if answer.endswith(CUT) or not re.search(r"\w", answer) or not said <= words:
        return False
    if truth.startswith("{"):
        return _is_object(answer)
    plain, wanted = normalise_answer(answer), normalise_answer(truth)
    if is_abstention(plain) or plain == UNCERTAIN:
        return True
    if wanted in ("yes", "no"):
        return plain in ("yes", "no")
    return parse_date(truth) is None or parse_date(answer) is not None


def well_formed_percent(records: list[dict], answers: list[str], words: frozenset[str]) -> Interval:
    """Return the share of well-formed answers in per cent, with Wilson's interval; NaN without records."""
    if not records:
        return Interval(math.nan, math.nan, math.nan, 0)
    return wilson_interval(sum(map(well_formed, records, answers, [words] * len(records))), len(records)).times(100)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
