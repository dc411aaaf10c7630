"""What runs first on a rented machine: tests it, runs the worker, and ends the instance when it is of no use any more.

    whisperfleet-supervisor

It lives for as long as the container does and is its first process. The worker below it can crash, hang or be killed;
this one imports little, waits for nothing without a limit, and its end is always the same: no process left, and the
instance destroyed with its own key. Decisions are in `workers.duty`, the talk with the gateway in `workers.pulse`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from workers import instance, settings
from workers.duty import Drain, End, Limits, Situation, decide
from workers.errors import OptionError
from workers.pulse import BEAT_SECONDS, Gateway, Pulse
from workers.settings import Container, RentedSettings

TICK_SECONDS = 0.25
TEST_SECONDS = 600.0  # most of it is for fetching a model of 3 GB
LAST_WORD_SECONDS = 10.0


@dataclass(frozen=True)
class Commands:
    """What is run: the self-test, which prints a line of JSON, and the worker."""

    test: tuple[str, ...]
    worker: tuple[str, ...]


def commands(rented: RentedSettings) -> Commands:
    """The same Python for all, so that nothing depends on a PATH."""
    device = "cuda" if rented.needs_gpu else "auto"
    return Commands(
        test=(sys.executable, "-m", "workers.selftest", rented.model, *(["--needs-gpu"] if rented.needs_gpu else [])),
        worker=(
            sys.executable, "-m", "workflows.cli", "worker",
            "--tasks", rented.kinds, "--model", rented.model, "--device", device,
        ),
    )  # fmt: skip


def main() -> None:
    started = time.monotonic()
    rented_from = settings.container()
    try:
        rented = settings.rented_settings()
    except OptionError as error:
        say(str(error))
        if rented_from is not None:
            instance.destroy(rented_from, say)
        sys.exit(error.exit_code)
    sys.exit(Supervisor(rented, rented_from, commands(rented), started).run())


def say(text: str) -> None:
    """One line for the container's log."""
    print(f"{time.strftime('%H:%M:%S')} supervisor: {text}", file=sys.stderr, flush=True)


