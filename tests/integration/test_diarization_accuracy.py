"""The default diarizer on recordings whose speakers are known, and the same answer however the work is divided.

DER is without a collar or with 250 ms on each side of every end of a true turn; nobody speaks at once in these
recordings, so how overlap is scored does not matter.
"""

import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.speaker_scoring import SaidWord, diarization_error, speaker_word_error, word_diarization_error
from benchmarks.speech import Recorded, Script, Sentence, conversation
from tests.conftest import Studio
from tests.support.services import absent, require
from workers.attribution import attribute
from workers.diarizers import Clustered, Pcm, Windows
from workers.diarizers.ge2e import Ge2e
from workers.diarizers.grid import count_windows, owned, reach
from workers.diarizers.packing import joined, pack, unpack
from workers.messages import SpeakerHints
from workers.spans import SAMPLE_RATE, Span
from workers.transcript import Segment, SpeakerTurn, Word
from workers.voice import SpeechStream

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Heard:
    """A recording, and what the undivided one gives."""

    recorded: Recorded
    audio: Pcm
    speech: tuple[Span, ...]
    windows: Windows
    found: Clustered


Listen = Callable[[Script], Heard]


@pytest.fixture(scope="module")
def ge2e() -> Ge2e:
    return Ge2e()


@pytest.fixture(scope="module")
def listen(studio: Studio, ge2e: Ge2e) -> Listen:
    """A conversation, heard once in this run."""
    done: dict[Script, Heard] = {}

    def heard(script: Script) -> Heard:
        if script not in done:
            done[script] = whole(ge2e, studio.recording(script))
        return done[script]

    return heard


def whole(ge2e: Ge2e, recorded: Recorded) -> Heard:
    audio = soundfile.read(recorded.path, dtype="int16")[0]
    stream = SpeechStream()
    stream.feed(audio)
    speech = tuple(stream.finish())
    windows = ge2e.hear(audio, range(count_windows(len(audio), ge2e.spec)), go_on)
    return Heard(recorded, audio, speech, windows, cluster(ge2e, windows, speech, recorded.duration_ms))


def cluster(ge2e: Ge2e, windows: Windows, speech: Sequence[Span], duration_ms: int) -> Clustered:
    return ge2e.cluster(windows, speech, duration_ms, SpeakerHints(), go_on)


def go_on() -> None:
    """Nothing stops the work here."""


def named(found: Clustered) -> list[SpeakerTurn]:
    return [SpeakerTurn(start_ms=turn.start_ms, end_ms=turn.end_ms, speaker=str(turn.cluster)) for turn in found.turns]


# ---- accuracy ----

TALK = conversation(speakers=4, seed=2, seconds=150)
CONVERSATIONS = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (6, 1), (6, 2)]


@pytest.mark.parametrize(("speakers", "seed"), CONVERSATIONS)
def test_planted_speakers_are_counted_and_told_apart(speakers: int, seed: int, listen: Listen) -> None:
    heard = listen(conversation(speakers, seed))
    exact = diarization_error(heard.recorded.truth, named(heard.found))
    near = diarization_error(heard.recorded.truth, named(heard.found), collar_ms=250)
    print(f"{speakers} speakers, seed {seed}: {exact}; at +-0.25 s {near}")
    assert heard.found.diagnostics["speakers_found"] == heard.found.diagnostics["speakers"] == speakers
    assert heard.found.warnings == ()
    assert exact.rate <= 0.06
    assert exact.confusion_rate <= 0.015
    assert near.rate <= 0.01


@pytest.mark.parametrize(("speakers", "seed"), CONVERSATIONS)
def test_true_words_are_given_to_who_said_them(speakers: int, seed: int, listen: Listen) -> None:
    """Words as an engine without error would have them, in segments that know nothing of speakers."""
    heard = listen(conversation(speakers, seed))
    said = heard.recorded.truth
    segments = [segment_of(said[first : first + 3]) for first in range(0, len(said), 3)]
    words = [word for segment in attribute(segments, named(heard.found)) for word in segment.words]
    truth = [SaidWord(word, sentence.speaker) for sentence in said for word in sentence.text.split()]
    given = [SaidWord(word.text, word.speaker) for word in words]
    print(f"WDER {word_diarization_error(truth, given):.2%}, cpWER {speaker_word_error(truth, given):.2%}")
    assert word_diarization_error(truth, given) <= 0.01
    assert speaker_word_error(truth, given) <= 0.02  # such a word is missing with one and too much with another
    assert all(word.speaker for word in words)


