"""EMDIV: the benchmark of MTIVE (Appendix C), built from any catalogue whose facts are known.

Tasks AE, DD, PM, EX, PT, PP and the catalogue's own (own.py), each as gen (the canonical open question), aug (diverse
paraphrases) and bin (yes or no). A photo has the split of its feedback_id, else of its product. Splits by product share no product. Splits by photo
(the grocery photos) share catalogue photos, but no customer photo.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from mtive_nb.data.catalogue import Catalogue
from mtive_nb.data.customer_photos import CustomerPhoto, known_truth, photos_by_split, split_negatives
from mtive_nb.data.emdiv import tasks
from mtive_nb.data.emdiv.questions import AE_ATTRIBUTES
from mtive_nb.data.emdiv.tasks import Candidate, Shop
from mtive_nb.data.records import EMDIV_VARIANTS, make_record
from mtive_nb.data.splits import SPLITS

MAKERS: dict[str, Callable[..., tasks.Made]] = {
    "AE": tasks.ae,
    "DD": tasks.dd,
    "PM": tasks.pm,
    "EX": tasks.ex,
    "PT": tasks.pt,
    "PP": tasks.pp,
}
COVERAGE_COLUMNS = ["task", "variant", "split", "outcome", "photos"]
FEW = 30  # with fewer test questions, an interval says little
FEW_VAL = 20  # with fewer validation questions, nothing can be calibrated or compared


@dataclass(frozen=True)
class Emdiv:
    """The records, and how many photos each task used or skipped, with the reason."""

    records: list[dict]
    coverage: pd.DataFrame


def build_emdiv(
    catalogue: Catalogue,
    *,
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    aug_per_photo: int = 2,
    hard_share: float = 1.0,
    makers: Mapping[str, Callable[..., tasks.Made]] | None = None,
) -> Emdiv:
    """Build the records; the same arguments give the same records.

    splits: id of a product or feedback -> split; default: the source's own splits, else `split_products`.
    counts: maximum number of records by "TASK/variant/split", "TASK/variant" or "TASK" (for each of its variants and
    splits). The most specific key applies; a task without a key is not built. None: no limit.
    hard_share: share of PM's negatives that are TF-IDF hard; the others are random.
    makers: task -> the function that makes its questions; other benchmarks of the same tasks have their own. Default:
    MAKERS and the catalogue's own tasks.
    """
    if makers is None:
        makers = MAKERS | {name: partial(tasks.own, task=task) for name, task in catalogue.tasks.items()}
    _check(counts, known={*MAKERS, *makers}, hard_share=hard_share, aug_per_photo=aug_per_photo)
    photos = photos_by_split(catalogue, splits)
    records: list[dict] = []
    coverage: Counter[tuple[str, str, str, str]] = Counter()
    for split in SPLITS:
        shop = _shop(catalogue, photos[split], hard_share=hard_share)
        for task in makers:
            for variant in EMDIV_VARIANTS:
                limit = _limit(counts, task, variant, split)
                own = catalogue.tasks.get(task)
                if not photos[split] or limit == 0 or (own and variant not in own.variants):
                    continue
                # Each part has its own generator: a new count for one task changes no other task, nor does a new task.
                place = zlib.crc32(task.encode()) if own else list(makers).index(task)
                rng = np.random.default_rng([seed, place, EMDIV_VARIANTS.index(variant), SPLITS.index(split)])
                times = aug_per_photo if variant == "aug" else 1
                given = {"rng": rng, "shop": shop, "times": times, "coverage": coverage}
                made = _candidates(photos[split], makers[task], (task, variant), **given)
                chosen = _choose(made, limit, rng)
                coverage[task, variant, split, "used"] += len({photo.path for photo, _ in chosen})
                records += _records(catalogue.name, chosen, task, variant, split)
    rows = [(*key, n) for key, n in coverage.items()]
    return Emdiv(records, pd.DataFrame(rows, columns=COVERAGE_COLUMNS))


def statistics(records: list[dict]) -> pd.DataFrame:
    """Count records by task and variant, in the columns of MTIVE's Table 7 (and Val, if any), with a total."""
    names = {"train": "Train", "val": "Val", "test": "Test"}
    cells = Counter((record["task"], record["variant"], record["split"]) for record in records)
    columns = [split for split in SPLITS if split != "val" or any(key[2] == "val" for key in cells)]
    parts = dict.fromkeys((task, variant) for task in MAKERS for variant in EMDIV_VARIANTS)
    parts |= dict.fromkeys(key[:2] for key in cells)
    rows = []
    for task, variant in parts:
        numbers = [cells[task, variant, split] for split in columns]
        if any(numbers):
            rows.append((task, variant.capitalize() + "." if variant in EMDIV_VARIANTS else variant, *numbers))
    rows.append(("Total", "", *(sum(row[2 + k] for row in rows) for k in range(len(columns)))))
    return pd.DataFrame(rows, columns=["Task", "Variant", *(names[split] for split in columns)])


