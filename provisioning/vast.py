"""Vast.ai as a `provisioning.cloud.Cloud`: the one importer of its Python client, and that only when it is used.

The client (vastai 1.9.1) is kept on a short lead, as running it showed what it does when left alone:
* it sends a request to rent again after a timeout, so a machine is rented that nobody knows of: it never repeats here,
  and what may be repeated is repeated here, at the pace of `vast_pacing`, on this object's clock;
* it takes an HTTP 200 for success, and hides the body of a refusal: `vast_answers` reads both;
* it reads a list that did not come as an empty one, and breaks on one odd row: only the raw, paged list is asked for,
  and counted (`vast_rows`);
* it may stop an instance that cannot be started and bill its disk: renting always says `cancel_unavail`;
* a search for interruptible machines whose order names no bid is rented at the full price: it is refused here.
"""

import importlib.util
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from provisioning import vast_rows as rows
from provisioning.cloud import (
    Account,
    CloudBlind,
    CloudRefused,
    Created,
    Instance,
    Offer,
    OfferQuery,
    Order,
    Refused,
    Unknown,
)
from provisioning.vast_answers import Answer, created, destroyed
from provisioning.vast_checks import PRICES, check_key, checked_url, order_fault
from provisioning.vast_pacing import Pacer, TooSoon, retry_after
from workers.errors import OptionError
from workers.settings import FleetSettings

log = logging.getLogger(__name__)

CONSOLE = "https://console.vast.ai"
READ_SECONDS, CREATE_SECONDS = 20.0, 45.0
TRIES = 3  # of what changes nothing, or changes the same twice
LIST_TRIES = 2  # an instance may come or go between two pages
_Read = TypeVar("_Read")


def connect(settings: FleetSettings) -> "VastCloud":
    """The market that the environment names.

    Raises CloudRefused where there is no key or no client, OptionError where the key's file or the address is no use.
    """
    key = settings.vast_key
    if key is None and settings.vast_key_file is not None:
        try:
            key = settings.vast_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"WHISPERFLEET_VAST_KEY_FILE is '{settings.vast_key_file}', which cannot be read "
                f"({getattr(error, 'strerror', None) or 'it is no text'}): put the account's key there, and only that."
            ) from None
    return VastCloud(key or "", settings.vast_url)


