"""What an answer means for money: only what is definite is told as definite."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.cloud import CloudRefused, Created, Order, Refused, Unknown
from provisioning.vast_answers import Answer, created, destroyed
from provisioning.vast_checks import check_key, checked_url, order_fault
from workers.errors import OptionError


def answer(status: int | None, **body: Any) -> Answer:
    return Answer(status, body)


@pytest.mark.parametrize(
    ("given_answer", "outcome"),
    [
        (answer(200, success=True, new_contract=5), Created(5)),
        (answer(200, success=True), Unknown),
        (answer(200), Unknown),
        (Answer(200, None), Unknown),
        (Answer(400, None), Unknown),
        (Answer(None, hung=True), Unknown),
        (answer(429, error="too_often"), Unknown),
        (answer(504, error="x"), Unknown),
        (answer(200, success=False, error="resources_unavailable"), Refused),
        (answer(403, msg="no"), Refused),
    ],
)
def test_renting(given_answer: Answer, outcome: object) -> None:
    came = created(given_answer)
    assert came == outcome if not isinstance(outcome, type) else isinstance(came, outcome)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_an_offer_that_somebody_has_is_taken_whatever_the_status(status: int) -> None:
    came = created(answer(status, success=False, error="no_such_ask"))
    assert isinstance(came, Refused)
    assert came.taken
    came = created(answer(404, error="invalid_args", msg="error 404/3603: no_such_ask Instance type by id 5"))
    assert isinstance(came, Refused)
    assert came.taken
    assert not came.hopeless


def test_no_credit_is_hopeless_and_says_what_to_do() -> None:
    came = created(answer(400, error="insufficient_credit", msg="add credit"))
    assert isinstance(came, Refused)
    assert came.hopeless
    assert "no credit left: add some" in came.reason


@given(st.sampled_from([200, 400, 403, 404, 410, 429, 500, 503]), st.integers(1, 10**9), st.text(max_size=20))
def test_an_instance_that_an_answer_names_is_never_lost(status: int, made: int, error: str) -> None:
    came = created(answer(status, success=False, error=error, new_contract=made))
    assert isinstance(came, Refused)
    assert came.instance_id == made


@given(st.none() | st.sampled_from([200, 201, 400, 404, 410, 429, 500]), st.dictionaries(st.text(), st.integers()))
def test_what_names_neither_an_error_nor_an_instance_is_unknown(status: int | None, body: dict[str, int]) -> None:
    body.pop("new_contract", None)
    assert isinstance(created(Answer(status, body)), Unknown)


@pytest.mark.parametrize(
    ("given_answer", "gone"),
    [
        (answer(200, success=True), True),
        (answer(404, success=False, error="no_such_instance"), True),
        (answer(404, error="not_found"), True),
        (answer(404, error="auth_error"), False),
        (answer(404), False),
        (Answer(404), False),
        (answer(200), False),
        (answer(200, success=False), False),
        (answer(200, success="true"), False),
        (answer(500, error="not_found"), False),
        (Answer(None), False),
    ],
)
def test_gone_is_what_says_so(given_answer: Answer, gone: bool) -> None:
    assert destroyed(given_answer) is gone
    assert given_answer.key_refused is (given_answer.error == "auth_error")


def test_a_key_is_one_word_and_no_refusal_tells_it() -> None:
    with pytest.raises(CloudRefused, match=r"There is no Vast\.ai key: make one"):
        check_key("")
    with pytest.raises(CloudRefused) as refused:
        check_key("a1b2c3d4 with\nmore")
    assert "a1b2c3d4" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://vast.example", "ftp://127.0.0.1", "127.0.0.1:80", ""])
def test_the_key_goes_over_no_network_in_clear(url: str) -> None:
    with pytest.raises(OptionError, match="market's address"):
        checked_url(url)
    assert checked_url("http://127.0.0.1:5/") == "http://127.0.0.1:5"


@pytest.mark.parametrize(
    ("order", "fault"),
    [
        (Order("", "i", 20, None), "label"),
        (Order("l" * 257, "i", 20, None), "label"),
        (Order("l", "", 20, None), "image"),
        (Order("l", "i", 7, None), "disk"),
        (Order("l", "i", 20, 0.0), "bid"),
        (Order("l", "i", 20, float("nan")), "bid"),
        (Order("l", "i", 20, None, {"TOKEN": "x" * 257}), "TOKEN"),
        (Order("l", "i", 20, None, {"A": "-the-key-"}), "account's key"),
        (Order("l", "i", 20, None, {"A": "b"}, ("x" * 5000,)), "entry"),
        (Order("l", "i", 20, None, {"A": "x" * 256}, ("run",)), ""),
    ],
)
def test_an_order_that_the_market_cannot_take_is_not_sent(order: Order, fault: str) -> None:
    assert (fault in order_fault(order, "the-key")) if fault else order_fault(order, "the-key") == ""
