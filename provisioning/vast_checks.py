"""Refused before Vast.ai is asked: a key that is none, an address that would show it, an order it cannot take."""

import re
from urllib.parse import urlsplit

from provisioning.cloud import CloudRefused, Order
from workers.errors import OptionError

PRICES = (0.001, 128.0)  # dollars an hour that a bid may be; like the other limits from its description of creating
_LIMITS = {"image": 1024, "label": 256, "value": 256, "args": 4096, "environment": 32_768}  # characters
_LEAST_DISK_GB = 8.0
_KEY = re.compile(r"[!-~]{8,512}")


def check_key(key: str) -> None:
    """Raises CloudRefused, which does not tell the key."""
    if not key:
        raise CloudRefused(
            "There is no Vast.ai key: make one at its page of keys and put it into VAST_API_KEY, or into a file that "
            "WHISPERFLEET_VAST_KEY_FILE names."
        )
    if not _KEY.fullmatch(key):
        raise CloudRefused(
            "What VAST_API_KEY or WHISPERFLEET_VAST_KEY_FILE gives is no Vast.ai key: that is one word of letters and "
            "digits."
        )


def checked_url(url: str) -> str:
    """Raises OptionError for an address that is none, or that would show the key to the network."""
    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise OptionError(f"The market's address is '{url}': write https://HOST, or http:// for one on this machine.")
    return url.rstrip("/")


def order_fault(order: Order, key: str) -> str:
    """What the market would refuse or do wrong, or "": told before it is asked, as asking makes things."""
    bid, values = order.bid_usd_per_hour, order.environment
    if not order.label or len(order.label) > _LIMITS["label"]:
        return "an order needs a label, of 256 characters at most"
    if not order.image or len(order.image) > _LIMITS["image"]:
        return "an order needs an image"
    if bid is not None and not PRICES[0] <= bid <= PRICES[1]:
        return f"a bid of ${bid} is not between ${PRICES[0]} and ${PRICES[1]}"
    if not order.disk_gb >= _LEAST_DISK_GB:
        return f"{order.disk_gb:g} GB of disk are less than {_LEAST_DISK_GB:g}"
    if sum(len(part) + 1 for part in order.entry) > _LIMITS["args"]:
        return "its entry point is longer than 4096 characters"
    long = next((name for name, value in values.items() if len(value) > _LIMITS["value"]), None)
    if long is not None or sum(len(name) + len(value) for name, value in values.items()) > _LIMITS["environment"]:
        return f"the value of its variable {long or '(all together)'} is too long"
    if key in " ".join([order.label, order.image, *order.entry, *values.values()]):
        return "it holds the account's key, which no rented machine may see"
    return ""
