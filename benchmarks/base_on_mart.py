"""How well does the base answer its own questions on a shop's photos, without training on the shop?

    python benchmarks/base_on_mart.py [--model pocket] [--products 96] [--seed 0]

Uses Pocket Mart's customer photos and the questions that notebook 00 taught the base. Low scores here with high scores
in the base's own exam show that its training scenes differ too much from a shop's photos.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.records import assistant_turn, user_turn
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.load import Vlm, load_vlm

MAX_PX = 140


def answers(vlm: Vlm, question: str, photos: Sequence[Sequence[str]]) -> list[str]:
    """Return one answer per item; an item has one or two photos."""
    records = []
    for k, images in enumerate(photos):
        turns = [user_turn(question, images=len(images)), assistant_turn("")]
        records.append({"id": str(k), "task": "own", "variant": "gen", "messages": turns, "images": list(images)})
    return generate_answers(vlm, records, max_new_tokens=48)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="pocket, or a folder of notebook 00")
    parser.add_argument("--products", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    vlm = load_vlm(given.model, max_px=MAX_PX)
    with tempfile.TemporaryDirectory() as name:
        root = render_mart(Path(name), products=given.products, photos=3, dates=1, seed=given.seed)
        catalogue = load_catalogue(root)
        listed = {p.product_id: p for p in catalogue.products}
        whole = [f for f in catalogue.feedback if "damaged" in f.facts]
        dated = [f for f in catalogue.feedback if (f.facts.get("dates") or {}).get("expiry_text")]
        told = [f for f in whole if f.facts["attributes"].get("brand")]
        same = [(*listed[f.product_id].images, *f.images) for f in whole]
        other = [(*listed[f.product_id].images, *whole[(k + 7) % len(whole)].images) for k, f in enumerate(whole)]

        def share(question: str, photos: list[tuple[str, ...]], right: Callable[[int, str], bool]) -> tuple[float, int]:
            said = answers(vlm, question, [[str(root / photo) for photo in one] for one in photos])
            return sum(right(k, text) for k, text in enumerate(said)) / len(said), len(said)

        rows = {
            "colour": share(
                "Which colour is the large shape?",
                [f.images for f in whole],
                lambda k, text: text == whole[k].facts["attributes"].get("colour"),
            ),
            "brand": share(
                "What is printed?",
                [f.images for f in told],
                lambda k, text: text.startswith(told[k].facts["attributes"]["brand"]),
            ),
            "expiry_date": share(
                "Read all lines.",
                [f.images for f in dated],
                lambda k, text: dated[k].facts["dates"]["expiry_text"].upper() in text,
            ),
            "damage": share(
                "Is the large shape whole? Answer yes or no.",
                [f.images for f in whole],
                lambda k, text: (text == "no") == whole[k].facts["damaged"],
            ),
            "match": share(
                "Do both images show the same thing? Answer yes or no.",
                same + other,
                lambda k, text: (text == "yes") == (k < len(same)),
            ),
        }
    for metric, (value, n) in rows.items():
        print(json.dumps({"metric": metric, "value": round(value, 3), "unit": "fraction", "better": "higher", "n": n}))


if __name__ == "__main__":
    main()
