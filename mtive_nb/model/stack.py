"""MTIVE's stack of LoRA adapters over one frozen base, with lineage (design: s3.1 to s3.3 of the paper).

y = W0 x + s_PT B_PT A_PT x + s_IT B_IT A_IT x + s_E B_E A_E x, s = alpha / rank. Adapters are plain PEFT folders.
`stack.json` beside them records the base and the parent of each adapter; loading refuses an adapter without them.
Shapes: B batch, T tokens, V vocabulary, R rank.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from mtive_nb.model.adapter import Adapter, read_weights
from mtive_nb.model.lineage import (
    MANIFEST,
    AdapterSpec,
    Lineage,
    LineageError,
    read_manifest,
    sha256_of,
    write_manifest,
)
from mtive_nb.model.load import Vlm, base_fingerprint, load_vlm, target_modules

WEIGHTS = "adapter_model.safetensors"  # PEFT's name


class LoraStack:
    """A VLM with a stack of adapters. `active` is the active branch, from the first stage to the newest adapter."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm, self.peft = vlm, None
        self.base_fingerprint = vlm.base or base_fingerprint(vlm.model)
        self.specs: dict[str, AdapterSpec] = {}
        self.parents: dict[str, str | None] = {}
        self.hashes: dict[str, str] = {}  # of saved or loaded adapters
        self.active: tuple[str, ...] = ()
        self.held: tuple[str, ...] = ()  # adapters folded into the base's weights while `serving`

    @property
    def model(self) -> torch.nn.Module:
        return self.peft if self.peft is not None else self.vlm.model

    def add(self, name: str, spec: AdapterSpec, *, parent: str | None = None) -> None:
        """Put a new adapter (B = 0) on top of `parent`, activate its branch and make only this adapter trainable.

        Errors: ValueError for a name on the stack or DoRA over a parent, LineageError for an absent parent.
        """
        if name in self.specs:
            raise ValueError(f"adapter {name!r} is already on the stack, which holds {sorted(self.specs)}")
        if parent is not None and parent not in self.specs:
            raise LineageError(
                f"adapter {name!r}: its parent {parent!r} is not on the stack, which holds {sorted(self.specs)}"
            )
        if spec.dora and parent is not None:
            raise ValueError(
                f"adapter {name!r}: DoRA over a live stack is not DoRA on the trunk; merge the trunk first (merged_trunk)"
            )
        config = self.lora_config(spec)
        if self.peft is None:
            self.peft = get_peft_model(self.vlm.model, config, adapter_name=name)
        else:
            self.peft.add_adapter(name, config)
        self.specs[name], self.parents[name] = spec, parent
        self.activate(name, trainable=True)

    def lora_config(self, spec: AdapterSpec) -> LoraConfig:
        """Return PEFT's configuration of an adapter on this base."""
        targets = target_modules(self.vlm.model, list(spec.placement), family=self.vlm.family, layers=spec.layers)
        return LoraConfig(
            r=spec.rank, lora_alpha=spec.alpha, target_modules=targets, lora_dropout=spec.dropout, use_dora=spec.dora
        )

    def branch(self, name: str) -> tuple[str, ...]:
        """Return the adapter's ancestors and the adapter itself, oldest first."""
        chain = [name]
        while (up := self.parents[chain[0]]) is not None:
            chain.insert(0, up)
        return tuple(chain)

    def activate(self, name: str | None, *, trainable: bool = False) -> None:
        """Activate exactly adapter `name` and its ancestors (None: the bare base); `trainable` makes `name` trainable.

        Errors: KeyError for an unknown name, RuntimeError for an adapter that does not stand on the served trunk.
        """
        if name is not None and name not in self.specs:
            raise KeyError(f"no adapter {name!r} on the stack; it holds {sorted(self.specs)}")
        branch = self.branch(name) if name else ()
        if missing := set(self.held) - set(branch):
            raise RuntimeError(
                f"adapter {name!r} does not stand on {sorted(missing)}, which the base's weights hold while serving"
            )
        self.active = branch
        if self.peft is not None:
            self._switch(self._live(), trainable=name if trainable else None)

    def _live(self) -> tuple[str, ...]:
        """Return the active adapters that are not folded into the base's weights."""
        return tuple(a for a in self.active if a not in self.held)

    def _switch(self, adapters: tuple[str, ...], *, trainable: str | None) -> None:
        """Enable exactly these adapters in PEFT and make only `trainable` trainable."""
        tuner = self.peft.base_model
        for layer in self._layers():
            layer.enable_adapters(bool(adapters))
        if adapters:
            tuner.set_adapter(list(adapters), inference_mode=True)
        self.peft.requires_grad_(False)
        if trainable:
            tuner.set_requires_grad(trainable, True)
        self.assert_trainable(trainable)

    def assert_trainable(self, name: str | None) -> None:
        """Raise RuntimeError unless exactly the weights of adapter `name` are trainable (None: no weights)."""
        marks = {n: f".{name}." in n and "lora_" in n for n, _ in self.model.named_parameters()}
        wrong = [n for n, p in self.model.named_parameters() if p.requires_grad != marks[n]]
        if wrong:
            raise RuntimeError(
                f"expected only adapter {name!r} to be trainable; {len(wrong)} weights differ, e.g. {wrong[0]}"
            )

    @contextmanager
    def reference(self, name: str) -> Iterator[None]:
        """Deactivate adapter `name` inside the context: the reference model of preference training.

        Afterwards `name` is active again and as trainable as before.
        """
        trainable = any(p.requires_grad for p in self.model.parameters())
        self.activate(self.parents[name])
        try:
            yield
        finally:
            self.activate(name, trainable=trainable)

    def _layers(self) -> list[LoraLayer]:
        return [m for m in self.peft.modules() if isinstance(m, LoraLayer)]

    def adapter_weights(self, name: str) -> dict[str, torch.Tensor]:
        """Return one adapter's weights, {name in the model: weight}; the tensors are the model's own, not copies."""
        return {n: p.data for n, p in self.model.named_parameters() if "lora_" in n and f".{name}." in n}

    @torch.no_grad()
    def put_weights(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights trained elsewhere, {name in the model: weight}, into one adapter."""
        for weight_name, weight in self.adapter_weights(name).items():
            weight.copy_(weights[weight_name])

    def trainable_parameters(self, name: str) -> int:
        """Return the number of weights of one adapter."""
        return sum(p.numel() for p in self.adapter_weights(name).values())

    def adapter(self, name: str) -> Adapter:
        """Return one adapter of this stack as an Adapter; its tensors are the model's own, not copies."""
        if name not in self.specs:
            raise KeyError(f"no adapter {name!r} on the stack; it holds {sorted(self.specs)}")
        weights = {
            path: (layer.lora_A[name].weight, layer.lora_B[name].weight)
            for path, layer in self.vlm.model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_A
        }
        return Adapter(name, self.specs[name], self.parents[name], weights)

    def read(self, folder: Path, name: str) -> Adapter:
        """Read a saved adapter whose base and parent are on this stack, without changing the stack.

        Errors: LineageError, as `load`.
        """
        file = Path(folder) / name / WEIGHTS
        row, parent = self.check_line("adapters", file)
        return Adapter(name, _spec_of(row), parent, read_weights(file, self.vlm.device))

    def delta_norms(self, name: str) -> dict[str, float]:
        """Return the root mean square of the adapter's weight change by part; 0 where the adapter changes nothing."""
        return self.adapter(name).norms(family=self.vlm.family)

    def assert_alive(self, name: str) -> None:
        """Raise RuntimeError if the adapter changes nothing in a part that its placement names."""
        self.adapter(name).assert_alive(family=self.vlm.family)

    @contextmanager
    def folded(self, *, keep: str | None = None) -> Iterator[bool]:
        """Fold all active adapters except `keep` into the base's weights; yield whether any was folded.

        The model computes the same function with fewer products, both to train an expert over finished stages and to
        answer. Folding happens only in float32, where it is lossless; for other dtypes, 4-bit weights or DoRA nothing
        is folded. The weights are restored exactly.
        """
        active, trainable = self.active, keep is not None and any(p.requires_grad for p in self.model.parameters())
        gone = [a for a in self._live() if a != keep]
        exact = self.vlm.model.dtype == torch.float32 and not self.vlm.quantized
        if not gone or not exact or any(self.specs[a].dora for a in active):
            yield False
            return
        before: list[tuple[torch.Tensor, torch.Tensor]] = []
        try:
            for layer in self._layers():
                here = [a for a in gone if a in layer.lora_A]
                if here:
                    weight = layer.get_base_layer().weight
                    before.append((weight, weight.detach().clone()))
                    weight.data += sum(layer.get_delta_weight(a).detach() for a in here)
            self._switch((keep,) if keep else (), trainable=keep if trainable else None)
            yield True
        finally:
            for weight, old in before:
                weight.data.copy_(old)
            self._switch(self._live(), trainable=keep if trainable else None)

    @contextmanager
    def serving(self, trunk: str | None) -> Iterator[None]:
        """Fold `trunk` and its ancestors into the base's weights while experts are served.

        Inside the context a request costs only its own expert, and only adapters that stand on `trunk` can be
        activated. Like `folded`, this folds only in float32.
        """
        self.activate(trunk)
        try:
            with self.folded() as done:
                self.held = self.active if done else ()
                yield
        finally:
            self.held = ()
            self.activate(trunk)

    @torch.inference_mode()
    def largest_formula_error(self, *, rows: int = 8) -> float:
        """Return the largest difference over all layers between a live layer and W0 x + sum s B A x, at random x."""
        worst = 0.0
        for layer in self._layers():
            base = layer.get_base_layer()
            x = torch.randn(rows, base.in_features, device=base.weight.device, dtype=base.weight.dtype)
            wanted = base(x)
            for name in (a for a in self.active if a in layer.lora_A):
                scale = self.specs[name].alpha / self.specs[name].rank
                wanted = wanted + scale * (
                    x.to(torch.float32) @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T
                )
            worst = max(worst, (layer(x) - wanted).abs().max().item())
        return worst

    def save(self, folder: Path, name: str) -> Path:
        """Write one adapter as a PEFT folder and its entry in stack.json; the entry names the parent."""
        folder = Path(folder)
        self.peft.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
        weights = folder / name / WEIGHTS
        self.hashes[name] = self.write_line("adapters", weights, parent=self.parents[name], spec=self.specs[name])
        return folder / name

    def write_line(self, kind: str, weights: Path, *, parent: str | None, spec: AdapterSpec) -> str:
        """Record saved weights, folder / name / file, in the folder's stack.json under `kind` and return their hash.

        Errors: LineageError for a parent that has not been saved.
        """
        folder, name = weights.parent.parent, weights.parent.name
        manifest = {"base": self.base_fingerprint, "model": self.vlm.settings, "adapters": {}}
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
        if parent is not None and parent not in self.hashes:
            raise LineageError(
                f"adapter {name!r}: save its parent {parent!r} first; the lineage needs the parent's hash"
            )
        line = Lineage(parent, self.hashes.get(parent) if parent else None, sha256_of(weights), spec)
        manifest.setdefault(kind, {})[name] = asdict(line)
        write_manifest(folder, manifest)
        return line.sha256

    def load(self, folder: Path, name: str, *, alias: str | None = None) -> None:
        """Load one saved adapter over its parent, which must be on the stack.

        Errors: LineageError for another base, an absent parent, or a missing or changed file.
        """
        folder, alias = Path(folder), alias or name
        row, parent = self.check_line("adapters", folder / name / WEIGHTS)
        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.vlm.model, folder / name, adapter_name=alias)
        else:
            self.peft.load_adapter(folder / name, adapter_name=alias)
        self.specs[alias] = _spec_of(row)
        self.parents[alias], self.hashes[alias] = parent, row["sha256"]
        self.activate(alias)

    def check_line(self, kind: str, weights: Path) -> tuple[dict, str | None]:
        """Return the stack.json entry of weights, folder / name / file, and their parent's name on this stack.

        Errors: LineageError for another base, a name not listed under `kind`, a changed file, an absent parent.
        """
        folder, name = weights.parent.parent, weights.parent.name
        manifest = read_manifest(folder)
        if manifest["base"] != self.base_fingerprint:
            raise LineageError(
                f"{folder / name}: trained over base {manifest['base']}, but {self.vlm.name} is {self.base_fingerprint}"
            )
        lines = manifest.get(kind, {})
        if name not in lines:
            raise LineageError(f"{folder / MANIFEST}: no adapter {name!r}; its {kind} are {sorted(lines)}")
        row = lines[name]
        if not weights.is_file() or sha256_of(weights) != row["sha256"]:
            raise LineageError(
                f"{weights}: missing or changed since it was saved (expected sha256 {row['sha256'][:12]}...)"
            )
        return row, self._parent_by_hash(name, row)

    def _parent_by_hash(self, name: str, row: dict) -> str | None:
        if row["parent"] is None:
            return None
        for candidate, sha256 in self.hashes.items():
            if sha256 == row["parent_sha256"]:
                return candidate
        raise LineageError(
            f"adapter {name!r} was trained over {row['parent']!r} (sha256 {row['parent_sha256'][:12]}...), which is not on the stack; "
            f"it holds { ({k: v[:12] for k, v in self.hashes.items()}) }. Load its parents first"
        )

    def unload(self, name: str) -> None:
        """Remove an adapter from the stack. Errors: LineageError while another adapter stands on it."""
        children = [c for c, p in self.parents.items() if p == name]
        if children:
            raise LineageError(f"adapter {name!r} cannot be unloaded: {children} stand on it")
        self.activate(self.parents[name])
        if len(self.specs) > 1:
            self.peft.delete_adapter(name)
        else:
            self.vlm.model, self.peft = self.peft.unload(), None
        for book in (self.specs, self.parents, self.hashes):
            book.pop(name, None)
        self.activate(self.active[-1] if self.active else None)

    def merged_trunk(self, name: str | None) -> Vlm:
        """Return a new VLM with `name` and its ancestors merged into the weights (None: the bare base).

        The merge runs in float32 and casts once; this stack stays unchanged. Errors: ValueError for 4-bit weights,
        which would round the merged values; RuntimeError inside `serving`.
        """
        if self.held:
            raise RuntimeError(f"the base's weights hold {self.held} while serving: merge when nothing is served")
        if self.vlm.quantized:
            raise ValueError(
                f"{self.vlm.name} is in {self.vlm.quantized}: to merge adapters, load the model without quantize"
            )
        dtype = self.vlm.model.dtype
        twin = deepcopy(self.model).float()
        merged = twin
        if self.peft is not None:
            merged = twin.merge_and_unload(adapter_names=list(self.branch(name))) if name else twin.unload()
        model, vlm = merged.to(dtype).eval().requires_grad_(False), self.vlm
        return Vlm(model, vlm.processor, f"{vlm.name}+{name}", vlm.min_px, vlm.max_px)


