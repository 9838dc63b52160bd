# ruff: noqa: E501 - one pictogram per line is easier to find and correct
"""The pictogram of each category, in a small vector language on a 24 x 24 grid, and the colour of its ink.

Commands, separated by `;`: `c x y r` disc, `e x0 y0 x1 y1` ellipse, `r x0 y0 x1 y1 radius` rounded rectangle,
`p x y x y ...` polygon, `l width x y x y ...` line, `a width x0 y0 x1 y1 start end` arc (degrees). A leading `-` erases.
"""

import math
from functools import lru_cache

from PIL import Image, ImageDraw

GRID = 24

ICONS = {
    "shampoo": "c 8 15 7;-c 8 15 4.6;c 18 8 5;-c 18 8 2.8;c 18 19 3.4;-c 18 19 1.5;c 9 4 2.2",
    "conditioner": "l 3 5 2 8 7 4 12 8 17 5 22;l 3 12 2 15 7 11 12 15 17 12 22;l 3 19 2 22 7 18 12 22 17 19 22",
    "hair oil": "c 12 15.5 7.5;p 12 0 18.4 11.5 5.6 11.5;-a 2 7.5 11 16.5 20 90 170",
    "hair gel": "r 1 4 23 10 1;r 1 4 4 22 1;r 6 8 8 21 0;r 10 8 12 21 0;r 14 8 16 21 0;r 18 8 20 21 0;r 21 4 23 22 1",
    "sun cream": "c 12 12 5.5;l 2 12 0 12 4;l 2 12 20 12 24;l 2 0 12 4 12;l 2 20 12 24 12;l 2 3.5 3.5 6.3 6.3;"
    "l 2 17.7 17.7 20.5 20.5;l 2 3.5 20.5 6.3 17.7;l 2 17.7 6.3 20.5 3.5",
    "face cream": "c 12 12 11;-c 8 9 1.8;-c 16 9 1.8;-a 2 6 7 18 19 20 160",
    "hand cream": "r 6 10 18 23 4;r 6 4 8.6 14 1.2;r 9.2 1 11.8 14 1.2;r 12.4 1.5 15 14 1.2;r 15.6 4 18 14 1.2;l 3.4 3 12 7 18",
    "body lotion": "c 12 5.5 4.8;c 18 10 4.8;c 15.8 17.5 4.8;c 8.2 17.5 4.8;c 6 10 4.8;-c 12 12 3.6;c 12 12 2.2",
    "toothpaste": "r 3 2 21 14 6;-e 9.5 -1 14.5 4;p 3.6 9 11.4 11 8.6 23 6 23;p 20.4 9 12.6 11 15.4 23 18 23",
    "mouthwash": "p 0 11 7 5 12 8 17 5 24 11 17 19 12 20 7 19;-p 3 11.5 12 10.5 21 11.5 12 14",
    "soap": "r 1 10 23 22 5;-r 5 13.5 19 18.5 2.5;c 7 4.5 2.8;c 14.5 5.5 2;c 19.5 3 1.6",
    "deodorant": "r 1 9 10 24 2;r 3 4 8 8 1;c 13 6 1.6;c 17 3 1.6;c 17 6.5 1.6;c 17 10 1.6;c 21.5 1.6 1.6;c 21.5 6.5 1.6;c 21.5 11.5 1.6",
    "juice": "c 12 12 11.5;-c 12 12 9.6;c 12 12 8.4;-l 1.5 12 3 12 21;-l 1.5 3 12 21 12;-l 1.5 5.6 5.6 18.4 18.4;-l 1.5 5.6 18.4 18.4 5.6",
    "cola": "p 3 7 21 7 18 24 6 24;-p 6.4 10 17.6 10 17.2 13 6.8 13;l 2.2 12 7 15 0 20 0",
    "iced tea": "l 2.4 12 0 12 24;l 2.4 1.6 6 22.4 18;l 2.4 1.6 18 22.4 6;l 2 8 2 12 6 16 2;l 2 8 22 12 18 16 22;"
    "l 2 1.5 10.5 6 9 5.5 3.5;l 2 22.5 13.5 18 15 18.5 20.5",
    "water": "p 0 22 9.5 2 14 12 17 8 24 22;-l 1.6 4 13 7.4 10.6 10 13.4 13 10.6",
    "coffee": "e 4 0 20 24;-l 2.4 14 0 10.5 6 13.5 12 10 18 11 24",
    "tea": "p 2 22 3 11 9 4 22 1 21 13 15 20 7 20;-l 1.8 5 19.5 17 6;-l 1.4 9.5 14.6 9.5 9;-l 1.4 9.5 14.6 16 14.6",
    "cocoa": "r 2 9 17 24 3;c 17.5 15 5;-c 17.5 15 2.6;r 2 9 15.5 24 3;l 1.9 6 7 7.5 4 5.5 1;l 1.9 11.5 7 13 4 11 1",
    "milk powder": "p 4.4 6 19.6 6 18.4 18 5.6 18;r 4 14 20 24 5;e 0 6.5 6 11;e 18 6.5 24 11;p 4 7 2.6 0 8.4 6;p 20 7 21.4 0 15.6 6;"
    "-c 9 10.5 1.5;-c 15 10.5 1.5;-c 9 19 1.7;-c 15 19 1.7",
    "chocolate": "r 3 0 21 24 2;-l 1.6 12 2 12 22;-l 1.6 3 8 21 8;-l 1.6 3 16 21 16",
    "biscuits": "c 12 12 11.5;-c 21.5 3 5;-c 7.5 8 2;-c 13.5 12 2;-c 8 16.5 2;-c 16 18 1.7;-c 13.4 5.6 1.4",
    "popcorn": "p 3 10 21 10 18 24 6 24;-p 7.4 12 9.8 12 10.4 24 8.4 24;-p 14.2 12 16.6 12 15.6 24 13.6 24;c 6 7 3.6;c 12 4.4 4.2;c 18 7 3.6",
    "nuts": "e 4.5 7 19.5 24;p 9 21 15 21 12 24.4;-l 1.5 2 11.5 22 11.5;r 2 3.5 22 10.5 3.4;l 2.4 12 4 14 0",
    "honey": "p 12 0 17.5 3 17.5 9 12 12 6.5 9 6.5 3;p 6 11 11.4 14 11.4 20.5 6 23.6 .6 20.5 .6 14;p 18 11 23.4 14 23.4 20.5 18 23.6 12.6 20.5 12.6 14",
    "jam": "p 2 8 22 8 19 17 12 24.4 5 17;c 6.5 10 4.6;c 17.5 10 4.6;p 5 5 12 8 19 5 14 3 12 0 10 3;-c 8 12 1.1;-c 12 15 1.1;-c 16 12 1.1;-c 12 10.6 1.1",
    "peanut butter": "c 15.8 7 6.8;c 8 16.8 7;p 9 6 20 13 15 18 4 11;-c 15.5 5.5 1.3;-c 18 9 1.3;-c 8 15 1.3;-c 10 19.5 1.3;-c 5.5 19 1.3",
    "cereal": "l 2 12 6 12 24;e 9.4 0 14.6 7.4;e 3 4 9.6 9.6;e 14.4 4 21 9.6;e 3 10 9.6 15.6;e 14.4 10 21 15.6;e 3 16 9.6 21.6;e 14.4 16 21 21.6",
    "ketchup": "e 1 5 23 24;-p 5 6 12 10 19 6 12 3;p 6 4 12 8 18 4 13 3.4 12 0 11 3.4;-a 1.8 4 9 18 21 110 180",
    "hot sauce": "p 1 22 11 18 16 9 22 9 21 16 14 22.5 6 24;c 18.8 9 3.4;l 2.4 18.8 7 18 3 21 .6",
    "olive oil": "e 2 7 17 24;-c 9.5 13 3;l 2 11 8 14 3;p 13 7 15 1 24 0 22 6 17 9",
    "mayonnaise": "e 3.5 0 20.5 24;p 4 12 20 12 20 16 4 16;-c 12 15 4.6",
    "tuna": "e 0 5.5 19 18.5;p 16 12 24 5 24 19;-c 5 10.6 1.5;-a 1.5 3 7 11 17 290 70",
    "sweetcorn": "e 7.5 0 16.5 22;-l 1.1 12 0 12 15;-l 1.1 8 5 16 5;-l 1.1 8 9 16 9;-l 1.1 8 13 16 13;p 2 7 9.4 16 12 24 6 21;p 22 7 14.6 16 12 24 18 21",
    "mushrooms": "e .5 1 23.5 22;-r 0 12.4 24 24 0;r 8.4 11 15.6 24 3;-c 8 7 1.7;-c 15 5.6 1.7;-c 18.4 9.6 1.4",
    "cherries": "c 6 18.5 5.4;c 18 18.5 5.4;l 1.8 6 14 14 1.5 18 14;p 13 2 20 0 24 5 17 6.4;-c 4.4 17 1.3;-c 16.4 17 1.3",
    "dish soap": "c 12 12 12;-c 12 12 9.6;c 12 12 6.4;-a 1.6 8.4 8.4 15.6 15.6 180 270",
    "laundry powder": "p 7 1 17 1 24 7 20 12 17.6 10 17.6 24 6.4 24 6.4 10 4 12 0 7;-e 8.6 -3 15.4 4",
    "glass cleaner": "r 2 0 22 24 1;-r 4.4 2.4 11 11 0;-r 13 2.4 19.6 11 0;-r 4.4 13 11 21.6 0;-r 13 13 19.6 21.6 0",
    "polish": "p 9 4 11.4 12.6 20 15 11.4 17.4 9 26 6.6 17.4 -2 15 6.6 12.6;p 18.5 0 19.8 4.2 24 5.5 19.8 6.8 18.5 11 17.2 6.8 13 5.5 17.2 4.2",
    "dog food": "l 5 5.5 18.5 18.5 5.5;c 3.6 16 3.4;c 8 20.4 3.4;c 16 3.6 3.4;c 20.4 8 3.4",
    "cat food": "e 1.5 5.5 22.5 23.5;p 2 0 10 6.5 2.4 13.5;p 22 0 14 6.5 21.6 13.5;-c 8 13 1.7;-c 16 13 1.7;-p 10.4 16.6 13.6 16.6 12 18.6",
    "bird seed": "c 16.4 7 5;e 3 8 20 19;p 20.6 5.4 24.4 8 20.6 9;p 6 11 -1 10 2 19;l 1.8 10 18 10 23.6;l 1.8 14 18 14 23.6;-c 17.4 6 1.3",
    "pet treats": "e 5 11.4 19 23.4;e .4 8 6 14.6;e 5.4 1 11 9;e 13 1 18.6 9;e 18 8 23.6 14.6",
    "fertiliser": "l 2.4 12 9 12 24;p 12 12 10.4 4.6 1 2 3 10;p 12 10.4 14 4 23.4 0 21 9.4;r 4 21 20 24 1",
    "paint": "r 1 1 19 8.6 1.4;l 2 18 4.6 22.6 4.6 22.6 12 11 12 11 16;r 8.6 15 13.4 24 1",
    "light bulbs": "c 12 8.6 8.6;p 6 13 18 13 15.4 18 8.6 18;r 8.6 19 15.4 21 .6;r 9.6 22 14.4 24 .8;-l 1.4 9.4 8 9.4 12 14.6 12 14.6 8",
    "insect spray": "e 6.4 6 17.6 23;c 12 4.4 3.6;-l 1.4 12 8 12 23;l 1.7 7.6 10 1 6;l 1.7 16.4 10 23 6;l 1.7 7 14.6 0 14.6;"
    "l 1.7 17 14.6 24 14.6;l 1.7 8 19 2 23.4;l 1.7 16 19 22 23.4",
}

