"""What Vast.ai's answers mean: pure judgements over one status and body.

Its refusals are neither told apart by status nor by body alone: a bad key answers 404 on some endpoints, 200 may carry
`"success": false`, and a refusal may have made an instance all the same. Each of these has cost others money.
"""

from dataclasses import dataclass, field
from typing import Any

from provisioning.cloud import Created, Refused, Unknown
from provisioning.vast_rows import whole

GONE = ("no_such_instance", "not_found")
_TAKEN = "no_such_ask"
_NO_KEY = ("auth_error", "invalid_api_key", "unauthorized")
_NO_CREDIT = ("insufficient_credit", "insufficient_funds")
_HOPELESS = (*_NO_CREDIT, "account_suspended")
_OF_THIS_OFFER = (_TAKEN, "invalid_args", "no_ssh_key_for_vm")
_FOR_NOW = ("spend_rate_limit",)
_QUICK_REPAIR = (429, 502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """One answer. status None: none came (broken: why); body None: not JSON. headers have lower-case names."""

    status: int | None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    broken: str = ""
    hung: bool = False  # no answer in time: to ask again at once would only hang again

    @property
    def fields(self) -> dict[str, Any]:
        return self.body if isinstance(self.body, dict) else {}

    @property
    def error(self) -> str:
        """The name of the error, "" where none is given."""
        error = self.fields.get("error")
        return error if isinstance(error, str) else ""

    @property
    def said(self) -> str:
        """For a sentence: status, error and message."""
        if self.status is None:
            return self.broken or "no answer"
        message = self.fields.get("msg") or self.fields.get("message")
        parts = [str(self.status), self.error, message if isinstance(message, str) else ""]
        return " ".join(" ".join(part for part in parts if part).split())[:300].rstrip(".")

    @property
    def succeeded(self) -> bool:
        """It says so itself: an HTTP 200 alone says nothing."""
        return self.status is not None and 200 <= self.status < 300 and self.fields.get("success") is True

    @property
    def key_refused(self) -> bool:
        """The key is wrong or revoked. 404 with `auth_error` is that, and not "no such thing"."""
        return self.status == 401 or (self.status is not None and self.status >= 400 and self.error in _NO_KEY)

    @property
    def forbidden(self) -> bool:
        """The key is known, and may not do this."""
        return self.status == 403

    @property
    def too_often(self) -> bool:
        return self.status == 429

    @property
    def worth_repeating(self) -> bool:
        """For what may be asked twice: it may go right at once."""
        return not self.hung and (self.status is None or self.status in _QUICK_REPAIR)

    @property
    def made(self) -> int | None:
        """The instance it names, whatever else it says."""
        found = whole(self.fields.get("new_contract"))
        return found if found is not None and found > 0 else None


def created(answer: Answer) -> Created | Refused | Unknown:
    """What came of a request to rent that was sent once.

    Definite is only what says so in JSON: success with an instance, or an error by name. A refusal that names an
    instance has made one. All else (no answer, 5xx, 429, an empty or foreign body) may have rented.
    """
    made, status = answer.made, answer.status
    if answer.succeeded:
        return Created(made) if made is not None else Unknown("Vast.ai says that it rented, and does not say what")
    if made is not None:
        return Refused(f"refused, and yet it made instance {made} ({answer.said})", instance_id=made)
    definite = status is not None and status < 500 and status != 429 and bool(answer.error)
    if status == 403 and answer.fields:
        definite = True
    if not definite:
        return Unknown(f"the answer does not say whether it was rented ({answer.said})")
    if answer.error == _TAKEN or _TAKEN in str(answer.fields.get("msg", "")):
        return Refused(f"somebody else has the offer ({answer.said})", taken=True)
    if answer.error in _OF_THIS_OFFER:
        return Refused(f"Vast.ai does not rent this one ({answer.said})", taken=True)
    if answer.error in _NO_CREDIT:
        return Refused(f"the Vast.ai account has no credit left: add some at its billing page ({answer.said})",
                       hopeless=True)  # fmt: skip
    hopeless, pause = answer.error in _HOPELESS, answer.error in _FOR_NOW or answer.forbidden
    return Refused(f"Vast.ai refuses to rent ({answer.said})", hopeless=hopeless, pause=pause)


def destroyed(answer: Answer) -> bool:
    """Whether the market took the order to destroy, or knows no such instance; a 404 alone does not say that."""
    return answer.succeeded or (answer.status in (200, 404, 410) and answer.error in GONE)
