"""LoRA mixture of experts: a baseline that routes tokens to experts instead of selecting by task (MTIVE s4.2, T1).

y = W x + s sum_e g_e(x) B_e A_e x, s = alpha / rank, g(x) the k largest of softmax(W_r x); W is the frozen layer with
the stack's active adapters. The paper says "4 experts" and "tokens"; routing follows Switch Transformers (Fedus et
al., arXiv:2101.03961). Each placed layer has its own router on its own input. One router per block would have to serve
layers of different widths and, in the connector, rows of four merged patches. A router is also small: about one part
in 2 R of the weights.
Shapes: T rows (tokens, in the vision tower patches), D width in, O width out, R rank, E experts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load, save_file
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.hooks import RemovableHandle

from mtive_nb.model.batches import batch_of
from mtive_nb.model.lineage import check_finite, check_tensors, spec_of
from mtive_nb.model.load import MIXTURE, Vlm, part_of, target_modules
from mtive_nb.model.saved import check_line, saving
from mtive_nb.model.stack import LoraStack

WEIGHTS = "mixture.safetensors"


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture's shape: rank and alpha of every expert, placement, number of experts, and routing.

    The router sends a token to `top_k` experts (all experts: a plain softmax). `balance` weights the load-balance loss.
    """

    rank: int
    alpha: float
    placement: tuple[str, ...]
    experts: int = 4
    top_k: int = 1
    balance: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k: found {self.top_k}, expected 1 to {self.experts}, the number of experts")


def top_gates(shares: torch.Tensor, top_k: int) -> torch.Tensor:
    """Keep the k largest of a router's probabilities, (..., E) -> (..., E), and set the others to 0.

    The gates are not rescaled to sum to 1: at k = 1 the gate would be constant and the router would get no gradient
    (Switch s2.1).
    """
    kept = shares.topk(top_k, dim=-1)
    return torch.zeros_like(shares).scatter(-1, kept.indices, kept.values)


def balance_loss(shares: torch.Tensor) -> torch.Tensor:
    """Return E sum_e f_e P_e of one router's probabilities, (T, E) -> scalar.

    f_e is the share of rows whose first choice is e (no gradient), P_e the mean probability (Switch s2.2, eq. 4 to 6).
    The loss is 1 for an even load and E where one expert gets all rows.
    """
    experts = shares.shape[-1]
    first = one_hot(shares.argmax(-1), experts).to(shares.dtype).mean(0)
    return experts * (first * shares.mean(0)).sum()


