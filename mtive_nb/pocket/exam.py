"""The pocket base's exam on held-out general scenes and plain words, its loss on plain texts, and its card."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.evaluate.intervals import Interval, bootstrap_interval, paired_difference
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.load import Vlm
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import held_out_loss
from mtive_nb.pocket.base import CHAT_TEMPLATE, random_words
from mtive_nb.pocket.plain_world import world_text, world_turns
from mtive_nb.pocket.scene_questions import SKILLS, first_question
from mtive_nb.run.processes import spread

EXAM_SEED = 977  # a stream of scenes that no training run uses
WORLD_SEED = 978  # the same for plain words
ALL_SKILLS = "all skills"
CHANGES = ("adapter", "skill", "n", "before", "after", "change", "low", "high")  # of exam_retention


def has_exam(vlm: Vlm) -> bool:
    """Whether a model is a pocket base, which was trained on such scenes: by its chat format and its small vocabulary."""
    own = vlm.model.config.get_text_config().vocab_size == len(vlm.processor.tokenizer)
    return own and vlm.processor.chat_template == CHAT_TEMPLATE


def words_of(vlm: Vlm) -> list[str]:
    """Return the material of text-only questions for a pocket base, the same on every call."""
    return random_words(vlm.processor.tokenizer)


def _record(number: int, turn: tuple[str, str, str], images: list[str]) -> dict:
    """Return a turn (question, answer, skill) as a record; `images` are absolute paths."""
    question, answer, skill = turn
    messages = [user_turn(question, images=len(images)), assistant_turn(answer)]
    return {"id": f"exam{number}", "product_id": "", "task": skill, "variant": "gen", "messages": messages,
            "images": images, "answer": answer}  # fmt: skip


def exam_records(folder: Path, *, n: int, words: list[str], photos: list[np.ndarray] | None = None, world: int = 0,
                 seed: int = EXAM_SEED, processes: int = 1) -> list[dict]:  # fmt: skip
    """Return the first question of `n` held-out scenes as records, then `world` questions with one answer on plain words.

    Writes the scenes' images as PNG under `folder`, by so many processes. `seed` names the stream of scenes: the exam's
    own, unless the scenes are for training (rehearsal.py).
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = partial(first_question, folder=folder.resolve(), seed=seed, photos=photos, words=words)
    drawn = spread(draw, range(n), processes=processes, chunk=64)
    records = [_record(k, turn, images) for k, (turn, images) in enumerate(drawn)]
    for k in range(world):
        turns = [turn for turn in world_turns(np.random.default_rng([WORLD_SEED, k])) if turn[2] != "speak"]
        records.append(_record(n + k, turns[k % len(turns)], []))
    return records


def held_out_texts(n: int) -> list[str]:
    """Return `n` passages of plain English from a stream that no training run uses."""
    return [world_text(np.random.default_rng([WORLD_SEED, 1, k])) for k in range(n)]


def loss_on_texts(vlm: Vlm, texts: list[str]) -> float:
    """Return the mean loss in nats per token when the model writes each text as its answer to an empty question."""
    records = [_record(k, ("", text, "speak"), []) for k, text in enumerate(texts)]
    return held_out_loss(vlm, records)


def character_accuracy(answer: str, truth: str) -> float:
    """Return 1 minus the edit distance divided by the truth's length, at least 0."""
    row = np.arange(len(answer) + 1)
    for i, wanted in enumerate(truth, 1):
        fresh = np.empty_like(row)
        fresh[0] = i
        for j, said in enumerate(answer, 1):
            fresh[j] = min(row[j] + 1, fresh[j - 1] + 1, row[j - 1] + (said != wanted))
        row = fresh
    return max(0.0, 1 - row[-1] / max(1, len(truth)))


def exam_scores(records: list[dict], answers: list[str], *, seed: int = 0) -> pd.DataFrame:
    """Score each skill: exact match with a 95% bootstrap interval, the commonest answer's share, character accuracy."""
    frame = pd.DataFrame(
        {"skill": [r["task"] for r in records], "truth": [r["answer"] for r in records], "answer": answers}
    )
    frame["exact"] = (frame["truth"] == frame["answer"]).astype(float)
    frame["characters"] = [character_accuracy(a, t) for a, t in zip(frame["answer"], frame["truth"], strict=True)]
    rows = []
    for skill in [s for s in SKILLS if s in set(frame["skill"])]:
        part = frame[frame["skill"] == skill]
        interval = bootstrap_interval(part["exact"].to_numpy(), seed=seed)
        majority = part["truth"].value_counts().iloc[0] / len(part)
        rows.append({"skill": skill, "n": len(part), "exact": interval.value, "low": interval.low, "high": interval.high,
                     "always the commonest": majority, "characters": part["characters"].mean()})  # fmt: skip
    return pd.DataFrame(rows)


