"""Pairs of general scenes, and the questions that teach a small model to compare them.

Trained on the verdict alone ("Is the colour the same in both images?"), the pocket base stays at chance for 50,000
samples, although it names both colours. With three forms in turn on one respect, it learns to compare within some
hundred steps (LOG.md): name both values first, name the first, or answer yes or no at once. Each form spells out one
step less, as in stepwise internalisation (Deng et al., 2024, arXiv:2405.14838). A respect is a property in which two
things are compared: one of RESPECTS.
"""

import numpy as np

from mtive_nb.pocket.scene_kinds import LABELLED, labelled_scene
from mtive_nb.pocket.scene_shapes import PLAIN, SIGNS, SYMBOLS
from mtive_nb.pocket.scene_wordings import GO_THROUGH, NAME_BOTH, NAME_FIRST, SAY_WHY, YES_NO
from mtive_nb.pocket.scenes import COLOURS, Scene, random_string

Turn = tuple[str, str, str]  # question, answer, skill
RESPECTS = ("shape", "colour", "text", "badge")
NAMED = RESPECTS[:3]  # a badge may be a sign, which has no name
OPTIONS = {"shape": LABELLED, "colour": tuple(COLOURS), "badge": PLAIN + tuple(SYMBOLS) + SIGNS}
FORMS = {"verdict": 0.45, "half": 0.2, "both": 0.15, "names": 0.1, "one": 0.1}  # of questions on one respect
OF_THE_THING = {"same": 0.45, "through": 0.3, "why": 0.15, "differs": 0.1}  # of questions on the whole thing


def by_lot(shares: dict[str, float], rng: np.random.Generator) -> str:
    """Draw one key of `shares`, with a probability in proportion to its share."""
    return str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


def fields(scene: Scene) -> dict[str, str]:
    """Return the values in which labelled scenes are compared (RESPECTS), and the pattern."""
    main, badge = scene.things
    return {"shape": main.shape, "colour": main.colour, "text": scene.strings[0], "badge": badge.shape,
            "pattern": main.pattern}  # fmt: skip


def differing(rng: np.random.Generator) -> list[str]:
    """Draw the respects in which two things differ: one alone, or several, which is easier to see."""
    if rng.random() < 0.45:
        return [str(rng.choice(["shape", "colour", "text", "text", "badge", "badge", "badge"]))]
    several = rng.permutation(RESPECTS)[: int(rng.integers(2, 5))]
    return [respect for respect in RESPECTS if respect in several]


def another_look(first: Scene, differs: list[str], rng: np.random.Generator, photos: list | None) -> Scene:
    """Draw the thing of a labelled scene again, worn or not, with other values in the respects of `differs`."""
    wanted, badge_colour = fields(first), first.things[1].colour
    for respect in differs:
        others = [o for o in OPTIONS.get(respect) or [random_string(rng, 6)] if o != wanted[respect]] or ["NONE"]
        wanted[respect] = str(rng.choice(others))
    if badge_colour != wanted["colour"]:
        wanted["badge_colour"] = badge_colour
    return labelled_scene(rng, photos, fixed=wanted)


def pair_scenes(rng: np.random.Generator, photos: list | None) -> list[Scene]:
    """Draw two scenes of a labelled thing, the first often calm; in half of the pairs, the things differ."""
    first = labelled_scene(rng, photos, calm=rng.random() < 0.5)
    return [first, another_look(first, differing(rng) if rng.random() < 0.5 else [], rng, photos)]


def scene_group(rng: np.random.Generator, photos: list | None) -> list[Scene]:
    """Draw four scenes: a labelled thing, the same thing again, and two things that differ from it."""
    first = labelled_scene(rng, photos, calm=rng.random() < 0.5)
    return [first, *(another_look(first, d, rng, photos) for d in ([], differing(rng), differing(rng)))]


def respect_turn(a: dict[str, str], b: dict[str, str], respect: str, rng: np.random.Generator,
                 forms: dict[str, float] = FORMS) -> Turn:  # fmt: skip
    """Return a question on one respect of two things with the fields `a` and `b`, in one of `forms`."""
    verdict = "yes" if a[respect] == b[respect] else "no"
    ask = f"Is the {respect} the same in both images?"
    what = "What is printed" if respect == "text" else f"Which {respect} is the large shape"
    k = int(rng.integers(2))
    return {
        "verdict": (ask + YES_NO, verdict, "compare"),
        "half": (ask + NAME_FIRST, f"{a[respect]}: {verdict}", "two images"),
        "both": (ask + NAME_BOTH, f"{a[respect]} and {b[respect]}: {verdict}", "two images"),
        "names": (f"{what} in each image?", f"{a[respect]} and {b[respect]}", "two images"),
        "one": (f"{what} in the {('first', 'second')[k]} image?", (a, b)[k][respect], "two images"),
    }[by_lot(forms, rng)]


def thing_turn(a: dict[str, str], b: dict[str, str], rng: np.random.Generator) -> Turn:
    """Return a question on whether two things with the fields `a` and `b` are the same, in a form of OF_THE_THING."""
    differs = [respect for respect in RESPECTS if a[respect] != b[respect]]
    verdict, ask = "no" if differs else "yes", "Do both images show the same thing?"
    each = ", ".join(f"{respect} {'no' if respect in differs else 'yes'}" for respect in RESPECTS)
    reason = f"no, the {' and '.join(differs)} {'differ' if differs[1:] else 'differs'}"
    return {
        "same": (ask + YES_NO, verdict, "compare"),
        "through": (ask + GO_THROUGH, f"{each}: {verdict}", "two images"),
        "why": (ask + SAY_WHY, reason if differs else f"yes, both show a {a['colour']} {a['shape']}", "two images"),
        "differs": ("What differs between the images?", " and ".join(differs) or "nothing", "two images"),
    }[by_lot(OF_THE_THING, rng)]


def pair_turns(a: dict[str, str], b: dict[str, str], rng: np.random.Generator) -> list[Turn]:
    """Return four questions on two labelled things, each on a different respect or on the whole things."""
    turns = [respect_turn(a, b, respect, rng) for respect in NAMED]
    turns += [thing_turn(a, b, rng), respect_turn(a, b, "badge", rng, {"verdict": 1.0})]
    return [turns[i] for i in rng.permutation(len(turns))[:4]]
