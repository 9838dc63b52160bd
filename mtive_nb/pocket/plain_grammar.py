"""A grammar of plain English about everyday things: word lists, sentences with slots, and a writer that fills them.

`plain_words.yaml` lists things by kind and free words, `plain_sentences.yaml` sentences, requests and questions. Nothing
in them comes from a shop: no brand, no sentence of its listings, of its customers or of its tasks' questions.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import yaml

OTHER_KIND = "xyz"  # prefixes of things of another kind; b and c are of the kind of the first thing
NOTHING = "-"  # a slot that is filled with nothing
SLOT, RULE, CHOICE = re.compile(r"\{(\??\w+)\}"), re.compile(r"<(\w+)>"), re.compile(r"\(([^()]*\|[^()]*)\)")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
MONTHS = "January February March April May June July August September October November December".split()
DATE_FORMS: tuple[Callable[[int, int, int], str], ...] = (
    lambda y, m, d: f"{y}-{m:02}-{d:02}",
    lambda y, m, d: f"{d} {MONTHS[m - 1]} {y}",
    lambda y, m, d: f"{MONTHS[m - 1]} {d}, {y}",
    lambda y, m, d: f"{d:02} {MONTHS[m - 1][:3].upper()} {y % 100:02}",
    lambda y, m, d: f"{d} {MONTHS[m - 1][:3]} {y}",
    lambda y, m, d: f"{d:02}.{m:02}.{y}",
    lambda y, m, d: f"{d:02}/{m:02}/{y % 100:02}",
    lambda y, m, d: f"{MONTHS[m - 1]} {d}",
)  # the first one is ISO's
MONTH_FORMS: tuple[Callable[[int, int], str], ...] = (
    lambda y, m: f"{MONTHS[m - 1]} {y}",
    lambda y, m: f"{m:02}/{y}",
    lambda y, m: f"{MONTHS[m - 1][:3].upper()} {y}",
)
PRICES = ("{} euros", "{} pounds", "{} dollars", "£{}", "€{}", "${}", "{}")
MADE = ("date", "month_year", "price", "he", "part_is")  # slots that are computed


@dataclass(frozen=True)
class Noun:
    """A noun: singular ("" for scissors), plural ("" for rice), its kind, and its usual colours, if any."""

    one: str
    many: str
    kind: str
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """`kinds`: kind -> name of a list -> words; `plurals` of the kinds; `nouns` by kind; `lists` of free words."""

    kinds: dict[str, dict[str, tuple[str, ...]]]
    plurals: dict[str, str]
    nouns: dict[str, tuple[Noun, ...]]
    lists: dict[str, tuple[str, ...]]


def _read(name: str) -> dict:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _plural(noun: str) -> str:
    return re.sub(r"(s|x|z|ch|sh)$", r"\1e", noun) + "s"


def _noun(text: str, kind: str) -> Noun:
    forms, _, colours = text.partition("=")
    usual = tuple(filter(None, colours.split("|")))
    one, _, many = forms.lstrip("~+").partition("/")
    if forms[0] in "~+":
        return Noun(*((one, "") if forms[0] == "~" else ("", one)), kind, usual)
    return Noun(one, many or _plural(one), kind, usual)


@lru_cache(maxsize=1)
def words() -> Words:
    """Return the word lists."""
    read, kinds, plurals, nouns = _read("plain_words.yaml"), {}, {}, {}
    for name, lists in read["kinds"].items():
        kind, _, plural = name.partition("/")
        plurals[kind] = plural or _plural(kind)
        nouns[kind] = tuple(_noun(noun, kind) for noun in _split(lists["nouns"]))
        kinds[kind] = {key: _split(value) for key, value in lists.items() if key != "nouns"}
    lists = {key: _split(value) for key, value in read["lists"].items()}
    return Words(kinds, plurals, nouns, lists | {"person": lists["woman"] + lists["man"]})


@lru_cache(maxsize=1)
def sentences() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the lines of "rules", "prompts", "questions" and "yes_no", each by name."""
    read = _read("plain_sentences.yaml")
    return {part: {name: tuple(lines.splitlines()) for name, lines in rules.items()} for part, rules in read.items()}


def templates() -> list[str]:
    """Return every sentence, request and question of the grammar, with its slots."""
    return [line for part in sentences().values() for lines in part.values() for line in lines]


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """Return the words of all lists and sentences, in small letters."""
    lists = [w for own in (*words().kinds.values(), words().lists) for options in own.values() for w in options]
    nouns = [form for nouns in words().nouns.values() for n in nouns for form in (n.one, n.many, *n.colours)]
    lines = [SLOT.sub(" ", RULE.sub(" ", line.replace("{s}", "s"))) for line in templates()]
    forms = "a an it they them this these is are was were has have do does he she"
    texts = [*lists, *nouns, *words().plurals, *words().plurals.values(), *lines, *MONTHS, forms]
    return frozenset(WORD.findall(" ".join(texts).lower()))


