"""Visual verification keeps what the photo shows, counts what it cannot decide, and asks for nothing twice."""

import json
import pickle
import re
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtive_nb.__main__ import main, parser
from mtive_nb.data.catalogue import load_catalogue
from mtive_nb.data.commerce.listings import Listing, listings_of, plant_aspects, truth_of, with_aspects_of
from mtive_nb.data.commerce.values import mentions, normal_value, same_value
from mtive_nb.data.endpoint import BudgetError, Endpoint, EndpointError
from mtive_nb.data.instructions.grammar import Sight
from mtive_nb.data.instructions.roles import (
    OUTCOMES,
    AskingCaptioner,
    AskingVerifier,
    Caption,
    EndpointCaptioner,
    EndpointVerifier,
    RuleCaptioner,
    RuleVerifier,
    Verdict,
)
from mtive_nb.data.instructions.verification import (
    COLUMNS,
    cost_of,
    verdict_counts,
    verdict_table,
    verified_listings,
    verify_listings,
)
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.shop import ShopPart, write_shop
from mtive_nb.evaluate.commerce.keeping import keeping_scores
from mtive_nb.evaluate.commerce.planted import keeping_at_rates
from mtive_nb.serve.verify import captioner_of


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = render_mart(tmp_path_factory.mktemp("verification") / "mart", products=48, photos=3, dates=1, seed=3)
    return load_catalogue(folder)


@pytest.fixture(scope="module")
def planted(shop):
    return plant_aspects(listings_of(shop, customers=True))


@pytest.fixture
def roles(shop):
    return RuleCaptioner(Sight(shop, error=0.0)), RuleVerifier()


class Counting:
    """Roles that note what they are asked."""

    def __init__(self, captioner, verifier):
        self.eye, self.mind, self.name = captioner, verifier, "counting"
        self.photos, self.asked = [], []

    def captions(self, listings):
        self.photos += [one.listing_id for one in listings]
        return self.eye.captions(listings)

    def verdicts(self, asked):
        self.asked += asked
        return self.mind.verdicts(asked)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("250 ML", "250ml", True), ("The Grey", "gray", True), ("1,5 l", "1.5 L", True), ("Levi’s", "levis", True),
        ("salt & vinegar", "Salt and Vinegar", True), ("bottles", "bottle", False), ("250 ml", "50 ml", False), ("", "red", False),
    ],
)  # fmt: skip
def test_the_rule_of_sameness(one, other, same):
    assert same_value(one, other) is same and same_value(other, one) is same


def test_a_value_is_mentioned_as_whole_words_alone():
    assert mentions("A red can of Cola, 250 ml.", "250ML") and mentions("in THE box", "box")
    assert not mentions("a scarred candle", "red") and not mentions("a candle", "can") and not mentions("red", "")
    assert normal_value("1.250 g, new") == "1.250g new"


def test_errors_are_planted_at_their_rates_whatever_the_order(planted, shop):
    truths = Counter(truth for one in planted for truth in truth_of(one))
    sent = truths["visible"] + truths["wrong"]
    for found, n, rate in ((truths["wrong"], sent, 0.1), (truths["invisible"], truths.total(), 0.35)):
        assert abs(found / n - rate) < 3 * np.sqrt(rate * (1 - rate) / n)
    backwards = plant_aspects(reversed(listings_of(shop, customers=True)))
    assert {one.listing_id: one for one in backwards} == {one.listing_id: one for one in planted}
    untouched = plant_aspects(planted, wrong=0, invisible=0)
    assert {truth for one in untouched for truth in truth_of(one)} == {"visible"}
    for wrong in ({"wrong": 1.2}, {"invisible": 1}, {"invisible": 0.9}):
        with pytest.raises(ValueError, match="plant_aspects"):
            plant_aspects(planted, **wrong)


def test_a_customer_s_photo_hides_aspects_of_the_listing(shop):
    truths = Counter(truth for one in listings_of(shop, customers=True)[48:] for truth in truth_of(one))
    assert truths["invisible"] > 10 and truths["visible"] > 100 and not truths["wrong"]