def _shop(catalogue: Catalogue, photos: list[CustomerPhoto], *, hard_share: float) -> Shop:
    values: dict[str, set[str]] = {name: set() for name in AE_ATTRIBUTES}
    coarse: dict[tuple[str, str], set[str]] = defaultdict(set)
    groups = {product.product_id: product.coarse for product in catalogue.products}
    tables = [(product.product_id, product.attributes) for product in catalogue.products]
    tables += [(row.product_id, known_truth(row.facts)) for row in catalogue.feedback]
    for product_id, attributes in tables:
        for name in set(AE_ATTRIBUTES) & set(attributes):
            values[name].add(attributes[name])
            coarse[name, groups[product_id]].add(attributes[name])
    return Shop(
        values={name: sorted(found) for name, found in values.items()},
        coarse_values={key: sorted(found) for key, found in coarse.items()},
        packagings=tasks.packagings_of(catalogue.feedback),
        negatives=split_negatives(catalogue, photos),
        root=catalogue.root,
        hard_share=hard_share,
    )


def tasks_with_questions(records: Iterable[dict], tasks: Iterable[str]) -> list[str]:
    """The tasks that have training and test records, so that an expert can be trained and scored, in their order.

    Errors: ValueError when no task is left.
    """
    have = {(record["task"], record["split"]) for record in records}
    asked = list(tasks)
    usable = [task for task in asked if {(task, "train"), (task, "test")} <= have]
    if not usable:
        raise ValueError(
            f"tasks {', '.join(asked)}: found none with both training and test questions; add facts, or products, to "
            "the catalogue. The table of questions in notebook 01, and mtive-nb check FOLDER, give the reasons"
        )
    return usable


def question_table(emdiv: Emdiv, tasks: Iterable[str]) -> pd.DataFrame:
    """Count the questions of each task by split; `note` says why a task has none, or too few to conclude from.

    Columns: task, train, val, test, note.
    """
    counts = Counter((record["task"], record["split"]) for record in emdiv.records)
    skipped = emdiv.coverage[emdiv.coverage["outcome"] != "used"]
    rows = []
    for task in tasks:
        numbers = {split: counts[task, split] for split in SPLITS}
        reasons = skipped[skipped["task"] == task].groupby("outcome")["photos"].max()
        note = ""
        if not numbers["train"] or not numbers["test"]:
            missing = "or".join(f" {split} " for split in ("train", "test") if not numbers[split]).strip()
            why = f"{reasons.idxmax()} ({reasons.max()} photos)" if len(reasons) else "no photo, or none asked for"
            note = f"left out, no {missing} questions: {why}"
        else:
            few = [f"{numbers['test']} test questions, too few to conclude"] if numbers["test"] < FEW else []
            few += [f"{numbers['val']} validation questions, too few to calibrate"] if numbers["val"] < FEW_VAL else []
            note = "; ".join(few)
        rows.append({"task": task, **numbers, "note": note})
    return pd.DataFrame(rows, columns=["task", *SPLITS, "note"])


Chosen = list[tuple[CustomerPhoto, Candidate]]


