"""Ways timed in turn: every way runs as often as it should, and timing a training changes no weight."""

import torch

from mtive_nb.evaluate.latency import ratios_to, step_times_in_turn, times_in_turn
from mtive_nb.model.mixture import LoraMixture, MixtureSpec
from mtive_nb.model.stack import AdapterSpec, LoraStack
from mtive_nb.model.train import Training


def test_every_way_runs_once_unmeasured_and_once_a_round_in_both_orders():
    ran = []
    times = times_in_turn({n: lambda n=n: ran.append(n) for n in "ab"}, rounds=2, before={"a": lambda: ran.append("-")})
    assert ran == ["-", "a", "b", "-", "a", "b", "b", "-", "a"]
    assert times.shape == (2, 2) and (times > 0).all().all()
    assert ratios_to(times, "a").set_index("system").loc["a", ["value", "low", "high"]].tolist() == [1.0, 1.0, 1.0]


def test_timing_a_training_leaves_every_weight_as_it_was(tiny, records, photo_folder):
    stack = LoraStack(tiny)
    stack.add("one", AdapterSpec(4, 4.0, ("language.attention",)))
    stack.activate(None)
    mixture = LoraMixture(stack, "several", MixtureSpec(2, 2.0, ("language.attention",), 2, 1, 0.01))
    mixture.activate(None)
    weights = {**stack.adapter_weights("one"), **dict(mixture.weights.named_parameters())}
    before = {name: weight.clone() for name, weight in weights.items()}
    ways = {"one": (stack, "one", records), "several": (mixture, "several", records)}
    seconds = step_times_in_turn(ways, Training(2, batch=2), rounds=1)
    assert list(seconds) == ["one", "several"] and (seconds > 0).all().all()
    assert all(torch.equal(weights[name], weight) for name, weight in before.items())
    assert stack.active == ()
