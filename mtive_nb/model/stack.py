"""MTIVE's stack of LoRA adapters over one frozen base, with lineage (design: s3.1 to s3.3 of the paper).

y = W0 x + s_PT B_PT A_PT x + s_IT B_IT A_IT x + s_E B_E A_E x, s = alpha / rank. Adapters are plain PEFT folders.
`stack.json` beside them records the base and the parent of each adapter; loading refuses an adapter without them.
Shapes: B batch, T tokens, V vocabulary, R rank.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from mtive_nb.model.adapter import Adapter, paired
from mtive_nb.model.lineage import (
    BOUNDS,
    CONFIG,
    MANIFEST,
    AdapterSpec,
    LineageError,
    check_finite,
    line_of,
    read_manifest,
)
from mtive_nb.model.load import MIXTURE, Vlm, base_fingerprint, load_vlm, part_of, target_modules
from mtive_nb.model.saved import read_saved, saving


class LoraStack:
    """A VLM with a stack of adapters. `active` is the active branch, from the first stage to the newest adapter."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm, self.peft = vlm, None
        self.base_fingerprint = vlm.base or base_fingerprint(vlm.model)
        self.specs: dict[str, AdapterSpec] = {}
        self.parents: dict[str, str | None] = {}
        self.hashes: dict[
            str, str
        ] = {}  # of adapters as saved or loaded, by lineage; none once training may change one
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
        if name == "default":
            raise ValueError(
                "adapter 'default': PEFT saves an adapter of this name in no folder of its own; choose another"
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
        if trainable:
            self.hashes.pop(name, None)
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

    def _layers(self) -> list[LoraLayer]:
        return [m for m in self.peft.modules() if isinstance(m, LoraLayer)]

    def adapter_weights(self, name: str) -> dict[str, torch.Tensor]:
        """Return one adapter's weights, {name in the model: weight}; the tensors are the model's own, not copies."""
        return {n: p.data for n, p in self.model.named_parameters() if "lora_" in n and f".{name}." in n}

    @torch.no_grad()
    def put_weights(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights trained elsewhere, {name in the model: weight}, into one adapter. Errors: NotFiniteError."""
        check_finite(weights, where=f"adapter {name!r}")
        self.hashes.pop(name, None)
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

        Errors: as `load`.
        """
        found = read_saved(self, Path(folder), name)
        weights = paired({n: tensor.to(self.vlm.device) for n, tensor in found.tensors.items()})
        return Adapter(name, found.spec, found.parent, weights, found.sha256)

    def delta_norms(self, name: str) -> dict[str, float]:
        """Return the root mean square of the adapter's weight change by part; 0 where the adapter changes nothing."""
        return self.adapter(name).norms(family=self.vlm.family)

    def assert_alive(self, name: str) -> None:
        """Raise RuntimeError if the adapter changes nothing in a part that its placement names, NotFiniteError for no numbers."""
        self.adapter(name).assert_alive(family=self.vlm.family)
        check_finite(self.adapter_weights(name), where=f"adapter {name!r}")  # DoRA's magnitudes, too

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
    def lean(self, *, keep: str | None = None) -> Iterator[None]:
        """Compute the same with less, to train or to answer: `folded`, and the vision tower once for each photo.

        Photos are kept only while no active adapter changes the tower.
        """
        with self.folded(keep=keep):
            if self._changes_tower():
                yield
            else:
                with self.vlm.kept.used_by(self.vlm.model):
                    yield

    def _changes_tower(self) -> bool:
        changed = [
            path
            for path, layer in self.vlm.model.named_modules()
            if isinstance(layer, LoraLayer) and not layer.lora_A.keys().isdisjoint(self.active)
        ]
        changed += [key.replace("/", ".") for key in getattr(self.vlm.model, MIXTURE, ())]
        return any(part_of(path, family=self.vlm.family) == "vision" for path in changed)

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
            x = torch.randn(rows, base.in_features, device=base.weight.device, dtype=self.vlm.model.dtype)
            wanted = base(x).float()
            for name in (a for a in self.active if a in layer.lora_A):
                scale = self.specs[name].alpha / self.specs[name].rank
                wanted = wanted + scale * (x.float() @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T)
            worst = max(worst, (layer(x) - wanted).abs().max().item())
        return worst

    def save(self, folder: Path, name: str) -> Path:
        """Write one adapter as a PEFT folder and its entry in stack.json; the entry names the parent.

        Errors: LineageError for a parent that has not been saved, NotFiniteError.
        """
        folder, parent = Path(folder), self.parents[name]
        check_finite(self.adapter_weights(name), where=f"adapter {name!r}")
        with saving(self, "adapters", folder, name, parent=parent, spec=self.specs[name]) as made:
            self.peft.save_pretrained(made.parent, selected_adapters=[name], save_embedding_layers=False)
            file = made / CONFIG  # PEFT writes a set in any order, and the base's place on this machine
            config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": self.vlm.name}
            file.write_text(
                json.dumps(config | {"target_modules": sorted(config["target_modules"])}, indent=2), encoding="utf-8"
            )
        self.hashes[name] = line_of(folder, name, check=False).sha256
        return folder / name

    def load(self, folder: Path, name: str, *, alias: str | None = None) -> None:
        """Load one saved adapter over its parent, which must be on the stack.

        Its shape is that of its entry in stack.json, with which PEFT's configuration and all tensors must agree.
        Errors: LineageError for another base, an absent parent, a missing, changed or broken file; NotFiniteError.
        """
        alias, found = alias or name, read_saved(self, Path(folder), name)
        self.add(alias, found.spec, parent=found.parent)
        set_peft_model_state_dict(self.peft, found.tensors, adapter_name=alias)
        self.activate(alias)
        self.hashes[alias] = found.sha256

    def unload(self, name: str) -> None:
        """Remove an adapter from the stack. Errors: LineageError while another adapter stands on it."""
        children = [c for c, p in self.parents.items() if p == name]
        if children:
            raise LineageError(f"adapter {name!r} cannot be unloaded: {children} stand on it")
        self.activate(self.parents[name])
        if others := [other for other in self.specs if other != name]:
            self.peft.base_model.set_adapter(others[0], inference_mode=True)  # PEFT warns where an active adapter goes
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
        kinds = {n: buffer.dtype for n, buffer in self.vlm.model.named_buffers()}
        for weight in merged.parameters():
            weight.data = weight.data.to(dtype)
        for n, buffer in merged.named_buffers():  # as in the base: positions rounded to 16 bits move long prompts
            buffer.data = buffer.data.to(kinds.get(n, buffer.dtype))
        model, vlm = merged.eval().requires_grad_(False), self.vlm
        return Vlm(model, vlm.processor, f"{vlm.name}+{name}", vlm.min_px, vlm.max_px)


def load_stack(vlm: Vlm, *adapters: tuple[Path, str]) -> LoraStack:
    """Return a stack with the (folder, name) adapters loaded in order, parents first; the last adapter is active.

    Errors: LineageError for files or parents that do not belong together, NotFiniteError for weights that are no numbers.
    """
    stack = LoraStack(vlm)
    for folder, name in adapters:
        stack.load(folder, name)
    return stack


def load_base(folder: Path, *, attention: str | None = None, quantize: str | None = None) -> Vlm:
    """Load the bare model that the stack.json in `folder` names, with its pixel bounds, attention kernel and format.

    `attention` and `quantize` (as in load_vlm) replace what stack.json names. Errors: LineageError where stack.json names no model.
    """
    settings = read_manifest(folder)["model"]
    if absent := {"name", "attention", *BOUNDS} - settings.keys():
        raise LineageError(f"{Path(folder) / MANIFEST}: its model has no {min(absent)!r}; save its adapters again")
    right = {name: isinstance(settings[name], str) and settings[name].strip() for name in ("name", "attention")}
    right |= {name: settings[name] is None or type(settings[name]) is int and settings[name] > 0 for name in BOUNDS}
    if wrong := [name for name in right if not right[name]]:
        raise LineageError(
            f"{Path(folder) / MANIFEST}: its model has {settings[wrong[0]]!r} as {wrong[0]!r}: edited; save its adapters again"
        )
    return load_vlm(
        settings["name"],
        attention=attention or settings["attention"],
        min_px=settings["min_px"],
        max_px=settings["max_px"],
        quantize=settings.get("quantize", "") if quantize is None else quantize,
    )


def open_stack(*adapters: tuple[Path, str], attention: str | None = None, quantize: str | None = None) -> LoraStack:
    """Load adapters over the model that the first adapter's stack.json names; options and errors as in load_base, load_stack."""
    return load_stack(load_base(adapters[0][0], attention=attention, quantize=quantize), *adapters)
