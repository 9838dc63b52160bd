"""What Pocket Mart sells: categories, brands, colours, packagings, sizes, and the words for damage and placement.

Everything here is constant; `vocabulary` lists every value of a product's attributes, of damage and of placement. All
brands are invented.
"""

from dataclasses import dataclass

from mtive_nb.data.rows import DAMAGES, PACKAGINGS, PLACEMENTS

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (206, 34, 40),
    "orange": (243, 126, 20),
    "yellow": (248, 208, 36),
    "green": (42, 150, 72),
    "blue": (34, 92, 196),
    "purple": (116, 56, 164),
    "pink": (243, 134, 180),
    "brown": (108, 66, 38),
    "black": (40, 40, 45),
    "white": (250, 250, 246),
}
COLOURS = tuple(COLOUR_RGB)

BRANDS = (
    *("LOZ", "PIB", "JUQ", "PAZU", "MURP", "ZARN", "WYMA", "HYZE", "JUKO", "QULT", "KORVA", "TILUM"),
    *("BRAQO", "OSKEL", "RIMBO", "DOVAK", "FENNO", "GLIMA", "EBBOR", "UNTAL", "SIVVO", "TAXEL", "CRUNEK", "YOLPIX"),
)

_SIZES_BY_UNIT = {
    "ml": ("100 ML", "250 ML", "500 ML", "750 ML", "1 L"),
    "g": ("75 G", "150 G", "300 G", "400 G", "1 KG"),
    "pcs": ("2 PCS", "4 PCS", "6 PCS"),
}
SIZES = tuple(size for sizes in _SIZES_BY_UNIT.values() for size in sizes)


@dataclass(frozen=True)
class Category:
    """One of the 48 categories: its coarse group, the packagings it comes in, and the unit of its sizes."""

    name: str
    coarse: str
    packagings: tuple[str, ...]
    unit: str

    @property
    def sizes(self) -> tuple[str, ...]:
        return _SIZES_BY_UNIT[self.unit]


# coarse group: "category: packagings: unit" for each of its four categories
_SHELVES = {
    "hair care": ("shampoo:bottle tube:ml", "conditioner:tube bottle:ml", "hair oil:bottle:ml", "hair gel:jar tube:ml"),
    "skin care": (
        "sun cream:tube can:ml",
        "face cream:jar tube:ml",
        "hand cream:tube:ml",
        "body lotion:bottle pouch:ml",
    ),
    "bath": ("toothpaste:tube box:ml", "mouthwash:bottle:ml", "soap:box bottle:g", "deodorant:can tube:ml"),
    "drinks": ("juice:box bottle:ml", "cola:can bottle:ml", "iced tea:can pouch:ml", "water:bottle can:ml"),
    "hot drinks": ("coffee:pouch jar:g", "tea:box can:g", "cocoa:can jar:g", "milk powder:pouch can:g"),
    "snacks": ("chocolate:box pouch:g", "biscuits:box tube:g", "popcorn:pouch box:g", "nuts:jar pouch:g"),
    "breakfast": ("honey:jar bottle:g", "jam:jar:g", "peanut butter:jar tube:g", "cereal:box pouch:g"),
    "sauces": ("ketchup:bottle pouch:ml", "hot sauce:bottle:ml", "olive oil:can bottle:ml", "mayonnaise:jar tube:ml"),
    "tinned food": ("tuna:can pouch:g", "sweetcorn:can:g", "mushrooms:jar can:g", "cherries:jar can:g"),
    "cleaning": (
        "dish soap:bottle pouch:ml",
        "laundry powder:box:g",
        "glass cleaner:bottle pouch:ml",
        "polish:can tube:ml",
    ),
    "pet care": ("dog food:can pouch:g", "cat food:box pouch:g", "bird seed:box pouch:g", "pet treats:tube jar:g"),
    "home": ("fertiliser:box bottle:g", "paint:can tube:ml", "light bulbs:box:pcs", "insect spray:can:ml"),
}


def _read_shelves() -> dict[str, Category]:
    found = {}
    for coarse, rows in _SHELVES.items():
        for row in rows:
            name, packagings, unit = row.split(":")
            found[name] = Category(name, coarse, tuple(packagings.split()), unit)
    return found


CATEGORIES: dict[str, Category] = _read_shelves()
COARSE = tuple(_SHELVES)


def vocabulary() -> dict[str, list[str]]:
    """Every value of each attribute, of damage and of placement, in a fixed order."""
    return {
        "brand": list(BRANDS),
        "category": list(CATEGORIES),
        "coarse": list(COARSE),
        "colour": list(COLOURS),
        "packaging": list(PACKAGINGS),
        "size": list(SIZES),
        "damage": list(DAMAGES),
        "placement": list(PLACEMENTS),
    }