def exam_retention(stack: LoraStack, adapters: Sequence[str], *, folder: Path, n: int, against: str | None = None) -> pd.DataFrame:  # fmt: skip
    """Return what each adapter, with its parents, changes in the exam, by skill, in points from 0 to 100.

    A row per adapter and skill, then ALL_SKILLS, on the same `n` scenes; columns: CHANGES. `before` is the exact
    match with the adapter `against`, by default that of the bare base; low and high are the paired 95% interval of the
    change. No row for n = 0 or a model that is no pocket base. The last adapter is active afterwards.
    """
    if not n or not has_exam(stack.vlm):
        return pd.DataFrame(columns=CHANGES)
    records, rows = exam_records(folder, n=n, words=words_of(stack.vlm)), []

    def hits(adapter: str | None) -> np.ndarray:
        stack.activate(adapter)
        answers = generate_answers(stack, records, max_new_tokens=48, what=f"exam {adapter or 'base'}")
        return np.array([100.0 * (a == r["answer"]) for a, r in zip(answers, records, strict=True)])

    before, skills = hits(against), np.array([r["task"] for r in records])
    for adapter in adapters:
        after = hits(adapter)
        for skill in (*[s for s in SKILLS if s in skills], ALL_SKILLS):
            kept = (skills == skill) | (skill == ALL_SKILLS)
            change = paired_difference(after[kept], before[kept])
            means = before[kept].mean(), after[kept].mean()
            rows.append((adapter, skill, change.n, *means, change.value, change.low, change.high))
    return pd.DataFrame(rows, columns=CHANGES)


def exam_change(stack: LoraStack, adapter: str, *, folder: Path, n: int) -> pd.DataFrame:
    """Return what one adapter, with its parents, changes in the exam: `exam_retention` without the column adapter."""
    return exam_retention(stack, [adapter], folder=folder, n=n).drop(columns="adapter")


def overall_change(change: pd.DataFrame) -> Interval:
    """Return the row ALL_SKILLS of exam_change as an interval in points; NaN where there was no exam."""
    row = change.set_index("skill").reindex([ALL_SKILLS]).iloc[0]
    return Interval(row["change"], row["low"], row["high"], 0 if math.isnan(row["n"]) else int(row["n"]))


def card(scores: pd.DataFrame, *, parameters: dict[str, int], facts: dict[str, object],
         probes: pd.DataFrame | None = None, seen: dict[str, int] | None = None) -> str:  # fmt: skip
    """Return the base's model card as Markdown: description, parameters, training facts, what it saw, and scores.

    probes: from pocket/probe.py; seen: number of photos by folder.
    """
    probed, counted = pd.DataFrame() if probes is None else probes, seen or {}
    systems = [column for column in probed if column not in ("probe", "metric", "n")]
    lines = [
        "---", "license: apache-2.0", "pipeline_tag: image-text-to-text", "---", "# Pocket base", "",
        "Qwen2.5-VL's architecture and processor at pocket size, trained from random weights by notebook 00 of mtive-nb on",
        "general scenes: shapes, containers, symbols and signs in outline, wear, colours, counts, positions, print, pairs of images;",
        "then on views of unlabelled photos, taught by an ImageNet tower (EfficientNet-Lite2, Apache-2.0), and on plain English:",
        "Python's language reference and the sentences of a grammar about everyday things (`pocket/plain_words.yaml`, `pocket/plain_sentences.yaml`).",
        "It knows nothing of a shop; that is what the three stages teach. It is a stand-in for a large model on machines without a GPU, and no more.", "",
        "| parameters | |", "| --- | --- |", *(f"| {k} | {v:,} |" for k, v in parameters.items()), "",
        "| training | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items()), "",
        "| photos that it saw, without labels | |", "| --- | --- |", *(f"| {k} | {v:,} |" for k, v in counted.items()), "",
        "Frozen probes on validation photos: of the tower's last block, of the merged tokens that the language model reads,",
        "and of the teacher's features:", "",
        f"| probe | n | {' | '.join(systems)} |", "| --- | --- " + "| --- " * len(systems) + "|",
        *(f"| {r['probe']}, {r['metric']} | {r['n']} | {' | '.join(f'{r[s]:.3f}' for s in systems)} |" for _, r in probed.iterrows()), "",
        "Held-out scores (greedy answers, exact match with 95% bootstrap interval; characters is 1 less the edit distance",
        "over the truth's length):", "",
        "| skill | n | exact match | always the commonest answer | characters |", "| --- | --- | --- | --- | --- |",
        *(f"| {r.skill} | {r.n} | {r.exact:.2f} [{r.low:.2f}, {r.high:.2f}] | {r.majority:.2f} | {r.characters:.2f} |"
          for r in scores.rename(columns={"always the commonest": "majority"}).itertuples()), "",
    ]  # fmt: skip
    return "\n".join(lines)
