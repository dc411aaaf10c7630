import re
from pathlib import Path
from typing import get_args

import click
import pytest

from workers.errors import MediaError, ModelError, OptionError, WhisperfleetError
from workers.lanes import ALL_TASKS
from workers.messages import SPEAKER_OPTIONS, Format, JobInput
from workers.settings import Settings
from workflows.commands.transcribe import HEADINGS, transcribe
from workflows.commands.worker import worker
from workflows.display import PlainDisplay
from workflows.transcription import Request, Wish, prepare

DEMO = Path("workers/demo/demo.flac").absolute()
OPTIONS = {param.name: param for param in transcribe.params if isinstance(param, click.Option)}


def requests(tmp_path: Path, *arguments: str) -> list[Request]:
    """What the command would ask for; no server is started."""
    context = transcribe.make_context("transcribe", ["demo", "--model", "demo", *arguments])
    given = {**context.params, "speaker_names": list(context.params["speaker_names"])}
    fields = {name: value for name, value in given.items() if name in JobInput.model_fields and name != "media"}
    wish = Wish(("demo",), tmp_path / "out", None, None, "auto", False, None, tuple(fields.items()))
    settings = Settings(tmp_path, None, str(tmp_path / "objects"), None, None, None)
    return prepare(wish, settings, PlainDisplay())[0]


def test_an_option_has_the_default_of_its_field() -> None:
    plain = JobInput.decode({"media": "x"})
    context = transcribe.make_context("transcribe", ["x"])
    given = {name: value for name, value in context.params.items() if name in JobInput.model_fields}
    assert JobInput.decode({**given, "media": "x"}) == plain
    assert set(JobInput.model_fields) - {"media", "storage"} <= set(OPTIONS)


def test_help_has_every_option_once_under_a_heading_and_fits_80_columns() -> None:
    text = transcribe.get_help(click.Context(transcribe, info_name="transcribe", terminal_width=80))
    assert max(map(len, text.splitlines())) <= 80
    assert [line.rstrip(":") for line in text.splitlines() if re.fullmatch(r"\w.*:", line)] == list(HEADINGS.values())
    listed = text.partition(next(iter(HEADINGS.values())))[2]
    for option in OPTIONS.values():
        assert len(re.findall(rf"^  (?:-\w, )?{option.opts[-1]}(?=\s)", listed, re.MULTILINE)) == 1, option.name
    joined = re.sub(r"\s+", "", text)
    assert all(name in joined for name in get_args(Format))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--speakers 0", "--speakers is '0': write a number from 1 to 100."),
        ("--speakers two", "--speakers is 'two': write a number from 1 to 100."),
        (
            "--min-speakers 4 --max-speakers 2",
            "--min-speakers (4) is over --max-speakers (2): change one of them.",
        ),
        ("--speaker-wait soon", "--speaker-wait is 'soon': write auto, or a number of seconds."),
        ("--speaker-chunk-seconds 5", "--speaker-chunk-seconds is '5': write a number from 10 to 3600."),
        ("--diarizer nemo", "--diarizer is 'nemo': write ge2e, pyannote or onnx."),
        ("--prompt min_speakers --beam-size 0", "--beam-size is '0': write a number from 1 to 20."),
        (
            "--speaker-names Ann --speaker-names Bob=b.wav",
            "--speaker-names is 'Ann, Bob=b.wav': write NAME=CLIP, once for each person, with a NAME that nobody else "
            "has and that does not begin with SPEAKER_.",
        ),
        (
            "--speaker-names A=a.wav --speaker-names A=b.wav",
            "--speaker-names is 'A=a.wav, A=b.wav': write NAME=CLIP, once for each person, with a NAME that nobody "
            "else has and that does not begin with SPEAKER_.",
        ),
        ("--no-diarize --speakers 2", "--speakers has no meaning with --no-diarize: leave one of them out."),
        (
            "--no-diarize --formats rttm",
            "--formats rttm holds speakers only, and --no-diarize asks for none: change one of them.",
        ),
        (
            "--speaker-wait 30",
            "--speaker-wait has no meaning without --allow-gaps, which lets the text do without speakers.",
        ),
        (
            "--speakers 2 --max-speakers 3",
            "--speakers is the exact number, so it leaves no room for --min-speakers and --max-speakers.",
        ),
    ],
)
def test_a_wrong_option_of_the_speakers_is_one_sentence(tmp_path: Path, arguments: str, sentence: str) -> None:
    with pytest.raises(OptionError) as refused:
        requests(tmp_path, *arguments.split())
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ("--diarizer ge2e --diarizer-model m", OptionError, r"The diarizer ge2e has its one model inside"),
        ("--diarizer onnx", OptionError, r"The diarizer onnx brings no models"),
        ("--diarizer onnx --diarizer-model /none", ModelError, r"There is no model folder '/none'"),
        (
            "--speaker-names Ann=/none.wav",
            MediaError,
            r"The reference clip of Ann: '/none\.wav' does not exist on this machine: check the path\.",
        ),
        ("--speaker-names Ann=README.md", MediaError, r"The reference clip of Ann: .*README\.md"),
        ("--speaker-names Ann=ftp://host/a.wav", MediaError, r"The reference clip of Ann: 'ftp://host/a\.wav' is no"),
    ],
)
def test_what_diarization_lacks_is_told_before_a_server_is_started(
    tmp_path: Path, arguments: str, kind: type[WhisperfleetError], sentence: str
) -> None:
    with pytest.raises(kind, match=f"^{sentence}"):
        requests(tmp_path, *arguments.split())


def test_hints_names_and_clips_reach_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEMO.parent)
    job = requests(tmp_path, "--min-speakers", "2", "--max-speakers", "4", "--speaker-names", "Dr. Ann=demo.flac")[
        0
    ].job
    assert (job.min_speakers, job.max_speakers, job.diarize) == (2, 4, True)
    assert job.speaker_names == {"Dr. Ann": str(DEMO)}, "workers run elsewhere: a path must be whole"


def test_the_options_of_the_speakers_are_those_of_the_messages() -> None:
    assert set(OPTIONS) >= SPEAKER_OPTIONS


def test_the_help_of_a_worker_names_every_task_type_once() -> None:
    text = worker.get_help(click.Context(worker, info_name="worker", terminal_width=80))
    listed = re.findall(r"^ +(?:words|speakers|media) +(\S+)$", text, re.MULTILINE)
    assert sorted(",".join(listed).split(",")) == sorted(ALL_TASKS)
