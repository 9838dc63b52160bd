"""Plain English about everyday things, by a grammar: the words that the pocket base knows before it sees a shop.

`plain_words.yaml` lists things by kind and free words, `plain_sentences.yaml` the sentences, requests and questions.
Nothing here comes from a shop: no brand, no sentence of its listings, of its customers or of its tasks' questions.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

SAME_KIND, OTHER_KIND = "bc", "xyz"  # prefixes of further things in a passage
TEXTS = ("fact", "short", "description", "description", "listing", "listing", "review", "review", "letter", "list",
         "compare", "date", "request", "howto", "story")  # rules of whole passages, by share  # fmt: skip
TOLD = ("short", "short", "compare", "date", "request", "listing", "letter")  # rules of texts that questions are about
NOTHING = "-"  # a slot that is filled with nothing
SLOT, RULE, CHOICE = re.compile(r"\{(\??\w+)\}"), re.compile(r"<(\w+)>"), re.compile(r"\(([^()]*\|[^()]*)\)")
MONTHS = "January February March April May June July August September October November December".split()
DATE_FORMS: tuple[Callable[[int, int, int], str], ...] = (
    lambda y, m, d: f"{d} {MONTHS[m - 1]} {y}",
    lambda y, m, d: f"{MONTHS[m - 1]} {d}, {y}",
    lambda y, m, d: f"{d:02} {MONTHS[m - 1][:3].upper()} {y % 100:02}",
    lambda y, m, d: f"{d} {MONTHS[m - 1][:3]} {y}",
    lambda y, m, d: f"{y}-{m:02}-{d:02}",
    lambda y, m, d: f"{d:02}.{m:02}.{y}",
    lambda y, m, d: f"{d:02}/{m:02}/{y % 100:02}",
    lambda y, m, d: (
        f"the {d}{'th' if 10 < d < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(d % 10, 'th')} of {MONTHS[m - 1]}"
    ),
)
ISO = 4  # the form of a date that needs no words
FULL_DATES = 6  # of these forms, the first name day, month and year beyond doubt
SHORT_FORMS = {"you": "u", "are": "r", "and": "n", "great": "gr8", "please": "pls", "thanks": "thx", "with": "w",
               "because": "cos", "to": "2", "the": "da", "photo": "foto", "was": "wuz", "really": "rly"}  # fmt: skip

LABELS = {
    "number_word": "number",
    "pack": "container",
    "look": "quality",
    "when": "time",
    "act": "activity",
    "noun": "thing",
}
OF_THING = ("colour", "fault", "look", "place")  # words that a thing is said to be
AS_JSON = ("Write {} as JSON.", "Put {} into JSON.", "JSON with {}?")
Turn = tuple[str, str, str]  # question, answer, skill


@dataclass(frozen=True)
class Noun:
    """A noun: singular and plural ("" where it has none), its kind, and its usual colours, if any."""

    one: str
    many: str
    kind: str
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """`kinds`: kind -> name of a list -> words; `plurals` of the kinds; `nouns`; `lists` of free words."""

    kinds: dict[str, dict[str, tuple[str, ...]]]
    plurals: dict[str, str]
    nouns: dict[str, tuple[Noun, ...]]
    lists: dict[str, tuple[str, ...]]


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _plural(word: str) -> str:
    return re.sub(r"(?<=[sx])$", "e", word) + "s"


def _noun(text: str, kind: str) -> Noun:
    forms, _, colours = text.partition("=")
    colours = tuple(filter(None, colours.split("|")))
    name = forms.lstrip("~+")
    if forms.startswith("~"):
        return Noun(name, "", kind, colours)
    if forms.startswith("+"):
        return Noun("", name, kind, colours)
    one, _, many = name.partition("/")
    return Noun(one, many or _plural(one), kind, colours)


@lru_cache(maxsize=1)
def words() -> Words:
    """Return the word lists."""
    read = yaml.safe_load(Path(__file__).with_name("plain_words.yaml").read_text(encoding="utf-8"))
    kinds, plurals, nouns = {}, {}, {}
    for name, lists in read["kinds"].items():
        kind, _, plural = name.partition("/")
        plurals[kind] = plural or _plural(kind)
        nouns[kind] = tuple(_noun(noun, kind) for noun in _split(lists["nouns"]))
        kinds[kind] = {key: _split(value) for key, value in lists.items() if key != "nouns"}
    return Words(kinds, plurals, nouns, {key: _split(value) for key, value in read["lists"].items()})


@lru_cache(maxsize=1)
def _sentences() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the lines of the rules ("rules"), of "prompts" and "questions" by name, and "yes_no"."""
    read = yaml.safe_load(Path(__file__).with_name("plain_sentences.yaml").read_text(encoding="utf-8"))
    found = {
        part: {k: tuple(v.splitlines()) for k, v in read.pop(part).items()}
        for part in ("prompts", "questions", "yes_no")
    }
    rules = {key: tuple(lines.splitlines()) for key, lines in read.items()}
    return found | {"rules": rules}