# As on real labels, the picture of what is inside has its colour: at 140 pixels a colour is seen before a shape.
_INKS = (  # RGB, then the categories with hyphens for spaces
    (206, 34, 40, "mouthwash popcorn ketchup paint"),
    (150, 18, 70, "conditioner jam cherries"),
    (238, 110, 10, "juice hot-sauce hair-oil biscuits"),
    (214, 158, 0, "sun-cream honey sweetcorn polish light-bulbs"),
    (112, 64, 30, "coffee chocolate peanut-butter dog-food"),
    (120, 128, 20, "nuts olive-oil bird-seed"),
    (30, 140, 60, "tea fertiliser hair-gel"),
    (0, 140, 150, "toothpaste dish-soap mushrooms"),
    (50, 150, 235, "iced-tea glass-cleaner shampoo"),
    (30, 70, 190, "water tuna laundry-powder deodorant"),
    (120, 50, 170, "body-lotion cocoa pet-treats cereal"),
    (235, 80, 160, "face-cream soap mayonnaise"),
    (34, 32, 38, "cola milk-powder hand-cream cat-food insect-spray"),
)
INKS = {name.replace("-", " "): (r, g, b) for r, g, b, names in _INKS for name in names.split()}


def _stroke(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], width: float, ink: int) -> None:
    draw.line(points, fill=ink, width=max(1, round(width)), joint="curve")
    half = width / 2
    for x, y in points:  # round ends: a thin stroke must survive at small size
        draw.ellipse((x - half, y - half, x + half, y + half), fill=ink)


