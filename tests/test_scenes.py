import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from mtive_nb.data.emdiv import questions as ask
from mtive_nb.data.mart.vocabulary import BRANDS, CATEGORIES
from mtive_nb.pocket.scene_kinds import dense_labels
from mtive_nb.pocket.scene_pairs import FORMS, NAMED, RESPECTS, fields, respect_turn, scene_group, thing_turn
from mtive_nb.pocket.scene_questions import NUMBERS, SHARES, SKILLS, load_squares, make_sample
from mtive_nb.pocket.scene_shapes import CONTAINERS, PLAIN, SHAPES, SIGNS, SYMBOLS, shape_mask
from mtive_nb.pocket.scene_wear import WORN, in_the_way
from mtive_nb.pocket.scene_wordings import SAY_WHY, WORDINGS, YES_NO, reword
from mtive_nb.pocket.scenes import (
    CELL_PX,
    CHARACTERS,
    COLOURS,
    STATES,
    Scene,
    Thing,
    draw_string,
    draw_thing,
    view,
    wear_thing,
)


def samples(n=150, **given):
    return [make_sample(k, seed=3, **given) for k in range(n)]


def test_a_sample_is_the_same_in_every_process():
    for one, other in zip(samples(10), samples(10), strict=True):
        assert one.turns == other.turns
        assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def test_images_are_rgb_uint8_in_multiples_of_a_merged_patch():
    for sample in samples(40):
        for image in sample.images:
            assert image.dtype == np.uint8 and image.shape[2] == 3
            assert image.shape[0] % CELL_PX == 0 and image.shape[1] % CELL_PX == 0


def test_every_skill_is_asked_and_no_fact_of_a_shop():
    asked = samples(400, words=["bolan", "kiv"])
    plain = [make_sample(k, seed=3, shares={"world": 1.0}) for k in range(20)]
    assert {skill for sample in (*asked, *plain) for _, _, skill in sample.turns} == set(SKILLS)
    text = " ".join(q + a for sample in asked if sample.images for q, a, _ in sample.turns).lower()
    shop = set(CATEGORIES) | {b.lower() for b in BRANDS if len(b) > 3}
    for word in {"product", "expiry", "brand", "package", "packaging"} | shop - {"water"}:
        assert not re.search(rf"\b{word}\b", text), word


def test_no_question_is_one_of_a_shop():
    def plain(text: str) -> str:
        return re.sub(r"[^a-z ]", "", text.lower().removesuffix(YES_NO.lower()))

    groups = (ask.AE_AUG, ask.EX_AUG)
    shop = {ask.AE_GEN, ask.DD_GEN, ask.DD_BIN, ask.PM_GEN, ask.PM_BIN, ask.EX_GEN, *ask.EX_BIN.values()}
    shop |= {*ask.DD_AUG_YES_NO, *ask.DD_AUG_KIND, *ask.PM_AUG_PAIR}
    shop |= {q for group in groups for questions in group.values() for q in questions}
    asked = {plain(q) for s in samples(600) for q, _, _ in s.turns}
    own = {"colour", "which colour does it have"}  # a colour has no other words
    assert asked & {plain(q) for q in shop} <= own | {"what is this"}


@pytest.mark.parametrize("form", WORDINGS)
def test_another_wording_keeps_the_truth_or_turns_it(form):
    colour = "red" if "{colour}" in form else "{}"
    question = form.replace("{colour}", colour).replace("{}", "the large shape") + YES_NO
    found = {reword(question, "yes", np.random.default_rng(k)) for k in range(120)}
    assert len({q.removesuffix(YES_NO) for q, _ in found}) > 3
    assert any(q.endswith(YES_NO) for q, _ in found) and any(not q.endswith(YES_NO) for q, _ in found)
    contrary = any(other.startswith("not: ") for other in WORDINGS[form])
    assert {answer for _, answer in found} == ({"yes", "no"} if contrary else {"yes"})
    for asked, answer in found:
        assert "{" not in asked
        turned = re.search(r"damage|broken|wrong|flaw|suffer|harmed|differ|another", asked)
        assert (answer == "no") == bool(contrary and turned), asked


def test_questions_on_a_pair_tell_what_its_things_show():
    rng, seen = np.random.default_rng(0), set()
    a = {"shape": "box", "colour": "red", "text": "AB 1", "badge": "star", "pattern": "plain"}
    for b in (a, a | {"colour": "blue"}, a | {"text": "C", "badge": "ring"}):
        differs = [respect for respect in RESPECTS if a[respect] != b[respect]]
        for form in FORMS:
            for respect in NAMED:
                question, answer, skill = respect_turn(a, b, respect, rng, {form: 1.0})
                verdict = "no" if respect in differs else "yes"
                expected = {"verdict": verdict, "half": f"{a[respect]}: {verdict}",
                            "both": f"{a[respect]} and {b[respect]}: {verdict}"}  # fmt: skip
                assert answer in (expected.get(form), f"{a[respect]} and {b[respect]}", a[respect], b[respect])
                assert (skill == "compare") == (form == "verdict")
                seen.add(question)
        for _ in range(30):
            question, answer, _ = thing_turn(a, b, rng)
            if "same thing" in question:
                assert re.findall("yes|no", answer)[-1 if "through" in question else 0] == ("no" if differs else "yes")
            else:
                assert answer == (" and ".join(differs) or "nothing")
    assert len(seen) >= 3 * len(FORMS)  # one question a form at least


