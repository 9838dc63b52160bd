"""How probable is an expert's answer? Among the options of its task, with the temperatures that chapter 07 fitted."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtive_nb.data.emdiv.build import FEW_VAL
from mtive_nb.data.emdiv.own import OwnTask
from mtive_nb.data.rows import PACKAGINGS, PLACEMENTS
from mtive_nb.evaluate.probability import KINDS, YES_NO, Options, follow, option_of
from mtive_nb.run.content import read_json
from mtive_nb.run.graph import find_run

# In the run folder of chapter 07: {task: {kind: {"expert": sha256, "temperature": t, "n": answers, "options": names}}}.
CALIBRATION = "calibration.json"


def classes_of(own: Mapping[str, OwnTask]) -> dict[str, tuple[str, ...]]:
    """Return the answers of each task that chooses among classes, also of own tasks.

    Chapter 07 notes those that a profile's own records have.
    """
    return {"PT": PACKAGINGS, "PP": PLACEMENTS} | {name: task.answers for name, task in own.items()}


class Chances:
    """Probabilities of answers among the options of their task, with the temperatures of chapter 07."""

    def __init__(
        self,
        tokens_of: Callable[[Sequence[str]], Options],
        calibration: Mapping[str, Mapping],
        own: Mapping[str, OwnTask],
    ) -> None:
        self.tokens_of, self.calibration = tokens_of, calibration
        self.classes = classes_of(own)
        self._options: dict[tuple[str, ...], Options] = {}

    def of(
        self, task: str, sha256: str, *, text: str, tokens: Sequence[int], logits: Sequence
    ) -> tuple[float | None, str, bool]:
        """Return an answer's probability, what it is the probability of, and whether it is calibrated.

        logits: of each token of the answer over the vocabulary (V), by token id; log-probabilities do as well.
        """
        for kind in KINDS:
            fitted = self.calibration.get(task, {}).get(kind, {})
            names = YES_NO if kind == "yes/no" else tuple(fitted.get("options") or self.classes.get(task, ()))
            if names not in self._options:
                self._options[names] = self.tokens_of(names)
            options = self._options[names]
            if (option := option_of(text, tokens, options)) is None:
                continue
            choice, calibrated = follow(option, options, logits), _holds(fitted, sha256)
            temperature = fitted["temperature"] if calibrated else 1.0
            if kind == "yes/no":
                return choice.probability_yes(temperature), "yes", calibrated
            return choice.confidence(temperature), option, calibrated
        return None, "", False

    def calibrated(self, task: str, expert: str) -> bool:
        """Return whether any temperature of a task holds for an expert, named by its hash or the first digits of it."""
        return any(_holds(fitted, expert) for fitted in self.calibration.get(task, {}).values())


def _holds(fitted: Mapping, expert: str) -> bool:
    """Whether a temperature was fitted to this expert, on enough answers."""
    return bool(expert) and fitted.get("expert", "").startswith(expert) and fitted["n"] >= FEW_VAL


def read_calibration(profile_dir: Path) -> dict:
    """Return what chapter 07 wrote to calibration.json, or {} where it has not run."""
    evaluation = find_run(profile_dir, "07")
    return read_json(evaluation / CALIBRATION) if evaluation else {}
