"""Annotation: a store that survives its process, the training records from it, and the form driven without a browser."""

import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from mtive_nb.data.annotations import (
    AnnotationError,
    AnnotationStore,
    preference_pairs,
    sft_records,
    simulated_annotator,
)
from mtive_nb.data.records import load_records, record_fault, write_records, write_rows
from mtive_nb.show import annotate

PREFILLS = ["yes", "no", '{"shape": "square"}', "A 2"]


def opened(path: Path) -> AnnotationStore:
    return AnnotationStore(path, annotator="ann")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "decisions.jsonl"


@pytest.fixture
def store(path):
    """One record of each decision."""
    store = opened(path)
    store.decide("r0", prefill="yes", answer="yes ", seconds=1.0)
    store.decide("r1", prefill="no", answer="yes", seconds=2.0)
    store.decide("r2", prefill="A", answer=None, seconds=3.0)
    return store


def test_a_line_a_decision_with_all_that_was_decided(store, path):
    assert [(r["record_id"], r["decision"], r["answer"]) for r in lines(path)] == [
        ("r0", "accepted", "yes"),
        ("r1", "corrected", "yes"),
        ("r2", "skipped", None),
    ]
    first = lines(path)[0]
    assert (first["prefill"], first["seconds"], first["annotator"]) == ("yes", 1.0, "ann")
    assert first["time"].endswith("+00:00")
    assert opened(path).annotations == store.annotations


def test_an_empty_answer_is_refused_and_leaves_no_line(store, path):
    with pytest.raises(AnnotationError, match="r3.*skip"):
        store.decide("r3", prefill="yes", answer="  ", seconds=1.0)
    assert len(lines(path)) == 3 and "r3" not in store.annotations


