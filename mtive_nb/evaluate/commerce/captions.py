"""Captions by the project's own experts (CASLIE's EC3): `VlmCaptioner`.

It asks the stack's experts for those facts that the context needs, and puts their answers into a caption as
`FactCaptioner` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from mtive_nb.data.commerce.by_facts import Speaker
from mtive_nb.data.commerce.captions import Photo
from mtive_nb.data.commerce.replies import Reply
from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.photos import PhotoError
from mtive_nb.data.records import UNANSWERABLE, make_record
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.batches import cached_image
from mtive_nb.model.load import answering_fingerprint
from mtive_nb.model.stack import LoraStack

# fact -> (the task whose expert knows it, the question)
QUESTIONS = {
    **{name: ("AE", questions[0]) for name, questions in ask.AE_AUG.items()},
    "damage": ("DD", ask.DD_AUG_KIND[0]),
    "expiry": ("EX", ask.EX_AUG["expiry"][0]),
    "production": ("EX", ask.EX_AUG["production"][0]),
    "placement": ("PP", ask.PP_AUG[2]),
}
AT_ONCE = 16  # batches between two writes of finished replies


class VlmCaptioner:
    """Captions by the experts of a stack: each photo is asked for the `asked` facts that its context puts first.

    experts: {task of QUESTIONS: adapter}. values: {fact: values} by which texts are seen to mention a fact
    (`fact_values`); only these facts are asked for, or with {} all that the experts know. Make it after training: the
    weights of that moment key its captions.
    Errors: ValueError for a task without questions.
    """

    def __init__(
        self,
        stack: LoraStack,
        experts: Mapping[str, str],
        *,
        values: Mapping[str, Collection[str]],
        asked: int = 2,
        budget_words: int = 5,
        batch: int = 64,
    ) -> None:
        if strange := set(experts) - {task for task, _ in QUESTIONS.values()}:
            raise ValueError(f"experts: found {sorted(strange)}, expected some of AE, DD, EX, PP")
        self.name, self.stack, self.experts = f"experts {', '.join(experts)}", stack, dict(experts)
        self.asked, self.batch = asked, batch
        self.questions = {
            name: of for name, of in QUESTIONS.items() if of[0] in experts and name in (values or QUESTIONS)
        }
        self.speaker = Speaker(values, budget_words=budget_words)
        weights = [answering_fingerprint(stack.vlm, stack.branch(adapter)) for adapter in experts.values()]
        words = {name: sorted(options) for name, options in sorted(values.items())}
        self._settings = (*weights, self.questions, words, asked, budget_words)

    def key(self, photo: Photo) -> str:
        """Return the hash of photo, context, weights and settings."""
        return photo.key(*self._settings)

    def captions(self, photos: Sequence[Photo]) -> Iterator[tuple[int, Reply]]:
        """Yield (place, caption), AT_ONCE batches at a time; a photo that cannot be used has a fault."""
        step = AT_ONCE * self.batch
        for start in range(0, len(photos), step):
            yield from self._captions(start, photos[start : start + step])

    def cost(self, photos: Sequence[Photo]) -> str:
        """Return how many answers the experts will generate."""
        return f"{self.asked * len(photos)} answers of {len(self.experts)} experts"

    def _captions(self, start: int, photos: Sequence[Photo]) -> Iterator[tuple[int, Reply]]:
        asked: dict[str, list[tuple[int, str, dict]]] = {task: [] for task in self.experts}
        for place, photo in enumerate(photos):
            try:
                cached_image(photo.path, self.stack.vlm.max_px)
            except (OSError, PhotoError) as error:
                yield start + place, Reply("", f"photo: {error}")
                continue
            for name in self.speaker.order(self.questions, photo)[: self.asked]:
                task, question = self.questions[name]
                asked[task].append((place, name, _question(task, photo, question)))
        seen: dict[int, dict[str, str]] = {}
        for task, rows in asked.items():
            self.stack.activate(self.experts[task])
            said = generate_answers(self.stack, [r for _, _, r in rows], batch=self.batch, max_new_tokens=24, what=task)
            for (place, name, _), answer in zip(rows, said, strict=True):
                found = seen.setdefault(place, {})
                short = " ".join(
                    answer.split()[: self.speaker.budget_words - 1 or 1]
                )  # an answer that never ends is cut
                found |= {name: short} if short and short != UNANSWERABLE else {}
        for place, found in seen.items():
            text = self.speaker.caption(found, photos[place])
            yield start + place, Reply(text, "" if text else "the experts name nothing")


def _question(task: str, photo: Photo, question: str) -> dict:
    given = {"product_id": "", "variant": "aug", "answer": "unknown", "source": "caption", "split": "test"}
    return make_record(photo.path, task=task, images=[photo.path], question=question, **given)
