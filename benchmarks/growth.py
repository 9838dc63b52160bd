"""How do time and memory of each step grow with the rows of a shop?

    python benchmarks/growth.py [STEP ...] [--rows 1000 10000 100000] [--adapters 1000]

Steps: catalogue (read a folder, every photo decoded), records (write and read), sampling, negatives (an index, and a
search for every tenth product), shuffled (images of other products), verified (aspects of listings by the rules, shard
by shard), answers (scores with intervals), report (a page about a table of answers), pool (of `--adapters` experts on
disk, a tenth of them in memory); and only if named, for it takes long: grounding (the filter's scores of 140-px photos by
the pocket base, shard by shard). Rows are made up. Each measurement has a process of its own, which first does the same
with few rows. Prints a JSON line each: seconds, by how much memory grew at the peak, and the exponent: 1 where the seconds
grow as the rows do, since the size before, 2 where they grow as their square.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mtive_nb.data.catalogue import Catalogue, Product, load_catalogue
from mtive_nb.data.commerce.listings import Listing
from mtive_nb.data.instructions.grammar import Sight
from mtive_nb.data.instructions.roles import RuleCaptioner, RuleVerifier
from mtive_nb.data.instructions.verification import verify_listings
from mtive_nb.data.negatives import HardNegatives
from mtive_nb.data.records import load_records, make_record, write_records
from mtive_nb.data.sampling import sample_variants
from mtive_nb.report.page import write_report
from mtive_nb.run.graph import Project

FEW, SEARCHED, PHOTOS = 20, 10, 64
WORDS = [f"word{k}" for k in range(2000)]


def photos(folder: Path, count: int, *, side_px: int = 32) -> list[str]:
    """Write `count` small photos of noise, no two alike; returns their paths in the folder."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for k in range(count):
        noise = rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{k}.png")
    return [f"images/{k}.png" for k in range(count)]