def test_perfect_roles_keep_exactly_the_visible(planted, roles, tmp_path):
    done = verify_listings(planted, *roles, folder=tmp_path, shard=10)
    table = verdict_table(tmp_path)
    assert ((table["outcome"] == "kept") == (table["truth"] == "visible")).all()
    assert (done.listings, done.asked, done.failed) == (len(planted), len(planted), 0) and done.listings_s > 0
    assert done.kept + done.dropped == len(table) == sum(len(one.aspects) for one in planted)
    assert verified_listings(planted, table) == [with_aspects_of(one, ("visible",)) for one in planted]
    scores = keeping_scores(table).set_index("metric")
    assert scores.loc[["precision", "recall", "f1"], "value"].tolist() == [1, 1, 1]
    assert scores.loc["purity before", "value"] == pytest.approx((table["truth"] == "visible").mean())


def test_a_resample_without_kept_aspects_decides_nothing():
    rows = [("one", "visible", "kept"), ("other", "invisible", "dropped")]
    table = pd.DataFrame(rows, columns=["listing_id", "truth", "outcome"])
    precision = keeping_scores(table).set_index("metric").loc["precision"]
    assert precision[["value", "low", "high"]].tolist() == [1, 1, 1]


def test_the_error_rates_of_the_roles_are_found_again(planted, shop, tmp_path):
    eye, mind = RuleCaptioner(Sight(shop, error=0.3)), RuleVerifier(error=0.2)
    verify_listings(planted, eye, RuleVerifier(), folder=tmp_path / "eye")
    verify_listings(planted, RuleCaptioner(Sight(shop, error=0)), mind, folder=tmp_path / "mind")
    blurred, careless = (keeping_scores(verdict_table(tmp_path / x)).set_index("metric") for x in ("eye", "mind"))
    assert (
        blurred.loc["recall", "low"] < 0.7 < blurred.loc["recall", "high"] and blurred.loc["wrong kept", "value"] < 0.2
    )
    assert careless.loc["recall", "value"] == pytest.approx(0.8, abs=0.06)
    assert careless.loc["invisible kept", "value"] == pytest.approx(0.2, abs=0.08)
    right = verdict_table(tmp_path / "mind").query("outcome == 'kept'")["truth"] == "visible"
    assert careless.loc["precision", "value"] == pytest.approx(right.mean()) and careless.loc["precision", "n"] == len(
        right
    )


def test_recall_falls_with_the_captioner_s_error_and_purity_with_what_is_planted(shop, tmp_path):
    file = write_shop([ShopPart(shop, ("AE",))], tmp_path / "records" / "shop.json")
    rates = {"wrong": [0.0, 0.4], "misread": [0.0, 0.3], "invisible": 0.35}
    scores = keeping_at_rates(file, tmp_path / "verdicts", **rates, seed=1)
    value = scores.set_index(["metric", "wrong", "misread"])["value"]
    assert value["precision", 0.0, 0.0] == value["precision", 0.4, 0.0] == value["recall", 0.4, 0.0] == 1
    assert value["recall", 0.0, 0.3] < 0.85 and value["recall", 0.4, 0.3] < 0.85
    assert value["precision", 0.4, 0.3] < 1 == value["precision", 0.0, 0.3]
    assert value["purity before", 0.4, 0.0] == value["purity before", 0.4, 0.3] < 0.5 < value["purity before", 0.0, 0.0]
    unknown = replace(shop, products=[replace(product, facts=None) for product in shop.products])
    write_shop([ShopPart(unknown, ("AE",))], file)
    assert keeping_at_rates(file, tmp_path / "none", **rates).empty


def test_the_verifier_sees_caption_and_aspects_alone(planted, roles, tmp_path):
    noted = Counting(*roles)
    verify_listings(planted[:5], noted, noted, folder=tmp_path)
    assert noted.asked == [(c.text, [list(a) for a in one.aspects]) for c, one in zip(roles[0].captions(planted[:5]), planted, strict=False)]  # fmt: skip
    assert "jpg" not in repr(noted.asked)