@pytest.mark.parametrize(
    "answer", ["yes", "red and red: yes", "yes, both show a red box", "shape yes, colour yes: yes"]
)
def test_the_contrary_turns_the_verdict_alone(answer):
    question = "Do both images show the same thing?" + SAY_WHY
    found = {reword(question, answer, np.random.default_rng(k))[1] for k in range(60)}
    turned = re.sub("yes$|^yes", "no", answer, count=1)
    assert found == {answer, turned}


def test_the_scenes_of_a_group_show_one_thing_twice_and_two_others():
    for seed in range(8):
        first, again, *others = [fields(scene) for scene in scene_group(np.random.default_rng(seed), None)]
        assert first == again and all(other != first and other["pattern"] == first["pattern"] for other in others)


def test_what_stands_behind_a_few_letters_is_asked_for():
    behind = [(q, a) for s in samples(300, shares={"text": 1.0}) for q, a, _ in s.turns if "printed behind" in q]
    assert len(behind) > 5 and all(answer and not answer.startswith((" ", ":")) for _, answer in behind)


def test_yes_and_no_are_about_equally_likely():
    answers = [a for s in samples(400) for _, a, _ in s.turns if a in ("yes", "no")]
    assert 0.38 < answers.count("yes") / len(answers) < 0.62


def test_a_thing_is_drawn_in_its_colour_inside_its_box():
    rng = np.random.default_rng(0)
    for colour, rgb in COLOURS.items():
        canvas = Image.new("RGB", (280, 280), (90, 160, 160))
        draw_thing(canvas, Thing("square", colour, "plain", "whole", (30, 40, 90, 100)), rng)
        pixels = np.asarray(canvas.resize((140, 140)))
        assert np.abs(pixels[70, 60].astype(int) - rgb).max() <= 20
        assert (pixels[20, 20] == (90, 160, 160)).all() and (pixels[120, 110] == (90, 160, 160)).all()


def test_character_centres_lie_on_ink():
    rng = np.random.default_rng(0)
    canvas = Image.new("RGB", (336, 224), "white")
    spots = draw_string(canvas, "HIH8B", (84, 56), height_px=20, ink=(0, 0, 0), rng=rng, font=0, angle=0.0)
    assert [CHARACTERS[i] for _, _, i in spots] == list("HIH8B")
    pixels = np.asarray(canvas.resize((168, 112)).convert("L"))
    for x, y, _ in spots:
        assert pixels[int(y) - 8 : int(y) + 8, int(x) - 5 : int(x) + 5].min() < 60
    assert [x for x, _, _ in spots] == sorted(x for x, _, _ in spots)


@pytest.mark.parametrize("narrow", [0.6, 1.0])
def test_centres_of_characters_follow_the_view(narrow):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        canvas, scene = Image.new("RGB", (336, 224), "white"), Scene(np.empty(0))
        scene.characters = draw_string(
            canvas,
            "HIH8B",
            (76, 52),
            height_px=20,
            ink=(0, 0, 0),
            rng=rng,
            font=0,
            angle=0.0,
            style="ink",
            narrow=narrow,
        )
        before = [(x, y) for x, y, _ in scene.characters]
        pixels = np.asarray(view(canvas, scene, rng).resize((168, 112)).convert("L"))
        for x, y, _ in scene.characters:
            assert pixels[int(y) - 8 : int(y) + 8, int(x) - 5 : int(x) + 5].min() < 60, seed
        assert np.abs(np.array(before) - [c[:2] for c in scene.characters]).max() > 1


def test_what_stands_in_the_way_hides_no_character():
    drawn = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        canvas = Image.new("RGB", (280, 224), "white")
        spots = [(x, y) for x in range(60, 220, 20) for y in (60, 110)]
        in_the_way(canvas, spots, rng)
        drawn += canvas.getcolors(2) is not None and len(canvas.getcolors(2)) == 2
        assert all(canvas.getpixel(spot) == (255, 255, 255) for spot in spots), seed
    assert drawn > 5


