"""Turn records into batches by a VLM's own processor, for training and for answering.

Rows are padded on the left, so every answer ends at the last column and only the last columns need logits.
Shapes: B batch, T tokens, K columns that hold an answer in any row.
"""

import re
from collections.abc import Sequence

import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from mtive_nb.data.photos import PhotoError, cached_by_file, load_image
from mtive_nb.data.records import BRACKETS, any_of, assistant_turn, parts_of, plain, plain_chat, user_turn
from mtive_nb.model.load import Vlm
from mtive_nb.model.losses import IGNORE
from mtive_nb.model.text import TextProcessor

KEPT_PX = 148  # photos prepared for at most this side stay in memory: 4,096 of them take 1 GiB
IMAGE_TOKENS = 40  # rough number of tokens per image, used only to sort records by length


def prepared_image(path: str, max_px: int | None) -> Image.Image:
    """Decode a photo, at most twice the side that the processor asks for. Errors: PhotoError, with the path."""
    try:
        return load_image(path, side_px=2 * max_px if max_px else None)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from None


def cached_image(path: str, max_px: int | None) -> Image.Image:
    """Return prepared_image; a small one is kept in memory until its file changes."""
    return _kept_image(path, max_px) if max_px and max_px <= KEPT_PX else prepared_image(path, max_px)


_kept_image = cached_by_file(4096)(prepared_image)


class RecordDataset(Dataset):
    """Records with their photos under `pixels`, decoded here unless the record has prepared ones.

    `max_px` is the VLM's own bound (Vlm.max_px).
    """

    def __init__(self, records: Sequence[dict], max_px: int | None = None) -> None:
        self.records, self.max_px = records, max_px

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        if "pixels" in record:
            return record
        return record | {"pixels": [cached_image(path, self.max_px) for path in record["images"]]}

    def lengths(self) -> list[int]:
        """Return the rough number of tokens of each record."""
        return [rough_tokens(record) for record in self.records]


def rough_tokens(record: dict) -> int:
    """Estimate a record's tokens: one token for four characters, and IMAGE_TOKENS for each image."""
    characters = sum(len(part.get("text", "")) for message in record["messages"] for part in parts_of(message))
    return characters // 4 + IMAGE_TOKENS * len(record["images"])


def control_tokens(processor: ProcessorMixin) -> re.Pattern[str]:
    """Return the pattern of the special tokens of a processor and its tokenizer, and of marks in its chat template.

    Llama 2's [INST] opens a turn but is no token.
    """
    tokenizer = processor.tokenizer
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    named = [getattr(processor, name, None) for name in ("image_token", "video_token", "boi_token")]
    marks = BRACKETS.findall(str(getattr(processor, "chat_template", None) or ""))
    named = [token for token in named if isinstance(token, str)]
    return any_of([*special, *tokenizer.all_special_tokens, *named, *marks])


class Collator:
    """Turn records with pixels into the processor's batch; `answers` appends the answers and adds their `labels`.

    A control token in a record's text stays text: only the chat template opens and ends turns or announces images.
    """

    def __init__(self, processor: ProcessorMixin, *, answers: bool = True) -> None:
        self.processor, self.answers, self.control = processor, answers, control_tokens(processor)
        self.processor.tokenizer.padding_side = "left"

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        template = self.processor.apply_chat_template
        chats = [plain_chat(r["messages"], self.control) for r in rows]
        prompts = [template(chat[:-1], add_generation_prompt=True) for chat in chats]
        texts, spans = prompts, []
        if self.answers:
            texts = [template(chat).rstrip() for chat in chats]
            for row, prompt, text in zip(rows, prompts, texts, strict=True):
                if not text.startswith(prompt):
                    raise ValueError(
                        f"record {row['id']}: the chat template changes the question when an answer follows"
                    )
                spans.append(len(_tokens_after(self.processor, len(prompt), text)))
        images = [row["pixels"] for row in rows] if any(row["pixels"] for row in rows) else None
        bos = self.processor.tokenizer.bos_token
        written = bos and texts[0].startswith(bos) and not isinstance(self.processor, TextProcessor)
        once = {"add_special_tokens": False} if written else {}  # by the template
        batch = dict(self.processor(text=list(texts), images=images, return_tensors="pt", padding=True, **once))
        if self.answers:
            labels = torch.full_like(batch["input_ids"], IGNORE)
            for labelled, ids, span in zip(labels, batch["input_ids"], spans, strict=True):
                labelled[-span:] = ids[-span:]
            batch["labels"] = labels
        return batch


def _tokens_after(processor: ProcessorMixin, start: int, text: str) -> list[tuple[int, int, int]]:
    """Return the tokens that end after character `start`, each as id, begin and end of its characters.

    Some tokenizers split an answer on its own differently.
    """
    found = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [(token, begin, end) for token, (begin, end) in tokens if end > start]


def answer_tokens(processor: ProcessorMixin, answer: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of an answer as a chat ends with it, the end of the turn last, and the characters of each.

    Some templates write a space before an answer, which joins its first token or is one. The characters count from the
    answer's begin, without outer spaces; the end's are beyond them.
    """
    control, template = control_tokens(processor), processor.apply_chat_template
    answer = plain(answer.strip(), control)
    chat = plain_chat([user_turn("?"), assistant_turn(answer)], control)
    prompt, text = template(chat[:-1], add_generation_prompt=True), template(chat).rstrip()
    begin = text.index(answer, len(prompt))
    own = _tokens_after(processor, len(prompt), text)
    return [i for i, *_ in own], [(max(0, a - begin), max(0, b - begin)) for _, a, b in own]


def batch_of(vlm: Vlm, records: Sequence[dict], *, answers: bool = False) -> dict[str, torch.Tensor]:
    """Return one batch of these records on the model's device; `answers` appends the answers and their `labels`."""
    data = RecordDataset(records, vlm.max_px)
    rows = Collator(vlm.processor, answers=answers)([data[i] for i in range(len(data))])
    return {name: tensor.to(vlm.device) for name, tensor in rows.items()}
