"""The command line: `mtive-nb run PROFILE [NN ...]`, `check`, `ask`, `score`, `retrain`, `report` and others.

`python -m mtive_nb` is the same.
"""

import argparse
import gc
import os
import sys
from importlib import import_module

# What each command calls, with its options as keywords; imported only then.
MAINS = {
    "run": "run.execute:main",
    "ask": "serve.answer:main",
    "score": "serve.score:main",
    "items": "serve.items:main",
    "retrain": "serve.retrain:main",
    "versions": "serve.retrain:show_versions",
    "push": "serve.hub:main",
    "report": "report.reference:main",
    "claims": "report.verdicts:main",
    "check": "data.door.check:main",
    "verify": "serve.verify:main",
    "preflight": "report.preflight:main",
}
REQUEST = "further fields of each request, a JSON object (default: temperature and max_tokens)"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    top = argparse.ArgumentParser(
        prog="mtive-nb", description="Run the numbered notebooks, write a report, query trained experts."
    )
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run stale notebooks in the order of the graph")
    run.add_argument("profile", help="a folder of params/, e.g. smoke, pocket, grocery, paper")
    run.add_argument(
        "numbers", nargs="*", metavar="NN",
        help="notebooks by number or name, or a group: path (the MTIVE path), seeds (repeated per seed); default: all except 00 and 21",
    )  # fmt: skip
    run.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="notebooks run at once on shared cores (default: 1)"
    )
    run.add_argument("--dry-run", action="store_true", help="show what would run and why; run nothing")
    run.add_argument("--force", action="store_true", help="run the named notebooks even if nothing changed")
    run.add_argument("--only", action="store_true", help="run only the named notebooks, on existing upstream results")
    ask = commands.add_parser("ask", help="query a trained expert about a photo")
    ask.add_argument("profile")
    ask.add_argument(
        "task",
        help="AE attributes, DD damage, PM match (two photos), EX expiry, PT packaging, PP placement, or your own",
    )
    ask.add_argument("photos", nargs="+", metavar="PHOTO")
    ask.add_argument("--question", default="", help="question about the photo (default: the task's own question)")
    score = commands.add_parser("score", help="query trained experts about a folder or table of photos")
    score.add_argument("profile")
    score.add_argument(
        "source", metavar="INPUT",
        help="a folder of photos, or a CSV or JSON-lines file with a column photo (paths relative to the file, a pair "
        "separated by |) and optionally photo2, task, question, id",
    )  # fmt: skip
    score.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="answers as .csv or .jsonl; kept and continued if it exists",
    )
    score.add_argument(
        "--task",
        action="append",
        default=[],
        dest="tasks",
        metavar="TASK",
        help="task of rows that name none; repeatable. CASLIE, UIA or uniM3: INPUT is a file of commerce rows (docs/commerce.md)",
    )
    score.add_argument(
        "--batch", type=int, metavar="N", help="questions answered together (default: as in chapter 07, 32 at most)"
    )
    score.add_argument("--workers", type=int, default=0, metavar="N", help="answer on N workers of a Ray cluster")
    for command in (ask, score):
        command.add_argument(
            "--server", default="", metavar="URL", help="a running vLLM that serves the profile's experts"
        )
    items = commands.add_parser("items", help="read the fields of many items, each a folder of photos, to a file")
    items.add_argument("folder", help="a folder that has a folder of photos for each item")
    items.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="rows as .jsonl; kept and continued if it exists"
    )
    items.add_argument(
        "--profile", default="", help="ask this profile's expert ITEM (default: rules on OCR and barcodes)"
    )
    items.add_argument("--endpoint", default="", metavar="URL", help="ask a model behind an OpenAI-compatible endpoint")
    items.add_argument("--model", default="", help="the model at the endpoint")
    items.add_argument("--request", default="", metavar="JSON", help=REQUEST)
    items.add_argument(
        "--most-photos", type=int, default=9, metavar="N", help="photos of an item after deduplication (default: 9)"
    )
    retrain = commands.add_parser("retrain", help="train a new version of an expert from corrected answers of score")
    retrain.add_argument("profile")
    retrain.add_argument("task")
    retrain.add_argument(
        "source", metavar="FILE", help='answers of score with a column correct_answer ("ok": it was right)'
    )
    retrain.add_argument("--force", action="store_true", help="put the new version in force even if it is worse")
    retrain.add_argument(
        "--server", default="", metavar="URL", help="a running vLLM that is to serve the new version, too"
    )
    versions = commands.add_parser(
        "versions", help="list the versions of the experts; with TASK NUMBER, go back to one"
    )
    versions.add_argument("profile")
    versions.add_argument("task", nargs="?", default="")
    versions.add_argument("number", nargs="?", type=int, default=0)
    versions.add_argument("--pin", action="store_true", help="serve only what is in force now, by hash")
    push = commands.add_parser("push", help="upload the experts with a model card to the Hugging Face hub")
    push.add_argument("profile")
    push.add_argument("repo", help="user/name; your token: hf auth login, or HF_TOKEN")
    push.add_argument(
        "--task", action="append", default=[], dest="tasks", metavar="TASK", help="default: all; repeatable"
    )
    push.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    push.add_argument("-o", "--output", default="", metavar="FOLDER", help="write the folder here; upload nothing")
    report = commands.add_parser("report", help="write one HTML page: the papers' numbers beside ours")
    report.add_argument("profile")
    report.add_argument("--reference", action="store_true", help="also copy the results to outputs/reference/")
    report.add_argument(
        "--numbers", action="store_true", help="the same for numbers, answers and claims alone, as of a further seed"
    )
    claims = commands.add_parser("claims", help="list a profile's verdicts on the papers' claims, counted by kind")
    claims.add_argument("profile")
    check = commands.add_parser(
        "check", help="check a catalogue folder: usable rows, questions by task and split, faults; no model"
    )
    check.add_argument("folder")
    check.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    verify = commands.add_parser(
        "verify", help="check which attributes of a catalogue's products their photos bear out (docs/verification.md)"
    )
    verify.add_argument("folder")
    verify.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder of results; continued if it exists"
    )
    verify.add_argument(
        "--captioner", required=True, metavar="NAME",
        help="describes the photos: a model behind --url, profile:PROFILE, a checkpoint, or facts (what the catalogue says)",
    )  # fmt: skip
    verify.add_argument(
        "--verifier", default="words", metavar="NAME",
        help="decides what follows from a caption: words (default: the value stands in it), a model behind --url, a checkpoint",
    )  # fmt: skip
    verify.add_argument(
        "--url", default="", metavar="URL", help="an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1"
    )
    verify.add_argument("--request", default="", metavar="JSON", help=REQUEST)
    verify.add_argument("--workers", type=int, default=0, metavar="N", help="caption on N workers of a Ray cluster")
    preflight = commands.add_parser(
        "preflight", help="check memory, disk, data and packages for a profile before a long run"
    )
    preflight.add_argument("profile")
    return top


def main(words: list[str] | None = None) -> int:
    """Run one command; report an error in the user's files as one message, without a traceback."""
    asked = vars(parser().parse_args(words))
    from mtive_nb.run.graph import GraphError
    from mtive_nb.run.imported import keep_imported
    from mtive_nb.run.lock import LockedError
    from mtive_nb.run.params import ParameterError

    module, _, name = MAINS[asked.pop("command")].partition(":")
    gc.disable()  # a quarter of the time of torch's and transformers' imports goes into collections that find nothing
    try:
        command = getattr(import_module(f"mtive_nb.{module}"), name)
    finally:
        keep_imported()
        gc.enable()
    try:
        code = command(**asked)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # a reader such as `head` has all that it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
        return 1
    except (GraphError, LockedError, ParameterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