def templates() -> list[str]:
    """Return every sentence, request and question of the grammar, with its slots."""
    return [line for part in _sentences().values() for lines in part.values() for line in lines]


def random_date(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return year, month and day."""
    return int(rng.integers(1990, 2032)), int(rng.integers(1, 13)), int(rng.integers(1, 29))


def _parsed(slot: str) -> tuple[str, str, str]:
    """Return prefix, name and number of a slot: b_colour2 -> b, colour, 2."""
    prefix, name, number = re.fullmatch(rf"(?:([{SAME_KIND}{OTHER_KIND}])_)?(.+?)([2-5]?)", slot).groups()
    return prefix or "", name, number


@dataclass
class Writer:
    """Writes about one thing; a slot keeps its value, so that what is asked later agrees with the text."""

    rng: np.random.Generator
    kind: str = ""
    things: dict[str, tuple[Noun, bool]] = field(default_factory=dict)  # prefix -> (noun, whether it is plural)
    values: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def pick(self, options: tuple[str, ...] | list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def thing(self, prefix: str) -> tuple[Noun, bool]:
        """Return the thing of a prefix; b and c are of the same kind as the first, x, y and z of other kinds."""
        if prefix not in self.things:
            kinds = words().kinds
            if prefix in OTHER_KIND and prefix:
                alike = [
                    k for k in kinds if ("packs" in kinds[k]) == ("packs" in kinds[self.kind]) and "colours" in kinds[k]
                ]
                kind = self.pick([k for k in alike if k != self.kind])
            else:
                self.kind = kind = self.kind or self.pick(list(kinds))
            taken = {noun for noun, _ in self.things.values()}
            noun = self.pick([noun for noun in words().nouns[kind] if noun not in taken])
            many = not noun.one or bool(noun.many and self.rng.random() < 0.3)
            self.things[prefix] = noun, many
        return self.things[prefix]

    def options(self, name: str, prefix: str) -> tuple[str, ...]:
        """Return the words that a slot may take."""
        noun, many = self.thing(prefix)
        own = words().kinds[noun.kind]
        one, plural = (noun.one if noun.many else ""), (noun.many if noun.one else "")
        forms = {
            "noun": noun.many if many else noun.one, "noun1": one, "plural": plural, "plain": noun.many or noun.one,
            "the": f"the {noun.many if many else noun.one}", "art": "a" if noun.many and not many else NOTHING,
            "it": "they" if many else "it", "them": "them" if many else "it", "this": "these" if many else "this",
            "is": "are" if many else "is", "was": "were" if many else "was", "has": "have" if many else "has",
            "does": "do" if many else "does", "s": NOTHING if many else "s", "kind": noun.kind,
            "kinds": words().plurals[noun.kind], "is_kind": f"are {words().plurals[noun.kind]}" if many else f"is a {noun.kind}",
        }  # fmt: skip
        if name in forms:
            return tuple(filter(None, [forms[name]]))
        if name in ("colour", "tint"):
            return noun.colours if noun.colours and name == "colour" else own.get("colours", ())
        if name == "person":
            return words().lists["woman"] + words().lists["man"]
        return own.get(name + "s") or words().lists.get(name, ())

    def made(self, name: str, prefix: str) -> str:
        """Return a value that is computed rather than listed, or ""."""
        rng = self.rng
        if name == "date":
            return self.pick(DATE_FORMS)(*random_date(rng))
        if name == "month_year":
            year, month, _ = random_date(rng)
            return self.pick(
                (f"{MONTHS[month - 1]} {year}", f"{month:02}/{year}", f"{MONTHS[month - 1][:3].upper()} {year}")
            )
        if name == "price":
            amount = int(rng.integers(1, 60)) + self.pick((0, 0.5, 0.99, 0.2, 0.75))
            number = f"{amount:.2f}" if amount % 1 else f"{amount:.0f}"
            return self.pick(("{} euros", "{} pounds", "{} dollars", "£{}", "€{}", "${}", "{}")).format(number)
        if name == "he":
            return "she" if self.value("person") in words().lists["woman"] else "he"
        if name == "part_is":
            return "are" if re.search("[^s]s$", self.value(f"{prefix}_part" if prefix else "part")) else "is"
        return ""

    def has(self, slot: str) -> bool:
        prefix, name, _ = _parsed(slot)
        return name in ("date", "month_year", "price", "he") or bool(
            self.options("part" if name == "part_is" else name, prefix)
        )

    def value(self, slot: str) -> str:
        """Return the value of a slot such as colour, colour2 (another one) or b_colour (that of another thing)."""
        if slot not in self.values:
            prefix, name, number = _parsed(slot)
            value = self.made(name, prefix)
            if not value:
                start = slot[: len(slot) - len(number)]
                taken = {v for k, v in self.values.items() if k.rstrip("2345") == start}
                left = [option for option in self.options(name, prefix) if option not in taken]
                value = self.pick(left or self.options(name, prefix))
                value = self.shaded(value, prefix) if name in ("colour", "tint") else value
            self.values[slot] = value
        return self.values[slot]

    def shaded(self, colour: str, prefix: str) -> str:
        """Return the colour, now and then with a shade, or a rare colour for a thing without one of its own."""
        lot = self.rng.random()
        if lot < 0.06 and not self.thing(prefix)[0].colours:
            return self.pick(words().lists["rare_colour"])
        plain = colour in ("red", "blue", "green", "brown", "yellow", "grey", "pink", "purple")
        return f"{self.pick(words().lists['shade'])} {colour}" if lot > 0.85 and plain else colour

    def expand(self, lines: tuple[str, ...]) -> str:
        """Return one of the lines that fit the thing, with its rules, choices and slots filled."""
        fitting = [
            line for line in lines if line not in self.used and all(self.has(s.lstrip("?")) for s in SLOT.findall(line))
        ]
        if not fitting:
            raise LookupError(lines[0])
        line = self.pick(fitting)
        self.used.add(line)
        while found := CHOICE.search(line):
            line = line[: found.start()] + self.pick(found[1].split("|")) + line[found.end() :]
        return self.filled(RULE.sub(lambda rule: self.expand(_sentences()["rules"][rule[1]]), line))

    def filled(self, line: str) -> str:
        """Return a line with its slots filled."""
        return SLOT.sub(lambda slot: "" if slot[1][0] == "?" else self.value(slot[1]).removeprefix(NOTHING), line)


def _with_articles(text: str) -> str:
    """Return the text with single blanks, and `a` or `an` as the next word wants it."""
    text = re.sub(r"\b(a) (?=[aeiou])(?!uni|use|one|eu)", r"\1n ", " ".join(text.split()), flags=re.IGNORECASE)
    return re.sub(r" (?=[.,])", "", text)


def _tidy(text: str) -> str:
    """Return the text with articles, and capitals after full stops."""
    return re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), _with_articles(text))


def _roughened(text: str, rng: np.random.Generator, *, slips: float = 0.1) -> str:
    """Return the text as typed in a hurry: short forms, and a share of words with a lost, doubled or swapped letter."""
    typed = []
    for word in text.split(" "):
        k, lot = int(rng.integers(1, max(2, len(word) - 2))), rng.random()
        if word in SHORT_FORMS and lot < 3 * slips:
            word = SHORT_FORMS[word]
        elif len(word) > 3 and word.isalpha() and lot < slips:
            start, end = word[:k], word[k + 2 :]
            word = (start + word[k + 1] + end, word[: k + 1] + word[k:], start + word[k + 1] + word[k] + end)[
                int(rng.integers(3))
            ]
        typed.append(word)
    return " ".join(typed)


def _written(rng: np.random.Generator, rule: str, kind: str = "") -> tuple[str, Writer]:
    """Return a passage of the rule, and its writer, who knows what the passage says."""
    for _ in range(1000):
        writer = Writer(rng, kind)
        try:
            text = writer.expand(_sentences()["rules"][rule])
        except LookupError:  # the thing has no such words
            continue
        return (_with_articles if rule == "review" and rng.random() < 0.6 else _tidy)(text), writer
    raise ValueError(f"plain_sentences.yaml: no line of {rule} fits {kind or 'any kind'}")


def world_text(rng: np.random.Generator) -> str:
    """Return one passage of up to about 60 words: a sentence, description, offer, message, letter, list or story."""
    rule = TEXTS[int(rng.integers(len(TEXTS)))]
    text, _ = _written(rng, rule)
    return _roughened(text, rng) if rule == "review" and rng.random() < 0.5 else text


def _wish(writer: Writer, rule: str) -> str:
    """Return a request for a passage of the rule; half of them name some of its words."""
    said = [v for k, v in writer.values.items() if k in _sentences()["questions"] and k != "noun"]
    wish = _tidy(writer.expand(_sentences()["prompts"][rule]))
    chosen = [said[int(i)] for i in writer.rng.permutation(len(said))[:4]] if writer.rng.random() < 0.5 else []
    return f"{wish[:-1]}: {', '.join(chosen)}." if chosen else wish


def _speech(rng: np.random.Generator) -> list[Turn]:
    """Return turns whose answers are texts."""
    rule = TEXTS[int(rng.integers(len(TEXTS)))]
    text, writer = _written(rng, rule)
    begun = world_text(rng).split(" ")
    half = max(1, int(len(begun) * rng.uniform(0.3, 0.7)))
    clean, _ = _written(rng, "short")
    return [
        (_wish(writer, rule), text, "speak"),
        (f"Go on: {' '.join(begun[:half])}", " ".join(begun[half:]), "speak"),
        (f"Correct the spelling: {_roughened(clean, rng, slips=0.35)}", clean, "speak"),
    ]


def _another(writer: Writer, slot: str) -> str:
    """Return a word of the slot that the text does not say, or ""."""
    prefix, name, _ = _parsed(slot)
    named = {"noun": "b_noun", "colour": "tint"}.get(name, name)
    start = f"{prefix}_{named}" if prefix and name != "noun" else named
    for number in "2345":
        value = writer.value(start if name == "noun" else start + number)
        if not any(value in said or said in value for said in (writer.values[slot],)):
            return value
    return ""


def _questions(rng: np.random.Generator) -> list[Turn]:
    """Return turns about a short text: one of its words, yes or no, some words as JSON."""
    text, writer = _written(rng, TOLD[int(rng.integers(len(TOLD)))])
    asked, said = _sentences()["questions"], dict(writer.values)
    names = [_parsed(slot)[1] for slot in said]
    known = {slot: value for slot, value in said.items() if (n := _parsed(slot)[1]) in asked and names.count(n) == 1}
    known = {s: v for s, v in known.items() if not (s == "noun" and len(writer.things) > 1)}
    if not known:
        return []
    slots, turns = list(known), []
    slot = writer.pick(slots)
    prefix, name, _ = _parsed(slot)

    def ask(lines: tuple[str, ...], value: str = "") -> str:
        line = writer.pick(lines).replace("{value}", value).replace("{slot}", LABELS.get(name, name))
        line = SLOT.sub(rf"{{{prefix}_\1}}", line) if prefix else line
        return f"{text} {_tidy(writer.filled(line))}"

    turns.append((ask(asked[name]), known[slot], "facts"))
    true = bool(rng.random() < 0.5)
    if value := known[slot] if true else _another(writer, slot):
        turns.append(
            (
                ask(_sentences()["yes_no"]["of" if name in OF_THING else "word"], value),
                "yes" if true else "no",
                "facts yes/no",
            )
        )
    keys = {
        LABELS.get(_parsed(s)[1], _parsed(s)[1]): known[s]
        for s in (slots[int(i)] for i in rng.permutation(len(slots))[:4])
    }
    turns.append((f"{text} {writer.pick(AS_JSON).format(', '.join(keys))}", json.dumps(keys), "facts"))
    return turns


def _general(rng: np.random.Generator) -> list[Turn]:
    """Return turns on what everybody knows: kinds of things, usual colours, plurals, how dates are written."""
    writer = Writer(rng)
    (noun, _), lists = writer.thing(""), words()
    given = _with_articles(writer.filled("{art} {noun}"))
    others = [writer.filled(f"{{{p}_plain}}") for p in "xy"]
    alike = [writer.filled(f"{{{p}plain}}") for p in ("", "b_", "c_")]
    kind, wrong = lists.plurals[noun.kind], lists.plurals[writer.thing("x")[0].kind]
    true = bool(rng.random() < 0.5)

    def mixed(items: list[str]) -> str:
        return ", ".join(items[int(i)] for i in rng.permutation(len(items)))

    date = random_date(rng)
    turns = [
        (
            f"What {writer.filled('{is}')} {given}?",
            _with_articles(writer.filled("{is_kind}")).partition(" ")[2],
            "facts",
        ),
        (f"Which kind of thing {writer.filled('{is}')} {given}?", noun.kind, "facts"),
        (f"Name three {kind}.", ", ".join(alike), "speak"),
        (f"Which of these belongs to the {kind}: {mixed([alike[0], *others])}?", alike[0], "facts"),
        (f"Which does not belong to the others: {mixed([*alike, others[0]])}?", others[0], "facts"),
        (f"Do {alike[0]} belong to the {kind if true else wrong}?", "yes" if true else "no", "facts yes/no"),
        (
            f"Write {DATE_FORMS[int(rng.integers(FULL_DATES))](*date)} as year, month and day.",
            DATE_FORMS[ISO](*date),
            "facts",
        ),
    ]
    if len(noun.colours) == 1:
        turns.append((f"What colour {writer.filled('{is}')} {given} as a rule?", noun.colours[0], "facts"))
    if noun.one and noun.many:
        turns.append((f"What is the plural of {noun.one}?", noun.many, "facts"))
    return [turns[int(i)] for i in rng.permutation(len(turns))[:3]]


def world_turns(rng: np.random.Generator) -> list[Turn]:
    """Return turns about text alone: free texts ("speak"), what follows from a text or is common knowledge ("facts")."""
    return [*_speech(rng), *_questions(rng), *_general(rng)]
