"""Which catalogues reach the report? Catalogues with facts for one task, for two, from a README, from a messy export.

`MTIVE_DATA=<folder of the public sets> python benchmarks/catalogues.py [NAME ...]` makes each catalogue in a temporary
folder from the photos of clothing-dataset-small (CC0), runs the MTIVE path on it with few steps, as `make reproduce`
would, and prints a JSON line a catalogue: whether it reached the report, its questions by task, seconds. Damage and
dates are composited; packaging and placement are made up, so the scores mean nothing here.
"""

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image, ImageEnhance

from mtive_nb.data.catalogue import Catalogue, Feedback, Product, write_catalogue
from mtive_nb.data.composite import composite_damage, composite_dates
from mtive_nb.data.photos import load_image
from mtive_nb.data.rows import PACKAGINGS, PLACEMENTS
from mtive_nb.data.sources import data_dir, load_grocery
from mtive_nb.report.page import write_report
from mtive_nb.run.execute import run_notebooks
from mtive_nb.run.graph import Project, find_project

PHOTOS = 3  # customer photos a product
# A run with few steps: what is asked here is whether it arrives.
FEW_STEPS = {
    "01_catalogue_and_emdiv": {"DIALOGUES": 60, "DIALOGUES_VAL": 6},
    "02_instruction_data": {"INSTRUCTIONS": 60, "INSTRUCTIONS_VAL": 6},
    "04_stage1_pretraining": {"STEPS": 2, "PROCESSES": 1},
    "05_stage2_instructions": {"STEPS": 2, "PROCESSES": 1},
    "06_experts": {"STEPS": {"AE": 2, "DD": 2, "PM": 2, "*": 2}, "PROCESSES": 1},
    "07_evaluation": {"LIMIT": 4, "MAX_NEW_TOKENS": 8, "PROCESSES": 1},
    "08_baselines": {"LIMIT": 4, "MAX_NEW_TOKENS": 8, "PROCESSES": 1, "SHOTS_LIMIT": 2, "CONFLICT": 4, "ROUNDS": 1},
    "09_continual": {"LIMIT": 4, "MAX_NEW_TOKENS": 8, "PROCESSES": 1, "STEPS": 2, "ROUNDS": 1},
    "18_demo": {"NEW_TOKENS": 8},
    "19_annotation": {"RECORDS": 4, "STEPS": 2, "MAX_NEW_TOKENS": 8, "LIMIT": 2, "STEP_BATCH": 4, "ANSWERS_EACH": 2},
}