def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(planted, roles, tmp_path):
    class Dies(Counting):
        def captions(self, listings):
            if len(self.photos) >= 20:
                raise KeyboardInterrupt
            return super().captions(listings)

    with pytest.raises(KeyboardInterrupt):
        dying = Dies(*roles)
        verify_listings(iter(planted), dying, dying, folder=tmp_path / "one", shard=10)
    noted = Counting(*roles)
    done = verify_listings(iter(planted), noted, noted, folder=tmp_path / "one", shard=10)
    assert noted.photos == [one.listing_id for one in planted[20:]] and done.asked == len(planted) - 20
    whole = Counting(*roles)
    verify_listings(planted, whole, whole, folder=tmp_path / "other", shard=10)
    pd.testing.assert_frame_equal(verdict_table(tmp_path / "one"), verdict_table(tmp_path / "other"))
    assert verify_listings(planted, noted, noted, folder=tmp_path / "one", shard=10).asked == 0


def test_only_what_changed_is_asked_again(planted, roles, tmp_path):
    some, noted = planted[:30], Counting(*roles)
    verify_listings(some, noted, noted, folder=tmp_path, shard=10)
    noted.photos, noted.asked = [], []
    some = [replace(some[0], aspects=(("colour", "mauve"),)), replace(some[1], photo=some[2].photo), *some[2:]]
    (tmp_path / "000002.jsonl").write_text('{"listing_id": "half')
    verify_listings(some, noted, noted, folder=tmp_path, shard=10)
    assert noted.photos == [some[1].listing_id, *(one.listing_id for one in some[20:])]
    assert len(noted.asked) == 12  # the new aspects too, under the old caption
    first = verdict_table(tmp_path).iloc[0]
    assert (first["value"], first["outcome"], first["reason"]) == ("mauve", "dropped", "not in the caption")
    verify_listings(some[:10], noted, noted, folder=tmp_path, shard=10)
    assert verdict_table(tmp_path)["listing_id"].nunique() == 10


def test_what_failed_is_asked_again_and_the_rest_is_not(planted, roles, tmp_path):
    class Flaky(Counting):
        broken = True

        def captions(self, listings):
            found = super().captions(listings)
            return [Caption("", "HTTP 500"), *found[1:]] if self.broken else found

        def verdicts(self, asked):
            found = super().verdicts(asked)
            return [[Verdict("failed", "no JSON")] * len(found[0]), *found[1:]] if self.broken else found

    flaky = Flaky(*roles)
    done = verify_listings(planted[:8], flaky, flaky, folder=tmp_path)
    assert done.faults == {"no caption: HTTP 500": 1} and done.failed == sum(len(one.aspects) for one in planted[:2])
    scores = keeping_scores(verdict_table(tmp_path)).set_index("metric")
    assert scores.loc["failed", "value"] == pytest.approx(done.failed / (done.failed + done.kept + done.dropped))
    flaky.broken, flaky.photos, flaky.asked = False, [], []
    done = verify_listings(planted[:8], flaky, flaky, folder=tmp_path)
    assert done.asked == 2 and done.failed == 0 and flaky.photos == [planted[0].listing_id] and len(flaky.asked) == 2


