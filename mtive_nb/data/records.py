"""The record: one chat about one or two photos, with its answer and the truth for scoring.

A record is a plain dict with the fields of `FIELDS`; files hold one record a line. `messages` is a chat whose image
parts stand in the order of `images`; two photos are announced as "Image 1:" and "Image 2:". `facts` is
`{"asked": {name: value}, "known": {name: value}}`. `asked` is what a right answer must state; `known` is everything
true of the photo, so that a further true statement is no hallucination. A value is a text, or a list of texts of which
any is right. Photo paths are absolute in memory; in a file, paths of nearby photos are relative to its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mtive_nb.data.commerce.rows import COMMERCE_TASKS
from mtive_nb.data.photos import file_sha256
from mtive_nb.data.splits import SPLITS
from mtive_nb.run.atomic import replacing
from mtive_nb.run.graph import outputs_around

# CQE: whether a caption helps with a question of commerce (evaluate/commerce/votes.py). ITEM: the fields of an item of several
# photos (items/schema.py).
TASKS = ("AE", "DD", "PM", "EX", "PT", "PP", "PRETRAIN", "INSTRUCT", *COMMERCE_TASKS, "CQE", "ITEM")
# Names of a catalogue's own tasks: words joined by hyphens, since adapters have these names and modules have no hyphens.
OWN_NAME = re.compile(r"(?=.{3,40}$)[a-z][a-z0-9]*(-[a-z0-9]+)+")
EMDIV_VARIANTS = ("gen", "aug", "bin")
UNANSWERABLE = "Unanswerable"  # the answer to a question about a date that is not printed

# Forms of chat templates' control tokens, for a server whose tokenizer is not at hand: <|im_end|>, <image>, </s>, [INST].
BRACKETS = re.compile(r"</?[^\s<>]{1,40}>|\[/?[A-Z_]{2,40}\]")

# A reasoning model's thoughts in its answer.
_THINK = r"(?:think(?:ing)?|thoughts?|reasoning)"
_THOUGHT = re.compile(rf"<({_THINK})>.*?</\1>", re.IGNORECASE | re.DOTALL)
_THOUGHT_END = re.compile(rf"^.*</{_THINK}>", re.IGNORECASE | re.DOTALL)  # the chat template opened the block
_THOUGHT_START = re.compile(rf"<{_THINK}>.*$", re.IGNORECASE | re.DOTALL)  # the reply was cut while it reasoned
_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)

NONE = type(None)
FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "product_id": str,
    "task": str,
    "variant": str,
    "messages": list,
    "images": list,
    "answer": str,
    "label": (str, NONE),
    "facts": (dict, NONE),
    "source": str,
    "split": str,
}
_TYPE_NAMES = {str: "text", list: "a list", dict: "an object", NONE: "null"}


class RecordError(ValueError):
    """A record that cannot be used; the message names file, line, field, what was found and what is expected."""


def user_turn(question: str, *, images: int = 0, first: int | None = None) -> dict:
    """A user's message: its images, then the question (left out when empty).

    With two images, or when `first` is the number of the first image, each is announced as "Image k:".
    """
    parts: list[dict[str, str]] = []
    for k in range(images):
        if images > 1 or first is not None:
            parts.append({"type": "text", "text": f"Image {(first or 1) + k}:"})
        parts.append({"type": "image"})
    if question:
        parts.append({"type": "text", "text": question})
    return {"role": "user", "content": parts}


def assistant_turn(answer: str) -> dict:
    """The assistant's message."""
    return {"role": "assistant", "content": answer}


def make_record(
    record_id: str,
    *,
    product_id: str,
    task: str,
    variant: str,
    images: Iterable[str | Path],
    answer: str,
    question: str = "",
    messages: list[dict] | None = None,
    label: str | None = None,
    facts: dict | None = None,
    source: str,
    split: str,
) -> dict:
    """A record as a dict; `messages` defaults to one question with all the images and its answer."""
    images = [str(image) for image in images]
    if messages is None:
        messages = [user_turn(question, images=len(images)), assistant_turn(answer)]
    record = {"id": record_id, "product_id": product_id, "task": task, "variant": variant, "messages": messages}
    record |= {"images": images, "answer": answer, "label": label, "facts": facts, "source": source, "split": split}
    return record


