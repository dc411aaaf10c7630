"""Who a rented machine is: signed tokens, and the files their keys are in.

Two kinds, told apart by their audience: the machine's token, which it gets when it is rented and whose only use is to
be exchanged, and the session that it gets for it, which opens the gateway for some minutes. A session is never taken
for a machine's token or the other way round. Revocation is the business of `gateway_state`.
"""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import OptionError, StorageError, one_line

ALGORITHM = "HS256"  # both sides of every signature are this gateway
MACHINE, SESSION = "m", "s"  # audiences; one letter, since the machine's token travels in an environment variable
MACHINE_TOKEN_CHARACTERS = 250  # Vast.ai documents 256 as the most that a variable of a container may have
SESSION_S = 600.0
KEY_BYTES = 32  # as long as the hash: RFC 7518, 3.2
_LEEWAY_S = 5.0  # clocks of one machine only are compared, but a restart may set its clock


class TokenRefused(Exception):
    """The token opens nothing. code is for the SDK: on EXPIRED_TOKEN and INVALID_TOKEN it asks for another session."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Machine:
    """A rented machine as its token names it: what it may work on, and until when (epoch milliseconds)."""

    nonce: str
    kinds: tuple[str, ...]
    expires_ms: int


class Tokens:
    """Signs and reads tokens. session_s: how long a session is good for, seconds."""

    def __init__(self, key: bytes, session_s: float = SESSION_S) -> None:
        self._key = key
        self._session_s = session_s

    def machine(self, machine: Machine) -> str:
        """Raises OptionError where the token would be too long to travel."""
        claims = {"sub": machine.nonce, "k": ",".join(machine.kinds), "exp": machine.expires_ms // 1000}
        token = self._sign(claims, MACHINE)
        if len(token) > MACHINE_TOKEN_CHARACTERS:
            raise OptionError(f"The token of machine '{machine.nonce}' would have {len(token)} characters: name fewer.")
        return token

    def session(self, machine: Machine) -> str:
        """Never good for longer than the machine's own token."""
        ends = min(machine.expires_ms / 1000, time.time() + self._session_s)
        claims = {"sub": machine.nonce, "k": ",".join(machine.kinds), "exp": int(ends), "x": machine.expires_ms}
        return self._sign(claims, SESSION)

    def read_machine(self, token: str) -> Machine:
        """Raises TokenRefused."""
        claims = self._read(token, MACHINE)
        return Machine(claims["sub"], _kinds(claims), int(claims["exp"]) * 1000)

    def read_session(self, token: str) -> Machine:
        """Raises TokenRefused."""
        claims = self._read(token, SESSION)
        return Machine(claims["sub"], _kinds(claims), int(claims.get("x") or 0))

    def _sign(self, claims: dict[str, Any], audience: str) -> str:
        import jwt

        return jwt.encode({**claims, "aud": audience}, self._key, algorithm=ALGORITHM)

    def _read(self, token: str, audience: str) -> dict[str, Any]:
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=audience,
                leeway=_LEEWAY_S if audience == MACHINE else 0,
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenRefused("EXPIRED_TOKEN", "the token has expired") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenRefused("INVALID_TOKEN", f"the token is not one of ours ({type(error).__name__})") from error
        return claims


def _kinds(claims: dict[str, Any]) -> tuple[str, ...]:
    return tuple(kind for kind in str(claims.get("k") or "").split(",") if kind)


def load_key(path: Path) -> bytes:
    """The key in `path`; made there, readable by its owner only, where there is none yet.

    Raises OptionError for a file that is unreadable, too short, or open to others; StorageError where none can be made.
    """
    try:
        return _made(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise StorageError(f"Cannot make the key file {path} ({one_line(error)}): make its folder writable.") from error
    try:
        mode = path.stat().st_mode
        key = path.read_bytes().strip()
    except OSError as error:
        raise OptionError(f"The key file {path} cannot be read ({one_line(error)}): let this user read it.") from error
    if mode & 0o077 and not _mounted_for_all(path):
        raise OptionError(f"The key file {path} can be read by others: run `chmod 600 {path}`.")
    if len(key) < KEY_BYTES:
        raise OptionError(
            f"The key in {path} has {len(key)} bytes, and {KEY_BYTES} are needed: delete the file, and one is made."
        )
    return key


def _mounted_for_all(path: Path) -> bool:
    """Secrets of Docker Compose are mounted below /run/secrets with the mode of the file they come from."""
    return path.parent == Path("/run/secrets")


def _made(path: Path) -> bytes:
    """A new key, whole or not there: two processes that start at once agree on one. Raises FileExistsError."""
    if path.exists():
        raise FileExistsError(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = secrets.token_urlsafe(KEY_BYTES).encode()
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key)
        os.link(half, path)  # fails where somebody was faster
    finally:
        half.unlink()
    return key
