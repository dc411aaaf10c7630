"""How a rented machine ends itself: with the key that its market gave it, which can end this one instance only."""

import time
from collections.abc import Callable

import httpx

from workers.settings import Container

TRIES = 20
FIRST_PAUSE, LAST_PAUSE = 3.0, 30.0  # seconds; the market takes one such request in three
REQUEST_SECONDS = 20.0
_GONE = ("no_such_instance", "not_found")


def destroy(
    container: Container,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    given_up: Callable[[], bool] = lambda: False,
) -> bool:
    """Ask the market to destroy this instance until it says that it has, TRIES times; else to stop it.

    A stopped instance bills its disk only. given_up: whether somebody has lost patience meanwhile. Returns whether it
    is destroyed; the market mostly ends this process before.
    """
    address = f"{container.market}/api/v0/instances/{container.id}/"
    pause = FIRST_PAUSE
    for attempt in range(TRIES):
        answer = _ask(container, "DELETE", address, {})
        if answer is True:
            say("This instance is destroyed.")
            return True
        say(f"This instance is not destroyed yet ({answer}).")
        if given_up():
            break
        if attempt + 1 < TRIES:
            sleep(pause)
            pause = min(pause * 1.5, LAST_PAUSE)
    answer = _ask(container, "PUT", address, {"state": "stopped"})
    say("This instance is stopped." if answer is True else f"This instance cannot even be stopped ({answer}).")
    return False


def _ask(container: Container, method: str, address: str, body: dict[str, str]) -> str | bool:
    """True where the market says that it is done (or that there is no such instance), else what went wrong."""
    try:
        response = httpx.request(
            method, address, json=body, headers={"Authorization": f"Bearer {container.key}"}, timeout=REQUEST_SECONDS
        )
        said = response.json()
    except (httpx.HTTPError, ValueError) as error:
        return type(error).__name__
    if not isinstance(said, dict):
        return str(response.status_code)
    if response.status_code < 300 and said.get("success") is True:
        return True
    if said.get("error") in _GONE and response.status_code in (200, 404, 410):
        return True  # a 404 for the key (`auth_error`) is none for the instance
    return f"{response.status_code} {str(said.get('error') or '')[:100]}".rstrip()
