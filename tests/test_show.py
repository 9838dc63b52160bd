import io
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.evaluate.continual import replay_name
from mtive_nb.show import (
    answer_table,
    bars_with_intervals,
    caption_of,
    confusions,
    curves,
    dates_caption_of,
    gallery,
    gaps,
    lines,
    matrix,
    photo_grid,
    record_rows,
    stacked_shares,
)
from mtive_nb.show.style import (
    ARMS,
    GROUNDS,
    NEAR,
    OTHERS,
    PARTS,
    SYSTEMS,
    TASKS,
    apart,
    colour_of,
    colours_of,
)

ROOT = Path(__file__).parents[1]


def test_bars_stand_at_their_values_with_their_intervals():
    rows = [
        {"system": s, "column": c, "value": v, "low": v - 0.1, "high": v + 0.2}
        for s, v in (("zero-shot", 0.2), ("MTIVE_MTL", 0.7))
        for c in ("AE", "DD")
    ]
    figure = bars_with_intervals(pd.DataFrame(rows), columns=["AE", "DD"], chance={"DD": 0.5})
    axes = figure.axes[0]
    assert sorted(p.get_height() for p in axes.patches) == [0.2, 0.2, 0.7, 0.7]
    assert axes.get_ylabel() == "95% intervals, higher is better"
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {
        "zero-shot",
        "MTIVE_MTL",
        "always the commonest answer",
    }


def test_an_axis_names_measure_range_n_and_direction_and_a_zero_is_written():
    rows = [{"system": s, "column": f"{t}/Acc", "value": v, "low": v, "high": v} for s, v in (("a", 0.0), ("b", 40.0)) for t in ("AE", "own-task", "DD")]  # fmt: skip
    frame = pd.DataFrame(rows).assign(n=240, unit="points 0-100")
    figure = bars_with_intervals(frame, chance={"AE/Acc": 50.0})
    axes = figure.axes[0]
    assert axes.get_ylabel() == "Accuracy, 0-100, n = 240\n95% intervals, higher is better"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["attributes (AE)", "own-task", "damage (DD)"]
    assert [t.get_text() for t in axes.texts] == ["0"] * 3
    assert "always the commonest answer" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_many_systems_on_few_columns_become_rows_with_their_names_and_values():
    rows = [{"system": f"a long name {k}", "column": c, "value": k / 10, "low": 0.0, "high": 1.0} for k in range(4) for c in ("ECE", "nats")]  # fmt: skip
    dots = pd.DataFrame({"system": ["a long name 2"], "column": ["nats"], "value": [0.25]})
    figure = bars_with_intervals(pd.DataFrame(rows), better="lower", title="A title " * 30, dots=dots)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [f"a long name {k}" for k in range(4)]
    assert [axes.get_title() for axes in figure.axes] == ["ECE", "nats"]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0.0, 0.1, 0.2, 0.3]
    assert [t.get_text() for t in figure.axes[0].texts] == ["0", "0.100", "0.200", "0.300"]
    (dots,) = [c.get_offsets().tolist() for c in figure.axes[1].collections if isinstance(c, PathCollection)]
    assert dots == [[0.25, 2.2]]  # beside the whisker
    assert figure.axes[0].get_xlabel() == "ECE\n95% intervals, lower is better"


def drawn(figure):
    """The figure laid out, and the boxes of its texts in pixels."""
    figure.draw_without_rendering()
    return lambda texts: [text.get_window_extent() for text in texts if text.get_text()]


def test_long_names_of_groups_break_and_do_not_overlap():
    columns = [f"{of}, {share}% wrong" for of in ("precision", "recall") for share in (0, 10, 20, 40)]
    rows = [{"system": f"misreads {k}", "column": c, "value": 0.5, "low": 0.4, "high": 0.6} for k in range(3) for c in columns]  # fmt: skip
    figure = bars_with_intervals(pd.DataFrame(rows))
    boxes, axes = drawn(figure), figure.axes[0]
    labels, legend = boxes(axes.get_xticklabels()), figure.legends[0].get_window_extent()
    assert axes.get_xticklabels()[0].get_text() == "precision\n0% wrong"
    assert not [pair for pair in combinations(labels, 2) if pair[0].overlaps(pair[1])]
    assert not [box for box in labels if box.overlaps(legend)]