@dataclass
class Supervisor:
    """Runs until the end; `run` may be called once, in the main thread, as it takes the signals.

    rented_from None: no rented machine, so there is nothing to destroy. started: monotonic.
    """

    rented: RentedSettings
    rented_from: Container | None
    commands: Commands
    started: float
    tick_s: float = TICK_SECONDS
    state: str = "testing"
    report: dict[str, Any] | None = None
    _child: subprocess.Popen[str] | None = None
    _worker_code: int | None = None
    _test_failure: str | None = None
    _draining_at: float | None = None
    _terminations: int = 0

    def run(self) -> int:
        """0 where it ended as somebody wanted, 1 where it was of no use or could not be destroyed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._terminated())
        limits = Limits(self.rented.ttl_s, self.rented.idle_s, self.rented.silence_s)
        gateway = Gateway(self.rented.gateway, self.rented.nonce, self.rented.token)
        pulse = Pulse(gateway, self._news, beat_seconds(limits), say=say)
        pulse.start()
        say(f"Machine {self.rented.nonce} for {self.rented.kinds} with {self.rented.model}: testing it.")
        end = End("it broke", failed=True)
        try:
            self._child = self._start(self.commands.test, output=True)
            end = self._watch(limits, pulse)
        finally:  # also where something broke that nobody foresaw: the machine must not go on billing
            self._stop_child()
            say(f"Ending: {end.reason}.")
            if self._test_failure is not None:
                pulse.tell(LAST_WORD_SECONDS)
            pulse.close()
            gone = self._destroy()
        return 1 if end.failed or not gone else 0

    def _watch(self, limits: Limits, pulse: Pulse) -> End:
        while True:
            self._look_after_child(pulse)
            decision = decide(self._situation(pulse), limits)
            if isinstance(decision, End):
                return decision
            if isinstance(decision, Drain):
                self._drain(decision.reason, pulse)
            time.sleep(self.tick_s)

    # ---- what is known ----

    def _situation(self, pulse: Pulse) -> Situation:
        now, heard = time.monotonic(), pulse.heard
        working = self.state != "testing" and self._child is not None
        return Situation(
            age_s=now - self.started,
            silent_s=now - heard.answered_at,
            idle_s=now - heard.busy_at if heard.busy_at is not None and self.state == "working" else 0.0,
            refusals=heard.refusals,
            terminations=self._terminations,
            stop=heard.stop,
            drain=heard.drain,
            test_failure=self._test_failure,
            working=working,
            worker_code=self._worker_code,
            draining_s=None if self._draining_at is None else now - self._draining_at,
        )

    def _news(self) -> dict[str, Any]:
        report = self.report
        return {
            "state": self.state,
            "self_test": report,
            "rtfx": report.get("rtfx") if report else None,
            "version": _version(),
        }

    # ---- the processes ----

    def _start(self, command: tuple[str, ...], output: bool = False) -> subprocess.Popen[str]:
        """In a process group of its own, and tethered: it ends with this process, however that ends."""
        return subprocess.Popen(
            [sys.executable, "-m", "workers.tether", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output else None,
            text=True,
            env=settings.rented_worker_environment(self.rented.gateway),
            start_new_session=True,
        )

    def _look_after_child(self, pulse: Pulse) -> None:
        """Notice that the test or the worker has ended, or hangs; collect the processes that others left behind."""
        if self._child is not None and self._child.poll() is not None:
            child, self._child = self._child, None
            end_group(child.pid)
            if self.state == "testing":
                self._tested(child, pulse)
            else:
                self._worker_code = child.returncode
        elif self.state == "testing" and time.monotonic() - self.started > TEST_SECONDS:
            self._test_failure = f"it took more than {TEST_SECONDS:.0f} s"
        reap({self._child.pid} if self._child else set())

    def _tested(self, child: subprocess.Popen[str], pulse: Pulse) -> None:
        """The worker is started where the machine is fit for it."""
        assert child.stdout is not None
        with child.stdout:
            self.report = read_report(child.stdout.read(), child.returncode)
        if self._draining_at is not None:
            self.report = None  # it was told to end; what it said then is no fault of the machine
        elif self.report.get("ok") is not True:
            self._test_failure = str(self.report.get("reason"))[:300]
        else:
            say(f"Fit: {json.dumps(self.report)}")
            self._child = self._start(self.commands.worker)
            self.state = "working"
        pulse.hurry()

    def _drain(self, reason: str, pulse: Pulse) -> None:
        say(f"Draining: {reason}.")
        self._draining_at = time.monotonic()
        self.state = "draining" if self.state == "working" else self.state
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()  # the worker alone: it tells those below it
        pulse.hurry()

    def _stop_child(self) -> None:
        if self._child is not None:
            end_group(self._child.pid)
            self._child.wait()
        reap(set())

    def _terminated(self) -> None:
        """A signal: the first drains, the second ends, and who sends a third does not want to wait for the market."""
        self._terminations += 1

    def _destroy(self) -> bool:
        if self.rented_from is None:
            return True
        return instance.destroy(self.rented_from, say, self._sleep, lambda: self._terminations >= 3)

    def _sleep(self, seconds: float) -> None:
        """In short pieces: a signal handler may wake nobody, as its lock could be held by whom it interrupts."""
        until, patience = time.monotonic() + seconds, self._terminations
        while time.monotonic() < until and self._terminations == patience:
            time.sleep(self.tick_s)


def beat_seconds(limits: Limits) -> float:
    """Often enough to notice in time what is to be noticed, where the limits are short."""
    return max(0.1, min(BEAT_SECONDS, limits.silence_s / 4, limits.idle_s / 4))


def read_report(output: str, code: int) -> dict[str, Any]:
    """The test's own line; where there is none, that it ended without one."""
    try:
        found = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"ok": False, "reason": f"the self-test ended with {code} and no result: its log says why"}


def end_group(group: int) -> None:
    """Kill every process of a group; one that has none is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def reap(own: set[int]) -> None:
    """Collect processes whose parents died before them: as the container's first process this one inherits them.

    own: children that somebody else waits for. What is looked at is left in place until it is known whose it is.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)


def _version() -> str:
    try:
        return version("whisperfleet")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
