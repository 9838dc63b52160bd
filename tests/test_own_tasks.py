"""Own tasks: tasks.yaml becomes records, scores and questions; a fault in it or in a fact is named."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mtive_nb as m
from mtive_nb.data.catalogue import Catalogue, Feedback, Product, load_catalogue, write_catalogue
from mtive_nb.data.emdiv.build import build_emdiv, statistics
from mtive_nb.data.emdiv.own import OwnTask, own_tasks, write_tasks
from mtive_nb.data.records import load_records, question_of, write_records
from mtive_nb.data.shop import ALL_TASKS, build_shop_emdiv, expand_counts, open_shop, read_shop, write_shop
from mtive_nb.evaluate.judge.rule import judge_all
from mtive_nb.evaluate.scores import score_table
from mtive_nb.run.params import ParameterError
from mtive_nb.serve.answer import profile_tasks, question_record, task_question

PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
(YAML,), (FACTS,) = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("yaml", "json"))
GERMAN, MATERIAL, WEIGHT = NAMES = ("german-label", "package-material", "net-weight")
SAID_GERMAN = {True: "yes", False: "no", "yes": "yes", " No ": "no", "TRUE": "yes", "false": "no"}
BAD = {
    0: {"german_label": "maybe"},
    1: {"material": "glas"},
    2: {"net_weight": ["250 g"]},
    3: {"net_weight": "x" * 300},
}


def facts_of_row(k: int) -> dict:
    facts = {"german_label": list(SAID_GERMAN)[k % 6], "material": ("glass", "Paper", "plastic")[k % 3]}
    return facts | {"net_weight": f"{50 * (k % 7 + 1)} g", "damaged": k % 2 == 0} | BAD.get(k, {})


def true_answer(task: str, k: int) -> str:
    facts = facts_of_row(k)
    if task == GERMAN:
        return SAID_GERMAN[facts["german_label"]]
    return facts["material"].lower() if task == MATERIAL else facts["net_weight"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """60 products with one customer photo each, and the tasks of the docs page."""
    folder = tmp_path_factory.mktemp("shop") / "mine"
    products, rows, rng = [], [], np.random.default_rng(0)
    for k in range(60):
        for kind in ("P", "F"):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "images" / f"{kind}{k}.png")
        products.append(Product(f"P{k}", f"Jar number {k}", "", "jam", "food", {}, (f"images/P{k}.png",)))
        rows.append(Feedback(f"F{k}", f"P{k}", "", (f"images/F{k}.png",), facts_of_row(k)))
    splits = {f"P{k}": "train" if k < 36 else "test" for k in range(60)}
    write_catalogue(Catalogue("mine", folder, products, rows, splits=splits), folder)
    (folder / "tasks.yaml").write_text(YAML)
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    return open_shop(str(folder), folder.parent, mart={}, composited={})


@pytest.fixture(scope="module")
def built(parts):
    counts = expand_counts(train={"*": 100}, val=0, test={"*": 100}, parts=parts)
    return build_shop_emdiv(parts, counts)


def number(record: dict) -> int:
    return int(record["id"].split("/")[2][1:])


def test_the_page_s_tasks_become_records_whose_answers_are_the_facts(folder, parts, built, tmp_path):
    assert set(json.loads(FACTS)) == {*(task.fact for task in own_tasks(folder).values()), "damaged"}
    assert parts[0].tasks == (*ALL_TASKS, *NAMES)
    forms = Counter((r["task"], r["variant"]) for r in built.records if r["task"] in NAMES)
    wanted = {(GERMAN, "aug"), (GERMAN, "bin"), (WEIGHT, "gen"), (WEIGHT, "aug")}
    assert set(forms) == wanted | {(MATERIAL, variant) for variant in ("gen", "aug", "bin")}
    assert forms[MATERIAL, "gen"] == 59 and forms[WEIGHT, "gen"] == 58  # all photos with a usable fact
    for record in built.records:
        if record["task"] in NAMES:
            true, question = true_answer(record["task"], number(record)), question_of(record)
            if (record["task"], record["variant"]) == (MATERIAL, "bin"):
                true = "yes" if question == f"Is the package made of {true}?" else "no"
                assert record["facts"]["asked"] == {"answer": true}
            else:
                assert list(record["facts"]["asked"].values()) == [true]
            assert record["answer"] == true and record["label"] == (None if record["task"] == WEIGHT else true)
            canonical = record["variant"] != "aug"
            assert (question in ("Is the label in German?", "Which net weight is printed?")) == (
                canonical and record["task"] != MATERIAL
            )
            if (record["task"], record["variant"]) == (MATERIAL, "gen"):
                assert question == "What is the package made of: glass, paper or plastic?"
    path = write_records(built.records, tmp_path / "emdiv.jsonl")
    assert load_records(path) == built.records
    assert set(NAMES) < set(statistics(built.records)["Task"])


def test_yes_and_no_are_equal_in_each_form_of_an_own_question(built):
    polar = [r for r in built.records if r["task"] in NAMES and (r["variant"] == "bin" or r["task"] == GERMAN)]
    forms = {}
    for record in polar:
        forms.setdefault((record["task"], record["variant"], record["split"]), Counter())[record["label"]] += 1
    assert len(forms) == 6
    for form, found in forms.items():
        assert found["yes"] == found["no"] > 5, form


def test_every_record_knows_the_usable_own_facts(built):
    for record in built.records:
        known, k = record["facts"]["known"], number(record)
        for task, fact in zip(NAMES, ("german_label", "material", "net_weight"), strict=True):
            unusable = fact in BAD.get(k, {})
            assert known.get(fact) == (None if unusable else true_answer(task, k)), record["id"]


def test_unusable_facts_are_counted_with_what_was_found_and_expected(built):
    reasons = {outcome for outcome in built.coverage["outcome"] if outcome.startswith("facts.")}
    assert reasons == {
        "facts.german_label: found 'maybe', expected true, false, yes or no",
        "facts.material: found 'glas', expected glass, paper or plastic; did you mean glass?",
        "facts.net_weight: found ['250 g'], expected text of 1 to 200 characters, a number, true or false",
        f"facts.net_weight: found '{'x' * 59}, expected text of 1 to 200 characters, a number, true or false",
    }
    assert (built.coverage.query("outcome in @reasons")["photos"] > 0).all()


def test_an_own_task_moves_no_record_of_another_task(folder, built, tmp_path):
    def texts(records, tasks):
        return [(r["id"], question_of(r), r["answer"]) for r in records if r["task"] in tasks]

    other = tmp_path / "mine"
    shutil.copytree(folder, other)
    without = "german-label:" + YAML.split("german-label:")[1].split("package-material:")[0]
    (other / "tasks.yaml").write_text('first-task: {kind: open, fact: damaged, questions: "Whole?"}\n' + without)
    again = build_emdiv(load_catalogue(other), counts=dict.fromkeys((*ALL_TASKS, GERMAN), 100))
    assert texts(again.records, [GERMAN]) == texts(built.records, [GERMAN]) != []
    assert texts(again.records, ALL_TASKS) == texts(built.records, ALL_TASKS) != []


def test_pt_and_pp_ask_of_each_class_as_often_yes_as_no():
    facts = [
        {"packaging": "bottle", "placement": "in hand"},
        {"packaging": "loose", "placement": "on floor"},
        {"packaging": "box", "placement": "under table"},
    ]
    products = [Product(f"P{k}", f"item{k}", "", "", "", {}, (f"p{k}.jpg",)) for k in range(3)]
    rows = [Feedback(f"F{k}", f"P{k}", "", (f"f{k}.jpg",), one) for k, one in enumerate(facts)]
    tiny = Catalogue("tiny", Path(), products, rows, splits={f"P{k}": "train" for k in range(3)})
    built = build_emdiv(tiny, counts={"PT": 9, "PP": 9}, aug_per_photo=1)
    found = [(r["id"].replace("/tiny", ""), question_of(r), r["answer"]) for r in built.records]
    assert found == [
        ("PT-gen/F1/0", "How is the product packed: bottle, box or loose?", "loose"),
        ("PT-gen/F2/0", "How is the product packed: bottle, box or loose?", "box"),
        ("PT-gen/F0/0", "How is the product packed: bottle, box or loose?", "bottle"),
        ("PT-aug/F0/0", "Name the packaging type.", "bottle"),
        ("PT-aug/F1/0", "What does the product come in?", "loose"),
        ("PT-aug/F2/0", "What does the product come in?", "box"),
        ("PT-bin/F2/0", "Is the product packed in a box?", "yes"),
        ("PT-bin/F1/0", "Is the product loose, not packed?", "yes"),
        ("PT-bin/F2/1", "Is the product loose, not packed?", "no"),
        ("PT-bin/F1/1", "Is the product packed in a box?", "no"),
        ("PP-gen/F1/0", "Where is the product: on shelf, in hand, on floor or in carton?", "on floor"),
        ("PP-gen/F0/0", "Where is the product: on shelf, in hand, on floor or in carton?", "in hand"),
        ("PP-aug/F0/0", "placement?", "in hand"),
        ("PP-aug/F1/0", "placement?", "on floor"),
        ("PP-bin/F1/0", "Is the product on floor?", "yes"),
        ("PP-bin/F0/0", "Is the product in hand?", "yes"),
        ("PP-bin/F0/1", "Is the product on floor?", "no"),
        ("PP-bin/F1/1", "Is the product in hand?", "no"),
    ]
    assert "facts.placement: found 'under table', expected on shelf, in hand, on floor or in carton" in set(
        built.coverage["outcome"]
    )


def test_every_kind_is_scored_in_our_own_table(built):
    test = [r for r in built.records if r["task"] in NAMES and r["split"] == "test"]
    right = [r["answer"] for r in test]
    same = {GERMAN: "yes", MATERIAL: "glass", WEIGHT: "50 g"}
    one = [same[r["task"]] if r["task"] != MATERIAL or r["variant"] != "bin" else "no" for r in test]
    scores = score_table(test, {"right": right, "one": one}, resamples=20)
    assert set(scores["table"]) == {"EMDIV"} and set(scores["paper"]) == {"own"} and set(scores["unit"]) == {"fraction"}
    value = scores.set_index(["system", "metric"])["value"]
    judged = [f"{WEIGHT}/{name}" for name in ("Acc", "Rel", "Hal", "EM")]
    kinds = [f"{t}/{name}{form}" for t in (GERMAN, MATERIAL) for form in (" binary", "") for name in ("Acc", "F1w")]
    assert {metric for metric in scores["metric"] if "Unparsed" not in metric} == {*judged, *kinds}
    assert [value["right", metric] for metric in judged] == [1, 1, 0, 1]
    assert [value["right", metric] for metric in kinds] == [1] * 8
    # Half of the answers are yes: all yes is right in half of them, with F1 2/3 for yes and 0 for no.
    for form in (" binary", ""):
        assert value["one", f"{GERMAN}/Acc{form}"] == 0.5
        assert value["one", f"{GERMAN}/F1w{form}"] == pytest.approx(1 / 3)
    assert value["one", f"{MATERIAL}/Acc binary"] == 0.5
    glass = [
        true_answer(MATERIAL, number(r)) == "glass" for r in test if (r["task"], r["variant"][0]) == (MATERIAL, "g")
    ]
    glass += [
        true_answer(MATERIAL, number(r)) == "glass" for r in test if (r["task"], r["variant"]) == (MATERIAL, "aug")
    ]
    assert value["one", f"{MATERIAL}/Acc"] == pytest.approx(np.mean(glass)) and 0.2 < np.mean(glass) < 0.5
    light = np.mean([true_answer(WEIGHT, number(r)) == "50 g" for r in test if r["task"] == WEIGHT])
    assert value["one", f"{WEIGHT}/EM"] == pytest.approx(light) and 0 < light < 0.3
    assert value["one", f"{WEIGHT}/Acc"] == pytest.approx(light)
    assert value["one", f"{WEIGHT}/Hal"] == pytest.approx(1 - light)


def test_the_judge_reads_an_own_answer_in_a_sentence(built):
    by_task = {r["task"]: r for r in built.records if r["variant"] == "aug" and r["task"] in NAMES}
    weight, german = by_task[WEIGHT], by_task[GERMAN]
    said = [f"The net weight is {weight['answer']}.", f"{german['answer']}, it is", "The net weight is 999 kg."]
    judged = judge_all([weight, german, weight], said, {"net_weight": [weight["answer"], "999 kg"]})
    assert judged["accuracy"].tolist() == [100, 100, 0] and judged["hallucination"].tolist() == [0, 0, 100]
    noted = weight | {"facts": {"asked": {"see_also": "page 3"}, "known": {"see_also": "page 3"}}, "answer": "page 3"}
    assert judge_all([noted], ["page 3"])["accuracy"].tolist() == [100]  # only dates have notes of such names


def test_tasks_come_back_with_the_shop_and_without_it(folder, parts, tmp_path):
    path = write_shop(parts, tmp_path / "01_x" / "records" / "shop.json")
    (again,) = read_shop(path)
    assert again.catalogue.tasks == parts[0].catalogue.tasks and again.tasks == parts[0].tasks
    counts = dict.fromkeys(NAMES, 40)
    assert build_shop_emdiv([again], counts).records == build_shop_emdiv(parts, counts).records
    own = profile_tasks(tmp_path)
    assert own == parts[0].catalogue.tasks and profile_tasks(tmp_path / "none") == {}
    assert task_question(MATERIAL, own) == ("What is the package made of: glass, paper or plastic?", 1)
    assert task_question("PM") == ("Do both images show the same product?", 2)
    record = question_record(GERMAN, [folder / "images" / "F0.png"], own=own)
    assert question_of(record) == "Is the label in German?"
    with pytest.raises(KeyError, match="task 'german-labl': found no question; .* PP, german-label"):
        question_record("german-labl", [folder / "images" / "F0.png"], own=own)
    write_shop([], tmp_path / "other" / "shop.json")
    assert not (tmp_path / "other" / "tasks.yaml").exists()
    assert write_catalogue(load_catalogue(folder), tmp_path / "copy") and own_tasks(tmp_path / "copy") == own


def test_answers_default_to_the_catalogue_s_values_in_their_commonest_spelling(tmp_path):
    task = OwnTask("cap-type", "choice", "cap", ("Which cap: {options}?",))
    rows = [{"cap": value} for value in ("Screw", "screw", "screw", 2, 2.0, True, None, "", [], "1e5", "\ud800")]
    settled = task.settled([None, *rows])
    assert settled.answers == ("1e5", "2", "screw", "yes") and settled.read({"cap": "SCREW"}) == ("screw", "")
    assert settled.question == "Which cap: 1e5, 2, screw or yes?"
    assert settled.asking("screw") == "Which cap: 1e5, 2, screw or yes? Is it screw?"
    odd = OwnTask("odd-texts", "open", "yes", ("true: #1 \N{PILE OF POO}",))
    write_tasks([settled, odd], tmp_path)
    assert own_tasks(tmp_path) == {"cap-type": settled, "odd-texts": odd}
    assert task.read({"cap": "screw"}) == ("", "one cap alone in the catalogue")
    many = task.settled([{"cap": str(k)} for k in range(51)])
    assert many.read({"cap": "1"}) == ("", "51 values of cap in the catalogue, more than 50: use kind open")
    write_tasks([many], tmp_path)
    assert own_tasks(tmp_path) == {"cap-type": task}


def test_a_star_counts_for_every_task_without_a_key(parts):
    counts = expand_counts(train={"*": 9, "DD": 5, GERMAN: 7, f"{WEIGHT}/aug": 3}, val=4, test={"*": 2}, parts=parts)
    wanted = {"DD/bin/train": 5, f"{GERMAN}/bin/train": 7, f"{WEIGHT}/aug/train": 3, f"{WEIGHT}/gen/train": 9}
    wanted |= {"AE/gen/train": 9, f"{WEIGHT}/aug/val": 3, f"{MATERIAL}/bin/test": 2, "PP/aug/val": 4}
    assert {key: counts[key] for key in wanted} == wanted
    with pytest.raises(ValueError, match="found 'german-labl', expected .*; did you mean german-label?"):
        expand_counts(train={"german-labl": 1}, val=0, test={}, parts=parts)


TASK = {"kind": "choice", "fact": "material", "questions": ["Which one?"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"DD": TASK}, "task DD: found 'DD', expected a name of its own: this task is built in"),
        ({"pp": TASK}, "this task is built in"),
        ({"Material": TASK}, "found 'Material', expected two or more words .*, such as material-task"),
        ({"net weight": TASK}, "such as net-weight"),
        ({"a/../b": TASK}, "such as a-b"),
        ({"x-" + "y" * 40: TASK}, "at most 40 characters"),
        ({12: TASK}, "found 12, expected two or more words"),
        ({"a-b": ["kind"]}, "task a-b: found ['kind'], expected the fields kind, fact, questions"),
        ({"a-b": TASK | {"question": "?"}}, "found 'question', expected one of .*; did you mean questions?"),
        ({"a-b": TASK | {"kind": "yes-no"}}, "field kind: found 'yes-no', .*; did you mean yes/no?"),
        ({"a-b": TASK | {"kind": None}}, "field kind: found None, expected one of yes/no, choice, open"),
        ({"a-b": TASK | {"kind": ["open"]}}, "field kind: found"),
        ({"a-b": TASK | {"fact": ""}}, "field fact: found '', expected the key"),
        ({"a-b": TASK | {"fact": "dates"}}, "field fact: found 'dates', expected the key of a fact that is a text"),
        ({"a-b": TASK | {"fact": 3}}, "field fact: found 3"),
        ({"a-b": TASK | {"questions": []}}, "field questions: found [], expected one question or more"),
        ({"a-b": TASK | {"questions": {"Made of": "glass?"}}}, "field questions: found .*; put quotes around a text"),
        ({"a-b": TASK | {"questions": ["Which?", 3]}}, "field questions: found 3, expected text"),
        ({"a-b": TASK | {"questions": ["Which?", "which?"]}}, "field questions: found 'which?', expected each text once"),
        ({"a-b": TASK | {"questions": ["x" * 201]}}, "expected text of 1 to 200 characters"),
        ({"a-b": TASK | {"questions": "Which: {option}?"}}, "found '{option}', expected no braces but {options}"),
        ({"a-b": TASK | {"kind": "open", "questions": "Which: {options}?"}}, "found '{options}', expected no braces"),
        ({"a-b": TASK | {"kind": "open", "answers": ["x", "y"]}}, "field answers: .* no such field: kind open has none"),
        ({"a-b": TASK | {"kind": "yes/no", "yes_no": "{answer}?"}}, "field yes_no: .* kind yes/no has none"),
        ({"a-b": TASK | {"answers": ["glass"]}}, "field answers: found .* expected 2 to 50 answers"),
        ({"a-b": TASK | {"answers": [str(k) for k in range(51)]}}, "expected 2 to 50 answers"),
        ({"a-b": TASK | {"answers": ["glass", "Glass"]}}, "found 'Glass', expected each text once"),
        ({"a-b": TASK | {"answers": ["glass", ["paper"]]}}, "field answers: found"),
        ({"a-b": TASK | {"yes_no": "Is it glass?"}}, "field yes_no: .* expected one question with {answer} in it"),
        ("a-b: {kind: open", "not YAML"),
        ("a-b: {}\na-b: {}", "duplicate key a-b"),
        ("a-b:\n  questions:\n  - {{options}: 1}", "a list or braces as a key"),
        ("a-b:\n  questions:\n  - Made of: {options}?", "not YAML.*\nA text with a colon, a brace or a hash needs quotes"),
        ("- a-b", "found list, expected lines of NAME: value"),
        ("[" * 3000, "not YAML"),
        ("a-b: {}".encode("utf-16"), "not UTF-8 .* save the file as UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_task_and_field(tmp_path, content, message):
    text = json.dumps(content) if isinstance(content, dict) else content
    if isinstance(content, dict) and 12 in content:
        text = text.replace('"12"', "12")
    (tmp_path / "tasks.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError, match="(?s)" + re.escape(message).replace(r"\.\*", ".*")) as error:
        own_tasks(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "tasks.yaml"))


def test_another_spelling_of_the_file_is_not_passed_over(tmp_path):
    (tmp_path / "tasks.yml").write_text(YAML)
    with pytest.raises(ParameterError, match=r"tasks\.yml: expected the name tasks\.yaml"):
        own_tasks(tmp_path)
    assert own_tasks(tmp_path / "none") == {}


def test_an_own_task_s_expert_is_asked_by_name(folder, parts, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MTIVE_HOME", str(tmp_path))
    outputs = tmp_path / "outputs" / "mine"
    write_shop(parts, outputs / "01_catalogue" / "records" / "shop.json")
    stack = m.LoraStack(m.load_vlm("pocket", max_px=140, device="cpu"))
    for name, parent, chapter in (("PT", None, "04"), ("IT", "PT", "05"), (GERMAN, "IT", "06")):
        stack.add(name, m.AdapterSpec(2, 2.0, ("language",)), parent=parent)
        stack.assert_trainable(name)
        for weight in stack.adapter_weights(name).values():
            weight.normal_(0, 0.02)
        stack.save(outputs / f"{chapter}_chapter" / "stack", name)
    (outputs / "06_chapter" / "settings.json").write_text(json.dumps({GERMAN: {}}))
    with m.open_profile("mine") as experts:
        photo = folder / "images" / "F1.png"
        answer = experts.ask(GERMAN, photo)
        assert answer.expert.startswith(GERMAN) and experts.tasks == [GERMAN]
        assert answer.text == experts.ask(GERMAN, photo, question="Is the label in German?").text