def test_the_legend_of_rows_lies_beside_the_bars():
    rows = [
        {"system": f"score {k}", "column": c, "value": 0.6, "low": 0.5, "high": 0.7} for k in range(5) for c in "ab"
    ]
    figure = bars_with_intervals(pd.DataFrame(rows), chance={"a": 0.5, "b": 0.5})
    drawn(figure)
    assert not [a for a in figure.axes if a.get_window_extent().overlaps(figure.legends[0].get_window_extent())]


def test_a_paper_s_table_names_the_measure_and_its_tasks_are_words():
    rows = [{"system": s, "column": c, "value": 40.0, "low": 39.0, "high": 41.0} for s in "ab" for c in ("Existing/AE", "New/PP")]  # fmt: skip
    frame = pd.DataFrame(rows).assign(paper="mtive", table="T4", unit="points", n=200)
    axes = bars_with_intervals(frame).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "attributes (AE)\nexisting\naccuracy", "placement (PP)\nnew\naccuracy",
    ]  # fmt: skip
    label = "Accuracy or exact match, points, n = 200 95% intervals, higher is better"
    assert axes.get_ylabel().split() == label.split()
    of_each = bars_with_intervals(frame.assign(paper="caslie", column=["AP", "CC"] * 2)).axes[0]
    assert [t.get_text() for t in of_each.get_xticklabels()] == ["AP\nF1", "CC\nR@1"]
    dated = bars_with_intervals(frame.assign(column=["Existing/AE", "Existing/EX"] * 2)).axes[0]
    assert [t.get_text() for t in dated.get_xticklabels()][1] == "dates (EX)\nexisting\nexact match"
    one = frame.assign(paper="ebay", table="T1", column=["General", "DAE"] * 2, unit="points 0-100")
    assert bars_with_intervals(one).axes[0].get_ylabel() == "Accuracy, 0-100, n = 200\n95% intervals, higher is better"


