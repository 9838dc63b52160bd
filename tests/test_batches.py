"""Records become batches: what is a token of whose, what a label, what a photo, and what stays text."""

from types import SimpleNamespace

import pytest
import torch
from conftest import make_record
from PIL import Image

from mtive_nb.model.batches import (
    IMAGE_TOKENS,
    KEPT_PX,
    Collator,
    RecordDataset,
    answer_tokens,
    batch_of,
    cached_image,
    control_tokens,
    rough_tokens,
)
from mtive_nb.model.losses import IGNORE


def test_labels_are_the_answer_and_its_end_mark(tiny, records, photo_folder):
    data = RecordDataset(records)
    batch = Collator(tiny.processor)([data[i] for i in range(len(data))])
    for record, ids, labels in zip(records, batch["input_ids"], batch["labels"], strict=True):
        kept = ids[labels != IGNORE]
        assert tiny.processor.tokenizer.decode(kept) == record["answer"] + "<|im_end|>"
        assert torch.equal(kept, labels[labels != IGNORE])


def test_images_beyond_one_stay_with_their_rows(tiny, records, photo_folder):
    data = RecordDataset(records)
    collate = Collator(tiny.processor, answers=False)
    with torch.inference_mode():
        together = tiny.model(**collate([data[0], data[1], data[3]])).logits[:, -1]
        alone = torch.stack([tiny.model(**collate([data[i]])).logits[0, -1] for i in (0, 1, 3)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_a_prompt_ends_where_the_answer_begins_and_holds_the_question(tiny, records, photo_folder):
    data = RecordDataset(records[:1])
    asked = Collator(tiny.processor, answers=False)([data[0]])
    text = tiny.processor.tokenizer.decode(asked["input_ids"][0])
    assert text.endswith("<|im_start|>assistant\n") and "labels" not in asked
    told = Collator(tiny.processor)([data[0]])
    answer = (told["labels"][0] != IGNORE).sum()
    assert torch.equal(told["input_ids"][0, :-answer], asked["input_ids"][0])


def test_a_batch_of_records_is_the_collator_s_of_their_photos(tiny, records, photo_folder):
    data = RecordDataset(records[:3], tiny.max_px)
    for answers in (False, True):
        expected = Collator(tiny.processor, answers=answers)([data[k] for k in range(3)])
        found = batch_of(tiny, records[:3], answers=answers)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_prepared_photos_are_taken_as_they_are(records):
    ready = records[0] | {"pixels": [Image.new("RGB", (56, 56), "red")], "images": ["gone.png"]}
    assert RecordDataset([ready])[0] is ready


def test_a_photo_is_decoded_near_the_size_that_the_processor_asks_for(tmp_path):
    Image.new("RGB", (1600, 1600), "red").save(tmp_path / "large.jpg")
    for max_px in (KEPT_PX, KEPT_PX + 1, 300):
        assert max(cached_image(str(tmp_path / "large.jpg"), max_px).size) <= 2 * max_px
    assert cached_image(str(tmp_path / "large.jpg"), None).size == (1600, 1600)
    assert cached_image(str(tmp_path / "large.jpg"), KEPT_PX) is cached_image(str(tmp_path / "large.jpg"), KEPT_PX)


def test_a_record_s_length_counts_letters_and_photos():
    short, long = make_record(0, question="a" * 37), make_record(1, images=2, question="a" * 400)
    assert rough_tokens(short) == (37 + len("yes")) // 4 + IMAGE_TOKENS
    assert RecordDataset([short, long]).lengths() == [rough_tokens(short), 403 // 4 + 2 * IMAGE_TOKENS]


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>"])
def test_a_control_token_of_the_processor_is_known(tiny, token):
    assert control_tokens(tiny.processor).fullmatch(token)


def test_marks_of_a_template_and_named_tokens_are_known_where_the_tokenizer_does_not_have_them(tiny):
    tokenizer = SimpleNamespace(added_tokens_decoder={}, all_special_tokens=["</s>"])
    plain = SimpleNamespace(
        tokenizer=tokenizer, chat_template="{{ '[INST] ' + text }}", video_token="<vid>", boi_token="<boi>"
    )
    assert all(control_tokens(plain).fullmatch(token) for token in ("[INST]", "<vid>", "<boi>", "</s>"))
    assert not control_tokens(plain).search("a red <box>")


def test_an_answer_s_tokens_are_those_at_the_end_of_a_chat(tiny):
    ids, places = answer_tokens(tiny.processor, "  yes and no ")
    assert tiny.processor.tokenizer.decode(ids) == "yes and no<|im_end|>"
    assert places[0][0] == 0 and places[-1] == (10, 10 + len("<|im_end|>"))
    assert [end for _, end in places[:-1]] == [begin for begin, _ in places[1:]]


def test_an_answer_s_characters_count_from_its_begin_where_a_template_writes_a_space_before_it(tiny, monkeypatch):
    template = tiny.processor.apply_chat_template
    spaced = lambda chat, **more: template(chat, **more).replace("assistant\nyes", "assistant\n yes")  # noqa: E731
    monkeypatch.setattr(tiny.processor, "apply_chat_template", spaced)
    ids, places = answer_tokens(tiny.processor, "yes")
    assert tiny.processor.tokenizer.decode(ids).strip().startswith("yes")
    assert min(begin for begin, _ in places) == 0 and places[-1][0] == 3


def test_a_control_token_in_an_answer_stays_text(tiny):
    ids, _ = answer_tokens(tiny.processor, "yes<|im_end|>no")
    end = tiny.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1 and ids[-1] == end


@pytest.mark.parametrize(("bos", "once"), [("<s>", {"add_special_tokens": False}), (None, {}), ("<other>", {})])
def test_a_start_that_the_template_writes_is_not_written_twice(tiny, records, photo_folder, bos, once):
    asked = {}

    def processor(**given):
        asked.update(given)
        return {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    processor.tokenizer = SimpleNamespace(added_tokens_decoder={}, all_special_tokens=[], bos_token=bos)
    processor.apply_chat_template = lambda chat, **_: "<s>text"
    Collator(processor, answers=False)([RecordDataset(records[:1])[0]])
    assert {k: v for k, v in asked.items() if k == "add_special_tokens"} == once
    assert asked["text"] == ["<s>text"] and asked["padding"] is True and len(asked["images"]) == 1


def test_a_template_that_changes_the_question_is_refused(tiny, records, photo_folder, monkeypatch):
    template = tiny.processor.apply_chat_template
    monkeypatch.setattr(
        tiny.processor, "apply_chat_template", lambda chat, **more: str(len(chat)) + template(chat, **more)
    )
    with pytest.raises(ValueError, match=rf"record {records[0]['id']}: the chat template changes the question"):
        Collator(tiny.processor)([RecordDataset(records)[0]])
