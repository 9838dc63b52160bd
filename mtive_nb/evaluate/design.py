"""The registered design: for each claim of the papers its kind, arms, unit of resampling, runs, n, limits and searches.

`design.yaml` is written before the runs that it governs, and its head explains the fields. `load_design` checks it:
every claim has one place, and each entry has what its relation needs. The board decides by it (`evaluate/claims.py`).
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

KINDS = {
    "exact": "structural or exact",
    "trained": "trained v. untrained",
    "comparative": "comparative",
}
_FILE = Path(__file__).with_name("design.yaml")
_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}
_OBJECT, _TEXTS = {"type": "object"}, {"type": "array", "items": _TEXT}


def _closed(**fields: Any) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields."""
    return {"type": "object", "additionalProperties": False, "required": list(fields), "properties": fields}


_DATE = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}
_COUNTS = dict.fromkeys(("products", "questions"), _COUNT) | {"runs": {"type": "integer", "minimum": 1}}
_MANY = {"type": "object", "additionalProperties": _OBJECT}
_PARTS = {
    "profiles": _TEXTS,
    "curves": _closed(
        chapter=_TEXT, records={"type": "array"}, tasks=_TEXTS, **_COUNTS, smallest=_NUMBER, since=_DATE, why=_TEXT
    ),
    "defaults": _OBJECT, "kinds": _MANY, "claims": _MANY, "if_here": _MANY,
    "one_run": _closed(chapters=_TEXTS, since=_DATE, why=_TEXT),
    "not_searched": _OBJECT | {"additionalProperties": _TEXT},
    "further": {"type": "array", "items": _closed(chapter=_TEXT, arms=_TEXTS, since=_DATE, why=_TEXT)},
    "changes": {"type": "array", "items": _closed(date=_DATE, what=_TEXT, why=_TEXT)},
    "not_here": _OBJECT | {"additionalProperties": _TEXTS},
}  # fmt: skip
# JSON Schemas of the file, and of an entry with its defaults filled in.
DESIGN = _closed(**_PARTS)
ENTRY = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind", "chapters", "arms", "unit", "drawn", "runs", "products", "questions", "trials"],
    "properties": {
        "kind": {"enum": list(KINDS)},
        "chapters": _TEXTS | {"minItems": 1},
        "arms": _TEXTS | {"minItems": 2, "maxItems": 2},
        "unit": _TEXT,
        "drawn": {"enum": ["product", "item", "round", "none"]},
        **_COUNTS,
        "trials": _COUNT,
        **dict.fromkeys(("smallest", "tolerance", "bound"), _NUMBER),
    },
}


class DesignError(ValueError):
    """Raised if design.yaml does not fit claims.yaml or its own rules; names the claim, the field, found and expected."""


@dataclass(frozen=True)
class Design:
    """How one claim is decided; the head of design.yaml explains the fields."""

    claim: str
    kind: str
    chapters: tuple[str, ...]
    arms: tuple[str, str]
    unit: str
    drawn: str
    runs: int
    products: int
    questions: int
    trials: int
    smallest: float | None = None
    tolerance: float | None = None
    bound: float | None = None

    def in_words(self) -> str:
        """Return the entry in one line, for the report."""
        parts = [f"{self.arms[0]} v. {self.arms[1]}", self.unit, f"{self.runs} run{'s' if self.runs > 1 else ''}"]
        parts += [] if self.drawn == "none" else [f"drawn by {self.drawn}"]
        least = f"{self.products:,} products and {self.questions:,} questions per task at least"
        parts += [least] if self.questions else []
        parts += [f"at least {self.trials} settings an arm searched on val"] if self.trials else []
        limits = {"tolerance": self.tolerance, "bound": self.bound, "smallest effect of interest": self.smallest}
        parts += [f"{name} {value:g}" for name, value in limits.items() if value is not None]
        return ", ".join(parts)


def shortfall(asked: Mapping[str, Any], *, runs: int, products: int | None, questions: int) -> str:
    """Return what a result lacks of the runs, test products and questions per task of `asked`, or an empty text.

    products: None where they were not counted, which is said.
    """
    found = {"runs": runs, "products": products, "questions": questions}
    names = {"questions": "questions per task"}
    return ", ".join(
        f"{'an unknown number' if is_ is None else f'{is_:,}'} of {asked[what]:,} {names.get(what, what)}"
        for what, is_ in found.items()
        if asked[what] and (is_ is None or is_ < asked[what])
    )


