"""Probabilities of answers among options: against the model's logits, known temperatures, thresholds by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from mtive_nb.evaluate.predict import chosen_yes_no, next_token_logits
from mtive_nb.evaluate.probability import (
    Choice,
    calibration_entries,
    calibration_table,
    choices_of_experts,
    choose,
    fit_temperature,
    fit_temperatures,
    follow,
    option_of,
    option_tokens,
    threshold_table,
    thresholds_by_task,
    with_confidence,
)
from mtive_nb.model.load import load_vlm
from mtive_nb.model.stack import LoraStack
from mtive_nb.show import reliability


@pytest.fixture(scope="module")
def stack(tiny_folder):
    return LoraStack(load_vlm(str(tiny_folder), dtype="float32", device="cpu"))


def polar(logit: float) -> Choice:
    """The choice between yes and no whose logits differ by `logit`."""
    return Choice("yes", ((logit, 0.0),)) if logit > 0 else Choice("no", ((0.0, logit),))


def simulated(n: int, *, temperature: float, classes: int = 2, seed: int = 0) -> tuple[list[Choice], np.ndarray]:
    """Choices by the largest logit, and whether they are right where the truth is drawn at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (n, classes))
    shares = np.exp(logits / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(classes, p=row) for row in shares])
    best = logits.argmax(axis=1)
    choices = [Choice(str(b), ((row[b], *np.delete(row, b)),)) for b, row in zip(best, logits, strict=True)]
    return choices, (best == truth).astype(float)


def test_yes_or_no_is_chosen_as_by_the_first_token(stack, records, photo_folder):
    options = option_tokens(stack.vlm.processor, ("yes", "no"))
    found = choose(stack, records, options, batch=5)
    assert [choice.option for choice in found] == chosen_yes_no(stack, records)
    for choice, record in zip(found, records, strict=True):
        row = next_token_logits(stack, [record])[0]
        pair = torch.stack([row[options["yes"][0]], row[options["no"][0]]])
        assert choice.probability_yes() == pytest.approx(pair.softmax(0)[0].item(), abs=1e-5)
        assert choice.probability_yes(3.0) == pytest.approx((pair / 3).softmax(0)[0].item(), abs=1e-5)


def test_classes_that_begin_alike_part_at_a_later_token(stack, records, photo_folder):
    names = ("in hand", "in carton", "on shelf", "on floor", "in hand luggage")
    options = option_tokens(stack.vlm.processor, names)
    for choice, record in zip(choose(stack, records[:4], options), records, strict=False):
        own, by_hand = options[choice.option], 1.0
        for t, token in enumerate(own):
            asked = record["messages"][:-1] + [{"role": "assistant", "content": ""}]
            row = _next_logits(stack, record | {"messages": asked}, own[:t])
            rivals = list({o[t] for o in options.values() if len(o) > t and o[:t] == own[:t]})
            by_hand *= row[rivals].softmax(0)[rivals.index(token)].item()
            assert row[token] == row[rivals].max()  # greedy among the options
        assert choice.confidence() == pytest.approx(by_hand, rel=1e-3)


@torch.inference_mode()
def _next_logits(stack, record: dict, begun: list[int]) -> torch.Tensor:
    """The logits after the question and the tokens `begun` of an answer, (V,)."""
    from mtive_nb.model.batches import batch_of

    inputs = batch_of(stack.vlm, [record])
    prompt = inputs["input_ids"].shape[1]
    if begun:  # forced: generation is held to these tokens
        made = stack.model.generate(
            **inputs, max_new_tokens=len(begun) + 1, do_sample=False, output_logits=True, return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda _, ids: [[*begun, 0][min(len(ids) - prompt, len(begun))]],
        )  # fmt: skip
        return made.logits[-1][0]
    return stack.model(**inputs).logits[0, -1]


def test_an_answer_is_an_option_by_its_tokens_and_whole_words(stack):
    options = {"yes": [7, 1], "no": [8, 1], "no idea": [8, 9, 1]}
    assert option_of("yes, it is", [7, 4, 5], options) == "yes"
    assert option_of("no", [8, 1], options) == "no" and option_of("no idea", [8, 9, 1], options) == "no idea"
    assert option_of("nobody", [8, 4], options) is None and option_of("Yes", [6], options) is None
    logits = [{7: 0.0, 8: 1.0}, {9: 2.0, 1: 3.0}, {1: 5.0}]
    assert follow("no idea", options, logits).partings == ((1.0, 0.0), (2.0, 3.0))
    assert follow("yes", options, logits[:1]).partings == ((0.0, 1.0),)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature, classes):
    choices, right = simulated(6000, temperature=temperature, classes=classes)
    assert fit_temperature(choices, right) == pytest.approx(temperature, rel=0.1)


def test_a_few_right_answers_do_not_demand_certainty():
    sure = [polar(2.0)] * 4
    assert 0.4 < fit_temperature(sure, [1.0] * 4) < 1.0 < fit_temperature(sure, [0.0] * 4) < 20
    assert fit_temperature([], []) == pytest.approx(1.0, abs=1e-3)
    few, narrow, wide = (
        fit_temperature(sure, [0.0] * 4),
        *(fit_temperature(sure, [0.0] * 4, spread=s) for s in (0.01, 10)),
    )
    assert 1.0 < narrow < 1.01 < few < fit_temperature(sure * 20, [0.0] * 80) and few < wide


