"""The project's own VLM as captioner or verifier of visual verification (data/instructions/roles.py)."""

from __future__ import annotations

from dataclasses import dataclass

from mtive_nb.data.emdiv.questions import AE_GEN
from mtive_nb.data.instructions.roles import AskingCaptioner, AskingVerifier
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.load import Vlm, answering_fingerprint
from mtive_nb.model.stack import LoraStack

DESCRIBE = (
    "Describe the item in the photo: what it is, its colours, its packaging, its number, and all that is printed."
)
CAPTION_TOK = 128


@dataclass
class VlmAnswers:
    """Answers records with a model, and with `adapter` and its parents where the model is a stack (None: bare base).

    It can be pickled, so that shards run in several processes or on a Ray cluster.
    """

    model: LoraStack | Vlm
    adapter: str | None = None
    batch: int = 32
    max_new_tokens: int = CAPTION_TOK

    def __call__(self, records: list[dict]) -> list[str]:
        if isinstance(self.model, LoraStack):
            self.model.activate(self.adapter)
        return generate_answers(self.model, records, batch=self.batch, max_new_tokens=self.max_new_tokens, what="")

    @property
    def name(self) -> str:
        """A hash of the weights and settings that decide the answers."""
        stacked = isinstance(self.model, LoraStack)
        branch = self.model.branch(self.adapter) if stacked and self.adapter else ()
        return f"{answering_fingerprint(self.model.vlm if stacked else self.model, branch)} {self.max_new_tokens}"


def vlm_captioner(
    model: LoraStack | Vlm, adapter: str | None = None, *, question: str | None = None, batch: int = 32,
    max_new_tokens: int = CAPTION_TOK,
) -> AskingCaptioner:  # fmt: skip
    """Return a captioner of a model. question: default DESCRIBE; of an adapter, AE_GEN, which the stages teach."""
    answers = VlmAnswers(model, adapter, batch, max_new_tokens)
    return AskingCaptioner(answers, name=answers.name, question=question or (AE_GEN if adapter else DESCRIBE))


def vlm_verifier(model: LoraStack | Vlm, adapter: str | None = None, *, batch: int = 32) -> AskingVerifier:
    """Return a verifier of a model: one question without a photo an aspect, answered yes or no."""
    answers = VlmAnswers(model, adapter, batch, 4)
    return AskingVerifier(answers, name=answers.name)