def clothes(folder: Path, *, products: int = 60) -> Catalogue:
    """A shop of clothes: each product is one photo; its customers' photos are parts of it, turned and lit anew."""
    source = data_dir() / "clothing-dataset-small" / "train"
    kinds = sorted(path.name for path in source.iterdir() if path.is_dir())
    of_kind = {kind: sorted((source / kind).iterdir()) for kind in kinds}
    made = Catalogue("clothes", folder, [], [])
    (folder / "images").mkdir(parents=True)
    for k in range(products):
        kind, rng = kinds[k % len(kinds)], np.random.default_rng(k)
        photo, name = load_image(of_kind[kind][k // len(kinds)]), f"SKU-{k:04d}"
        photo.thumbnail((320, 320))
        photo.save(folder / "images" / f"{name}.jpg")
        product = Product(
            name, f"{kind} no {k}", f"One {kind}.", kind, "clothes", {"category": kind}, (f"images/{name}.jpg",)
        )
        made.products.append(product)
        for number in range(PHOTOS):
            path = f"images/{name}-{number}.jpg"
            cut = 0.12 * rng.random(4) * [photo.width, photo.height, -photo.width, -photo.height]
            part = photo.crop(tuple(int(side) for side in cut + [0, 0, photo.width, photo.height]))
            part = part.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC, expand=True)
            ImageEnhance.Brightness(part).enhance(rng.uniform(0.6, 1.2)).save(folder / path)
            made.feedback.append(Feedback(f"{name}-{number}", name, "it is soft and fits", (path,), None))
    return made


def with_facts(shop: Catalogue, folder: Path, tasks: list[str]) -> Catalogue:
    """The shop with the facts that these tasks read, and no others."""
    if "DD" in tasks:
        shop = composite_damage(shop, folder / "damage")
    elif tasks == ["EX"]:
        return composite_dates(shop, folder / "dates", n=len(shop.feedback))
    rng = np.random.default_rng(0)
    kind = {product.product_id: product.category for product in shop.products}
    for k, row in enumerate(shop.feedback):
        facts = {name: value for name, value in (row.facts or {}).items() if name.startswith("damage")}
        facts |= {"attributes": {"category": kind[row.product_id]}} if "AE" in tasks else {}
        facts |= {"packaging": str(rng.choice(PACKAGINGS))} if "PT" in tasks else {}
        facts |= {"placement": str(rng.choice(PLACEMENTS))} if "PP" in tasks else {}
        shop.feedback[k] = replace(row, facts=facts or None)
    return replace(shop, splits=None)


def facts_for(*tasks: str) -> Callable[[Path], Path]:
    """A maker of a catalogue with the facts of these tasks alone (PM needs none)."""

    def make(folder: Path) -> Path:
        return write_catalogue(with_facts(clothes(folder / "plain"), folder, list(tasks)), folder / "catalogue")

    return make


def readme(folder: Path) -> Path:
    """README's example rows, more of the same kind: a product's brand and colour, damage, packaging."""
    shop = with_facts(clothes(folder / "plain"), folder, ["DD", "PT"])
    rng = np.random.default_rng(0)
    brands, colours = ["Zevo", "Halden", "Nordwind"], ["blue", "red", "green"]
    for k, product in enumerate(shop.products):
        seen = {"brand": str(rng.choice(brands)), "colour": str(rng.choice(colours))}
        shop.products[k] = replace(product, attributes=seen, title=f"{seen['brand']} {product.category} {k}")
    return write_catalogue(shop, folder / "catalogue")


def export(folder: Path, *, messy: bool = False) -> Path:
    """A shop's export as CSV with a semicolon and a byte order mark; messy: German columns, faults, odd photos."""
    shop, place = with_facts(clothes(folder / "catalogue"), folder, ["DD"]), folder / "catalogue"
    write_catalogue(shop, place)
    for name in ("products", "feedback"):
        rows = [asdict(row) for row in getattr(shop, name)]
        flat = pd.json_normalize(rows)
        flat["images"] = ["|".join(row["images"]) for row in rows]
        if messy:
            flat = flat.rename(columns={"title": "Titel", "facts.damaged": "defekt"})
            flat["Lager"] = "B7"
            flat.loc[3, "images"] = "images/none.jpg"
            flat = pd.concat([flat, flat.iloc[:2]])
        flat.to_csv(place / f"{name}.csv", sep=";", index=False, encoding="utf-8-sig", quoting=csv.QUOTE_MINIMAL)
        (place / f"{name}.jsonl").unlink()
    if messy:
        (place / "columns.yaml").write_text("title: Titel\nfacts.damaged: defekt\n", encoding="utf-8")
        (place / shop.feedback[7].images[0]).write_bytes(b"no photo")
        (place / "splits.json").write_text('{"SKU-0001": "test", "SKU-0002": "holdout"}', encoding="utf-8")
    return place


def grocery_without_names(folder: Path) -> Path:
    """GroceryStore's products and phone photos with numbers for names, and no other fact than the packaging."""
    shop = load_grocery()
    number = {product.product_id: f"G{k:03d}" for k, product in enumerate(shop.products)}
    plain = {"category": "", "description": "", "attributes": {}}
    shop.products = [
        replace(p, product_id=number[p.product_id], title=number[p.product_id], **plain) for p in shop.products
    ]
    rows = shop.feedback[:: len(shop.feedback) // 400]
    shop.feedback = [
        replace(row, product_id=number[row.product_id], facts={"packaging": row.facts["packaging"]}) for row in rows
    ]
    return write_catalogue(replace(shop, splits=None), folder / "catalogue")


def packages(folder: Path) -> Path:
    """Eight photos of food packages: a product is a barcode, its second photo a customer's; far too few to train on."""
    files = sorted((data_dir() / "packages").glob("*.jpg"))
    by_code = {
        code: [f for f in files if f.stem.split("_")[0] == code] for code in {f.stem.split("_")[0] for f in files}
    }
    shop = Catalogue("packages", data_dir() / "packages", [], [])
    for code, photos in sorted(by_code.items()):
        shop.products.append(Product(code, f"Package {code}", "", "package", "food", {}, (photos[0].name,)))
        row = Feedback(f"F{code}", code, "", (photos[-1].name,), {"damaged": False})
        shop.feedback.append(row)
    return write_catalogue(shop, folder / "catalogue")


MAKERS: dict[str, Callable[[Path], Path]] = {
    **{task: facts_for(task) for task in ("AE", "DD", "PM", "EX", "PT", "PP")},
    "AE and DD": facts_for("AE", "DD"),
    "DD and PP": facts_for("DD", "PP"),
    "README's rows": readme,
    "CSV": export,
    "GroceryStore without names": grocery_without_names,
    "packages": packages,
    "messy export": lambda folder: export(folder, messy=True),
}


def try_one(name: str, *, numbers: list[str]) -> dict:
    """Make a catalogue, run the chapters and the report; return what came out."""
    started, tasks = time.perf_counter(), ["AE", "DD", "PM", "EX", "PT", "PP"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = MAKERS[name](home)
        (home / "notebooks").symlink_to(find_project().notebooks)
        settings = FEW_STEPS | {"every": {"TASKS": tasks}}
        settings["01_catalogue_and_emdiv"] = settings["01_catalogue_and_emdiv"] | {"SOURCE": str(source)}
        (home / "params" / "mine").mkdir(parents=True)
        for stem, values in settings.items():
            (home / "params" / "mine" / f"{stem}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        project = Project(home)
        done = run_notebooks("mine", numbers=numbers, project=project, tell=lambda text: print(text, file=sys.stderr))
        reached = done.ok and write_report(project, "mine").is_file()
        table = home / "outputs" / "mine" / "01_catalogue_and_emdiv" / "tables" / "questions.csv"
        questions = (
            pd.read_csv(table).set_index("task")[["train", "val", "test"]] if table.is_file() else pd.DataFrame()
        )
    questions = {
        task: " / ".join(map(str, row)) for task, row in zip(questions.index, questions.to_numpy(), strict=True)
    }
    return {
        "catalogue": name, "metric": f"reached the report, {name}", "value": int(reached), "unit": "of 1", "better": "higher",
        "questions": questions, "failed": done.failed, "seconds": round(time.perf_counter() - started),
    }  # fmt: skip


def main() -> None:
    numbers = [word for word in sys.argv[1:] if word.isdigit()] or ["path"]
    names = [word for word in sys.argv[1:] if not word.isdigit()]
    for name in names or MAKERS:
        print(json.dumps(try_one(name, numbers=numbers), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