def test_undo_adds_a_line_and_takes_the_decision_out_of_force(store, path):
    before = path.read_bytes()
    assert store.undo("r1").answer == "yes"
    assert path.read_bytes().startswith(before) and lines(path)[-1]["decision"] == "undone"
    assert list(store.annotations) == list(opened(path).annotations) == ["r0", "r2"]
    store.decide("r1", prefill="no", answer="no", seconds=1.0)
    assert [a.decision for a in opened(path).annotations.values()] == ["accepted", "skipped", "accepted"]
    with pytest.raises(KeyError):
        store.undo("r9")


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_half_last_line_is_dropped_with_a_warning_and_the_next_line_is_whole(store, path, cut):
    store.decide("r3", prefill="é", answer="ü", seconds=1.0)
    path.write_bytes(path.read_bytes()[:-cut])
    whole = cut == 1  # only the line's end is gone
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        again = opened(path)
    assert [f"{path}, line 4" in str(w.message) for w in seen] == ([] if whole else [True])
    assert list(again.annotations) == ["r0", "r1", "r2", "r3"][: 4 if whole else 3]
    again.decide("r4", prefill="no", answer="no", seconds=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert opened(path).annotations == again.annotations


def test_half_a_character_is_half_a_line(path):
    opened(path).decide("r0", prefill="é", answer="é", seconds=1.0)
    path.write_bytes(path.read_bytes().partition("é".encode())[0] + "é".encode()[:1])
    with pytest.warns(UserWarning, match="half a line"):
        assert opened(path).annotations == {}


@pytest.mark.parametrize("line", ['{"record_id": "r0"}', "[]", '"text"'])
def test_a_whole_line_that_is_no_decision_is_an_error(store, path, line):
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(AnnotationError, match=r"line 4: found .*expected record_id"):
        opened(path)
    path.write_text(path.read_text().replace(line, path.read_text().splitlines()[0].replace("accepted", "agreed")))
    with pytest.raises(AnnotationError, match="line 4, field 'decision': found 'agreed'"):
        opened(path)


WRITER = """
import sys
from mtive_nb.data.annotations import AnnotationStore
store = AnnotationStore(sys.argv[1], annotator="ann")
for k in range(len(store.annotations), 10**6):
    store.decide(f"r{k}", prefill="yes", answer="no", seconds=1.0)
    print(k, flush=True)
"""


def test_kill_9_loses_no_decision_and_a_new_process_goes_on(path):
    kept = 0
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert int(process.stdout.readline()) == kept  # where the last one stopped
            for _ in range(20):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            said = [line for line in process.stdout.read().split("\n") if line]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = opened(path).annotations
        assert list(found) == [f"r{k}" for k in range(len(found))]
        assert len(found) >= int(said[-1] if said else kept + 20)  # all that it reported, at most one more
        kept = len(found)


def test_targets_are_records_with_the_final_answer(store, records, tmp_path, photo_folder):
    records = [r | {"images": [str(photo_folder / i) for i in r["images"]]} for r in records]
    targets = sft_records(records, store.annotations)
    assert [(r["id"], r["answer"]) for r in targets] == [("r0", "yes"), ("r1", "yes")]
    assert not any(map(record_fault, targets))
    assert records[1]["answer"] == "no", "the record that was annotated stays as it was"
    assert load_records(write_records(targets, tmp_path / "sft.jsonl")) == targets


def test_pairs_come_of_corrections_alone(store, records, tmp_path, photo_folder):
    records = [r | {"images": [str(photo_folder / i) for i in r["images"]]} for r in records]
    store.decide("r3", prefill="", answer="text", seconds=1.0)
    store.decide("r4", prefill=" same ", answer="same", seconds=1.0)
    pairs = preference_pairs(records, store.annotations)
    assert [(p["id"], p["chosen"], p["rejected"]) for p in pairs] == [("r1", "yes", "no")]
    assert pairs[0]["messages"][-1]["content"] == "yes" and pairs[0]["messages"][0] == records[1]["messages"][0]
    (line,) = lines(write_rows(pairs, tmp_path / "pairs.jsonl"))
    assert [(tmp_path / i).resolve() for i in line["images"]] == [Path(i).resolve() for i in records[1]["images"]]
    assert not Path(line["images"][0]).is_absolute() and line | {"images": 0} == pairs[0] | {"images": 0}


def test_the_simulated_annotator_accepts_what_is_right_and_corrects_to_the_truth(records):
    def right(record, answer):
        return answer == "sure"

    assert simulated_annotator(records[0], "sure", is_right=right) == "sure"
    assert simulated_annotator(records[0], "no", is_right=right) == records[0]["answer"] == "yes"


class Driver:
    """The form, and a person at it: keys and clicks arrive as the browser sends them."""

    def __init__(self, records, path, photo_folder):
        self.now_s = 0.0
        self.form = annotate.AnnotationForm(
            records, PREFILLS, opened(path), clock=lambda: self.now_s, later=lambda action: action()
        )

    def enter(self, text=None, *, after_s=2.0):
        self.now_s += after_s
        if text is not None:
            self.form.answer.value = text
        self.form.answer._handle_custom_msg({"event": "submit"}, [])

    def click(self, button, *, after_s=2.0):
        self.now_s += after_s
        button._handle_button_msg(button, {"event": "click"}, [])

    @property
    def decisions(self):
        return [(i, a.decision, a.answer) for i, a in self.form.store.annotations.items()]


@pytest.fixture
def driver(records, path, photo_folder):
    return Driver(records[:4], path, photo_folder)


def test_enter_accepts_what_is_unchanged_and_saves_what_was_changed(driver, path):
    form = driver.form
    assert form.answer.value == "yes" and "Is it red?" in form.head.value and form.head.value.count("<img") == 1
    driver.enter()
    assert form.answer.value == "no" and form.head.value.count("<img") == 2, "the second record has two photos"
    driver.enter("maybe")
    driver.click(form.skip)
    driver.click(form.save, after_s=5.0)
    assert driver.decisions == [
        ("r0", "accepted", "yes"),
        ("r1", "corrected", "maybe"),
        ("r2", "skipped", None),
        ("r3", "accepted", "A 2"),
    ]
    assert [r["seconds"] for r in lines(path)] == [2.0, 2.0, 2.0, 5.0]
    assert form.status.value == "4 of 4, 11 s"
    assert "Every record" in form.head.value and form.save.disabled and form.skip.disabled and form.answer.disabled
    driver.enter()
    assert len(lines(path)) == 4, "Enter after the last record decides nothing"


def test_every_decision_is_in_the_file_at_once(driver, path):
    for k in range(3):
        driver.enter()
        assert len(lines(path)) == k + 1


def test_progress_counts_and_estimates(driver):
    form = driver.form
    assert (form.bar.value, form.bar.max, form.status.value, form.undo.disabled) == (0, 4, "0 of 4", True)
    driver.enter(after_s=10)
    driver.enter(after_s=20)
    assert (form.bar.value, form.status.value) == (2, "2 of 4, 30 s, about 30 s left")
    driver.click(form.undo)
    assert (form.bar.value, form.status.value) == (1, "1 of 4, 10 s, about 30 s left")


def test_undo_goes_back_one_shows_the_answer_given_and_lets_it_be_changed(driver):
    form = driver.form
    driver.enter()
    driver.enter("maybe")
    driver.click(form.undo)
    assert form.answer.value == "maybe" and driver.decisions == [("r0", "accepted", "yes")]
    driver.enter("never")
    assert driver.decisions[-1] == ("r1", "corrected", "never") and form.answer.value == PREFILLS[2]
    for _ in range(2):
        driver.click(form.undo)
    assert driver.decisions == [] and form.answer.value == "yes" and form.undo.disabled


def test_undo_works_after_the_last_record(driver):
    for _ in PREFILLS:
        driver.enter()
    driver.click(driver.form.undo)
    assert driver.form.answer.value == "A 2" and not driver.form.save.disabled and driver.form.bar.value == 3


def test_the_form_resumes_at_the_first_open_record(driver, records, path, photo_folder):
    driver.enter()
    driver.click(driver.form.skip)
    opened(path).decide("of another set", prefill="a", answer="a", seconds=9.0)
    again = Driver(records[:4], path, photo_folder)
    assert again.form.answer.value == PREFILLS[2] and again.form.bar.value == 2
    again.click(again.form.undo)
    assert again.form.answer.value == "no" and "of another set" in again.form.store.annotations


def test_a_second_click_does_not_decide_on_a_photo_that_nobody_saw(driver):
    driver.enter()
    driver.enter(after_s=0.1)
    assert len(driver.decisions) == 1 and "look, then decide" in driver.form.error.value
    driver.enter()
    assert len(driver.decisions) == 2 and driver.form.error.value == ""


def test_clicks_in_many_threads_decide_once(driver, path, monkeypatch):
    """ipykernel 7.3 calls handlers in a thread of their own, 7.4 in the main one."""
    decide = driver.form.store.decide
    monkeypatch.setattr(driver.form.store, "decide", lambda *a, **k: (time.sleep(0.05), decide(*a, **k)))
    driver.now_s += 2.0
    threads = [threading.Thread(target=driver.click, args=(driver.form.save,), kwargs={"after_s": 0}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(path)) == 1 and driver.form.answer.value == PREFILLS[1]


def test_what_cannot_be_written_is_said_in_the_form_and_decided_again(driver, path):
    path.parent.rmdir() if path.parent.exists() else None
    path.parent.write_text("a file where the folder should be")
    driver.enter("<maybe>")
    assert "Error" in driver.form.error.value and str(path.parent) in driver.form.error.value
    assert driver.decisions == [] and driver.form.answer.value == "<maybe>", "what was typed is still there"
    path.parent.unlink()
    driver.enter()
    assert driver.decisions == [("r0", "corrected", "<maybe>")] and driver.form.error.value == ""
    driver.enter("")
    assert "empty answer" in driver.form.error.value and len(driver.decisions) == 1


def test_a_photo_that_is_missing_is_said_and_can_be_skipped(records, path, photo_folder):
    records[0] = records[0] | {"images": ["gone.png"]}
    driver = Driver(records[:4], path, photo_folder)
    form = driver.form
    assert "PhotoError" in form.error.value and "Record r0, photos gone.png" in form.head.value
    assert form.save.disabled and form.answer.disabled, "nobody accepts what nobody saw"
    driver.click(form.skip)
    assert (form.error.value, form.answer.value, form.save.disabled) == ("", "no", False)


def test_the_still_form_is_plain_html(driver):
    driver.enter()
    driver.form.answer.value = '"<no>"'
    page = driver.form.still().data
    assert "&quot;&lt;no&gt;&quot;" in page and page.count("<img") == 2 and "1 of 4" in page and "Undo" in page
    assert "Answer from the photos alone" in page and "<li>Is it red? yes (accepted)</li>" in page


def test_one_prefill_a_record(records, path, photo_folder):
    with pytest.raises(ValueError, match="1 prefills for 12 records"):
        annotate.AnnotationForm(records, ["yes"], opened(path))


def test_text_that_arrives_just_after_enter_counts(records, path, photo_folder):
    """The browser sends Enter first and what was typed after it; both within the time that the form waits."""
    form = annotate.AnnotationForm(records[:4], PREFILLS, opened(path))
    form._shown_s -= 60
    form.answer._handle_custom_msg({"event": "submit"}, [])
    form.answer.value = "typed"
    until = time.monotonic() + 10
    while not form.store.annotations and time.monotonic() < until:
        time.sleep(0.02)
    assert form.store.annotations["r0"].answer == "typed"


def test_keys_in_the_field_skip_and_take_back(driver):
    driver.enter()
    driver.enter("?")
    assert driver.decisions == [("r0", "accepted", "yes"), ("r1", "skipped", None)]
    driver.enter("<")
    assert driver.decisions == [("r0", "accepted", "yes")] and driver.form.answer.value == "no"


def test_a_question_with_few_answers_has_a_button_for_each(records, path, photo_folder):
    kinds = [("DD", "bin", "yes"), ("DD", "aug", "dent"), ("DD", "aug", "crack"), ("AE", "gen", None)]
    asked = [
        r | {"task": t, "variant": v, "label": x} | ({"answer": x} if x else {})
        for r, (t, v, x) in zip(records, kinds, strict=False)
    ]
    asked[3] |= {"label": "yes", "answer": "yes, both show a cup"}  # a label that is no whole answer
    driver = Driver(asked, path, photo_folder)
    form = driver.form
    assert [button.description for button in form.choices.children] == ["yes", "no"]
    assert "<button disabled>yes</button> <button disabled>no</button>" in form.still().data
    driver.click(form.choices.children[1])
    assert [button.description for button in form.choices.children] == ["crack", "dent"]
    driver.click(form.choices.children[0])
    driver.click(form.skip)
    assert driver.decisions == [("r0", "corrected", "no"), ("r1", "corrected", "crack"), ("r2", "skipped", None)]
    assert not form.choices.children, "an open question has none"
    driver.enter()
    assert "1 accepted, 2 corrected, 1 skipped; saved in decisions.jsonl" in form.head.value
    said = form.last.value
    assert said.count("<li>") == 4 and said.index("(accepted)") < said.index("(skipped)") < said.index("(corrected)")
