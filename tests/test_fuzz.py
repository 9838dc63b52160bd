"""Whatever comes through the door is a record, a quarantined row or a clear error: never another exception.

Short in `make test`; `make fuzz` tries 100 times as many examples.
"""

import datetime as dt
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.dates import dates_in, parse_date, stated_date
from mtive_nb.data.photos import PhotoError, load_image, photo_fault
from mtive_nb.data.records import final_answer
from mtive_nb.data.rows import FEEDBACK_FIELDS, PRODUCT_FIELDS, row_faults
from mtive_nb.evaluate.metrics import attribute_matches, date_match
from mtive_nb.evaluate.reading import class_of, is_abstention, parse_pairs, yes_no
from mtive_nb.evaluate.statements import StatementReader
from mtive_nb.run.params import ParameterError

EXAMPLES = 30 * int(os.environ.get("MTIVE_FUZZ", "1"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="MTIVE_FUZZ" not in os.environ, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

WORDS = [
    "yes", "no", "not", "answer", ":", "{", "}", '"', "<think>", "</think>", "EXP", "MFG", "L", "E", "12", "2024", "/",
    "AUG", "box", "iced tea", "is", "\n", " ", "e\u0301", "’", "０", "no doubt", "null", "[", "]", "nan", "crack", "03/04/23",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))
READER = StatementReader(
    {"packaging": ["box", "can"], "damage": ["crack", "none"], "colour": ["blue"], "differs": ["size"]}
)

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
NAMES = st.sampled_from([*PRODUCT_FIELDS, *FEEDBACK_FIELDS, "damaged", "damage", "dates", "expiry", "about", "x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
FACTS = st.dictionaries(
    st.sampled_from(["damaged", "damage", "dates", "attributes", "phrases", "match", "differs", "packaging", "count"]),
    st.one_of(VALUES, st.dictionaries(st.sampled_from(["expiry", "expiry_text", "production", "colour"]), SCALARS)),
    max_size=4,
)


@fuzz
@given(TEXTS)
def test_any_text_is_read(text: str) -> None:
    assert yes_no(text) in ("yes", "no", None)
    assert class_of(text, ["box", "iced tea"]) in ("box", "iced tea", None)
    assert is_abstention(text) in (True, False)
    assert all(isinstance(value, str) for pair in parse_pairs(text).items() for value in pair)
    for found in [parse_date(text), *(date.iso for date in dates_in(text))]:
        assert found is None or dt.date.fromisoformat(found if len(found) == 10 else f"{found}-01")
    assert stated_date(text, "expiry") == "" or stated_date(text, "expiry") in {
        final_answer(text), *(date.text for date in dates_in(final_answer(text)))
    }  # fmt: skip
    asked = {"expiry": "03/04/23", "damaged": "yes"}
    assert set(attribute_matches(text, asked).values()) <= {0.0, 1.0} and set(date_match(text, asked)) <= {0.0, 1.0}
    assert all(segment.statements is not None for segment in READER.read(text, asked=asked, truth={}))


@fuzz
@given(st.dictionaries(NAMES, VALUES, max_size=6), FACTS, st.sampled_from([PRODUCT_FIELDS, FEEDBACK_FIELDS]))
def test_any_row_is_usable_or_its_faults_are_named(row: dict, facts: dict, fields: dict) -> None:
    for place, _, reason in row_faults(row | {"facts": facts}, fields):
        assert isinstance(place, str) and reason


LINES = st.one_of(
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=40),
    st.fixed_dictionaries(
        {"product_id": SCALARS, "title": TEXTS, "category": TEXTS, "images": st.one_of(SCALARS, st.just(["a.png"]))},
        optional={"attributes": VALUES, "split": SCALARS, "facts": FACTS},
    ).map(lambda row: json.dumps(row).encode()),
)


@fuzz
@given(st.lists(LINES, max_size=5), st.lists(LINES, max_size=4))
def test_any_catalogue_is_read_or_quarantined(products: list[bytes], feedback: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", (40, 40), "red").save(folder / "a.png")
        (folder / "products.jsonl").write_bytes(b"\n".join(products))
        (folder / "feedback.jsonl").write_bytes(b"\n".join(feedback))
        try:
            shop = load_catalogue(folder)
        except (FileNotFoundError, ParameterError) as error:
            assert name in str(error)
            return
    assert all(product.product_id and product.images for product in shop.products)
    assert all(row.file and row.reason for row in shop.quarantine)


def _photos() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    kept = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        Image.fromarray(pixels).save(packed := io.BytesIO(), kind)
        kept.append(packed.getvalue())
    return kept


@fuzz
@given(
    st.sampled_from(_photos()),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_any_bytes_are_a_photo_or_a_photo_error(photo: bytes, changes: list[tuple[float, int]], kept: float) -> None:
    spoilt = bytearray(photo)
    for place, value in changes:
        spoilt[int(place * len(spoilt))] = value
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.jpg"
        path.write_bytes(spoilt[: int(kept * len(spoilt)) + 1])
        fault = photo_fault(path)
        try:
            image = load_image(path)
        except PhotoError as error:
            assert fault is not None and str(error)
        else:
            assert image.mode == "RGB" and min(image.size) >= 1
