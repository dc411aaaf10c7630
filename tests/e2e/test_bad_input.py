"""Bad input as a user meets it: one sentence, an exit code, nothing half-written, other files done all the same."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from benchmarks.scoring import word_error_rate
from tests.conftest import S3, Conductor
from tests.support.bad_media import good_text, hanging_server, hide_whisper, make_media, mounted, web_server
from tests.support.command import Ran, background, transcript, whisperfleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Case:
    """A command that must end before any work. {names} in arguments and environment are filled in from `places`."""

    name: str
    arguments: str
    code: int
    sentence: str  # regular expression; the whole of what is said must match
    environment: dict[str, str] = field(default_factory=dict)


NO_COPY = "copy or record it again"
TIMES = re.escape("write seconds (90.5) or H:MM:SS (1:01:30.250).")
USE_EMBEDDED = "correct --server, or leave it out to use the embedded one."
NO_ROOM = "good.flac: The storage folder .* has . MB left and this job takes about 8 MB"
OTHER_STORAGE = "free some, or choose another by WHISPERFLEET_STORAGE."
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

MEDIA = (
    Case("missing file", "{media}/none.mp3", 3, "'.*/none.mp3' does not exist on this machine: check the path."),
    Case("folder", "{media}/folder.wav", 3, "'.*/folder.wav' is a folder: name the media files in it."),
    Case("empty file", "{media}/empty.mp3", 3, f"'.*/empty.mp3' is empty: {NO_COPY}."),
    Case("text named .mp4", "{media}/text.mp4", 3, "'text.mp4' is no audio or video that ffmpeg can read: check .*"),
    Case("mp4 without its end", "{media}/no-index.mp4", 3, f"'no-index.mp4' is cut off .*moov.* {NO_COPY}."),
    Case(
        "video without audio",
        "{media}/video.mp4",
        3,
        "'video.mp4' has no sound: it holds only video; give a recording with an audio track.",
    ),
    Case("pipe", "{media}/pipe.wav", 3, "'.*/pipe.wav' is no file but a device or a pipe: save .*"),
    Case(
        "track that does not exist",
        "{media}/good.flac --audio-track 2",
        3,
        "'good.flac' has only one audio track, so there is no track 2: choose with --audio-track.",
    ),
)
ADDRESSES = (
    Case("URL with 404", "{web}/none.mp3", 3, r"'.*/none.mp3' does not exist \(the server answers 404\): check .*"),
    Case(
        "URL refused",
        "http://127.0.0.1:9/a.mp3",
        3,
        "The server of '.*/a.mp3' cannot be reached .*refused.*try .*",
    ),
    Case(
        "URL hanging",
        "{hanging}/a.mp3",
        3,
        "The server of '.*/a.mp3' does not answer: try again later or download .*",
    ),
    Case("address that is none", "http://[::1/a.mp3", 3, r"'http://\[::1/a.mp3' is no address .*: check it."),
    Case("address of another kind", "ftp://host/a.mp3", 3, "'ftp://host/a.mp3' is no address of media: give .*"),
    Case("S3 without a key", "s3://bucket", 3, "'s3://bucket' names no object: write s3://BUCKET/KEY."),
    Case("S3 without credentials", "s3://bucket/a.mp3", 3, "'s3://bucket/a.mp3' may not be read: there are no S3 .*"),
    Case(
        "storage in S3 without credentials",
        "{media}/good.flac",
        5,
        "Error: No credentials for s3://bucket/x: set AWS_ACCESS_KEY_ID .*",
        {"WHISPERFLEET_STORAGE": "s3://bucket/x"},
    ),
)
OPTIONS = (
    Case(
        "unknown model",
        "{media}/good.flac --model smal",
        6,
        r"Error: There is no model named 'smal'; did you mean small\?",
    ),
    Case(
        "model folder that is none", "{media}/good.flac --model {media}", 6, "Error: '.*' is no CTranslate2 model, .*"
    ),
    Case(
        "model not here, no hub",
        "{media}/good.flac --model tiny",
        6,
        "Fetching the model tiny .*\nError: The model tiny is not on this machine and .*hub is out of reach.*: "
        "run `whisperfleet models fetch tiny` where there is internet .*",
    ),
    Case(
        "unknown language",
        "{media}/good.flac --language klingon",
        2,
        "Error: There is no language 'klingon'; write auto.*",
    ),
    Case(
        "unknown format", "{media}/good.flac --formats srt,doc", 2, "Error: --formats is 'doc': write some of json, .*"
    ),
    Case(
        "engine that is not installed",
        "{media}/good.flac --engine openai-whisper --model tiny",
        6,
        "Error: The engine openai-whisper is not installed here: pip install .*, or leave --engine out.",
        {"PYTHONPATH": "{bare}"},
    ),
    Case("no format", "{media}/good.flac --formats ,", 2, "Error: --formats is ',': write some of json, .*"),
    Case("unknown engine", "{media}/good.flac --engine siri", 2, "Error: --engine is 'siri': write faster-whisper, .*"),
    Case(
        "start after end",
        "{media}/good.flac --start 9 --end 3",
        2,
        r"good.flac: --start \(00:00:09.000\) is not before --end \(00:00:03.000\): change one of them.",
    ),
    Case(
        "start behind the media's end",
        "{media}/good.flac --start 1:00",
        2,
        r"good.flac: --start \(00:01:00.000\) lies behind the end of the media, which is 00:00:13.500 long: .*",
    ),
    Case("text for a time", "{media}/good.flac --start soon", 2, f"Error: --start is 'soon': {TIMES}"),
    Case("99 seconds in a minute", "{media}/good.flac --end 1:99", 2, f"Error: --end is '1:99': {TIMES}"),
    Case("track 0", "{media}/good.flac --audio-track 0", 2, "Error: --audio-track is '0': write 1 for the first .*"),
    Case(
        "chunks of a second",
        "{media}/good.flac --chunk-seconds 1",
        2,
        "Error: --chunk-seconds is '1': write auto, or a number from 5 to 3600.",
    ),
    Case(
        "two media of one name",
        "{media}/good.flac {media}/again/good.wav",
        2,
        r"Error: good.flac and good.wav would both be written to good.\*: .*",
    ),
)
SERVERS = (
    Case(
        "server unreachable",
        "{media}/good.flac --server http://127.0.0.1:1",
        4,
        f"Error: No Conductor server answers at http://127.0.0.1:1: start it, {USE_EMBEDDED}",
    ),
    Case(
        "server hanging",
        "{media}/good.flac --server {hanging}",
        4,
        f"Error: No Conductor server answers at .*: start it, {USE_EMBEDDED}",
    ),
    Case(
        "server that is no Conductor",
        "{media}/good.flac --server {web}",
        4,
        f"Error: What answers at .* is no Conductor server: {USE_EMBEDDED}",
    ),
    Case(
        "malformed server",
        "{media}/good.flac --server localhost",
        2,
        "Error: --server is 'localhost', which is no address of a server: write http://HOST:PORT.",
    ),
)
FOLDERS = (
    Case(
        "output below a file",
        "{media}/good.flac -o {media}/good.flac/out",
        5,
        "Error: The output folder .* cannot be written .*: choose another with --output-dir.",
    ),
    Case(
        "storage below a file",
        "{media}/good.flac",
        5,
        "Error: .*storage folder .*good.flac/objects.*",
        {"WHISPERFLEET_STORAGE": "{media}/good.flac/objects"},
    ),
    Case(
        "data folder below a file",
        "{media}/good.flac",
        5,
        "Error: Cannot use the storage folder .* choose another by WHISPERFLEET_STORAGE.",
        {"WHISPERFLEET_HOME": "{media}/good.flac/home"},
    ),
)
DISKS = (
    Case(
        "output folder full",
        "{media}/good.flac -o {tiny}/out",
        5,
        "Error: The disk of the output folder .* left: free .*",
    ),
    Case(
        "output folder read-only",
        "{media}/good.flac -o {frozen}/out",
        5,
        r"Error: The output folder .* cannot be written \(Read-only file system\): choose another with --output-dir.",
    ),
    Case(
        "storage full",
        "{media}/good.flac",
        5,
        f"(Error: No space is left in the storage folder .*|{NO_ROOM}): {OTHER_STORAGE}",
        {"WHISPERFLEET_STORAGE": "{tiny}/objects"},
    ),
    Case(
        "room for a part of the job only",
        "{media}/good.flac",
        5,
        f"{NO_ROOM}: {OTHER_STORAGE}",
        {"WHISPERFLEET_STORAGE": "{small}/objects"},
    ),
    Case(
        "data folder full",
        "{media}/good.flac",
        5,
        f"(Error: No space is left in the storage folder .*|{NO_ROOM}): {OTHER_STORAGE}",
        {"WHISPERFLEET_HOME": "{tiny}/home"},
    ),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the cases name: media, servers, and file systems ("" where none may be mounted)."""
    folder = tmp_path_factory.mktemp("bad")
    with ExitStack() as stack:
        media = make_media(folder / "media")
        disks = {"tiny": ("size=1m",), "small": ("size=4m",), "frozen": ("ro",)}
        yield {
            "media": str(media),
            "bare": str(hide_whisper(folder / "bare")),
            "web": stack.enter_context(web_server(media)),
            "hanging": stack.enter_context(hanging_server()),
            **{
                name: str(stack.enter_context(mounted(folder / name, *options)) or "")
                for name, options in disks.items()
            },
        }


