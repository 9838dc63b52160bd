"""mtive-nb: what two notebooks share, and the names with which one trains, scores and serves experts of one's own.

    import mtive_nb as m
    stack = m.load_stack(m.load_vlm("pocket", max_px=140), (stage1, "PT"), (stage2, "IT"))
    stack.add("DD", m.AdapterSpec(16, 16.0, ("language",)), parent="IT")
    log = m.train_adapter(stack, "DD", m.load_records("mine.jsonl"), m.Training(steps=200, rate=5e-3))
    scores = m.score_table(test, {"DD": m.generate_answers(stack, test)})
    answer = m.open_profile("pocket").ask("DD", "photo.jpg")

Importing it loads nothing else: a public name brings its module, and torch, when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
