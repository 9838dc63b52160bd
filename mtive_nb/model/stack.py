"""MTIVE's stack of LoRA adapters over one frozen base, with lineage (design: s3.1 to s3.3 of the paper).

y = W0 x + s_PT B_PT A_PT x + s_IT B_IT A_IT x + s_E B_E A_E x, s = alpha / rank. Adapters are plain PEFT folders;
`stack.json` beside them says over which base and which parents each was trained, and an adapter without them is
refused. Shapes: B batch, T tokens, V vocabulary, R rank.
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
    """A VLM with adapters on it. `active` is the branch in force, from the first stage to the newest adapter."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm, self.peft = vlm, None
        self.base_fingerprint = vlm.base or base_fingerprint(vlm.model)
        self.specs: dict[str, AdapterSpec] = {}
        self.parents: dict[str, str | None] = {}
        self.hashes: dict[str, str] = {}  # of adapters that were saved or loaded
        self.active: tuple[str, ...] = ()
        self.held: tuple[str, ...] = ()  # adapters that the base's weights hold for now

    @property
    def model(self) -> torch.nn.Module:
        return self.peft if self.peft is not None else self.vlm.model

    def add(self, name: str, spec: AdapterSpec, *, parent: str | None = None) -> None:
        """Put a new adapter (B = 0) on top of `parent`, activate its branch and make it alone trainable."""
        if name in self.specs:
            raise ValueError(f"adapter {name!r} is on the stack already; it holds {sorted(self.specs)}")
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
        """PEFT's configuration of an adapter on this base."""
        targets = target_modules(self.vlm.model, list(spec.placement), family=self.vlm.family, layers=spec.layers)
        return LoraConfig(
            r=spec.rank, lora_alpha=spec.alpha, target_modules=targets, lora_dropout=spec.dropout, use_dora=spec.dora
        )

    def branch(self, name: str) -> tuple[str, ...]:
        """The adapter's ancestors and itself, oldest first."""
        chain = [name]
        while (up := self.parents[chain[0]]) is not None:
            chain.insert(0, up)
        return tuple(chain)

    def activate(self, name: str | None, *, trainable: bool = False) -> None:
        """Switch on one adapter with its ancestors (None: the bare base) and nothing else; train at most `name`."""
        if name is not None and name not in self.specs:
            raise KeyError(f"no adapter {name!r} on the stack; it holds {sorted(self.specs)}")
        branch = self.branch(name) if name else ()
        if missing := set(self.held) - set(branch):
            raise RuntimeError(
                f"adapter {name!r}: the base's weights hold {sorted(missing)} for now, it stands on others"
            )
        self.active = branch
        if self.peft is not None:
            self._switch(self._live(), trainable=name if trainable else None)

    def _live(self) -> tuple[str, ...]:
        """The active adapters that the base's weights do not hold."""
        return tuple(a for a in self.active if a not in self.held)

    def _switch(self, adapters: tuple[str, ...], *, trainable: str | None) -> None:
        """Put exactly these adapters in force in PEFT and make `trainable` alone trainable."""
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
        """Raise unless the weights of adapter `name`, and no others, are trainable."""
        marks = {n: f".{name}." in n and "lora_" in n for n, _ in self.model.named_parameters()}
        wrong = [n for n, p in self.model.named_parameters() if p.requires_grad != marks[n]]
        if wrong:
            raise RuntimeError(
                f"expected only adapter {name!r} to be trainable; {len(wrong)} weights differ, e.g. {wrong[0]}"
            )

    @contextmanager
    def reference(self, name: str) -> Iterator[None]:
        """Inside, the stack without adapter `name`: the reference of preference training. Trainability is restored."""
        trainable = any(p.requires_grad for p in self.model.parameters())
        self.activate(self.parents[name])
        try:
            yield
        finally:
            self.activate(name, trainable=trainable)

    def _layers(self) -> list[LoraLayer]:
        return [m for m in self.peft.modules() if isinstance(m, LoraLayer)]

    def adapter_weights(self, name: str) -> dict[str, torch.Tensor]:
        """The weights of one adapter themselves, not copies, under their names in the model."""
        return {n: p.data for n, p in self.model.named_parameters() if "lora_" in n and f".{name}." in n}

    @torch.no_grad()
    def put_weights(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights that were trained elsewhere into one adapter, by their names in the model."""
        for weight_name, weight in self.adapter_weights(name).items():
            weight.copy_(weights[weight_name])

    def trainable_parameters(self, name: str) -> int:
        """Number of weights of one adapter."""
        return sum(p.numel() for p in self.adapter_weights(name).values())

    def adapter(self, name: str) -> Adapter:
        """An adapter of this stack by itself; its weights are those of the model, not copies."""
        if name not in self.specs:
            raise KeyError(f"no adapter {name!r} on the stack; it holds {sorted(self.specs)}")
        weights = {
            path: (layer.lora_A[name].weight, layer.lora_B[name].weight)
            for path, layer in self.vlm.model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_A
        }
        return Adapter(name, self.specs[name], self.parents[name], weights)

    def read(self, folder: Path, name: str) -> Adapter:
        """A saved adapter that belongs over this base and an adapter of this stack; the stack stays as it is.

        Errors: LineageError, as `load`.
        """
        file = Path(folder) / name / WEIGHTS
        row, parent = self.check_line("adapters", file)
        return Adapter(name, _spec_of(row), parent, read_weights(file, self.vlm.device))

    def delta_norms(self, name: str) -> dict[str, float]:
        """Root mean square of the adapter's change to the weights, part by part: 0 where it changes nothing."""
        return self.adapter(name).norms(family=self.vlm.family)

    def assert_alive(self, name: str) -> None:
        """Raise RuntimeError where the adapter changes nothing in a part that its placement names."""
        self.adapter(name).assert_alive(family=self.vlm.family)

    @contextmanager
    def folded(self, *, keep: str | None = None) -> Iterator[bool]:
        """Inside, the active adapters are added into the base's weights, all but `keep`, which stays a live adapter.

        The same function at the cost of fewer products: for training an expert over finished stages, and for answering.
        Only in float32, where folding loses nothing; otherwise, and over 4-bit weights, this does nothing. The weights
        are put back exactly. Yields whether anything was folded.
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
        """Inside, the base's weights hold `trunk` with its ancestors, and only what stands on it can be activated.

        For as long as experts are served: a request then pays for its expert alone. As `folded`, in float32 only.
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
        """Largest difference, over all layers, between a live layer and W0 x + sum s B A x written out, at random x."""
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
        """Write one adapter as a PEFT folder and its line of stack.json; its ancestors are named, not copied."""
        folder = Path(folder)
        self.peft.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
        weights = folder / name / WEIGHTS
        self.hashes[name] = self.write_line("adapters", weights, parent=self.parents[name], spec=self.specs[name])
        return folder / name

    def write_line(self, kind: str, weights: Path, *, parent: str | None, spec: AdapterSpec) -> str:
        """Put saved weights, folder / name / file, into the folder's stack.json, under `kind`; returns their hash."""
        folder, name = weights.parent.parent, weights.parent.name
        manifest = {"base": self.base_fingerprint, "model": self.vlm.settings, "adapters": {}}
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
        if parent is not None and parent not in self.hashes:
            raise LineageError(f"adapter {name!r}: save its parent {parent!r} first, its hash is part of the lineage")
        line = Lineage(parent, self.hashes.get(parent) if parent else None, sha256_of(weights), spec)
        manifest.setdefault(kind, {})[name] = asdict(line)
        write_manifest(folder, manifest)
        return line.sha256

    def load(self, folder: Path, name: str, *, alias: str | None = None) -> None:
        """Load one saved adapter over its parents, which must be on the stack; checks base, parents and file."""
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
        """The stack.json line of weights, folder / name / file, and what their parent is called on this stack.

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
        """Take an adapter off; refused while another one stands on it."""
        children = [c for c, p in self.parents.items() if p == name]
        if children:
            raise LineageError(f"adapter {name!r} cannot go: {children} stand on it")
        self.activate(self.parents[name])
        if len(self.specs) > 1:
            self.peft.delete_adapter(name)
        else:
            self.vlm.model, self.peft = self.peft.unload(), None
        for book in (self.specs, self.parents, self.hashes):
            book.pop(name, None)
        self.activate(self.active[-1] if self.active else None)

    def merged_trunk(self, name: str | None) -> Vlm:
        """A new VLM whose weights hold `name` and its ancestors (None: the bare base), merged in float32 and cast once.

        This stack is untouched. Errors: ValueError over 4-bit weights, which would round what is merged.
        """
        if self.held:
            raise RuntimeError(f"the base's weights hold {self.held} for now: merge when nothing is served")
        if self.vlm.quantized:
            raise ValueError(
                f"{self.vlm.name} is in {self.vlm.quantized}: load it as it is stored to merge adapters into it"
            )
        dtype = self.vlm.model.dtype
        twin = deepcopy(self.model).float()
        merged = twin
        if self.peft is not None:
            merged = twin.merge_and_unload(adapter_names=list(self.branch(name))) if name else twin.unload()
        model, vlm = merged.to(dtype).eval().requires_grad_(False), self.vlm
        return Vlm(model, vlm.processor, f"{vlm.name}+{name}", vlm.min_px, vlm.max_px)


def _spec_of(row: dict) -> AdapterSpec:
    """The spec in a line of stack.json."""
    return AdapterSpec(**{**row["spec"], "placement": tuple(row["spec"]["placement"])})


def load_stack(vlm: Vlm, *adapters: tuple[Path, str]) -> LoraStack:
    """A stack with the given (folder, name) adapters loaded in order, parents first; the last one is active."""
    stack = LoraStack(vlm)
    for folder, name in adapters:
        stack.load(folder, name)
    return stack


def load_base(folder: Path, *, attention: str | None = None, quantize: str = "") -> Vlm:
    """The bare model that the stack in `folder` stands on, as its stack.json names it: id, pixel bounds, kernel.

    `attention` replaces the kernel, `quantize` as in load_vlm. Errors: LineageError where stack.json names no model.
    """
    manifest = read_manifest(folder)
    if "model" not in manifest:
        raise LineageError(f"{Path(folder) / MANIFEST}: names no model; load it by load_vlm, then load_stack")
    settings = manifest["model"]
    return load_vlm(
        settings["name"],
        attention=attention or settings["attention"],
        min_px=settings["min_px"],
        max_px=settings["max_px"],
        quantize=quantize,
    )


def open_stack(*adapters: tuple[Path, str], attention: str | None = None, quantize: str = "") -> LoraStack:
    """`load_stack` over the model that the first adapter's stack.json names; options as in load_base."""
    return load_stack(load_base(adapters[0][0], attention=attention, quantize=quantize), *adapters)