class RoutedLora(nn.Module):
    """Experts and router of one linear layer.

    Initial weights: A as in PEFT, B 0, the router as in Switch s2.4 (but untruncated).
    """

    def __init__(self, layer: nn.Module, spec: MixtureSpec) -> None:
        super().__init__()
        e, r, d, device = spec.experts, spec.rank, layer.in_features, layer.weight.device
        self.router = nn.Parameter(torch.randn(e, d, device=device) * (0.1 / d) ** 0.5)
        self.A = nn.Parameter(torch.empty(e, r, d, device=device).uniform_(-(d**-0.5), d**-0.5))
        self.B = nn.Parameter(torch.zeros(e, r, layer.out_features, device=device))
        self.scale, self.top_k = spec.alpha / spec.rank, spec.top_k

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (..., D) to the experts' added output, (..., O), and the router's probabilities, (..., E).

        All experts run, even at gate 0: two thin products over E R columns cost less than sorting tokens.
        """
        x = x.to(self.A.dtype)
        shares = (x @ self.router.T).float().softmax(-1)
        hidden = (x @ self.A.flatten(0, 1).T).unflatten(-1, self.A.shape[:2])  # (..., D) -> (..., E, R)
        hidden = hidden * top_gates(shares, self.top_k).unsqueeze(-1)
        return self.scale * hidden.flatten(-2) @ self.B.flatten(0, 1), shares


class LoraMixture:
    """A mixture over the active branch of `stack` (none: the bare base); train_adapter trains the mixture by its name.

    A new mixture is switched on, trainable, and without effect. `activate(None)` removes every trace from the model;
    call it before the stack changes branches, unloads or merges. Errors: ValueError where another mixture is on.
    """

    def __init__(self, stack: LoraStack, name: str, spec: MixtureSpec) -> None:
        self.stack, self.vlm, self.name, self.spec = stack, stack.vlm, name, spec
        self.parent = stack.active[-1] if stack.active else None
        paths = target_modules(self.vlm.model, list(spec.placement), family=self.vlm.family)
        self.layers = {path: RoutedLora(self.vlm.model.get_submodule(path), spec) for path in paths}
        self.weights = nn.ModuleDict({path.replace(".", "/"): routed for path, routed in self.layers.items()})
        self._hooks: list[RemovableHandle] = []
        self._seen: dict[str, torch.Tensor] | None = None
        self.activate(name, trainable=True)

    @property
    def model(self) -> nn.Module:
        return self.stack.model

    def trainable_parameters(self) -> int:
        """Return the number of weights, including routers."""
        return sum(p.numel() for p in self.weights.parameters())

    def activate(self, name: str | None, *, trainable: bool = False) -> None:
        """Switch the mixture on over its branch, by its name, or off (None); `trainable` makes it trainable.

        Errors: KeyError for another name, ValueError where another mixture is on.
        """
        if name not in (None, self.name):
            raise KeyError(f"mixture: found {name!r}, expected {self.name!r}, or None to switch it off")
        model = self.vlm.model
        if getattr(model, MIXTURE, self.weights) is not self.weights:
            raise ValueError(f"mixture {self.name!r}: another mixture is on; switch the other off with activate(None)")
        while self._hooks:
            self._hooks.pop().remove()
        self.stack.activate(self.parent)
        if name:
            model.add_module(MIXTURE, self.weights)
            self._hooks = [model.get_submodule(p).register_forward_hook(self._hook(p)) for p in self.layers]
        elif hasattr(model, MIXTURE):
            delattr(model, MIXTURE)
        self.weights.requires_grad_(trainable)
        self.assert_trainable(name if trainable else None)

    def _hook(self, path: str) -> Callable[..., torch.Tensor]:
        def add_experts(_layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            added, shares = self.layers[path](inputs[0])
            if self._seen is not None:
                self._seen[path] = shares
            return output + added.to(output.dtype)

        return add_experts

    def assert_trainable(self, name: str | None) -> None:
        """Raise RuntimeError unless exactly the mixture's weights are trainable (None: no weights)."""
        own = set(self.weights.parameters()) if name else set()
        wrong = [n for n, p in self.model.named_parameters() if p.requires_grad != (p in own)]
        if wrong:
            raise RuntimeError(f"expected only mixture {name!r} to be trainable; {len(wrong)} differ, e.g. {wrong[0]}")

    @contextmanager
    def lean(self, *, keep: str | None = None) -> Iterator[None]:
        """Compute the same with less, as LoraStack.lean, but with the mixture live.

        The mixture stays trainable inside only with `keep`; afterwards it is as trainable as before.
        """
        before = all(p.requires_grad for p in self.weights.parameters())
        try:
            with self.stack.lean():
                self.weights.requires_grad_(before and keep is not None)
                yield
        finally:
            self.weights.requires_grad_(before)

    @contextmanager
    def routing(self, mask: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
        """Record the routing of one forward pass: afterwards {layer: router's probabilities, (T, E)} for layers in use.

        `mask`, the batch's attention_mask (B, T), removes padding from the language model's rows.
        """
        self._seen = seen = {}
        try:
            yield seen
        finally:
            self._seen = None
        for path, shares in seen.items():  # not in the hook: gradient checkpointing replays it outside this context
            language = part_of(path, family=self.vlm.family) == "language"
            seen[path] = shares[mask.bool()] if language else shares.flatten(0, -2)

    def penalty(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted load-balance loss for the result of `routing`: the mean over routers (Switch: sum)."""
        return self.spec.balance * torch.stack([balance_loss(shares) for shares in seen.values()]).mean()

    def save(self, folder: Path) -> Path:
        """Write folder / name / mixture.safetensors and an entry in stack.json.

        Errors: LineageError for a parent that has not been saved, NotFiniteError.
        """
        folder, weights = Path(folder), self.weights.state_dict()
        check_finite(weights, where=f"mixture {self.name!r}")
        with saving(self.stack, "mixtures", folder, self.name, parent=self.parent, spec=self.spec) as made:
            save_file(weights, made / WEIGHTS)
        return folder / self.name

    @classmethod
    def load(cls, stack: LoraStack, folder: Path, name: str) -> "LoraMixture":
        """Load a saved mixture, frozen and on, over its parent on the stack. Errors: as LoraStack.load."""
        line, parent, files = check_line(stack, "mixtures", Path(folder), name)
        where, weights = Path(folder) / name, load(files[WEIGHTS])
        stack.activate(parent)
        mixture = cls(stack, name, spec_of(line, MixtureSpec, where=where))
        shapes = {n: tuple(weight.shape) for n, weight in mixture.weights.state_dict().items()}
        try:
            check_tensors(weights, shapes, where=where / WEIGHTS)
        except ValueError:
            mixture.activate(None)
            raise
        mixture.weights.load_state_dict(weights)
        mixture.activate(name)
        return mixture


def matching_rank(vlm: Vlm, parameters: int, *, placement: tuple[str, ...], experts: int = 4) -> int:
    """Return the rank at which a mixture, including routers, comes nearest to a number of trainable parameters.

    Errors: ValueError where this rank is below 1.
    """
    layers = [vlm.model.get_submodule(p) for p in target_modules(vlm.model, list(placement), family=vlm.family)]
    routers = experts * sum(layer.in_features for layer in layers)
    each = routers + experts * sum(layer.out_features for layer in layers)  # parameters per rank
    rank = round((parameters - routers) / each)
    if rank < 1:
        raise ValueError(f"parameters: found {parameters}; {experts} experts of rank 1, routed, have {routers + each}")
    return rank


@torch.inference_mode()
def router_statistics(mixture: LoraMixture, records: list[dict], *, batch: int = 16) -> pd.DataFrame:
    """Return how much of each task is routed to each expert: one row per task and placed layer, answers included.

    Columns: task, part, layer, rows (T), expert_0 ... (mean share of the gates, summing to 1), entropy_nat (mean over
    rows of the router's entropy, 0 to ln E). Expert numbers are comparable only within a layer: compare tasks layer by
    layer, and do not average shares over layers.
    """
    mixture.model.eval()
    sums = []
    for task in sorted({r["task"] for r in records}):
        own = [r for r in records if r["task"] == task]
        for start in range(0, len(own), batch):
            inputs = batch_of(mixture.vlm, own[start : start + batch], answers=True)
            del inputs["labels"]
            with mixture.routing(inputs["attention_mask"]) as seen:
                mixture.model(**inputs, logits_to_keep=1, use_cache=False)
            for path, shares in seen.items():
                gates, part = top_gates(shares, mixture.spec.top_k), part_of(path, family=mixture.vlm.family)
                taken, entropy = (gates / gates.sum(-1, keepdim=True)).sum(0), torch.special.entr(shares).sum()
                sums.append([task, part, path, len(shares), *taken.tolist(), entropy.item()])
    where, experts = ["task", "part", "layer"], [f"expert_{e}" for e in range(mixture.spec.experts)]
    table = pd.DataFrame(sums, columns=[*where, "rows", *experts, "entropy_nat"]).groupby(where, sort=False).sum()
    means = table.drop(columns="rows").div(table["rows"], axis=0)
    return table[["rows"]].join(means).reset_index()