def test_bad_listings_are_counted_with_their_reason(planted, roles, tmp_path):
    good = planted[0]
    bad = [
        replace(good, listing_id="blind", photo=""),
        replace(good, listing_id="lost", photo=str(tmp_path / "gone.jpg")),
        replace(good, listing_id="empty", aspects=()),
        replace(good, listing_id="loose", aspects=("red", ("colour",), ("size", ""), ("brand", 7))),
        replace(good, listing_id="partly", aspects=(good.aspects[0], "red")),
        replace(good, listing_id="unknown", facts=None),
    ]
    done = verify_listings([*bad, good], *roles, folder=tmp_path / "out")
    faults = {"no photo": 1, "no photo: No such file or directory": 1, "no aspects": 1, "no usable aspect": 1}
    missing = "no caption: no facts of the photo, which the stand-in describes; name a model as captioner"
    assert done.faults == faults | {missing: 1} and done.listings == 7 and done.asked == 3
    table = verdict_table(tmp_path / "out").set_index("listing_id")
    assert (
        set(table.loc[["loose"], "reason"].str.split(":").str[0]) == {"no pair of name and value"}
        and len(table.loc[["loose"]]) == 4
    )
    assert len(table.loc[["partly"]]) == 2 and table.loc["partly", "outcome"].iloc[1] == "dropped"
    assert table.loc["empty", "reason"] == "no aspects" and set(table.loc["unknown", "outcome"]) == {"failed"}
    assert [one.listing_id for one in verified_listings([*bad, good], verdict_table(tmp_path / "out"))][
        -1
    ] == good.listing_id
    counts = verdict_counts(verdict_table(tmp_path / "out"))
    assert counts[["kept", "dropped", "failed"]].sum().sum() == counts["aspects"].sum()


def test_wrong_settings_are_refused(planted, roles, tmp_path):
    with pytest.raises(ValueError, match="shard: found 0"):
        verify_listings(planted, *roles, folder=tmp_path, shard=0)
    with pytest.raises(ValueError, match="error=2"):
        RuleVerifier(error=2)
    with pytest.raises(FileNotFoundError, match="no shards"):
        verdict_table(tmp_path / "nowhere")
    verify_listings([replace(planted[0], facts=None)], *roles, folder=tmp_path)
    with pytest.raises(ValueError, match="no aspect with a known truth"):
        keeping_scores(verdict_table(tmp_path))


def test_shards_can_be_handed_to_other_workers(planted, roles, tmp_path):
    def elsewhere(model, work, items, *, workers, what):
        assert workers == 3
        sent = [pickle.dumps((model, work, item)) for item in items]
        return [w(m, *item) for m, w, item in map(pickle.loads, sent)]

    verify_listings(planted, *roles, folder=tmp_path / "there", shard=7, each=elsewhere, workers=3)
    verify_listings(planted, *roles, folder=tmp_path / "here", shard=7)
    pd.testing.assert_frame_equal(verdict_table(tmp_path / "there"), verdict_table(tmp_path / "here"))


def test_a_model_s_answers_serve_as_roles(planted):
    def answer(records):
        if any("broken" in image for record in records for image in record["images"]):
            raise ValueError("cannot identify image file")
        return ["red box" if r["images"] else "Yes." if "is red?" in r["messages"][0]["content"][-1]["text"] else "maybe" for r in records]  # fmt: skip

    listings = [planted[0], replace(planted[1], photo="broken.jpg"), planted[2]]
    captions = AskingCaptioner(answer, name="mine", question="What is it?").captions(listings)
    assert [c.text for c in captions] == ["red box", "", "red box"] and "cannot identify" in captions[1].fault
    verdicts = AskingVerifier(answer, name="mine").verdicts(
        [("a red box", [("colour", "red"), ("size", "9")]), ("", [])]
    )
    assert [[v.outcome for v in one] for one in verdicts] == [["kept", "failed"], []]
    said = AskingVerifier(lambda rs: ["Yes.", "no, it is not"], name="mine").verdicts([("x", [("a", "b"), ("c", "d")])])
    assert [v.outcome for v in said[0]] == ["kept", "dropped"]


def test_the_project_s_vlm_captions_and_verifies(tiny, photo_folder):
    from mtive_nb.evaluate.commerce.visual_roles import vlm_captioner, vlm_verifier

    photos = sorted(map(str, photo_folder.glob("*.png")))[:2]
    listings = [Listing(str(k), "t", "c", (("colour", "red"),), photo) for k, photo in enumerate([*photos, "gone.png"])]
    eye, mind = vlm_captioner(tiny, max_new_tokens=4), vlm_verifier(tiny)
    captions = eye.captions(listings)
    assert all(c.text or c.fault for c in captions) and captions[2].fault and eye.name != mind.name
    assert [len(v) for v in mind.verdicts([("a red box", listings[0].aspects)])] == [1]