def segment_of(sentences: Sequence[Sentence]) -> Segment:
    """A segment of several sentences; within each, time goes by letters."""
    words = []
    for sentence in sentences:
        texts = sentence.text.split()
        ends = np.cumsum([0] + [len(text) for text in texts])
        times = sentence.start_ms + ends * (sentence.end_ms - sentence.start_ms) // ends[-1]
        words += [
            Word(start_ms=int(start), end_ms=int(end), text=text, probability=1)
            for text, (start, end) in zip(texts, pairwise(times), strict=True)
        ]
    text = " ".join(sentence.text for sentence in sentences)
    return Segment(start_ms=sentences[0].start_ms, end_ms=sentences[-1].end_ms, text=text, words=tuple(words))


def test_the_scoring_agrees_with_pyannote_metrics_on_real_turns(listen: Listen) -> None:
    """Whose collar is the whole width."""
    try:
        from pyannote.core import Annotation, Segment, Timeline
        from pyannote.metrics.diarization import DiarizationErrorRate
    except ImportError:
        absent("needs pyannote.metrics: pip install '.[test]'")

    def annotation(turns: Sequence[SpeakerTurn]) -> Annotation:
        made = Annotation()
        for number, turn in enumerate(turns):
            made[Segment(turn.start_ms / 1000, turn.end_ms / 1000), number] = turn.speaker
        return made

    heard = listen(TALK)
    truth = [
        SpeakerTurn(start_ms=said.start_ms, end_ms=said.end_ms, speaker=said.speaker) for said in heard.recorded.truth
    ]
    everything = Timeline([Segment(0, heard.recorded.duration_ms / 1000)])
    for collar_ms in (0, 250):
        metric = DiarizationErrorRate(collar=2 * collar_ms / 1000)
        theirs = metric(annotation(truth), annotation(named(heard.found)), uem=everything)
        assert diarization_error(truth, named(heard.found), collar_ms).rate == pytest.approx(theirs, abs=1e-6)


# ---- however the work is divided ----


