"""Real programs as what rented machines run: a process group each, killed without notice as a host does it."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.emulator.contracts import Container


class _Process:
    """A container's first process and all that it starts; when the first ends, the others do, as in a container."""

    def __init__(self, container: Container, process: subprocess.Popen[bytes]) -> None:
        self._container = container
        self._process = process
        self._killed = False
        self._waiter = threading.Thread(target=self._wait, name=f"instance-{container.instance_id}", daemon=True)
        self._waiter.start()

    def kill(self) -> None:
        self._killed = True
        if self._process.poll() is None:  # else its number may already be somebody else's
            self._kill_group()
        self._waiter.join()

    def _wait(self) -> None:
        code = self._process.wait()
        self._kill_group()
        if not self._killed:
            self._container.exited(code)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class ProcessLauncher:
    """Give this as `launch`. command: for a container, what to run; environment: what its image would have set.

    Output goes to <folder>/<instance id>.log. started: the ids of instances whose program was started, in order.
    """

    def __init__(
        self,
        command: Callable[[Container], Sequence[str | Path]],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.started: list[int] = []
        self._command = command
        self._folder = folder
        self._environment = dict(environment or {})

    def __call__(self, container: Container) -> _Process:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.started.append(container.instance_id)
        with (self._folder / f"{container.instance_id}.log").open("ab") as log:
            process = subprocess.Popen(
                [os.fspath(word) for word in self._command(container)],
                env={"PATH": os.environ["PATH"]} | self._environment | container.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _Process(container, process)

    def log(self, instance_id: int) -> str:
        path = self._folder / f"{instance_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""