class VastCloud:
    """One account at Vast.ai. Safe to share between threads; a call may wait for its turn.

    url: where the API is, Vast.ai's own by default. clock and sleep: seconds, those of the pacing; timeouts are real
    seconds. epoch: seconds, only for the time when a quota is given anew. The key is in no repr, log or error.
    """

    def __init__(
        self,
        api_key: str,
        url: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        epoch: Callable[[], float] = time.time,
        read_timeout_s: float = READ_SECONDS,
        create_timeout_s: float = CREATE_SECONDS,
    ) -> None:
        check_key(api_key)
        self.url = checked_url(url or CONSOLE)
        self._epoch = epoch
        self._pacer = Pacer(clock, sleep)
        self._key = api_key
        self._reads = _client(api_key, self.url, read_timeout_s)
        self._rents = _client(api_key, self.url, create_timeout_s)
        self._sought: dict[int, bool] = {}  # offer id: whether its last search was for interruptible ones

    def __repr__(self) -> str:
        return f"VastCloud({self.url})"

    # ---- the market ----

    def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """The cheapest offers that the market says fit. Not checked again here: `provisioning.offers.fits` does."""
        answer = self._read(
            "search",
            lambda: {
                "offers": self._reads.search_offers(
                    query=rows.search_filter(query),
                    type="bid" if query.interruptible else "on-demand",
                    order=[["dph_total", "asc"]],
                    limit=rows.SEARCH_ROWS,
                    storage=query.disk_gb,
                    no_default=True,
                )
            },
        )
        found = self._read_rows(partial(rows.offers, answer.fields.get("offers")))
        self._sought.update((offer.id, query.interruptible) for offer in found)
        return found

    def instances(self) -> tuple[Instance, ...]:
        odd = ""
        for _ in range(LIST_TRIES):
            try:
                return rows.complete(self._pages())
            except rows.Odd as error:
                odd = str(error)
        raise CloudBlind(f"Vast.ai's list of instances did not come whole: {odd}.")

    def _pages(self) -> list[rows.Page]:
        pages: list[rows.Page] = []
        read = 0
        token: str | None = None
        while not pages or (token is not None and read < pages[0].total):
            asked: dict[str, Any] = {
                "select_filters": {},
                "order_by": [{"col": "id", "dir": "asc"}],
                "limit": rows.PAGE_ROWS,
                **({"after_token": token} if token else {}),
            }
            answer = self._read("list", partial(self._reads.show_instances_v1, asked))
            page = rows.page(answer.body)
            if pages and (not page.rows or page.next_token == token):
                raise rows.Odd("a page of it leads nowhere")
            pages.append(page)
            read += len(page.rows)
            token = page.next_token
        return pages

    # ---- renting ----

    def create(self, offer: Offer, order: Order) -> Created | Refused | Unknown:
        """The account key is in nothing that is sent but the header, and never in what the machine gets."""
        wrong = order_fault(order, self._key)
        if wrong:
            return Refused(f"not asked for: {wrong}", pause=True)
        # a search for bids may give the least bid as both prices: then nobody knows what it costs without one
        price_known = offer.gpu_usd_per_hour > offer.min_bid_usd_per_hour
        if order.bid_usd_per_hour is None and self._sought.get(offer.id) and not price_known:
            wrong = "the offer was sought as an interruptible one, and without a bid it would cost the full price"
            return Refused(f"not asked for: {wrong}", taken=True)
        try:
            answer = self._ask(
                "create",
                lambda: self._rents.create_instance(
                    offer.id,
                    image=order.image,
                    disk=order.disk_gb,
                    env=dict(order.environment),
                    price=order.bid_usd_per_hour,
                    label=order.label,
                    runtype="args",
                    # with "args" the image's own entry point stays; where another is named, onstart takes its place
                    onstart_cmd=order.entry[0] if order.entry else None,
                    args=list(order.entry[1:]) or None,
                    cancel_unavail=True,
                ),
            )
        except TooSoon as wait:
            return Refused(f"not asked for: Vast.ai wants no more such requests for {wait.seconds:.0f} s")
        self._check_access(answer, forbidden=False)
        return created(answer)

    def destroy(self, instance_id: int) -> bool:
        answer = self._tried("destroy", lambda: self._reads.destroy_instance(instance_id))
        if destroyed(answer):
            return True
        raise CloudBlind(f"Vast.ai did not destroy instance {instance_id}: {answer.said}.")

    def change_bid(self, instance_id: int, usd_per_hour: float) -> bool:
        """False where the market refuses the price.

        Raises CloudBlind where it did not answer, CloudRefused where the key is not accepted.
        """
        if not PRICES[0] <= usd_per_hour <= PRICES[1]:
            return False
        answer = self._tried("change_bid", lambda: self._reads.change_bid(instance_id, usd_per_hour))
        if answer.succeeded:
            return True
        if answer.status is not None and answer.status < 500 and not answer.too_often and answer.error:
            return False
        raise CloudBlind(f"Vast.ai did not change the bid of instance {instance_id}: {answer.said}.")

    # ---- the account ----

    def account(self) -> Account:
        """Raises CloudBlind, CloudRefused."""
        user = self._read("account", self._reads.show_user).fields
        credit = rows.number(user.get("credit"))
        # not the client's show_env_vars: it takes an answer without the field for an account without variables
        secrets = self._read("account", lambda: _raw(self._reads, "/secrets/")).fields.get("secrets")
        if credit is None or not isinstance(secrets, dict):
            raise CloudBlind("Vast.ai does not say what credit and which variables the account has.")
        return Account(credit, tuple(sorted(str(name) for name in secrets)))

    def charges_usd(self, since_ms: int, until_ms: int) -> dict[int, float]:
        """Raises CloudBlind, CloudRefused."""
        asked: dict[str, Any] = {
            "charges": True,
            "start_date": max(1, since_ms // 1000),  # the client takes 0 for "not said", and the last week then
            "end_date": max(1, math.ceil(until_ms / 1000)),
            "limit": 100,
        }
        found: list[object] = []
        tokens: set[str] = set()
        while True:
            body = self._read("charges", partial(self._reads.show_invoices_v1, **asked)).fields
            results, token = body.get("results"), body.get("next_token") or None
            if not isinstance(results, list) or not isinstance(token, str | None) or token in tokens:
                raise CloudBlind("Vast.ai's list of charges did not come whole.")
            found += results
            if token is None:
                return self._read_rows(partial(rows.charges, found))
            tokens.add(token)
            asked["next_token"] = token

    def logs(self, instance_id: int, lines: int) -> str:
        """The last lines that the container wrote. Raises CloudBlind, CloudRefused."""
        answer = self._tried("logs", lambda: {"text": self._reads.logs(instance_id, tail=str(lines))})
        text = answer.fields.get("text")
        if not isinstance(text, str):
            raise CloudBlind(f"Vast.ai has no log of instance {instance_id} now: {answer.said}.")
        return text

    # ---- asking ----

    def _read(self, endpoint: str, call: Callable[[], Any]) -> Answer:
        """Raises CloudBlind for every answer that is not a 2xx one with a JSON object."""
        answer = self._tried(endpoint, call)
        if answer.status is None or not 200 <= answer.status < 300 or not isinstance(answer.body, dict):
            raise CloudBlind(f"Vast.ai did not answer ({endpoint}): {answer.said}.")
        return answer

    def _read_rows(self, read: Callable[[], _Read]) -> _Read:
        try:
            return read()
        except rows.Odd as error:
            raise CloudBlind(f"Vast.ai answered oddly: {error}.") from None

    def _tried(self, endpoint: str, call: Callable[[], Any]) -> Answer:
        """Ask, again where that may help and does no harm."""
        answer = Answer(None)
        for _ in range(TRIES):
            try:
                answer = self._ask(endpoint, call)
            except TooSoon as wait:
                raise CloudBlind(f"Vast.ai wants no more questions ({endpoint}) for {wait.seconds:.0f} s.") from None
            if not answer.worth_repeating:
                break
        self._check_access(answer, forbidden=True)
        return answer

    def _ask(self, endpoint: str, call: Callable[[], Any]) -> Answer:
        """One request at most, when the endpoint may be asked. Raises TooSoon where that is not soon."""
        with self._pacer.turn(endpoint):
            answer = _answer_of(call)
        answer = replace(answer, body=_without(self._key, answer.body))
        if answer.too_often:
            wait = retry_after(answer.headers, answer.body, self._epoch())
            seconds = self._pacer.refused(endpoint, wait)
            log.info("Vast.ai was asked too often (%s): not again for %.0f s", endpoint, seconds,
                     extra={"action": "market_paced"})  # fmt: skip
        elif answer.status is not None:
            self._pacer.accepted(endpoint)
        return answer

    def _check_access(self, answer: Answer, forbidden: bool) -> None:
        if answer.key_refused:
            raise CloudRefused(
                f"Vast.ai does not accept the key ({answer.said}): it is wrong or revoked; "
                "make one at its page of keys and put it into VAST_API_KEY or WHISPERFLEET_VAST_KEY_FILE."
            )
        if forbidden and answer.forbidden:
            raise CloudRefused(
                f"The Vast.ai key may not do this ({answer.said}): it needs the rights misc, "
                "instance_read, instance_write, user_read and billing_read."
            )


def _client(api_key: str, url: str, timeout_s: float) -> Any:
    """The SDK's object, which asks once (less than one try breaks it) and gives up after timeout_s.

    Raises CloudRefused where it is not installed.
    """
    if importlib.util.find_spec("vastai") is None:
        raise CloudRefused('Renting needs the client of Vast.ai, which is not here: pip install "whisperfleet[vast]".')
    from vastai import VastAI

    logging.getLogger("vastai").setLevel(logging.ERROR)  # it would write to standard error, whatever is set up here
    client = VastAI(api_key=api_key, server_url=url, retry=1)
    client.client.timeout = timeout_s
    return client


def _without(key: str, body: Any) -> Any:
    """The same with the key made unreadable, wherever the server repeats it: what it says is told and logged."""
    if isinstance(body, str):
        return body.replace(key, "[key]")
    if isinstance(body, list):
        return [_without(key, each) for each in body]
    if isinstance(body, dict):
        return {name: _without(key, value) for name, value in body.items()}
    return body


def _raw(client: Any, path: str) -> Any:
    response = client.client.get(path)
    response.raise_for_status()
    return response.json()


def _answer_of(call: Callable[[], Any]) -> Answer:
    """What the client's call came to; nothing that it raises gets out, as its errors hold the request with the key."""
    import requests

    try:
        return Answer(200, call())
    except requests.HTTPError as error:
        return _refusal_of(error.response)
    except (requests.Timeout, TimeoutError):
        return Answer(None, broken="no answer in time", hung=True)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSONDecodeError is a ValueError
        return Answer(200, broken=f"an answer that is none ({type(error).__name__})")
    except (requests.RequestException, OSError) as error:
        return Answer(None, broken=f"it cannot be reached ({type(error).__name__})")


def _refusal_of(response: Any) -> Answer:
    try:
        body = response.json()
    except ValueError:
        body = None
    headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
    return Answer(int(response.status_code), body, headers)