def listings(rows: int, images: list[str]) -> list[Product]:
    rng = np.random.default_rng(1)
    kinds = [f"kind {k}" for k in range(max(2, rows // 50))]  # a group has about 50 products in a shop of any size
    titles = rng.choice(WORDS, (rows, 8))
    return [
        Product(f"P{k}", " ".join(titles[k]), "", kinds[k % len(kinds)], kinds[k % len(kinds)], {"brand": titles[k][0]},
                (images[k % len(images)],))
        for k in range(rows)
    ]  # fmt: skip


def questions(rows: int, images: list[Path]) -> list[dict]:
    common = {"source": "bench", "split": "test", "task": "DD", "variant": "bin", "label": "yes"}
    return [
        make_record(f"r{k}", images=[images[k % len(images)]], question="Is it damaged?", answer="yes",
                    product_id=f"p{k // 4}", **common)
        for k in range(rows)
    ]  # fmt: skip


def catalogue(rows: int, home: Path, *, side_px: int = 32) -> Callable[[], object]:
    shown = photos(home, rows, side_px=side_px)
    with (home / "products.jsonl").open("w") as products, (home / "feedback.jsonl").open("w") as feedback:
        for one in listings(rows, shown):
            own = {"product_id": one.product_id, "images": one.images}
            products.write(
                json.dumps(own | {"title": one.title, "category": one.category, "coarse": one.coarse}) + "\n"
            )
            feedback.write(json.dumps(own | {"feedback_id": f"F{one.product_id}", "facts": {"damaged": True}}) + "\n")
    return lambda: load_catalogue(home)


def records(rows: int, home: Path) -> Callable[[], object]:
    made = questions(rows, [home / path for path in photos(home, PHOTOS)])
    return lambda: load_records(write_records(made, home / "records.jsonl"))


def sampling(rows: int, home: Path) -> Callable[[], object]:
    made = questions(rows, [home / "0.png"])
    return lambda: sample_variants(made, {"bin": 1.0}, n=rows // 2)


def negatives(rows: int, home: Path) -> Callable[[], object]:
    shop = Catalogue("bench", home, listings(rows, photos(home, PHOTOS)), [])

    def search() -> list[list[str]]:
        finder = HardNegatives(shop)
        return [finder.nearest(product.product_id, 6) for product in shop.products[::SEARCHED]]

    return search


def shuffled(rows: int, home: Path) -> Callable[[], object]:
    from mtive_nb.evaluate.grounding.attention import with_other_images

    made = questions(rows, [home / f"{k}.png" for k in range(PHOTOS)])
    return lambda: with_other_images(made)


def verified(rows: int, home: Path) -> Callable[[], object]:
    sold = [
        Listing(one.product_id, one.title, one.category, (("brand", one.attributes["brand"]),), one.images[0], {"brand": "word1"})
        for one in listings(rows, [f"{k}.png" for k in range(PHOTOS)])
    ]  # fmt: skip
    roles = RuleCaptioner(Sight(Catalogue("bench", home, [], []), error=0.0)), RuleVerifier()
    return lambda: verify_listings(iter(sold), *roles, folder=home / "shards")


def answers(rows: int, home: Path) -> Callable[[], object]:
    from mtive_nb.evaluate.scores import score_table

    made = questions(rows, [home / "0.png"])
    said = ["yes" if k % 3 else "no" for k in range(rows)]
    return lambda: score_table(made, {"expert": said}, {})


def report(rows: int, home: Path) -> Callable[[], object]:
    tables = home / "outputs" / "bench" / "07_evaluation" / "tables"
    tables.mkdir(parents=True)
    (home / "notebooks").mkdir()
    (tables.parent / "run.json").write_text('{"seed": 0, "seconds": 1.0}')
    (tables.parent / "metrics.jsonl").write_text("")
    pd.DataFrame({"id": range(rows), "answer": "yes, it is damaged"}).to_csv(tables / "answers.csv", index=False)
    return lambda: write_report(Project(home), "bench")


def grounding(rows: int, home: Path) -> Callable[[], object]:
    from mtive_nb.evaluate.grounding.attention import score_records
    from mtive_nb.model.load import load_vlm

    made, vlm = questions(rows, [home / path for path in photos(home, PHOTOS, side_px=140)]), load_vlm("pocket")
    return lambda: score_records(vlm, made, home / "scores")


ALWAYS = (catalogue, records, sampling, negatives, shuffled, verified, answers, report)
STEPS = {f.__name__: f for f in (*ALWAYS, grounding)}


def status(field: str) -> int:
    """Return a field of this process's memory in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(step: str, rows: int) -> tuple[float, float]:
    """Return the seconds of a step in this process, and by how many MiB its memory grew at the peak."""
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        STEPS[step](FEW, Path(few))()  # imports, and what a library builds on first use
        work = STEPS[step](rows, Path(many))
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        before, started = status("VmRSS"), time.perf_counter()
        work()
        return time.perf_counter() - started, (status("VmHWM") - before) / 2**20


def pool_latencies(adapters: int) -> dict[str, float]:
    """Return milliseconds to add an expert, to read evicted weights (first; the page cache has them), and to reuse them."""
    from made_up import randomise, tiny_vlm

    from mtive_nb.model.stack import AdapterSpec, LoraStack
    from mtive_nb.serve.pool import MIB, ExpertPool

    with tempfile.TemporaryDirectory() as name:
        home, stack = Path(name), LoraStack(tiny_vlm())
        for k in range(adapters):
            stack.add(f"E{k}", AdapterSpec(8, 8.0, ("language",)))
            randomise(stack, f"E{k}", spread=0.1)
            stack.save(home / str(k), f"E{k}")
            stack.unload(f"E{k}")
        size = stack.read(home / "0", "E0").size
        pool = ExpertPool(stack, trunk=None, budget_mib=max(1, adapters // 10) * size / MIB)
        took: dict[str, list[float]] = {"added": [], "first": [], "steady": []}
        for k in range(adapters):
            started = time.perf_counter()
            pool.add(f"E{k}", home / str(k))
            took["added"].append(1000 * (time.perf_counter() - started))
        for k in np.random.default_rng(0).permutation(adapters - max(1, adapters // 10)).tolist():  # the evicted ones
            version = pool.hold(f"E{k}")
            for when in ("first", "steady"):
                started = time.perf_counter()
                pool.in_memory([version])
                took[when].append(1000 * (time.perf_counter() - started))
            pool.release(version)
    return {f"{when} P{share}": float(np.percentile(took[when], share)) for when in took for share in (50, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", choices=[*STEPS, "pool", []], metavar="STEP")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--adapters", type=int, default=1000)
    given = parser.parse_args()
    for step in given.steps or [*(f.__name__ for f in ALWAYS), "pool"]:
        before = None
        for rows in given.rows if step in STEPS else ():
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                seconds, mib = alone.submit(measured, step, rows).result()
            row = {"step": step, "rows": rows, "seconds": round(seconds, 3), "peak_mib": round(mib, 1)}
            if before:
                row["exponent"] = round(math.log(seconds / before[1]) / math.log(rows / before[0]), 2)
            before = rows, seconds
            print(json.dumps(row), flush=True)
        if step == "pool":
            found = {name: round(ms, 3) for name, ms in pool_latencies(given.adapters).items()}
            print(json.dumps({"step": step, "adapters": given.adapters, "unit": "ms", **found}), flush=True)


if __name__ == "__main__":
    main()
