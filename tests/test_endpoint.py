"""What servers really send back: each reply becomes a text, or a reason in the server's words; nothing else escapes."""

import json
from collections.abc import Callable

import httpx
import pytest

from mtive_nb.data.commerce.replies import Kept
from mtive_nb.data.endpoint import REFUSALS, SILENT, Endpoint, EndpointError
from mtive_nb.data.instructions.roles import EndpointVerifier

Sent = Callable[[int], httpx.Response]  # what the k-th request gets


def endpoint_that(sends: Sent, **options: object) -> Endpoint:
    found = Endpoint("http://shop.test/v1", model="some-vlm", sleep=lambda _: None, **options)
    found._client = httpx.Client(transport=httpx.MockTransport(lambda _: sends(found.requests)))
    return found


def chat(content: object, **more: object) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": content}}], **more})


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (chat("red"), "red"),
        (chat([{"type": "text", "text": "No"}, {"type": "text", "text": ", it is red"}]), "No, it is red"),
        (httpx.Response(200, content=rb'{"choices": [{"message": {"content": "red \ud83d"}}]}'), "red ?"),
        (chat("red", usage=[1, 2]), "red"),
        (httpx.Response(200, content=b'{"choices": [{"message": {"content": "red"}}], "usage": {"total_tokens": Infinity}}'), "red"),
    ],
    ids=["text", "parts", "half a pair", "usage as a list", "infinite usage"],
)  # fmt: skip
def test_a_reply_is_read_in_any_form(response, text, tmp_path):
    found, reason = endpoint_that(lambda _: response).say([])
    assert (found, reason) == (text, "")
    kept = Kept(tmp_path / "kept.jsonl")
    kept.put("key", found)
    assert Kept(tmp_path / "kept.jsonl").get("key") == text


def test_half_a_pair_behind_an_escape_of_the_inner_json_can_be_written():
    inner = chat('{"caption": "red \\ud83d"}')
    reply, _ = endpoint_that(lambda _: inner).ask([], lambda _: None)
    assert reply == {"caption": "red ?"}


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (httpx.Response(200, content=b"<html>Please log in</html>"), "no chat completion: <html>Please log in"),
        (httpx.Response(200, content=b"[" * 200_000), r"no chat completion: \[\["),
        (httpx.Response(200, json=["no"]), "no chat completion"),
        (httpx.Response(429, json={"error": {"message": "insufficient_quota"}}), "HTTP 429: insufficient_quota"),
        (httpx.Response(500, content=b"CUDA out of memory"), "HTTP 500: CUDA out of memory"),
    ],
    ids=["a login page", "deep JSON", "a list", "quota", "out of memory"],
)
def test_a_server_that_never_answers_counts_as_down_in_its_own_words(response, reason):
    endpoint = endpoint_that(lambda _: response, retries=1)
    reasons = [endpoint.say([])[1] for _ in range(20)]
    assert endpoint.requests == 2 * SILENT
    assert all(reason.replace("\\", "") in found for found in reasons) and reasons[-1].startswith("not asked: ")


@pytest.mark.parametrize(
    "sends",
    [
        lambda k: httpx.Response(400, json={"error": {"message": f"max_tokens is not supported, request req_{k:05}"}}),
        lambda k: httpx.Response(400, json={"error": {"message": f"found '{'x' * k}', expected a short prompt"}}),
        lambda k: httpx.Response(400, content=f"bad field at 12:00:{k}".encode()),
        lambda k: httpx.Response(400, content=b"no response_format" if k % 2 else b"no max_tokens"),
        lambda _: httpx.Response(200, json={"error": {"message": "max_tokens is not supported"}}),
    ],
    ids=["with an id", "with what was sent", "with the time", "two in turn", "with status 200"],
)
def test_a_refusal_of_every_request_ends_the_run_whatever_varies_in_its_words(sends):
    endpoint = endpoint_that(sends)
    with pytest.raises(EndpointError, match="refuses every request"):
        for _ in range(3 * REFUSALS):
            endpoint.say([])
    assert endpoint.requests < 2 * REFUSALS


def test_an_error_with_status_200_is_tried_again_where_its_code_says_so():
    busy = httpx.Response(200, json={"error": {"code": 429, "message": "busy"}})
    assert endpoint_that(lambda k: busy if k == 1 else chat("red")).say([]) == ("red", "")
    assert endpoint_that(lambda _: chat("red", error={"message": "a warning"})).say([]) == ("red", "")


def test_refusals_of_single_requests_do_not_end_a_run_that_gets_answers():
    endpoint = endpoint_that(lambda k: chat("red") if k % 3 == 1 else httpx.Response(400, content=b"filtered"))
    said = [endpoint.say([])[0] for _ in range(6 * REFUSALS)]
    assert said.count("red") == 2 * REFUSALS


def test_a_403_refuses_one_request_among_answered_ones_and_a_run_before_or_between_them():
    forbidden = httpx.Response(403, content=b"moderation")
    one = endpoint_that(lambda k: forbidden if k % 3 == 2 else chat("red"))
    said = [one.say([]) for _ in range(6 * REFUSALS)]
    assert said.count((None, "HTTP 403: moderation")) == 2 * REFUSALS
    with pytest.raises(EndpointError, match="Check address, model and key"):
        endpoint_that(lambda _: forbidden).say([])
    revoked = endpoint_that(lambda k: chat("red") if k == 1 else forbidden)
    with pytest.raises(EndpointError, match="Check address, model and key"):
        for _ in range(2 * REFUSALS):
            revoked.say([])
    assert revoked.requests == 1 + REFUSALS


@pytest.mark.parametrize("follows", [True, "true"])
def test_a_verifier_reads_numbers_and_truth_values_as_texts(follows):
    said = {"verdicts": [{"aspect": "2", "follows": "false"}, {"aspect": 1, "follows": follows, "why": "seen"}]}
    verifier = EndpointVerifier(endpoint_that(lambda _: chat(json.dumps(said))))
    ((first, second),) = verifier.verdicts([("a red box", [("colour", "red"), ("size", "5")])])
    assert (first.outcome, first.reason, second.outcome) == ("kept", "seen", "dropped")


@pytest.mark.parametrize("follows", ["yes", None, 2, ["true"]])
def test_a_verdict_that_is_no_truth_value_fails(follows):
    said = {"verdicts": [{"aspect": 1, "follows": follows}]}
    verifier = EndpointVerifier(endpoint_that(lambda _: chat(json.dumps(said)), retries=0))
    ((only,),) = verifier.verdicts([("a red box", [("colour", "red")])])
    assert only.outcome == "failed" and "expected true or false" in only.reason


def test_a_key_is_sent_without_its_line_end_and_a_foreign_letter_is_refused(monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "sk-1\n")
    assert (
        Endpoint("http://shop.test/v1", model="m", api_key_env="SHOP_KEY")._client.headers["Authorization"]
        == "Bearer sk-1"
    )
    monkeypatch.setenv("SHOP_KEY", "sk–1")
    with pytest.raises(ValueError, match="SHOP_KEY: found a key with letters outside ASCII"):
        Endpoint("http://shop.test/v1", model="m", api_key_env="SHOP_KEY")
