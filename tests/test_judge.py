import json

import pytest

from mtive_nb.evaluate.judge.rule import LetterJudge, RuleJudge, judge_all, vocabulary_of

VOCABULARY = {
    "brand": ["ZEVO", "LOZ"],
    "category": ["shampoo", "tea", "iced tea", "orange"],
    "colour": ["blue", "red", "orange"],
    "packaging": ["bottle", "box", "can"],
    "size": ["500 ML", "1 L"],
    "damage": ["dent", "tear", "crush", "crack", "stain"],
    "placement": ["on shelf", "in hand"],
}
SHAMPOO = {"brand": "ZEVO", "category": "shampoo", "colour": "blue", "packaging": "bottle", "size": "500 ML"}
SOUND = SHAMPOO | {"damaged": "no", "damage": "none"}
DENTED = SHAMPOO | {"damaged": "yes", "damage": "dent"}
DATES = {"expiry": "03/04/23", "expiry_iso": "2023-04-03", "expiry_also": "2023-03-04", "production": "Unanswerable"}
THREE = {name: SHAMPOO[name] for name in ("brand", "category", "colour")}
ASKED_DATES = {name: DATES[name] for name in ("expiry", "production")}


def record(task, answer, asked, known, *, variant="gen", **more):
    fields = {"id": f"{task}-{answer}", "product_id": "p", "task": task, "variant": variant, "answer": answer}
    return fields | {"facts": {"asked": asked, "known": known}} | more


RIGHT = [
    record("AE", json.dumps(THREE), THREE, SOUND),
    record("AE", "blue", {"colour": "blue"}, SOUND, variant="aug"),
    record("AE", "500 ML", {"size": "500 ML"}, SOUND, variant="aug"),
    record("AE", "Royal Gala", {"name": "Royal Gala"}, {"name": "Royal Gala"}, variant="aug"),
    record("DD", "a blue bottle of shampoo with a dent", {"damaged": "yes", "damage": "dent"}, DENTED),
    record("DD", "a blue bottle of shampoo in good condition", {"damaged": "no"}, SOUND),
    record("DD", "a cookie with damage", {"damaged": "yes"}, {"category": "cookie", "damaged": "yes"}),
    record(
        "DD",
        "a box with a crush mark",
        {"damaged": "yes", "damage": "crush"},
        {"packaging": "box", "damaged": "yes", "damage": "crush"},
    ),
    record("DD", "none", {"damage": "none"}, SOUND, variant="aug"),
    record("DD", "dent", {"damage": "dent"}, DENTED, variant="aug"),
    record("DD", "no", {"damaged": "no"}, SOUND, variant="aug"),
    record("DD", "yes", {"damaged": "no"}, SOUND, variant="aug"),  # "Is it in good condition?"
    record("PM", "yes, both show a blue bottle of ZEVO shampoo", {"match": "yes"}, SOUND | {"match": "yes"}),
    record(
        "PM",
        "no, the brand differs",
        {"match": "no", "differs": "brand"},
        SOUND | {"match": "no", "differs": ["brand", "colour"]},
    ),
    record("PM", "no, the second is an orange", {"match": "no", "category": "orange"}, {"category": "orange"}),
    record(
        "EX",
        '{"expiry": "03/04/23", "production": "Unanswerable"}',
        {k: DATES[k] for k in ("expiry", "production")},
        DATES,
    ),
    record("EX", "03/04/23", {"expiry": "03/04/23"}, DATES, variant="aug"),
    record("EX", "Unanswerable", {"production": "Unanswerable"}, DATES, variant="aug"),
    record("EX", "yes", {"has_expiry": "yes"}, DATES, variant="aug"),
    # the word is both the name and the category
    record("AE", "lemon", {"name": "lemon"}, {"category": "lemon", "name": "lemon"}, variant="aug"),
]


@pytest.fixture
def judge():
    return RuleJudge(VOCABULARY)


def scores(judgement):
    return judgement.accuracy, judgement.relevancy, judgement.hallucination


@pytest.mark.parametrize("item", RIGHT, ids=lambda item: f"{item['task']} {item['answer']}"[:40])
def test_the_right_answer_scores_100_100_0_and_an_empty_one_nothing(judge, item):
    assert scores(judge.judge(item, item["answer"])) == (100, 100, 0)
    assert scores(judge.judge(item, "")) == (0, 0, 0)
    assert scores(RuleJudge(vocabulary_of(RIGHT)).judge(item, item["answer"])) == (100, 100, 0)


DD_DENT, DD_SOUND = RIGHT[4], RIGHT[5]