def parts_of(message: dict) -> list[dict]:
    """A message's content as a list of parts."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of control tokens of a chat: turns, images, ends. `plain` breaks what it matches."""
    found = sorted({token for token in tokens if len(token) > 1}, reverse=True)  # a longer token before its beginning
    return re.compile("|".join(map(re.escape, found)) or r"(?!)")


def plain(text: str, control: re.Pattern[str]) -> str:
    """Return a text of others with a space in each control token, "< |im_end|>", so that it stays text."""
    return re.sub(f"(?={control.pattern})(.)", r"\1 ", text, flags=re.DOTALL) if control.search(text) else text


def final_answer(text: str) -> str:
    """Return a reply without its `<think>` parts, even where the start or the end of such a part is missing."""
    text = _THOUGHT_START.sub("", _THOUGHT_END.sub("", _THOUGHT.sub(" ", text)))
    return _ANSWER_TAG.sub(" ", text).strip()


def one_form(text: str) -> str:
    """Return text in Unicode's form NFKC, with straight apostrophes: letters with accents become one character.

    Full-width letters and digits become plain, and a no-break space a space.
    """
    return unicodedata.normalize("NFKC", text).replace("’", "'")


def plain_chat(messages: Sequence[dict], control: re.Pattern[str]) -> list[dict]:
    """Return messages in which every content is a list of parts and every text is `plain`."""

    def part(found: dict) -> dict:
        return found | {"text": plain(found["text"], control)} if found["type"] == "text" else found

    return [{"role": m["role"], "content": [part(p) for p in parts_of(m)]} for m in messages]


def records_sha256(records: Iterable[dict]) -> str:
    """Return a hash of what a model gets of records, for keys of caches: their messages and their photos' content.

    Errors: OSError for a missing photo.
    """
    digest = hashlib.sha256()
    for record in records:
        photos = [file_sha256(image) for image in record["images"]]
        digest.update(json.dumps([record["id"], record["messages"], photos], sort_keys=True).encode())
    return digest.hexdigest()


def announces_image(part: dict) -> bool:
    """Whether a part of a message only announces the image after it, as `user_turn` writes it."""
    text = part.get("text", "")
    return text.startswith("Image ") and text.endswith(":")


def question_of(record: dict) -> str:
    """The text of the last question, without the words that announce images."""
    asked = [message for message in record["messages"] if message["role"] == "user"][-1]
    return " ".join(p["text"] for p in asked["content"] if p["type"] == "text" and not announces_image(p))


def record_fault(record: object) -> tuple[str, object, str] | None:
    """The first fault of a record as (field, found, expected), or None when the record is usable."""
    if not isinstance(record, dict):
        return "", record, "a JSON object"
    for name, types in FIELDS.items():
        expected = " or ".join(_TYPE_NAMES[one] for one in (types if isinstance(types, tuple) else (types,)))
        if name not in record:
            return name, "no such field", expected
        if not isinstance(record[name], types) or (name in ("id", "variant", "answer") and not record[name]):
            return name, record[name], f"{expected}, not empty"
    if unknown := [name for name in record if name not in FIELDS]:
        return unknown[0], record[unknown[0]], f"the fields {', '.join(FIELDS)} alone"
    if record["task"] not in TASKS and not OWN_NAME.fullmatch(record["task"]):
        return "task", record["task"], f"one of {TASKS}, or the name of an own task, such as german-label"
    if record["split"] not in SPLITS:
        return "split", record["split"], f"one of {SPLITS}"
    facts = record["facts"]
    if facts is not None and not all(isinstance(facts.get(name), dict) for name in ("asked", "known")):
        return "facts", facts, 'null or an object with the objects "asked" and "known"'
    if not all(isinstance(image, str) and image for image in record["images"]):
        return "images", record["images"], "a list of paths"
    return _chat_fault(record)