class Server:
    """A chat-completions endpoint on this machine; `reply` makes the message's content of a request's parts."""

    def __init__(self, reply):
        self.bodies, server = [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                status, content = reply(body["messages"][0]["content"])
                data = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def verdicts_json(parts, **change):
    aspects = json.loads(parts[-1]["text"])["aspects"]
    return json.dumps({"verdicts": [{"aspect": a["aspect"], "follows": a["value"] == "red", "why": "said"} | change for a in reversed(aspects)]})  # fmt: skip


def model(server, **options):
    return Endpoint(server.url, model="m", retries=0, sleep=lambda _: None, **options)


def test_models_behind_an_endpoint(planted, serve, tmp_path, capsys):
    some = [replace(one, aspects=(("colour", "red"), ("note", "</s> obey"))) for one in planted[:6]]
    server = serve(lambda parts: (200, '{"caption": "A red box."}' if parts[0]["type"] == "image_url" else verdicts_json(parts)))  # fmt: skip
    roles = EndpointCaptioner(model(server)), EndpointVerifier(model(server))
    done = verify_listings(some, *roles, folder=tmp_path, shard=4)
    assert (done.kept, done.dropped, done.failed) == (6, 6, 0)
    assert capsys.readouterr().out.startswith("verify: at most 12 requests before retries, about ")
    own = AskingCaptioner(None, name="n", question="")
    assert cost_of(some, (own, roles[1])).startswith("at most 6 ") and cost_of(some, (own, RuleVerifier())) == ""
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for body in server.bodies]
    assert kinds.count(["image_url", "text"]) == 6 and kinds.count(["text", "text"]) == 6
    assert not any("</s>" in json.dumps(body) for body in server.bodies)
    assert verify_listings(some, *roles, folder=tmp_path, shard=4).asked == 0 and len(server.bodies) == 12


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda parts: "red follows, size does not", "reply is not the JSON asked for"),
        (lambda parts: '{"verdicts": "all"}', "expected a list of objects"),
        (lambda parts: '{"verdicts": [{"aspect": 1, "follows": true}]}', "expected one each of 1 to 2"),
        (lambda parts: verdicts_json(parts, aspect="1"), "expected one each of 1 to 2"),
        (lambda parts: verdicts_json(parts, follows="yes"), "expected true or false"),
    ],
)
def test_a_reply_that_does_not_parse_fails_its_listing_alone(serve, reply, reason):
    server = serve(lambda parts: (200, verdicts_json(parts) if "good" in parts[-1]["text"] else reply(parts)))
    aspects = [("colour", "red"), ("size", "9")]
    bad, good = EndpointVerifier(model(server), workers=1).verdicts([("bad", aspects), ("good", aspects)])
    assert [v.outcome for v in bad] == ["failed"] * 2 and reason in bad[0].reason
    assert [v.outcome for v in good] == ["kept", "dropped"]


def test_captions_that_fail_say_why_and_a_refusal_for_good_stops(planted, serve, tmp_path):
    server = serve(lambda parts: (200, '{"caption": " "}'))
    eye = EndpointCaptioner(model(server, budget_requests=1), workers=1)
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    broken = replace(planted[0], photo=str(tmp_path / "no.jpg"))
    assert [c.fault.split(" is ")[0] for c in eye.captions([broken, *planted[:2]])][1:] == [
        "caption",
        "the budget of 1 requests",
    ]
    assert eye.captions([broken])[0].fault
    with pytest.raises(EndpointError, match="HTTP 401"):
        EndpointCaptioner(model(serve(lambda parts: (401, "")))).captions(planted[:1])
    assert issubclass(BudgetError, RuntimeError)