@dataclass(frozen=True)
class Registered:
    """The whole design: entries by claim, the profiles of the runs, the learning curves, and claims by what they need.

    if_here: entries of claims in `not_here`, which a chapter decides once a user gives it what they need. further: what
    chapters measure beside the claims.
    """

    claims: Mapping[str, Design]
    profiles: tuple[str, ...]
    curves: Mapping[str, Any]
    not_here: Mapping[str, tuple[str, ...]]
    if_here: Mapping[str, Design]
    further: tuple[Mapping[str, Any], ...]

    def find(self, claim: str) -> Design | None:
        """Return a claim's entry, also one of `if_here`, or None."""
        return self.claims.get(claim) or self.if_here.get(claim)


@cache
def papers_claims() -> tuple[dict[str, Any], ...]:
    """Load every claim of the four papers, as claims.yaml has it."""
    return tuple(yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8")))


@cache
def load_design() -> Registered:
    """Load and check design.yaml. Errors: DesignError."""
    return read_design(yaml.safe_load(_FILE.read_text(encoding="utf-8")), papers_claims())


def read_design(raw: Mapping[str, Any], claims: tuple[dict[str, Any], ...]) -> Registered:
    """Return the design that `raw`, the content of a design.yaml, describes for `claims`. Errors: DesignError."""
    _check("design.yaml", raw, DESIGN)
    by_id = {claim["id"]: claim for claim in claims}
    not_here = {need: tuple(ids) for need, ids in raw["not_here"].items()}
    places = [*raw["claims"], *(claim for ids in not_here.values() for claim in ids)]
    if unknown := sorted(set(places) - by_id.keys()):
        raise DesignError(f"design.yaml: found {unknown}; claims.yaml has no such claim")
    if twice := sorted({claim for claim in places if places.count(claim) > 1}):
        raise DesignError(f"design.yaml: found {twice} twice; expected one place, in claims or in not_here")
    if absent := sorted(by_id.keys() - set(places)):
        raise DesignError(f"design.yaml: {absent} missing; expected an entry in claims, or a place in not_here")
    if missing := sorted(raw["if_here"].keys() - {claim for ids in not_here.values() for claim in ids}):
        raise DesignError(f"design.yaml, if_here: found {missing}; expected claims of not_here")
    entries, if_here = (
        {name: _entry(name, own, raw, by_id[name]["test"]) for name, own in raw[part].items()}
        for part in ("claims", "if_here")
    )
    profiles = tuple(raw["profiles"])
    if wide := [e.claim for e in entries.values() if e.runs > len(profiles)]:
        raise DesignError(f"design.yaml, {wide[0]}: runs above the {len(profiles)} profiles")
    given = {e.claim.split("-")[0] for e in entries.values() if e.kind == "comparative" and not e.trials}
    if silent := sorted(given - raw["not_searched"].keys()):
        raise DesignError(f"design.yaml, not_searched: {silent} missing; expected why their arms have no search")
    return Registered(entries, profiles, raw["curves"], not_here, if_here, tuple(raw["further"]))


def _entry(name: str, own: Mapping[str, Any], raw: Mapping[str, Any], test: Mapping[str, Any]) -> Design:
    """Return a claim's entry: its own fields, then one run, its kind's, the defaults. Errors: DesignError."""
    once = {"runs": 1} if set(own.get("chapters", ())) & set(raw["one_run"]["chapters"]) else {}
    found = raw["defaults"] | raw["kinds"].get(own.get("kind"), {}) | once | own
    _check(f"design.yaml, {name}", found, ENTRY)
    needed = {"about_equal": {"tolerance"}, "at_most_factor": {"bound"}}.get(test["relation"], set())
    if needed or found["kind"] == "exact":
        found.pop("smallest", None)  # its limit says what matters
    if (given := {"tolerance", "bound"} & found.keys()) != needed:
        raise DesignError(
            f"design.yaml, {name}: found limits {sorted(given)}, {test['relation']} needs {sorted(needed)}"
        )
    return Design(name, **found | {key: tuple(found[key]) for key in ("chapters", "arms")})


def _check(place: str, found: Any, schema: Mapping[str, Any]) -> None:
    """Compare content with a schema. Errors: DesignError with place, field, found and expected."""
    if error := best_match(Draft202012Validator(schema).iter_errors(found)):
        field = ".".join(map(str, error.absolute_path))
        raise DesignError(f"{place}{field and f', {field}'}: {error.message}")


def registered_at() -> str:
    """Return when design.yaml was last changed, as "commit, date", or "not known" outside a git checkout."""
    words = ["git", "log", "-1", "--format=%h, %cs", "--", _FILE.name]
    changed = ["git", "status", "--porcelain", "--", _FILE.name]
    try:
        done, open_ = (
            subprocess.run(w, cwd=_FILE.parent, capture_output=True, text=True, timeout=20) for w in (words, changed)
        )
    except (OSError, subprocess.TimeoutExpired):
        return "not known"
    commit = done.stdout.strip() if done.returncode == 0 else ""
    return f"{commit}{' and changed since' if open_.stdout.strip() else ''}" if commit else "not known"