def _chat_fault(record: dict) -> tuple[str, object, str] | None:
    messages, images = record["messages"], 0
    if not messages or len(messages) % 2:
        return "messages", f"{len(messages)} messages", "user and assistant in turn, the assistant last"
    for index, message in enumerate(messages):
        role, content = ("user", list) if index % 2 == 0 else ("assistant", str)
        if (
            not isinstance(message, dict)
            or message.get("role") != role
            or not isinstance(message.get("content"), content)
        ):
            wanted = "a list of parts" if content is list else "text"
            return f"messages[{index}]", message, f"role {role} with {wanted} as content"
        for part in message["content"] if content is list else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "image" and not (kind == "text" and isinstance(part.get("text"), str)):
                return f"messages[{index}]", part, '{"type": "image"} or {"type": "text", "text": ...}'
            images += kind == "image"
    if images != len(record["images"]):
        return "images", f"{len(record['images'])} paths", f"{images}, one for each image part of the messages"
    if messages[-1]["content"] != record["answer"]:
        return "answer", record["answer"], f"the last message's content {messages[-1]['content']!r}"
    return None


def write_records(records: Iterable[dict], path: str | Path) -> Path:
    """Check the records and write them as `write_rows` does; returns the path. Errors: RecordError for a wrong record."""
    records = list(records)
    _check(records, Path(path))
    return write_rows(records, path)


def write_rows(rows: Iterable[dict], path: str | Path) -> Path:
    """Write rows with `images` (records, with or without further fields) as JSON lines, atomically; returns the path.

    Photos in the file's folder, in a folder beside it, or in the same project's outputs get relative paths, so that
    outputs can be moved or copied.
    """
    path = Path(path)
    folder = path.parent.resolve()
    movable = outputs_around(folder) or folder.parent
    with replacing(path) as part, part.open("w", encoding="utf-8") as stream:
        for row in rows:
            stored = row | {"images": [_stored(image, folder, movable) for image in row["images"]]}
            stream.write(json.dumps(stored, ensure_ascii=False) + "\n")
    return path


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of the text of a file of JSON lines, with their numbers from 1."""
    lines = text.split("\n")  # not splitlines: texts may contain U+2028
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def load_records(path: str | Path, *, check_photos: bool = True) -> list[dict]:
    """Read records, with absolute photo paths. Errors: RecordError names the faulty line or the missing photo."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"records {path}: no such file; first run the notebook that writes it")
    records, lines = [], []
    for line, text in numbered_lines(path.read_text(encoding="utf-8")):
        try:
            records.append(json.loads(text))
        except ValueError as error:
            raise RecordError(f"{path}, line {line}: not a line of JSON ({error}); write the file anew") from None
        lines.append(line)
    _check(records, path, lines=lines)
    for record, line in zip(records, lines, strict=True):
        record["images"] = [str((path.parent / image).resolve()) for image in record["images"]]
        missing = [image for image in record["images"] if check_photos and not Path(image).is_file()]
        if missing:
            raise RecordError(_message(path, line, "images", missing[0], "a photo that is there"))
    return records


def _stored(image: str, folder: Path, movable: Path) -> str:
    absolute = Path(image).resolve()
    return Path(os.path.relpath(absolute, folder)).as_posix() if absolute.is_relative_to(movable) else str(absolute)


def _check(records: list[dict], path: Path, *, lines: list[int] | None = None) -> None:
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        line = lines[index] if lines else index + 1
        fault = record_fault(record)
        if fault is None and (first := seen.setdefault(record["id"], line)) != line:
            fault = "id", record["id"], f"an id of its own; line {first} has it already"
        if fault is not None:
            raise RecordError(_message(path, line, *fault))


def _message(path: Path, line: int, field: str, found: object, expected: str) -> str:
    shown = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=repr)
    return f"{path}, line {line}, field {field!r}: found {shown[:160]}, expected {expected}"
