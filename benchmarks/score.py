"""How fast does `score` answer questions of several tasks, compared with the alternatives of a user?

    python benchmarks/score.py PROFILE [--photos 48] [--at-once 48] [--side 1600] [--batch 32] [--rounds 3]

The trained experts of a profile are asked all their tasks about test photos of chapter 01; matching gets a pair of
photos. Photos are saved as JPEG with a longer side of `side` pixels, as a phone's are (0: as they are). They arrive
`at-once` together: few photos make small batches unless tasks are mixed. Measured in turn, each from files to texts:
- mixed: one `score` over all tasks;
- one after another: one `score` for each task;
- folded: `generate_answers` of the stack for each task, its expert folded into the weights;
- PEFT, batched: transformers and PEFT over the merged trunk, `set_adapter` for each task, then batches of its photos;
- PEFT, one by one: the same, one photo at a time.
Results are medians over rounds of the time ratio within a round; all should give the same answers.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image

from mtive_nb.data.photos import load_image
from mtive_nb.data.records import load_records
from mtive_nb.evaluate.latency import times_in_turn
from mtive_nb.evaluate.predict import generate_answers
from mtive_nb.model.stack import LoraStack, open_stack
from mtive_nb.run.graph import find_project
from mtive_nb.serve.answer import open_profile, question_record, run_folder

TOKENS = 64


def make_rows(folder: Path, home: Path, given: argparse.Namespace) -> list[dict]:
    """Return the rows of `score`: every task of every photo, photos written to `home`."""
    records = load_records(run_folder(folder, "01") / "records" / "emdiv.jsonl")
    pairs = [r["images"] for r in records if r["split"] == "test" and len(r["images"]) == 2]
    pairs = list({pair[1]: pair for pair in pairs}.values())[: given.photos]
    written = {path: home / f"{k}.jpg" for k, path in enumerate(dict.fromkeys(p for pair in pairs for p in pair))}
    for path, copy in written.items():
        image = load_image(path)
        scale = given.side / max(image.size) if given.side else 1
        image.resize([round(s * scale) for s in image.size], Image.Resampling.BICUBIC).save(copy, quality=90)
    rows = []
    for listed, photo in pairs:
        for task in given.tasks:
            shown = [written[listed], written[photo]] if task == "PM" else [written[photo]]
            rows.append({"photo": [str(path) for path in shown], "task": task})
    return rows


class Peft:
    """What a user of transformers and PEFT writes: the merged trunk, with every expert as an adapter."""

    def __init__(self, stack: LoraStack, experts: Path, tasks: list[str]) -> None:
        vlm = stack.merged_trunk("IT")
        self.processor = vlm.processor
        self.processor.tokenizer.padding_side = "left"
        self.model = PeftModel.from_pretrained(vlm.model, experts / tasks[0], adapter_name=tasks[0]).eval()
        for task in tasks[1:]:
            self.model.load_adapter(experts / task, adapter_name=task)

    @torch.inference_mode()
    def answers(self, records: list[dict]) -> list[str]:
        """Answer a batch of one task's records (with paths of their photos)."""
        self.model.set_adapter(records[0]["task"])
        chats = [r["messages"][:-1] for r in records]
        texts = [self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        images = [[Image.open(path).convert("RGB") for path in r["images"]] for r in records]
        inputs = self.processor(text=texts, images=images, return_tensors="pt", padding=True).to(self.model.device)
        made = self.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(made, skip_special_tokens=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--photos", type=int, default=48)
    parser.add_argument("--at-once", type=int, default=0, help="photos that arrive together; 0: all")
    parser.add_argument("--side", type=int, default=1600, help="px, longer side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=["AE", "DD", "PM", "EX"])
    given = parser.parse_args()
    folder = find_project().outputs / given.profile
    with tempfile.TemporaryDirectory() as name, open_profile(given.profile) as experts:
        rows, said = make_rows(folder, Path(name), given), {}
        stacks = [run_folder(folder, number) / "stack" for number in ("04", "05", "06")]
        stack = open_stack((stacks[0], "PT"), (stacks[1], "IT"), *((stacks[2], task) for task in given.tasks))
        peft = Peft(stack, stacks[2], given.tasks)
        records = [question_record(row["task"], row["photo"]) for row in rows]
        for record in records:
            del record["pixels"]  # each way decodes its photos itself
        size = (given.at_once or given.photos) * len(given.tasks)
        arrivals = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]

        def touch() -> None:
            """Make every photo a new one, which no cache holds."""
            for path in Path(name).iterdir():
                path.touch()
            for vlm in (stack.vlm, experts.stack.vlm):
                vlm.kept.forget()

        def by_task(way) -> list[str]:  # noqa: ANN001 - takes a task and its records, returns their answers
            found = [""] * len(rows)
            for arrived in arrivals:
                for task in given.tasks:
                    own = [k for k in arrived if rows[k]["task"] == task]
                    for k, text in zip(own, way(task, own), strict=True):
                        found[k] = text
            return found

        def scored(own: list[int]) -> list[str]:
            some = [rows[k] for k in own]
            return list(experts.score(some, batch=given.batch, max_new_tokens=TOKENS)["answer"])

        def folded(task: str, own: list[int]) -> list[str]:
            stack.activate(task)
            return generate_answers(stack, [records[k] for k in own], batch=given.batch, max_new_tokens=TOKENS)

        def in_batches(own: list[int], size: int) -> list[str]:
            parts = [own[start : start + size] for start in range(0, len(own), size)]
            return [text for part in parts for text in peft.answers([records[k] for k in part])]

        ways = {
            "mixed": lambda: [text for arrived in arrivals for text in scored(arrived)],
            "one after another": lambda: by_task(lambda _, own: scored(own)),
            "folded": lambda: by_task(folded),
            "PEFT, batched": lambda: by_task(lambda _, own: in_batches(own, given.batch)),
            "PEFT, one by one": lambda: in_batches(list(range(len(rows))), 1),
        }
        kept = {way: (lambda way=way, run=run: said.update({way: run()})) for way, run in ways.items()}
        times = times_in_turn(kept, rounds=given.rounds, before=dict.fromkeys(ways, touch))
    for way in ways:
        rate = len(rows) / len(given.tasks) / times[way]
        found = {"metric": f"photos_per_s, {way}", "value": round(rate.median(), 2)}
        print(json.dumps(found | {"unit": f"photos/s, {len(given.tasks)} tasks each", "better": "higher"}))
    for way in list(ways)[1:]:
        ratios = times[way] / times["mixed"]
        found = {"metric": f"mixed_vs, {way}", "value": round(ratios.median(), 3), "unit": "times as fast"}
        print(json.dumps(found | {"better": "higher", "rounds": ratios.round(3).tolist()}))
    for way in list(ways)[1:]:
        same = sum(a == b for a, b in zip(said["mixed"], said[way], strict=True)) / len(rows)
        found = {"metric": f"same_answers, {way}", "value": round(same, 4), "unit": "share of rows", "better": "higher"}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