def test_a_matrix_and_the_other_charts_say_tasks_in_words_and_n_where_it_is_known():
    cosines = pd.DataFrame([[1.0, 0.1], [0.1, 1.0]], index=["AE", "DD"], columns=["AE", "expert_0"])
    axes = matrix(cosines, low=-1.0, high=1.0).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["attributes (AE)", "damage (DD)"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["attributes (AE)", "expert 0"]
    frame = pd.DataFrame({"x": [1, 2], "value": [1.0, 2.0], "low": 0.5, "high": 2.5, "n": [100, 240], "by": "a"})
    assert lines(frame, "x", "value").axes[0].get_ylabel() == "value, n = 100 to 240\nbands: 95% intervals"
    label = curves(frame, "x", by="by", panel="by").axes[0].get_ylabel()
    assert label.replace("\n", " ") == "n = 100 to 240 bands: 95% intervals, higher is better"
    differences = gaps(frame.assign(group="a", label="b"), unit="points").axes[0]
    ends = "95% intervals, dashed: none, hollow: as it stands"
    assert differences.get_xlabel() == f"difference in points, n = 100 to 240, {ends}"


def test_confusions_count_what_was_answered_to_what_is_true():
    rows = [("DD", "yes", "yes"), ("DD", "yes", "no"), ("DD", "no", "neither"), ("PM", "no", "no")]
    figure = confusions(pd.DataFrame(rows, columns=["task", "truth", "answer"]))
    assert [axes.get_title() for axes in figure.axes] == ["damage (DD)\nn = 3", "matching (PM)\nn = 1"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["no", "yes", "neither"]
    assert [t.get_text() for t in figure.axes[0].texts] == ["0", "0", "1", "1", "1", "0"]
    none = confusions(pd.DataFrame([], columns=["task", "truth", "answer"]), title="yes and no")
    assert none.get_suptitle() == "yes and no: no question" and not none.axes[0].axison


def test_a_gallery_shows_each_task_with_the_answers_of_the_systems(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    asked = {"messages": [user_turn("Which?", images=1)], "images": [tmp_path / "a.png"], "answer": "tea"}
    records = [asked | {"task": task} for task in ("AE", "AE", "AE", "DD")]
    said = {"zero-shot": ["Tea", "y", "z", "<w>"]}
    page = gallery(records, said, {"base": "zero-shot", "expert": "gone"}, each=2).data
    assert re.findall(r"<h4>(\w+)|<q>Which\?</q></p><p>truth: tea</p><p><span class=\"(\w+)\">(.*?)</span>", page) == [
        ("AE", "", ""), ("", "right", "✓ base: Tea"), ("", "wrong", "✗ base: y"),
        ("DD", "", ""), ("", "wrong", "✗ base: &lt;w&gt;"),
    ]  # fmt: skip
    assert page.count("data:image/jpeg") == 3 and "expert" not in page


def test_a_missing_score_leaves_a_gap_and_no_error():
    rows = [{"system": "MTIVE_SL", "column": "AE", "value": 1.0, "low": 1.0, "high": 1.0}]
    assert bars_with_intervals(pd.DataFrame(rows), columns=["AE", "EX"]).axes


def test_gaps_stand_in_their_group_s_order_the_first_hollow():
    rows = [("A less B", "stands", -2.0), ("C less D", "stands", 1.0), ("A less B", "changed", 0.5)]
    frame = pd.DataFrame(rows, columns=["group", "label", "value"])
    axes = gaps(frame.assign(low=frame["value"] - 1, high=frame["value"] + 1), unit="points").axes[0]
    assert [t.get_text() for t in axes.texts] == ["A less B", "C less D"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["stands", "changed", "stands"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [-2.0, 0.5, 1.0]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [True, False, True]


def test_curves_have_a_panel_a_task_and_a_line_a_group_in_the_order_of_x():
    rows = [
        (t, g, n, float(n))
        for t in ("AE", "DD")
        for g in ("base", "stages")
        for n in (400, 50)
        if (t, n) != ("DD", 400)
    ]
    frame = pd.DataFrame(rows, columns=["task", "ground", "records", "value"])
    panels = curves(frame.assign(low=0.0, high=500.0), "records", by="ground", panel="task").axes
    assert [axes.get_title() for axes in panels] == ["attributes (AE)", "damage (DD)"]
    assert [list(line.get_ydata()) for line in panels[0].lines] == [[50.0, 400.0]] * 2
    assert [list(line.get_xdata()) for line in panels[1].lines] == [[50], [50]]


def test_shares_add_up_to_one():
    figure = stacked_shares(pd.DataFrame({"a": [1, 2], "b": [3, 2]}, index=["train", "test"]))
    assert np.isclose(sum(p.get_width() for p in figure.axes[0].patches), 2.0)


def test_lines_one_a_group():
    frame = pd.DataFrame({"step": [1, 2, 1, 2], "loss": [3.0, 2.0, 3.0, 1.0], "adapter": list("aabb")})
    assert [t.get_text() for t in lines(frame, "step", "loss", by="adapter").axes[0].get_legend().get_texts()] == [
        "a",
        "b",
    ]


def test_answer_table_escapes_and_marks_right_answers(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    rows = pd.DataFrame(
        [{"images": [tmp_path / "a.png"], "question": "<b>?", "truth": "yes", "one": "yes", "other": "no"}]
    )
    page = answer_table(rows).data
    assert "&lt;b&gt;?" in page and page.count("font-weight:600") == 1 and "data:image/jpeg" in page


def test_captions_say_what_is_known():
    facts = {"attributes": {"category": "tea", "brand": "LOZ"}, "damage": "dent", "placement": None, "composited": True}
    assert caption_of(facts) == "tea, dent, composited" and caption_of({}) == ""
    assert dates_caption_of({"dates": {"expiry_text": "04/26"}}) == "expiry: 04/26; production: -"


def test_record_rows_show_the_question_without_the_words_that_announce_photos():
    turns = [user_turn("Same?", images=2), assistant_turn("yes")], [user_turn("", images=1), assistant_turn("A tin")]
    records = [{"messages": turn, "images": ["a.png"], "answer": turn[-1]["content"]} for turn in turns]
    rows = record_rows(records, ["PM bin", "raw"])
    assert rows.drop(columns="images").to_numpy().tolist() == [
        ["PM bin", "Same?", "yes"],
        ["raw", "(no question)", "A tin"],
    ]


def test_photo_grid_takes_paths_images_and_arrays(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    photos = [tmp_path / "a.png", Image.new("RGB", (20, 20)), np.zeros((10, 10, 3), np.uint8)]
    figure = photo_grid(photos, ["one", "two", "three"], columns=2, boxes=[(1, 2, 30, 20), None, None])
    assert len(figure.axes) == 4 and sum(len(a.images) for a in figure.axes) == 3


def test_a_dollar_in_a_title_is_no_formula():
    figure = photo_grid([Image.new("RGB", (20, 30))], ["$5 {off$ \\frac"])
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_title() == "$5 {off$ \\frac"


# What stands in one figure, with names of a user's own.
T1 = ["majority", "zero-shot", "MTIVE_PT", "MTIVE_IT", "Base_SL", "Base_MTL", "Base_MoE", "MTIVE_SL", "MTIVE_MTL"]
FIGURES = {
    "T1": [*T1, "my model"],
    "08": ["Base_MoE", "zero-shot", "Base_SL", "Base_MTL", "without stage 2", "without stage 1", "MTIVE_SL", "MTIVE_MTL"],
    "09": ["zero-shot", "Base_SL", *map(replay_name, (0.0, 0.01, 1.0)), "Base_MTL", "MTIVE_MTL"],
    "15": ["uniM3-M", "UIA-M", "CASLIE-M", "context-free", "commonest class", "always yes", "VLM, photos", "VLM, captions"],
    "16": ["zero-shot", "raw", "verified", "true"],
    "19": ["MTIVE_IT", "on the annotator's answers", "on preferences", "by reward"],
    "21": [f"over {name}" for name in ("zero-shot", "Base_SL", "Base_MTL", "MTIVE_SL")],
    "24": [f"{name}{of}" for of in ("", " (uncut)", " (w/ ICL)") for name in ("untuned", "VIT-Pro")],
    "25": ["untuned", "all pairs", "attention filter", "random subset", "grounded first"],
    "27": list(GROUNDS), "29": ["CASLIE", "specialists"], "30": ["native", "square", "after listings", "verified"],
    "parts": ["untuned", *PARTS], "tasks": list(TASKS), "own": [f"arm {k}" for k in range(len(OTHERS))],
}  # fmt: skip


@pytest.mark.parametrize("names", FIGURES.values(), ids=FIGURES)
def test_the_colours_of_a_figure_are_told_apart_and_a_system_keeps_its_own(names):
    found = colours_of(names)
    assert list(map(found.get, names)).count(None) == 0
    assert [p for p in combinations(names, 2) if apart(found[p[0]], found[p[1]]) < NEAR] == []
    for name in names:  # alone, in another order, or prefixed: the same colour
        known = name.removeprefix("over ").removesuffix("-M") in SYSTEMS | ARMS | GROUNDS | PARTS | TASKS
        assert (
            not known or found[name] == colours_of([name])[name] == colour_of(name, 7) == colours_of(names[::-1])[name]
        )


def test_colours_lie_apart_as_they_look():
    assert np.isclose(apart("#000000", "#ffffff"), 1.0, atol=1e-3) and apart("#123456", "#123456") == 0
    assert apart("#4c78a8", "#4c78b0") < 0.02 < NEAR < apart("#4c78a8", "#54a24b")


@pytest.mark.parametrize(("chapter", "table"), [("07", "scores"), ("08", "scores"), ("09", "T4"), ("24", "T3"), ("25", "accuracy")])  # fmt: skip
def test_each_system_of_the_committed_results_has_its_own_colour(chapter, table):
    (path,) = (ROOT / "outputs/reference/pocket").glob(f"{chapter}_*/tables/{table}.csv")
    systems = set(pd.read_csv(path)["system"])
    assert systems and systems <= (SYSTEMS | ARMS).keys()


def test_dollars_in_texts_of_others_are_no_formula(tmp_path):
    image = Image.new("RGB", (40, 30))
    figure = photo_grid([image], ["$5 off {, now $6_"])
    figure.savefig(tmp_path / "grid.png")  # a formula of this text would be an error
    assert figure.axes[0].get_title() == "$5 off {, now $6_"
    image.save(tmp_path / "photo.png")
    rows = pd.DataFrame([{"images": [str(tmp_path / "photo.png")], "question": "$5 and $6", "truth": "no"}])
    assert 'class="answers tex2jax_ignore mathjax_ignore"' in answer_table(rows).data


def test_a_caption_needs_no_attributes():
    assert caption_of({"attributes": None, "damage": "dent"}) == "dent"