def run_case(case: Case, places: dict[str, str], out: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    for name, value in (NO_PROXY | case.environment).items():
        monkeypatch.setenv(name, value.format(**places))
    arguments = [argument.format(**places) for argument in case.arguments.split()]
    return whisperfleet("transcribe", "--model", "demo", "-o", out, *arguments, timeout_s=100)


def check(case: Case, places: dict[str, str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run_case(case, places, out, monkeypatch)
    assert ran.returncode == case.code, ran.stderr
    assert re.fullmatch(case.sentence, ran.stderr.rstrip("\n")), ran.stderr
    assert ran.stdout == ""
    assert not list(out.glob("*"))


@pytest.mark.parametrize(
    "case", [*MEDIA, *ADDRESSES, *OPTIONS, *SERVERS, *FOLDERS], ids=lambda case: case.name.replace(" ", "-")
)
def test_one_sentence_and_an_exit_code_before_any_work(
    case: Case, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(case, places, tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("case", DISKS, ids=lambda case: case.name.replace(" ", "-"))
def test_a_disk_that_takes_no_files(
    case: Case, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not places["tiny"]:
        pytest.skip("needs the right to mount a file system in memory")
    check(case, places, tmp_path / "out", monkeypatch)
    assert not [path for name in ("tiny", "small") for path in Path(places[name]).rglob("*") if path.is_file()]


REFUSED = (
    Case("S3 without rights", "s3://{bucket}/a.mp3", 3, "'s3://.*/a.mp3' may not be read with these S3 credentials .*"),
    Case(
        "storage in S3 without rights",
        "{media}/good.flac",
        5,
        "Error: The credentials for the bucket .* are not accepted .*: check .*",
        {"WHISPERFLEET_STORAGE": "s3://{bucket}/x"},
    ),
)
ABSENT = (
    Case("S3 object that is not there", "s3://{bucket}/a.mp3", 3, "'s3://.*/a.mp3' does not exist .*: check bucket .*"),
    Case("S3 bucket that is not there", "s3://no-such-bucket/a.mp3", 3, "'s3://.*' does not exist .*: check bucket .*"),
    Case(
        "storage in a bucket that is not there",
        "{media}/good.flac",
        5,
        "Error: There is no bucket 'no-such-bucket' .*: create it, or name another.",
        {"WHISPERFLEET_STORAGE": "s3://no-such-bucket"},
    ),
)


@pytest.mark.parametrize("case", ABSENT, ids=lambda case: case.name.replace(" ", "-"))
def test_what_is_not_in_s3(
    case: Case, places: dict[str, str], s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(case, {**places, "bucket": s3.bucket}, tmp_path / "out", monkeypatch)


@pytest.fixture
def strict_s3(s3: S3) -> Iterator[S3]:
    """The same service, asking who is there: the credentials of the tests are nobody's."""
    switch = f"{s3.endpoint}/moto-api/reset-auth"
    httpx.post(switch, content=b"0").raise_for_status()
    yield s3
    httpx.post(switch, content=b"inf").raise_for_status()


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name.replace(" ", "-"))
def test_s3_without_rights(
    case: Case, places: dict[str, str], strict_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(case, {**places, "bucket": strict_s3.bucket}, tmp_path / "out", monkeypatch)


def test_bad_files_leave_the_good_ones_of_their_command_unharmed(
    places: dict[str, str], conductor: Conductor, tmp_path: Path
) -> None:
    media = Path(places["media"])
    names = ("text.mp4", "good.flac", "cut.mp4", "short.mp3", "none.ogg", "empty.mp3", "video.mp4")
    ran = whisperfleet(
        *("transcribe", *(media / name for name in names), f"{places['web']}/absent.mp4", "--model", "demo"),
        *("--server", conductor.url, "--processes", 1, "-o", tmp_path / "out"),
    )
    assert ran.returncode == 3, ran.stderr
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"good"}
    assert word_error_rate(good_text(), transcript(tmp_path / "out", "good").text) < 0.15
    for sentence in (
        "'text.mp4' is no audio or video",
        "'cut.mp4' breaks off at 00:00:4.* although it says it is 00:01:10.* long: copy it again",
        "'short.mp3' breaks off at 00:00:4.* although it says it is 00:01:10.* long: copy it again",
        "none.ogg' does not exist",
        "absent.mp4' does not exist",
    ):
        assert len(re.findall(sentence, ran.stderr)) == 1, ran.stderr


def test_a_silent_recording_is_no_error(places: dict[str, str], conductor: Conductor, tmp_path: Path) -> None:
    ran = whisperfleet(
        *("transcribe", Path(places["media"]) / "silent.wav", "--model", "demo", "--server", conductor.url),
        *("--processes", 1, "-o", tmp_path / "out"),
    )
    assert ran.returncode == 0, ran.stderr
    assert len(re.findall("^Warning: No speech was found in 'silent.wav': ", ran.stderr, re.MULTILINE)) == 1, ran.stderr
    found = transcript(tmp_path / "out", "silent")
    assert (found.segments, found.gaps, found.duration_ms) == ((), (), 20_000)
    assert (tmp_path / "out" / "silent.srt").read_text().strip() == ""


def test_a_job_that_nobody_takes_ends_after_some_seconds(
    places: dict[str, str], conductor: Conductor, tmp_path: Path
) -> None:
    media = Path(places["media"]) / "good.flac"
    ran = whisperfleet("transcribe", media, "--model", "demo", "--server", conductor.url, "-o", tmp_path / "out")
    assert ran.returncode == 7, ran.stderr
    assert "No worker takes plan_media on http://127.0.0.1" in ran.stderr
    assert "start one with `whisperfleet worker --server http://127.0.0.1" in ran.stderr
    assert not list((tmp_path / "out").iterdir())


BY_REST: tuple[tuple[dict[str, object], int, str], ...] = (
    ({"model": "tiny"}, 6, "The model tiny is not on this machine"),
    ({"model": "tiny", "language": "en"}, 1, "The model tiny is not on this machine"),  # its chunks are lost
    ({"model": "smal"}, 6, "There is no model named 'smal'; did you mean small?"),
    ({"chunk_seconds": 1}, 2, "chunk_seconds is '1': write auto, or a number from 5 to 3600."),
    ({"language": "klingon"}, 2, "There is no language 'klingon'"),
    ({"start": 9, "end": "0:03"}, 2, "is not before"),
    ({"media": "/none.mp3"}, 3, "'/none.mp3' does not exist"),
)


def test_jobs_asked_for_by_rest_fail_with_the_sentence(
    places: dict[str, str], conductor: Conductor, tmp_path: Path
) -> None:
    plain = {"media": f"{places['media']}/good.flac", "model": "demo"}
    url = f"{conductor.url}/workflow/transcribe_media"
    assert whisperfleet("workflows", "register", "--server", conductor.url).returncode == 0
    jobs = [httpx.post(url, json=plain | wish, timeout=30).text for wish, _, _ in BY_REST]
    with background("worker", "--server", conductor.url, "--model", "demo", log=tmp_path / "worker.log"):
        for job, (_, code, sentence) in zip(jobs, BY_REST, strict=True):
            ran = whisperfleet("jobs", "watch", job, "--server", conductor.url, "-o", tmp_path / "out", timeout_s=120)
            assert sentence in ran.stderr
            assert ran.returncode == code, ran.stderr
            found = httpx.get(f"{conductor.url}/workflow/{job}", timeout=30).json()
            assert found["status"] == "FAILED"
            assert sentence in found["reasonForIncompletion"]
