"""Whatever is killed, the transcript comes out the same, nothing is left running, and nothing waits for ever."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks.speech import Recorded, Script
from provisioning import conductor as embedded
from tests.conftest import Conductor, Studio
from tests.support.command import argv, content, start, transcript, whisperfleet
from workers import settings as environment
from workers.messages import JobKeys
from workers.storage import open_storage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHUNKS = ("--model", "demo", "--language", "en", "--chunk-seconds", 20)


@pytest.fixture(scope="module")
def recorded(studio: Studio) -> Recorded:
    return studio.recording(Script(seconds=180, speakers=2, seed=21))


@pytest.fixture(scope="module")
def undisturbed(
    conductor: Conductor, recorded: Recorded, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """The bytes to come out of every disturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHISPERFLEET_HOME", str(folder / "home"))
        ran = whisperfleet(
            "transcribe", recorded.path, *CHUNKS, "--server", conductor.url, "--processes", 2, "-o", folder
        )
    assert ran.returncode == 0, ran.stderr
    return content(folder, recorded.path.stem)


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def results_in(home: Path) -> int:
    return len(list(home.glob("objects/jobs/*/results/*.json")))


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if "workers.process" in child.cmdline()
    ]


def test_a_killed_worker_costs_no_word(
    conductor: Conductor, recorded: Recorded, undisturbed: dict[str, object], home: Path, tmp_path: Path
) -> None:
    command = ("transcribe", recorded.path, *CHUNKS, "--server", conductor.url, "--processes", 2, "-o", tmp_path)
    process = start(*command, log=tmp_path / "log")
    wait_until(lambda: results_in(home) >= 1)
    workers_of(process)[0].kill()
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    assert content(tmp_path, recorded.path.stem) == undisturbed


def test_a_killed_server_costs_no_word(
    recorded: Recorded, undisturbed: dict[str, object], home: Path, tmp_path: Path, own_server: None
) -> None:
    """The embedded server is killed with chunks in hand; it comes back, and the job goes on where it was."""
    process = start("transcribe", recorded.path, *CHUNKS, "--processes", 1, "-o", tmp_path, log=tmp_path / "log")
    wait_until(lambda: results_in(home) >= 1, 240)
    server = embedded.status(environment.load()).pid
    assert server is not None
    os.kill(server, signal.SIGKILL)
    assert process.wait(400) == 0, (tmp_path / "log").read_text()
    assert content(tmp_path, recorded.path.stem) == undisturbed
    wait_until(lambda: not embedded.status(environment.load()).running)


def test_a_killed_command_leaves_nothing_and_the_next_one_goes_on(
    recorded: Recorded, undisturbed: dict[str, object], home: Path, tmp_path: Path, own_server: None
) -> None:
    command = ("transcribe", recorded.path, *CHUNKS, "--processes", 1, "-o", tmp_path)
    process = start(*command, log=tmp_path / "log")
    wait_until(lambda: results_in(home) >= 1, 240)
    started = psutil.Process(process.pid).children(recursive=True)
    now = embedded.status(environment.load())
    started += [psutil.Process(pid) for pid in (now.pid, now.keeper_pid) if pid]
    process.kill()
    process.wait(10)
    gone, alive = psutil.wait_procs(started, timeout=90)
    assert not alive
    assert gone
    done = {path: path.stat().st_mtime_ns for path in home.glob("objects/jobs/*/results/*.json")}
    ran = whisperfleet(*command)
    assert ran.returncode == 0, ran.stderr
    assert "going on with job" in ran.stderr
    assert content(tmp_path, recorded.path.stem) == undisturbed
    assert done
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())  # nothing done was done again


def test_one_interrupt_cancels_the_job_and_stops_what_was_started(
    conductor: Conductor, recorded: Recorded, home: Path, tmp_path: Path
) -> None:
    command = ("transcribe", recorded.path, *CHUNKS, "--server", conductor.url, "--processes", 1, "-o", tmp_path / "o")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(argv(*command), stdout=log, stderr=log, start_new_session=True)
    wait_until(lambda: results_in(home) >= 1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert not list((tmp_path / "o").glob("*.*"))
    listed = whisperfleet("jobs", "list", "-n", 1, "--server", conductor.url)
    assert "terminated" in listed.stdout
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_lost_chunk_is_a_gap_and_a_retry_does_only_what_is_missing(
    conductor: Conductor, recorded: Recorded, undisturbed: dict[str, object], home: Path, tmp_path: Path
) -> None:
    """A chunk whose audio is damaged in storage fails on every worker; the rest of the job is kept."""
    media_only = ("--tasks", "plan_media,split_media,stitch_transcript,detect_language")
    common = ("--server", conductor.url)
    splitter = start("worker", *common, "--model", "demo", *media_only, log=tmp_path / "splitter")
    command = start("transcribe", recorded.path, *CHUNKS, *common, "-o", tmp_path, "--json", log=tmp_path / "log")
    wait_until(lambda: len(list(home.glob("objects/jobs/*/audio/*.json"))) >= 9)
    job = next((home / "objects" / "jobs").iterdir()).name
    storage = open_storage(str(home / "objects"), environment.load())
    storage.put_bytes(JobKeys(job).audio(4), b"this is no audio")
    hearers = ("--tasks", "transcribe_chunk,map_speech,diarize_chunk,cluster_speakers")
    recognizer = start("worker", *common, "--model", "demo", *hearers, log=tmp_path / "recognizer")
    try:
        assert command.wait(200) == 1
        told = (tmp_path / "log").read_text()
        assert "jobs retry" in told
        assert not (tmp_path / f"{recorded.path.stem}.json").exists()
        assert results_in(home) == len(list(home.glob("objects/jobs/*/audio/*.json"))) - 1

        failed = whisperfleet("jobs", "list", "-n", 1, *common).stdout.split()[0]
        ran = whisperfleet("jobs", "retry", failed, *common, "-o", tmp_path)
        assert ran.returncode == 0, ran.stderr
    finally:
        for process in (splitter, recognizer):
            process.terminate()
            process.wait(60)
    assert content(tmp_path, recorded.path.stem) == undisturbed
    chunks = transcript(tmp_path, recorded.path.stem).provenance.chunks
    assert [chunk.index for chunk in chunks if not chunk.reused] == [4]


def test_no_worker_is_said_and_not_waited_for(conductor: Conductor, recorded: Recorded, tmp_path: Path) -> None:
    ran = whisperfleet("transcribe", recorded.path, *CHUNKS, "--server", conductor.url, "-o", tmp_path / "out")
    assert ran.returncode == 7
    assert "No worker takes plan_media" in ran.stderr
    assert "whisperfleet worker --server" in ran.stderr


def test_one_worker_thread_for_everything_does_not_deadlock(
    conductor: Conductor, recorded: Recorded, undisturbed: dict[str, object], home: Path, tmp_path: Path
) -> None:
    """With recognizing alone served at first, chunks are asked for long before they exist; then a splitter comes."""
    common = ("--server", conductor.url)
    one = start("worker", *common, "--model", "demo", "--processes", 1, log=tmp_path / "one")
    try:
        ran = whisperfleet("transcribe", recorded.path, *CHUNKS, *common, "-o", tmp_path)
    finally:
        one.terminate()
        assert one.wait(60) == 0
    assert ran.returncode == 0, ran.stderr
    assert content(tmp_path, recorded.path.stem) == undisturbed
