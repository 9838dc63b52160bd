"""Resume a training run from its own whole checkpoints alone, and end one whose loss or weights are no longer finite.

`training.json` beside the checkpoints says what the run is made of. Checkpoints of a run made of something else, or half
written, are not resumed from.
"""

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from mtive_nb.model.lineage import NotFiniteError
from mtive_nb.run.atomic import remove, write_atomic
from mtive_nb.run.content import code_of_chapter, digest, read_json
from mtive_nb.run.provenance import versions

KEY = "training.json"
BEFORE = ".before"  # suffix of the folder that keeps the checkpoints of the run before


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of named weights: names, shapes and all values."""
    found = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        found.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def trainable_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights in training, {name in the model: weight}; the tensors are the model's own."""
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def is_whole(checkpoint: Path) -> bool:
    """Whether a Trainer's checkpoint can be resumed from.

    It has its state, which comes last, and every file before it, undamaged; weights and optimizer are finite.
    """
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
        weights = [tensor for file in checkpoint.glob("*.safetensors") for tensor in load_file(file).values()]
        damaged = [_first_damage(file) for file in (checkpoint / SCHEDULER_NAME, *checkpoint.glob("*.pt*"))]
        saved = torch.load(checkpoint / OPTIMIZER_NAME, map_location="cpu", weights_only=True)["state"]
        moments = [value for row in saved.values() for value in row.values() if isinstance(value, torch.Tensor)]
        return bool(weights) and not any(damaged) and all(tensor.isfinite().all() for tensor in (*weights, *moments))
    except Exception:  # noqa: BLE001 - of a damaged file, readers raise nearly any type
        return False


def _first_damage(archive: Path) -> str | None:
    with zipfile.ZipFile(archive) as file:
        return file.testzip()


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, whole or not, the last one last."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def keep_own(folder: Path, about: Mapping[str, object]) -> None:
    """Leave only whole checkpoints of the run `about`, a JSON object, in its folder, and say what else was there.

    Those of the run before go aside, and come back where that run is the one to go on.
    """
    now, before = json.loads(json.dumps(about)), read_json(folder / KEY)
    aside, old = folder.with_name(folder.name + BEFORE), folder.with_name(folder.name + ".old")
    mine = read_json(aside / KEY) == now
    if now != before and (mine or checkpoints_in(folder)):
        remove(old)
        if folder.exists():
            folder.rename(old)
        if mine:
            aside.rename(folder)
        remove(aside)
        if old.exists():
            old.rename(aside)
        other = [_difference(n, before.get(n), now.get(n)) for n in now | before if now.get(n) != before.get(n)]
        goes_on = "goes on from its own, which lay there" if mine else "starts anew"
        print(
            f"{folder.name}: found checkpoints of another training run, now in {aside.name} ({'; '.join(other)}); {goes_on}"
        )
    if half := [path for path in checkpoints_in(folder) if not is_whole(path)]:
        for path in half:
            remove(path)
        whole = checkpoints_in(folder)
        goes_on = f"goes on from {whole[-1].name}" if whole else "starts anew"
        print(f"{folder.name}: {', '.join(path.name for path in half)} was half-written or damaged; {goes_on}")
    write_atomic(folder / KEY, json.dumps(now, indent=1))


def _difference(name: str, before: object, now: object) -> str:
    shown = [value for value in (before, now) if isinstance(value, int | float)]
    return f"{name} was {before}, is {now}" if len(shown) == 2 else f"other {name}"


class Finite(TrainerCallback):
    """Ends training with NotFiniteError as soon as a loss or a trained weight is infinite or not a number."""

    def __init__(self, trainer: Trainer, what: str) -> None:
        self.what, self.trainer, self.step = what, trainer, trainer.training_step
        trainer.training_step = self.checked_step

    def checked_step(self, *args: object, **kwargs: object) -> torch.Tensor:
        """Make the trainer's step and check its loss."""
        loss = self.step(*args, **kwargs)
        if not loss.isfinite().all():
            self.refuse(f"the loss is {loss.item()}", step=self.trainer.state.global_step + 1)
        return loss

    def on_step_end(self, args, state, control, *, model, **_) -> None:  # noqa: ANN001
        wild = [name for name, weight in trainable_weights(model).items() if not weight.isfinite().all()]
        if wild:
            self.refuse(f"{len(wild)} weights are not finite (e.g. {wild[0]})", step=state.global_step)

    def on_evaluate(self, args, state, control, *, metrics, **_) -> None:  # noqa: ANN001
        wild = {name: value for name, value in metrics.items() if name.endswith("loss") and not math.isfinite(value)}
        if wild:
            self.refuse(f"the held-out loss is {next(iter(wild.values()))}", step=state.global_step)

    def refuse(self, found: str, *, step: int) -> None:
        """Raise NotFiniteError with what was found, the step and the rate."""
        rate, steps = self.trainer.args.learning_rate, self.trainer.args.max_steps
        raise NotFiniteError(
            f"{self.what}: {found} at step {step} of {steps}, at a peak rate of {rate:g}; train with a lower rate, or "
            "from a start whose own loss is a number"
        )


def go_on(trainer: Trainer, about: Mapping[str, object], *, by: str = __name__) -> None:
    """Train without the Trainer's own printing, from the last whole checkpoint of the same run if there is one.

    about: all that makes the run, as a JSON object, but for the code and the libraries' versions, which are added here;
    its first value names the run in messages. by: the calling module, where the trainer is not of this package. Errors: NotFiniteError naming step and rate.
    """
    modules = [kind.__module__ for kind in type(trainer).__mro__ if kind.__module__.startswith("mtive_nb.")]
    code = digest(code_of_chapter([f"import {module}" for module in [*modules, __name__, by]]))
    about = {**about, "code": code, "versions": digest(versions())}
    folder = Path(trainer.args.output_dir)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Finite(trainer, str(next(iter(about.values())))))
    with trainer.args.main_process_first(local=False):
        if trainer.is_world_process_zero():
            keep_own(folder, about)
    whole = checkpoints_in(folder)
    trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