@lru_cache(maxsize=512)
def icon_mask(category: str, size_px: int) -> Image.Image:
    """Coverage mask (`L`, size_px x size_px) of a category's pictogram. Errors: KeyError for an unknown category."""
    scale = 2 * size_px / GRID
    image = Image.new("L", (2 * size_px, 2 * size_px))
    draw = ImageDraw.Draw(image)
    for command in ICONS[category].split(";"):
        ink = 0 if command.startswith("-") else 255
        kind, *words = command.lstrip("-").split()
        v = [float(word) * scale for word in words]
        if kind == "c":
            draw.ellipse((v[0] - v[2], v[1] - v[2], v[0] + v[2], v[1] + v[2]), fill=ink)
        elif kind == "e":
            draw.ellipse(v, fill=ink)
        elif kind == "r":
            draw.rounded_rectangle(v[:4], radius=v[4], fill=ink)
        elif kind == "p":
            draw.polygon(list(zip(v[::2], v[1::2], strict=True)), fill=ink)
        elif kind == "l":
            _stroke(draw, list(zip(v[1::2], v[2::2], strict=True)), v[0], ink)
        else:  # arc
            start, end = float(words[5]), float(words[6])
            draw.arc(v[1:5], start, end if end > start else end + 360, fill=ink, width=math.ceil(v[0]))
    return image.reduce(2)