def _candidates(
    photos: list[CustomerPhoto],
    maker: Callable[..., tasks.Made],
    form: tuple[str, str],
    *,
    rng: np.random.Generator,
    shop: Shop,
    times: int,
    coverage: Counter[tuple[str, str, str, str]],
) -> list[Chosen]:
    """The candidates of each photo, photos in random order; no photo gets the same question twice."""
    made = []
    for index in rng.permutation(len(photos)):
        photo, own = photos[int(index)], {}
        for _ in range(times):
            found = maker(photo, form[1], rng=rng, shop=shop)
            if isinstance(found, str):
                coverage[(*form, photo.split, found)] += 1
                break
            own |= {(one.question, one.answer, one.images): (photo, one) for one in found}
        made.append(list(own.values()))
    return made


def _choose(made: list[Chosen], limit: float, rng: np.random.Generator) -> Chosen:
    """Choose at most `limit` candidates; half of the labels of each group are no or none."""
    # Each photo's first candidate comes before any photo's second, so that a limit keeps many photos.
    depth = max((len(own) for own in made), default=0)
    flat = [own[k] for k in range(depth) for own in made if k < len(own)]
    groups: dict[tuple[str | None, bool], Chosen] = defaultdict(list)
    for pair in flat:
        groups[pair[1].group, bool(pair[1].group) and pair[1].label in ("no", "none")].append(pair)
    plain = groups.pop((None, False), [])
    pairs = []
    for group in sorted({name for name, _ in groups}):
        yes, no = groups[group, False], groups[group, True]
        # Yes and no are shuffled separately, so that a limit does not keep the same photos in both.
        orders = [rng.permutation(len(side)) for side in (yes, no)]
        pairs += [(yes[int(a)], no[int(b)]) for a, b in zip(*orders, strict=False)]
    available = len(plain) + 2 * len(pairs)
    room = int(min(limit, available))
    kept = room * len(pairs) // max(1, available)  # a limit cuts both kinds of question alike
    both = [pair for index in rng.permutation(len(pairs))[:kept] for pair in pairs[int(index)]]
    chosen = plain[: room - 2 * kept] + both
    return [chosen[int(index)] for index in rng.permutation(len(chosen))]


def _records(source: str, chosen: Chosen, task: str, variant: str, split: str) -> list[dict]:
    records, seen = [], Counter()
    for photo, one in chosen:
        feedback_id = photo.feedback.feedback_id
        record_id = f"{task}-{variant}/{source}/{feedback_id}/{seen[feedback_id]}"
        seen[feedback_id] += 1
        records.append(
            make_record(
                record_id,
                product_id=photo.product.product_id,
                task=task,
                variant=variant,
                images=one.images,
                question=one.question,
                answer=one.answer,
                label=one.label,
                facts={"asked": one.asked, "known": one.known | {k: v for k, v in one.asked.items() if k != "differs"}},
                source=source,
                split=split,
            )
        )
    return records


def _limit(counts: Mapping[str, int] | None, task: str, variant: str, split: str) -> float:
    if counts is None:
        return math.inf
    keys = (f"{task}/{variant}/{split}", f"{task}/{variant}", task)
    return next((counts[key] for key in keys if key in counts), 0)


def _check(counts: Mapping[str, int] | None, *, known: set[str], hard_share: float, aug_per_photo: int) -> None:
    if not 0 <= hard_share <= 1 or aug_per_photo < 1:
        found = f"hard_share={hard_share}, aug_per_photo={aug_per_photo}"
        raise ValueError(f"build_emdiv: found {found}; expected a share from 0 to 1 and at least 1 question per photo")
    parts = (tuple(sorted(known)), EMDIV_VARIANTS, SPLITS)
    for key, number in (counts or {}).items():
        words = key.split("/")
        right = len(words) <= 3 and all(word in allowed for word, allowed in zip(words, parts, strict=False))
        if not right or number < 0:
            wanted = f"TASK/variant/split of {parts} and a number of 0 or more"
            raise ValueError(f"build_emdiv: counts has {key!r}: {number}; expected {wanted}")