def table_of(choices: list[Choice], right: np.ndarray, *, split: str, task: str = "DD") -> pd.DataFrame:
    k = range(len(choices))
    about = {"id": [f"{split}{i}" for i in k], "product_id": [f"P{i}" for i in k], "split": split, "task": task}
    truth = [c.option if r else "other" for c, r in zip(choices, right, strict=True)]
    return pd.DataFrame(about | {"kind": "yes/no", "truth": truth, "choice": choices, "right": right})


def test_calibration_on_other_answers_falls_with_the_fitted_temperature():
    val, test = (table_of(*simulated(3000, temperature=3.0, seed=s), split=n) for s, n in ((1, "val"), (2, "test")))
    fitted = fit_temperatures(val)
    confident = with_confidence(test, fitted)
    errors = calibration_table(confident)
    ece = errors.set_index("state")["value"]
    assert ece["before"] > 0.1 > 0.04 > ece["after"] and (errors["low"] <= errors["value"]).all()
    assert list(confident["before"]) == [c.confidence() for c in test["choice"]]
    found = calibration_entries(fitted, errors, experts={"DD": "abc"}, classes={})["DD"]["yes/no"]
    assert found["n"] == 3000 and found["expert"] == "abc" and found["ece_after"] == ece["after"]
    assert found["temperature"] == pytest.approx(3.0, rel=0.15) and found["options"] == ["yes", "no"]
    figure = reliability(confident.assign(panel="DD"), states={"before": "before", "after": "after"})
    assert [line.get_label() for line in figure.axes[0].lines[1:]] == ["before", "after"]


def test_a_task_without_answers_of_a_kind_is_left_out(stack, records, photo_folder):
    for k, record in enumerate(records):
        record |= {"task": ("DD", "PT", "AE")[k % 3], "split": "val" if k < 9 else "test", "label": record["answer"]}
        if record["task"] != "DD":
            record |= {"variant": "gen", "label": "box" if record["task"] == "PT" else "a name"}
    adapters = dict.fromkeys(("DD", "PT", "AE", "EX"))
    found = choices_of_experts(stack, adapters, records, classes={"PT": ("box", "can")}, batch=4)
    assert found.groupby(["task", "kind"]).size().to_dict() == {("DD", "yes/no"): 4, ("PT", "class"): 4}
    assert {c.option for c in found[found["task"] == "PT"]["choice"]} <= {"box", "can"}
    assert list(found["right"]) == [float(c.option == t) for c, t in zip(found["choice"], found["truth"], strict=True)]
    nothing = choices_of_experts(stack, {"AE": None}, records)
    fitted = fit_temperatures(nothing)
    confident = with_confidence(nothing, fitted)
    errors = calibration_table(confident)
    assert nothing.empty and fitted.empty and errors.empty and thresholds_by_task(confident).empty
    assert calibration_entries(fitted, errors, experts={}, classes={}) == {}
    only_val = found[found["split"] == "val"]
    fitted = fit_temperatures(only_val)
    errors = calibration_table(with_confidence(found[found["split"] == "none"], fitted))
    entries = calibration_entries(fitted, errors, experts={"DD": "a", "PT": "b"}, classes={"PT": ("box", "can")})
    assert entries["PT"]["class"]["ece_before"] is None and entries["PT"]["class"]["options"] == ["box", "can"]


def test_thresholds_by_hand():
    yes = [0.95, 0.8, 0.65, 0.35, 0.1, 0.02]
    truth = [True, False, True, True, False, False]
    table = threshold_table(yes, truth, thresholds=(0.5, 0.7, 0.9, 0.99)).set_index("threshold")
    assert list(table.loc[0.5]) == pytest.approx([1, 0, 2 / 3, 2 / 3, 4 / 6])
    assert list(table.loc[0.7]) == pytest.approx([4 / 6, 2 / 6, 1 / 2, 1, 3 / 4])
    assert list(table.loc[0.9]) == pytest.approx([3 / 6, 3 / 6, 1, 1, 1])
    assert list(table.loc[0.99][:2]) == [0, 1] and table.loc[0.99][2:].isna().all()
    assert list(table.columns) == ["automatic", "to_a_person", "precision_yes", "recall_yes", "accuracy"]


def test_thresholds_of_a_task_use_its_calibrated_probability_of_yes():
    choices, right = [polar(2.0), polar(-1.0), polar(-4.0)], np.array([1.0, 0.0, 1.0])
    table = table_of(choices, right, split="test")
    table["truth"] = ["yes", "yes", "no"]
    fitted = pd.DataFrame([{"task": "DD", "kind": "yes/no", "temperature": 2.0, "n": 9}])
    found = thresholds_by_task(with_confidence(table, fitted))
    by_hand = threshold_table([1 / (1 + np.exp(-z / 2)) for z in (2.0, -1.0, -4.0)], [True, True, False])
    pd.testing.assert_frame_equal(found.drop(columns="task"), by_hand)
    assert set(found["task"]) == {"DD"}