def _spec_of(row: dict) -> AdapterSpec:
    """Return the spec in an entry of stack.json."""
    return AdapterSpec(**{**row["spec"], "placement": tuple(row["spec"]["placement"])})


def load_stack(vlm: Vlm, *adapters: tuple[Path, str]) -> LoraStack:
    """Return a stack with the (folder, name) adapters loaded in order, parents first; the last adapter is active."""
    stack = LoraStack(vlm)
    for folder, name in adapters:
        stack.load(folder, name)
    return stack


def load_base(folder: Path, *, attention: str | None = None, quantize: str | None = None) -> Vlm:
    """Load the bare model that the stack.json in `folder` names, with its pixel bounds, attention kernel and format.

    `attention` and `quantize` (as in load_vlm) replace what stack.json names. Errors: LineageError where stack.json names no model.
    """
    manifest = read_manifest(folder)
    if "model" not in manifest:
        raise LineageError(f"{Path(folder) / MANIFEST}: names no model; call load_vlm, then load_stack")
    settings = manifest["model"]
    return load_vlm(
        settings["name"],
        attention=attention or settings["attention"],
        min_px=settings["min_px"],
        max_px=settings["max_px"],
        quantize=settings.get("quantize", "") if quantize is None else quantize,
    )


def open_stack(*adapters: tuple[Path, str], attention: str | None = None, quantize: str | None = None) -> LoraStack:
    """Load adapters over the model that the first adapter's stack.json names; options as in load_base."""
    return load_stack(load_base(adapters[0][0], attention=attention, quantize=quantize), *adapters)