def test_every_symbol_and_sign_is_in_the_font_and_like_no_other_outline():
    assert len(set(SHAPES)) == len(SHAPES) == len(PLAIN) + len(CONTAINERS) + len(SYMBOLS) + len(SIGNS)
    font = TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").getBestCmap()
    assert all(ord(char) in font for char in (*SYMBOLS.values(), *SIGNS))
    box, rng = (4, 4, 95, 95), np.random.default_rng(0)
    masks = {shape: np.asarray(shape_mask(shape, box, (100, 100), rng)[0]) > 128 for shape in SHAPES}
    for shape, mask in masks.items():
        assert min(mask[4:96, 4:96].any(0).sum(), mask[4:96, 4:96].any(1).sum()) > 60
        assert not mask[:3].any() and not mask[:, :3].any() and 0.05 < mask.mean() < 0.9
        if shape in SYMBOLS or shape in SIGNS:
            assert min((mask != other).mean() for name, other in masks.items() if name != shape) > 0.02, shape


@pytest.mark.parametrize("state", WORN)
def test_wear_changes_the_thing_and_little_beside_it(state):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        canvas = Image.new("RGB", (280, 280), (90, 160, 160))
        thing = Thing("square", "yellow", "striped", state, (30, 20, 110, 120))
        thing, mask = draw_thing(canvas, thing, rng)
        before = np.asarray(canvas).astype(int)
        worn = wear_thing(canvas, thing, mask, rng)
        changed = np.abs(np.asarray(canvas) - before).max(2) > 40
        inside = np.asarray(mask) > 128
        assert changed[inside].mean() > 0.004, seed
        rows, columns = np.nonzero(changed)
        assert np.allclose(
            worn.worn, (columns.min() / 2, rows.min() / 2, (columns.max() + 1) / 2, (rows.max() + 1) / 2)
        )
        assert changed[~inside].mean() < (0.15 if state in ("crushed", "dripping") else 1e-3)


def test_dense_labels_name_what_lies_at_a_patch():
    things = [Thing("star", "blue", "plain", "torn", (0, 0, 56, 56), worn=(30, 30, 54, 54))]
    scene = Scene(np.zeros((112, 140, 3), np.uint8), things, [], [(100.0, 90.0, 5), (110.0, 90.0, 7)])
    labels = dense_labels(scene)
    assert labels["shape"].shape == (4, 5) and labels["character"].shape == (4, 5, 4)
    assert labels["glyph"].shape == (4, 5, 4, 2)
    # (100, 90) lies in row 6, column 7 of the patches of 14 pixels, so top right in its merged one; (110, 90) likewise
    assert labels["glyph"][3, 3].tolist() == [[0, 0], [6, 8], [0, 0], [0, 0]] and labels["glyph"].sum() == 14
    assert (labels["shape"][:2, :2] == SHAPES.index("star") + 1).all() and labels["shape"][3].sum() == 0
    assert labels["state"][:2, :2].tolist() == [[1, 1], [1, STATES.index("torn") + 1]]
    assert labels["character"][3, 3].tolist() == [6, 8, 0, 0]


def test_counts_are_right():
    for sample in samples(200, shares={"objects": 1.0}):
        shapes = [t for t in sample.turns if t[0] == "How many shapes are there?"]
        if shapes:
            cells = dense_labels_of(sample)
            assert NUMBERS.index(shapes[0][1]) >= 2 and cells > 0


def dense_labels_of(sample) -> int:
    return int((sample.dense[0]["shape"] > 0).sum())


def test_json_answers_parse_and_hold_the_keys_asked_for():
    found = 0
    for sample in samples(200):
        for question, answer, skill in sample.turns:
            if skill == "json" and "line" not in answer:
                assert ", ".join(json.loads(answer)) in question
                found += 1
    assert found > 5


def test_views_need_photos_and_read_no_labels(tmp_path):
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(
            tmp_path / f"{k}.jpg"
        )
    photos = load_squares(sorted(tmp_path.glob("*.jpg")), side_px=64)
    assert [p.shape for p in photos] == [(64, 64, 3)] * 3
    views = samples(60, photos=photos, shares={"views": 1.0})
    answers = [s.turns[0][1] for s in views]
    assert len(views[0].images) == 2 and 15 < answers.count("yes") < 55
    assert "views" in SHARES and not any(len(s.images) == 2 and "views" in s.turns[0][0] for s in samples(60))


def test_turns_about_text_alone_hold_no_image_and_say_what_they_were_told():
    plain = samples(120, words=["bolan", "kiv", "tsum"], shares={"plain": 1.0})
    assert not any(s.images or s.dense for s in plain)
    for question, answer, _ in (t for s in plain for t in s.turns):
        if question.startswith("Repeat: "):
            assert question == f"Repeat: {answer}"
        elif question.startswith("Write in capitals: "):
            assert answer == question.split(": ")[1].upper()
        elif question.endswith("Answer in JSON."):
            assert all(f"{k} {v}" in question for k, v in json.loads(answer).items())
        elif "What is the" in question:
            assert f"{question.split()[-1].rstrip('?')} {answer}" in question


@pytest.mark.parametrize("kind", [k for k in SHARES if k not in ("views", "plain")])
def test_every_kind_of_scene_can_be_drawn_alone(kind):
    sample = make_sample(1, seed=8, shares={kind: 1.0})
    assert sample.turns and len(sample.images) == len(sample.dense)