def random_date(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return year, month and day."""
    return int(rng.integers(1990, 2032)), int(rng.integers(1, 13)), int(rng.integers(1, 29))


def parsed(slot: str) -> tuple[str, str, str]:
    """Return prefix, name and number of a slot: b_colour2 -> b, colour, 2."""
    prefix, name, number = re.fullmatch(r"(?:([bcxyz])_)?(.+?)([2-9]?)", slot).groups()
    return prefix or "", name, number


def with_articles(text: str) -> str:
    """Return the text with single blanks, and `a` or `an` as the next word wants it."""
    text = re.sub(r"\b(a) (?=[aeiou])(?!uni|use|one|eu)", r"\1n ", " ".join(text.split()), flags=re.IGNORECASE)
    return re.sub(r" (?=[.,])", "", text)


def tidy(text: str) -> str:
    """Return the text with its articles, and capitals after full stops."""
    return re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), with_articles(text))


@lru_cache(maxsize=8192)
def _own_words(noun: Noun, many: bool, further: bool) -> dict[str, Sequence[str]]:
    """Return the words of a thing by slot; `further`: whether it stands beside the thing that the text is about."""
    own, plural = words().kinds[noun.kind], words().plurals[noun.kind]
    name = noun.many if many else noun.one
    forms = {
        "noun": name, "the": f"the {name}", "noun1": "" if many or not noun.many else noun.one,
        "plural": name if many and noun.one else "", "plain": noun.many or name if many or further or not noun.many else "",
        "art": "a" if noun.many and not many else NOTHING, "s": NOTHING if many else "s",
        "it": "they" if many else "it", "them": "them" if many else "it", "this": "these" if many else "this",
        "is": "are" if many else "is", "was": "were" if many else "was", "has": "have" if many else "has",
        "does": "do" if many else "does", "is_kind": f"are {plural}" if many else f"is a {noun.kind}",
        "kind": noun.kind, "kinds": plural, "part_is": NOTHING if "parts" in own else "",
    }  # fmt: skip
    colours = {"colour": noun.colours or own.get("colours", ()), "tint": own.get("colours", ())}
    listed = {key.removesuffix("s"): value for key, value in own.items()}
    return listed | colours | {slot: [form] if form else [] for slot, form in forms.items()}


@cache
def _slots(line: str) -> tuple[tuple[str, str], ...]:
    """Return prefix and name of the slots of a line that need words of a thing or a list."""
    found = (parsed(slot.lstrip("?")) for slot in SLOT.findall(line))
    return tuple((prefix, name) for prefix, name, _ in found if name not in MADE or name == "part_is")


@dataclass
class Writer:
    """Writes about one thing, and further ones beside it; `values` keeps every slot's words.

    `things`: prefix -> (noun, whether it is in the plural). Lines that were used once are not used again.
    """

    rng: np.random.Generator
    things: dict[str, tuple[Noun, bool]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def pick(self, options: Sequence):  # noqa: ANN201
        """Return one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def thing(self, prefix: str = "") -> tuple[Noun, bool]:
        """Return the thing of a prefix, drawn when it is first needed."""
        if prefix not in self.things:
            kinds = words().kinds
            kind = self.thing()[0].kind if prefix else self.pick(list(kinds))
            if prefix and prefix in OTHER_KIND:
                goods = "packs" in kinds[kind]  # a list holds things that can be carried, or none
                kind = self.pick(
                    [k for k in kinds if k != kind and ("packs" in kinds[k]) == goods and "colours" in kinds[k]]
                )
            taken = {noun for noun, _ in self.things.values()}
            noun = self.pick([noun for noun in words().nouns[kind] if noun not in taken])
            share = 0.4 if "colours" in kinds[kind] else 1.0  # people: "they", as "it" is for things
            self.things[prefix] = noun, not noun.one or bool(noun.many and self.rng.random() < share)
        return self.things[prefix]

    def options(self, name: str, prefix: str) -> Sequence[str]:
        """Return the words that a slot may hold; none if the thing has no such words."""
        own = _own_words(*self.thing(prefix), bool(prefix))
        return own[name] if name in own else words().lists.get(name, ())

    def made(self, name: str, prefix: str) -> str:
        """Return the words of a slot in MADE."""
        if name == "date":
            return self.pick(DATE_FORMS)(*random_date(self.rng))
        if name == "month_year":
            return self.pick(MONTH_FORMS)(*random_date(self.rng)[:2])
        if name == "he":
            return "she" if self.value("person") in words().lists["woman"] else "he"
        if name == "part_is":
            return "are" if re.search("[^s]s$", self.value(f"{prefix}_part" if prefix else "part")) else "is"
        amount = int(self.rng.integers(1, 60)) + self.pick((0, 0.5, 0.99, 0.2, 0.75))
        return self.pick(PRICES).format(f"{amount:.2f}" if amount % 1 else f"{amount:.0f}")

    def value(self, slot: str) -> str:
        """Return the words of a slot such as colour, colour2 (another one) or b_colour (that of another thing)."""
        if slot not in self.values:
            prefix, name, number = parsed(slot)
            if name in MADE:
                value = self.made(name, prefix)
            else:
                same = slot.removesuffix(number)
                taken = {said for other, said in self.values.items() if other.rstrip("23456789") == same}
                options = self.options(name, prefix)
                value = self.pick([option for option in options if option not in taken] or options)
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

    def fits(self, line: str) -> bool:
        """Return whether the line is unused and the things have words for all of its slots."""
        return line not in self.used and all(self.options(name, prefix) for prefix, name in _slots(line))

    def write(self, lines: Sequence[str]) -> str:
        """Return one of the lines that fit, with its rules, choices and slots filled. Errors: LookupError if none fits."""
        fitting = [line for line in lines if self.fits(line)]
        if not fitting:
            raise LookupError(f"no line fits {self.thing()[0].one}: {lines[0]}, ...")
        line = self.pick(fitting)
        self.used.add(line)
        while found := CHOICE.search(line):
            line = line[: found.start()] + self.pick(found[1].split("|")) + line[found.end() :]
        return self.fill(RULE.sub(lambda rule: self.write(sentences()["rules"][rule[1]]), line))

    def fill(self, line: str) -> str:
        """Return a line with its slots filled."""
        return SLOT.sub(lambda slot: "" if slot[1][0] == "?" else self.value(slot[1]).removeprefix(NOTHING), line)