def chunks_of(ge2e: Ge2e, heard: Heard, chunk_seconds: int) -> list[Windows]:
    """What diarizing workers make of the recording, as it travels: each from its own stretch of samples only."""
    count = -(-len(heard.audio) // (chunk_seconds * SAMPLE_RATE))
    total = count_windows(len(heard.audio), ge2e.spec)
    parts = []
    for index in range(count):
        first, stop = owned(index, count, chunk_seconds, ge2e.spec)
        start, end = reach(first, stop, ge2e.spec)
        mine = range(first, min(total if stop is None else stop, total))
        parts.append(unpack(pack(ge2e.hear(heard.audio[start:end], mine, go_on))))
    return parts


def assert_same(one: Clustered, other: Clustered) -> None:
    """To the last bit of every number."""
    assert replace(one, centroids=other.centroids) == other
    assert one.centroids.tobytes() == other.centroids.tobytes()


def same(one: Clustered, other: Clustered) -> bool:
    return one.turns == other.turns and one.centroids.tobytes() == other.centroids.tobytes()


@pytest.mark.parametrize("chunk_seconds", [150, 60, 37, 11])
def test_no_division_changes_a_bit(chunk_seconds: int, ge2e: Ge2e, listen: Listen) -> None:
    heard = listen(TALK)
    parts = chunks_of(ge2e, heard, chunk_seconds)
    again = parts + parts[:2]  # a task that ran twice
    random.Random(chunk_seconds).shuffle(again)
    windows = joined(again)
    assert windows.embedding.tobytes() == heard.windows.embedding.tobytes()
    assert_same(cluster(ge2e, windows, heard.speech, heard.recorded.duration_ms), heard.found)


def test_a_chunk_that_is_lost_costs_its_own_time_only(ge2e: Ge2e, listen: Listen) -> None:
    heard = listen(TALK)
    lost = Span.of(50_000, 75_000)
    parts = chunks_of(ge2e, heard, 25)
    found = cluster(ge2e, joined(parts[:2] + parts[3:]), heard.speech, heard.recorded.duration_ms)
    assert found.diagnostics["speakers"] == 4
    unheard = Span.of(lost.start_ms + 2000, lost.end_ms)
    assert all(not turn.span.overlap_ms(unheard) for turn in named(found))

    def away(turns: Sequence[SpeakerTurn]) -> list[SpeakerTurn]:
        return [turn for turn in turns if turn.end_ms < 45_000 or turn.start_ms > 80_000]

    assert diarization_error(away(named(heard.found)), away(named(found))).rate < 0.01


# ---- and what would change it, so that these tests can fail ----


def test_chunks_without_a_margin_lose_windows(ge2e: Ge2e, listen: Listen) -> None:
    """Cut like a transcription's chunks, each chunk lacks the windows that reach over its end."""
    heard = listen(TALK)
    length = 37 * SAMPLE_RATE
    parts = []
    for start in range(0, len(heard.audio), length):
        stop = min(start + length, len(heard.audio))
        first = -(-start // ge2e.spec.step)
        fitting = range(first, (stop - ge2e.spec.window) // ge2e.spec.step + 1)
        parts.append(ge2e.hear(heard.audio[first * ge2e.spec.step : stop], fitting, go_on))
    windows = joined(parts)
    assert len(windows.index) < len(heard.windows.index)
    assert not same(cluster(ge2e, windows, heard.speech, heard.recorded.duration_ms), heard.found)


def test_people_linked_from_chunk_to_chunk_are_not_those_of_the_whole(ge2e: Ge2e, listen: Listen) -> None:
    """Clustered by chunk and then linked by the nearest voice so far, the usual way round the problem."""
    heard = listen(TALK)
    voices: list[np.ndarray] = []
    turns: list[SpeakerTurn] = []
    for part in chunks_of(ge2e, heard, 37):
        found = cluster(ge2e, part, speech_within(heard, part, ge2e), heard.recorded.duration_ms)
        names = []
        for centroid in found.centroids:
            likeness = [float(centroid @ voice) for voice in voices]
            if not likeness or max(likeness) < ge2e.same_person:
                likeness.append(1.0)
                voices.append(centroid)
            names.append(str(int(np.argmax(likeness))))
        turns += [
            SpeakerTurn(start_ms=turn.start_ms, end_ms=turn.end_ms, speaker=names[turn.cluster]) for turn in found.turns
        ]
    linked = diarization_error(heard.recorded.truth, turns)
    whole = diarization_error(heard.recorded.truth, named(heard.found))
    print(f"linked: {len(voices)} voices, {linked}; whole: {len(heard.found.centroids)}, {whole}")
    assert linked.rate > whole.rate + 0.01
    assert linked.confusion_rate > 0.015, "more than is allowed above"
    assert sorted((turn.start_ms, turn.end_ms) for turn in turns) != [
        (turn.start_ms, turn.end_ms) for turn in heard.found.turns
    ]


def speech_within(heard: Heard, part: Windows, ge2e: Ge2e) -> list[Span]:
    """The speech that is this chunk's alone: up to where the next one's first window begins."""
    step_ms = ge2e.spec.step * 1000 // SAMPLE_RATE
    start, end = int(part.index[0]) * step_ms, (int(part.index[-1]) + 1) * step_ms
    cut = [(max(region.start_ms, start), min(region.end_ms, end)) for region in heard.speech]
    return [Span.of(*edges) for edges in cut if edges[0] < edges[1]]


def test_chunks_that_ffmpeg_seeks_are_not_those_of_the_whole(ge2e: Ge2e, studio: Studio, tmp_path: Path) -> None:
    """A worker that cuts and resamples its own stretch out of the media gets other samples than the whole has."""
    require("ffmpeg")
    recorded = studio.recording(Script(seconds=60, speakers=2, seed=3))
    media = tmp_path / "talk.mp3"
    ffmpeg("-i", str(recorded.path), "-ar", "44100", "-b:a", "128k", str(media))
    audio = decoded(media, tmp_path / "whole.wav")
    total = count_windows(len(audio), ge2e.spec)
    apart = []
    for index in range(3):
        first, stop = owned(index, 3, 20, ge2e.spec)
        start, end = reach(first, stop, ge2e.spec)
        seek = ["-ss", str(start / SAMPLE_RATE)]
        mine = decoded(media, tmp_path / f"{index}.wav", *seek)[: None if end is None else end - start]
        apart.append(ge2e.hear(mine, range(first, min(total if stop is None else stop, total)), go_on))
    whole_windows = ge2e.hear(audio, range(total), go_on)
    windows = joined(apart)
    assert windows.index.tolist() == whole_windows.index.tolist()
    assert windows.embedding.tobytes() != whole_windows.embedding.tobytes()


def decoded(media: Path, into: Path, *seek: str) -> Pcm:
    ffmpeg(*seek, "-i", str(media), "-ar", str(SAMPLE_RATE), "-ac", "1", str(into))
    samples: Pcm = soundfile.read(into, dtype="int16")[0]
    return samples


def ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True)
