"""Records of commerce rows: a row's texts with what is said of its photos, for a model of text or a VLM (CASLIE, 4.3).

An *arm* is what the model gets of the photos: nothing ("text"), every caption ("UIA"), the captions that the judges
chose ("CASLIE"), the photos as image tokens ("image"), or photos and every caption ("image+captions"). The prompt has
the order of the paper's (instruction, input, options, response), in our own words. As in the paper, a caption that is
not used is null; in SR a caption stands behind its product's title, and an unused caption leaves the title as it is.

A model answers with an option's label, as in the paper, or with the option's words, which `labels_said` reads as labels.
A model of 2 million parameters finds the words of an option but not the letter beside them (LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from mtive_nb.data.commerce.captions import labelled
from mtive_nb.data.commerce.rows import CommerceRow
from mtive_nb.data.records import make_record
from mtive_nb.data.splits import SPLITS

ARMS = {  # arm -> (whether it has captions, whether it has image tokens)
    "text": (False, False),
    "UIA": (True, False),
    "CASLIE": (True, False),
    "image": (False, True),
    "image+captions": (True, True),
}
IND, OOD = "ind", "ood"  # the records' variants
ANSWERS = ("label", "words")  # what a model answers with
ANSWER_TOK = 24  # longest answer
UNUSED = "null"


def fuse(
    row: CommerceRow, captions: Sequence[str] = (), used: Sequence[bool] = (), *, arm: str, answer: str = "label"
) -> dict:
    """Return a row as a record of an arm: task the row's, variant IND or OOD, the right label or its words as answer.

    captions: one text a photo, "" where there is none; arms without captions ignore them. used: whether the judges chose
    each caption; read by "CASLIE" alone. The record of an out-of-domain row has the split test.
    Errors: ValueError for an unknown arm or answer, and for captions or votes that are not one a photo.
    """
    for name, found, known in (("arm", arm, ARMS), ("answer", answer, ANSWERS)):
        if found not in known:
            raise ValueError(f"{name}: found {found!r}, expected one of {', '.join(known)}")
    captioned, pictured = ARMS[arm]
    said: tuple[str | None, ...] | None = None
    if captioned:
        chosen = used if arm == "CASLIE" else (True,) * len(row.photos)
        for name, found in (("captions", captions), ("used", chosen)):
            if len(found) != len(row.photos):
                raise ValueError(
                    f"row {row.row_id}: {name}: found {len(found)}, expected one for each of {len(row.photos)} photos"
                )
        said = tuple(" ".join(text.split()) if use else "" for text, use in zip(captions, chosen, strict=True))
    return make_record(
        row.row_id,
        product_id=row.product_id,
        task=row.task,
        variant=OOD if row.split == OOD else IND,
        images=row.photos if pictured else (),
        question=prompt_of(row, said),
        answer=words_of(row).get(row.output, row.output) if answer == "words" else row.output,
        label=row.output,
        source=row.source or "commerce",
        split=row.split if row.split in SPLITS else "test",
    )


def words_of(row: CommerceRow) -> dict[str, str]:
    """Return each label with its option's words, "exact match" of "A: exact match"; a label without words is its own."""
    parts = (option.partition(":") for option in row.options)
    return {label.strip(): words.strip() or label.strip() for label, _, words in parts}


def labels_said(rows: Sequence[CommerceRow], answers: Sequence[str]) -> list[str]:
    """Return answers with an option's words, in whatever case, as its label; others stay as they are."""

    def read(row: CommerceRow, answer: str) -> str:
        said = " ".join(answer.lower().split())
        return next(
            (label for label, words in words_of(row).items() if said == " ".join(words.lower().split())), answer
        )

    return [read(row, answer) for row, answer in zip(rows, answers, strict=True)]


def prompt_of(row: CommerceRow, captions: Sequence[str] | None = None) -> str:
    """Return the question of a row as text; captions: one a photo, "" for one that is not used, None for no mention."""
    places = row.places or ("",) * len(row.photos)
    said: dict[str, list[str]] = {place: [] for place in places}
    for place, caption in zip(places, captions or (), strict=captions is not None):
        said[place] += [caption] if caption else []
    behind = said if row.task == "SR" and captions is not None else {}
    lines, shown = [f"Instruction: {row.instruction}", "Input:"], set()

    def line(label: str, text: str) -> str:
        shown.add(label)
        return f"{text} (photo: {'; '.join(behind[label])})" if behind.get(label) else text

    for name, value in row.input.items():
        lines += [f"{name}:"] if isinstance(value, list | tuple) else []
        lines += [line(label, f"{label}: {text}") for label, text in labelled(value, name).items()]
    options = [line(label, option) for label, option in zip(row.labels, row.options, strict=True)]
    if captions is not None:
        left = {place: of_place for place, of_place in said.items() if not (behind and place in shown)}
        lines += [
            f"photo{f' of {place}' if place else ''}: {'; '.join(found) or UNUSED}" for place, found in left.items()
        ]
    return "\n".join([*lines, *(["Options:", *options] if options else []), "Response:"])
