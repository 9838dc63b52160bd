"""Small trained judges of captions: adapters that learned from captions known to help or not (CASLIE's CQE, section 4.2).

The paper's judges are five language models as they come. A model of a few million parameters knows nothing of the task
before it is taught, so it learns from `judge_records`; several judges differ in their draw of records and their seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mtive_nb.data.commerce.replies import Reply
from mtive_nb.data.commerce.rows import COMMERCE_TASKS
from mtive_nb.data.records import BRACKETS, make_record, plain
from mtive_nb.data.sampling import sample_variants
from mtive_nb.data.splits import SPLITS
from mtive_nb.evaluate.judge.captions import Ballot
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.experts import AdapterPlan
from mtive_nb.model.lineage import AdapterSpec
from mtive_nb.model.load import answering_fingerprint
from mtive_nb.model.stack import LoraStack
from mtive_nb.model.train import Training

TASK = "CQE"
PROMPT = "{task}\n{known}\nphoto: {caption}\nDoes the photo help?"  # short, for a small model
AT_ONCE = 16  # batches between two writes of finished replies


def judge_records(ballots: Iterable[Ballot], useful: Callable[[Ballot], bool] | None = None) -> list[dict]:
    """Return ballots as records of text alone, answer and variant yes or no by `useful`; without it they are questions."""
    records = []
    for ballot in ballots:
        row, known = ballot.row, "\n".join(f"{name}: {text}" for name, text in ballot.known.items())
        texts = {"known": plain(known, BRACKETS), "caption": plain(ballot.caption, BRACKETS)}
        answer = "yes" if useful is None or useful(ballot) else "no"
        records.append(
            make_record(
                f"{TASK}/{row.row_id}/{ballot.place}",
                product_id=row.product_id,
                task=TASK,
                variant="ask" if useful is None else answer,
                images=[],
                question=PROMPT.format(task=COMMERCE_TASKS[row.task], **texts),
                answer=answer,
                label=None if useful is None else answer,
                source=row.source or "commerce",
                split=row.split if row.split in SPLITS else "test",
            )
        )
    return records


def judge_plans(
    lessons: Sequence[dict], names: Sequence[str], *, spec: AdapterSpec, training: Training
) -> list[AdapterPlan]:
    """Return a plan a judge: as many yes as no of `judge_records`, its own draw and seed, counted from training's."""
    n, plans = training.steps * training.batch * training.accumulate, []
    for seed, name in enumerate(names, start=training.seed):
        drawn = sample_variants(list(lessons), {"yes": 1, "no": 1}, n=n, seed=seed)
        plans.append(AdapterPlan(name, spec, None, drawn, replace(training, seed=seed)))
    return plans


class AdapterJudge:
    """Votes by an adapter of a stack, trained on `judge_records`, or by the bare base (None).

    Make it after training: the weights of that moment key its votes.
    """

    def __init__(self, stack: LoraStack, adapter: str | None, *, batch: int = 64) -> None:
        self.name, self.stack, self.adapter, self.batch = adapter or "bare base", stack, adapter, batch
        self._weights = answering_fingerprint(stack.vlm, stack.branch(adapter) if adapter else ())

    def key(self, ballot: Ballot) -> str:
        """Return the hash of ballot, prompt and weights."""
        return ballot.key(self._weights, PROMPT)

    def replies(self, ballots: Sequence[Ballot]) -> Iterator[tuple[int, Reply]]:
        """Yield (place, the adapter's answer), AT_ONCE batches at a time; an empty answer is a fault."""
        step = AT_ONCE * self.batch
        for start in range(0, len(ballots), step):
            self.stack.activate(self.adapter)
            asked = judge_records(ballots[start : start + step])
            said = generate_answers(self.stack, asked, batch=self.batch, max_new_tokens=4, what=self.name)
            for place, text in enumerate(said, start=start):
                yield place, Reply(text, "" if text else "empty answer")

    def cost(self, ballots: Sequence[Ballot]) -> str:
        """Return how many answers the adapter will generate."""
        return f"{len(ballots)} answers of {self.name}"