@pytest.mark.parametrize(
    ("item", "answer", "expected"),
    [  # counted by hand: accuracy, relevancy, hallucination
        (RIGHT[0], '{"brand": "LOZ", "category": "shampoo", "colour": "red"}', (100 / 3, 100, 200 / 3)),
        (RIGHT[0], '{"brand": "ZEVO", "category": "sham', (100 / 3, 100 / 3, 0)),
        (RIGHT[0], "a blue ZEVO bottle", (200 / 3, 50, 0)),  # packaging was not asked: 2 of 3 + 1
        (RIGHT[1], "red", (0, 100, 100)),
        (RIGHT[1], "mauve", (0, 100, 100)),
        (RIGHT[1], "red, blue", (0, 100, 50)),
        (DD_DENT, "a blue bottle of shampoo in good condition", (0, 100, 40)),  # no damage: nor a kind
        (DD_DENT, "the bottle is dented", (100, 100, 0)),
        (DD_DENT, "it is damaged", (50, 50, 0)),
        (DD_DENT, "a torn red bottle", (50, 100, 50)),  # damaged and bottle right, tear and red wrong
        (DD_SOUND, "the bottle is not damaged", (100, 100, 0)),
        (DD_SOUND, "No visible dents or cracks.", (100, 100, 0)),
        (DD_SOUND, "It is not in good condition", (0, 100, 100)),
        (DD_SOUND, "The bottle can be seen. There is no damage", (100, 100, 0)),
        (RIGHT[12], "no, the brand differs", (0, 50, 100)),  # differs: neither asked nor in the right answer
        (RIGHT[12], "both are identical", (100, 100, 0)),
        (RIGHT[13], "no, the packaging differs", (50, 100, 50)),
        (RIGHT[13], "yes", (0, 50, 100)),
        (RIGHT[15], '{"expiry": "3 APR 2023", "production": "Unanswerable"}', (100, 100, 0)),
        (RIGHT[15], '{"expiry": "2023-03-04", "production": "01/01/22"}', (50, 100, 50)),
        (RIGHT[15], "Unanswerable", (50, 100, 0)),  # to abstain where a date is printed is wrong, and no hallucination
        (RIGHT[15], "EXP 03/04/23, MFG 02/01/22", (50, 100, 50)),
    ],
)
def test_scores_counted_by_hand(judge, item, answer, expected):
    assert scores(judge.judge(item, answer)) == pytest.approx(expected)


def test_an_ambiguous_word_is_read_the_way_that_is_true(judge):
    fruit = record("AE", "orange", {"category": "orange"}, {"category": "orange", "colour": "red"}, variant="aug")
    paint = record("AE", "orange", {"colour": "orange"}, {"category": "tea", "colour": "orange"}, variant="aug")
    assert scores(judge.judge(fruit, "an orange")) == (100, 100, 0)
    assert scores(judge.judge(paint, "an orange tea"))[0] == 100
    assert judge.judge(paint, "iced tea").inaccurate == 1  # and not the tea inside it


def test_more_right_facts_never_score_less_and_more_wrong_ones_hallucinate_more(judge):
    values = {"brand": "ZEVO", "category": "shampoo", "colour": "blue"}
    wrong = {"brand": "LOZ", "category": "tea", "colour": "red"}
    found = []
    for right in range(4):
        mixed = {key: (values if k < right else wrong)[key] for k, key in enumerate(values)}
        found.append(judge.judge(RIGHT[0], str(mixed)))
    assert [one.accuracy for one in found] == sorted(one.accuracy for one in found)
    assert [one.hallucination for one in found] == sorted((one.hallucination for one in found), reverse=True)
    assert found[0].hallucination == 100 and found[3].hallucination == 0


def test_segments_carry_the_labels_of_t11(judge):
    found = judge.judge(DD_DENT, "What a nice photo! The bottle is red. It has a dent.")
    assert [label for _, label in found.segments] == ["analysis", "inaccurate", "accurate"]


def test_repeating_a_statement_statements_no_more(judge):
    assert judge.judge(DD_DENT, "blue blue blue. blue dent").statements == 3  # colour, damaged, damage


def test_judge_all_keeps_the_order_and_wants_an_answer_a_record():
    table = judge_all(RIGHT, [item["answer"] for item in RIGHT], VOCABULARY)
    assert list(table["id"]) == [item["id"] for item in RIGHT]
    assert set(table["accuracy"]) == {100}
    with pytest.raises(ValueError, match="1 answers for"):
        judge_all(RIGHT, ["yes"], VOCABULARY)


def test_a_record_without_facts_is_refused(judge):
    with pytest.raises(ValueError, match="has no facts"):
        judge.judge({"id": "x", "facts": None}, "yes")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Dark  blue", (100, 100, 0)), ("navy", (0, 100, 100)), ("Unanswerable", (0, 0, 0)), ("", (0, 0, 0))],
)
def test_letter_by_letter_knows_the_reference_alone(answer, expected):
    assert scores(LetterJudge().judge({"answer": "dark blue"}, answer)) == expected


def test_letter_by_letter_takes_an_abstention_for_right_where_it_is():
    assert scores(LetterJudge().judge({"answer": "Unanswerable"}, "unanswerable")) == (100, 100, 0)