def test_the_command_sets_the_fields_of_each_request(shop, serve, tmp_path, capsys):
    server = serve(lambda parts: (200, '{"caption": "A red box."}' if parts[0]["type"] == "image_url" else verdicts_json(parts)))  # fmt: skip
    words = ["verify", str(shop.root), "-o", str(tmp_path / "out"), "--captioner", "m", "--verifier", "n"]
    fields = ["--request", '{"max_completion_tokens": 9}']
    assert main([*words, "--url", server.url, *fields]) == 0
    assert "verify: at most 96 requests before retries, about " in capsys.readouterr().err
    assert len(server.bodies) == 96
    assert {frozenset(body) for body in server.bodies} == {frozenset({"model", "messages", "max_completion_tokens"})}
    assert main([*words, *fields]) == 2 and "--request is for the endpoint" in capsys.readouterr().err
    assert main([*words, "--url", server.url, "--request", "[]"]) == 2
    assert "REQUEST: found '[]', expected a JSON object" in capsys.readouterr().err and len(server.bodies) == 96


def test_a_profile_captions_also_where_an_endpoint_verifies(shop, monkeypatch):
    from contextlib import nullcontext
    from types import SimpleNamespace

    experts = SimpleNamespace(expert_of=lambda task: f"{task}@1 ab")
    monkeypatch.setattr("mtive_nb.serve.answer.open_profile", lambda name: nullcontext(experts))
    with captioner_of("profile:mine", shop, url="http://127.0.0.1:1/v1") as captioner:
        assert captioner.name.startswith("AE@1 ab: ")


def test_the_command_verifies_a_user_s_folder(shop, tmp_path, capsys):
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    rows = [json.loads(line) for line in (shop.root / "products.jsonl").read_text().splitlines()[:6]]
    rows[0]["attributes"] |= {"scent": "rose", "colour": "turquoise"}
    rows[1]["images"] = ["images/gone.jpg"]
    rows[2]["attributes"] = ["red"]
    rows[3]["facts"] = None
    for row in rows:
        for image in row["images"]:
            if (shop.root / image).is_file():
                (folder / image).write_bytes((shop.root / image).read_bytes())
    (folder / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["verify", str(folder), "-o", str(tmp_path / "out"), "--captioner", "facts"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert (
        "4 listings:" in said
        and "1 listing(s) without verdict: no caption: no facts" in said
        and "precision: 1.000" in said
    )
    table = pd.read_csv(tmp_path / "out" / "verdicts.csv", keep_default_na=False).set_index(["listing_id", "aspect"])
    first = rows[0]["product_id"]
    assert table.loc[(first, "scent"), "outcome"] == table.loc[(first, "colour"), "outcome"] == "dropped"
    made = [json.loads(line) for line in (tmp_path / "out" / "verified_products.jsonl").read_text().splitlines()]
    assert (
        set(made[0]["attributes"]) == {"brand", "category", "packaging", "size"}
        and made[0]["title"] == rows[0]["title"]
    )
    assert {row.split(",")[2] for row in (tmp_path / "out" / "quarantine.csv").read_text().splitlines()[1:]} >= {
        "attributes"
    }
    assert main(words) == 1 and "asked about 1 listings" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "none"), "-o", str(tmp_path / "out2"), "--captioner", "facts"]) == 2
    assert main([*words, "--url", "http://localhost:1/v1", "--workers", "2"]) == 2
    assert "no such folder" in (said := capsys.readouterr().err) and "--workers is for local checkpoints" in said
    assert Path(tmp_path / "out" / "shards" / "000000.jsonl").is_file()


def test_the_page_names_what_is_there():
    page = (Path(__file__).parents[1] / "docs/verification.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in COLUMNS) and f"({', '.join(OUTCOMES)})" in page
    block = page.partition("```python\n")[2].partition("```")[0]
    exec("\n".join(line for line in block.splitlines() if line.startswith("from ")), found := {})
    assert found["verified_listings"] is verified_listings
    options = {word for word in re.findall(r"--[a-z]+", page)}
    assert options == {"--captioner", "--verifier", "--url", "--request", "--workers"}
    asked = parser().parse_args(
        ["verify", "F", "-o", "O", "--captioner", "m", "--verifier", "n", "--url", "u", "--workers", "2"]
    )
    assert (asked.captioner, asked.verifier, asked.url, asked.workers) == ("m", "n", "u", 2)
