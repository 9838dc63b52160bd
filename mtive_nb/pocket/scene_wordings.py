"""Alternative wordings for the questions on general scenes: many wordings for each fact.

If the base knows a single sentence for each fact, an expert stays at chance. In a few hundred steps, it would have to
learn which fact a new sentence is about (LOG.md). Real models have read many wordings; the pocket base reads these.
No wording is a question of a shop's tasks.
"""

import re

import numpy as np

from mtive_nb.pocket.scenes import COLOURS

REWORDED = 0.65  # share of the questions that get another wording
BARE = 0.5  # share of the yes/no questions that omit YES_NO
YES_NO, SAY_WHY, GO_THROUGH = " Answer yes or no.", " Say why.", " Go through shape, colour, text and badge."
NAME_BOTH, NAME_FIRST = " Name both, then say yes or no.", " Name the first, then say yes or no."

# Plain form -> alternative wordings. `{}` is their shared part, `{colour}` one of COLOURS; "not:" inverts the question.
WORDINGS: dict[str, tuple[str, ...]] = {
    "Which colour is {}?": (
        "What colour is {}?",
        "What colour does {} have?",
        "Name the colour of {}.",
        "Tell me which colour {} has.",
        "In what colour do you see {}?",
        "colour of {}?",
    ),
    "Is anything printed?": ("Do you see print?", "Is there something to read?", "Can you see any letters?"),
    "Is anything {}?": ("Is there anything {}?", "Do you see something {}?"),
    "Is {} {colour}?": ("Is the colour of {} {}?", "Is {} in colour {}?", "Does {} look {}?", "Would you call {} {}?"),
    "Is {} whole?": (
        "Is {} in good condition?",
        "Is {} fine?",
        "Is {} intact?",
        "Is {} as good as new?",
        "not: Is {} damaged?",
        "not: Is {} broken or worn?",
        "not: Is anything wrong with {}?",
        "not: Is any damage visible on {}?",
        "not: Can you see a flaw in {}?",
        "not: Did {} suffer?",
        "not: Do you find {} harmed?",
    ),
    "In which state is {}?": (
        "What is the state of {}?",
        "Name the condition of {}.",
        "In what condition do you see {}?",
        "How does {} look?",
    ),
    "Which flaw does {} have?": (
        "What kind of flaw do you see on {}?",
        "What is wrong with {}?",
        "Name the flaw of {}, or none.",
        "What damage has {}?",
        "What happened to {}, if anything?",
    ),
    "Is {} plain, striped or dotted?": ("Which pattern has {}?", "Name the pattern of {}.", "pattern of {}?"),
    "Which shape is it?": (
        "What is it?",
        "What do you see?",
        "Name it.",
        "What kind of thing is it?",
        "Which kind is it?",
        "What does the image show?",
    ),
    "Which shape is the {}?": ("What kind of thing is the {}?", "Which kind is the {}?", "Name the shape of the {}."),
    "Is it a {}?": ("Would you call it a {}?", "Is the shape a {}?", "Does the image show a {}?"),
    "Is there a {}?": ("Can you see a {}?", "Is a {} to be seen?", "Does a {} show here?"),
    "What is printed?": ("What does it say?", "Read it.", "What is written there?", "Which text is there?", "text?"),
    "What is printed on {}?": ("What does {} say?", "Read {}.", "What is written on {}?", "Which text is on {}?"),
    "What is printed behind {}?": ("Read what follows {}.", "What comes after {}?", "{}?", "Which text stands behind {}?"),
    "Is {} printed?": ("Do you see {} in print?", "Can you read {}?", "Is the text {} there?"),
    "Read all lines.": ("What do the lines say?", "Read everything.", "Read the lines from the top.", "all lines?"),
    "Read the {} line.": ("What does the {} line say?", "Give the {} line.", "{} line?"),
    "Give every line in JSON.": ("Read the lines as JSON.", "Read all as JSON.", "Write the print as JSON."),
    "Answer in JSON with the keys {}.": ("Give {} as JSON.", "Write {} in JSON.", "As JSON: {}."),
    "Do both images show the same thing?": (
        "Is the same thing in both images?",
        "Do you see one thing twice?",
        "Is what image 2 shows that of image 1?",
        "Are image 1 and image 2 of the same thing?",
        "Does image 2 match image 1?",
        "Do the two pictures match?",
        "Is this one thing in two photos?",
        "Same thing?",
        "not: Are these two different things?",
        "not: Does image 2 show another thing?",
    ),
    "Is the {} the same in both images?": (
        "Do both images have the same {}?",
        "Does the {} match in both images?",
        "Same {}?",
        "not: Does the {} differ?",
        "not: Is the {} in image 2 another?",
    ),
    "What differs between the images?": (
        "What is different in image 2?",
        "Which difference do you see?",
        "Name the difference, or nothing.",
        "difference?",
    ),
    "Which colour is the large shape in each image?": (
        "Which colour is the thing in each image?",
        "Name both colours.",
        "What colour is it in image 1 and in image 2?",
    ),
    "Which shape is the large shape in each image?": (
        "What kind of thing is in each image?",
        "Name what each image shows.",
    ),
    "What is printed in each image?": ("What do the images say?", "Read both images.", "Which text is in each image?"),
    "Describe the image.": ("Describe what you see.", "Say what the image shows.", "Describe it in a few words."),
}  # fmt: skip
CALLED = {
    "the large shape": ("the large thing", "the thing", "the object", "the item", "this thing", "this", "it"),
    "it": ("this", "the thing", "the object", "the item", "this thing"),
    "the first image": ("image 1",),
    "the second image": ("image 2",),
}  # alternative names of things and images


def _pattern(form: str) -> re.Pattern:
    colour = "(" + "|".join(COLOURS) + ")"
    return re.compile(re.escape(form).replace(r"\{colour\}", colour).replace(r"\{\}", "(.+?)") + "$")


_PATTERNS = [(_pattern(form), others) for form, others in WORDINGS.items()]


def _contrary(answer: str) -> str:
    """Return the answer to the inverted question: swaps yes and no, which stands alone, first or last."""
    return re.sub(r"^(yes|no)\b|\b(yes|no)$", lambda found: "no" if found[0] == "yes" else "yes", answer, count=1)


def reword(question: str, answer: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return a plain question and its answer in another wording, or unchanged."""
    how = next((end for end in (YES_NO, SAY_WHY, GO_THROUGH, NAME_BOTH, NAME_FIRST) if question.endswith(end)), "")
    asked = question.removesuffix(how)
    bare = how == YES_NO and rng.random() < BARE
    if rng.random() < REWORDED:
        found = next(((m, others) for pattern, others in _PATTERNS if (m := pattern.match(asked))), None)
        if found:
            other = found[1][int(rng.integers(len(found[1])))]
            if other.startswith("not: "):
                other, answer = other.removeprefix("not: "), _contrary(answer)
            asked = other.format(*found[0].groups())
        for plain, others in CALLED.items():
            if rng.random() < 0.7:
                asked = re.sub(rf"\b{plain}\b", others[int(rng.integers(len(others)))], asked)
    return (asked if bare else asked + how), answer
