"""The engine's seat, on a clock of its own."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from workers.errors import DeadlineExceeded
from workers.messages import RecognizeOptions
from workers.recognizers import Audio, DecodeSettings, Recognition
from workers.seat import FIRST_LEAD_SECONDS, LONGEST_LEAD_SECONDS, EngineSeat
from workers.spans import Span

OPTIONS = RecognizeOptions(model="demo")
MINUTE = np.zeros(60 * 16_000, np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Engine:
    """Takes seconds_a_step for each tenth of the audio."""

    clock: Clock
    engine: str
    model: str
    seconds_a_step: float = 1.0
    seen: Callable[[], None] = lambda: None

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition:
        for step in range(10):
            wanted()
            self.clock.now += self.seconds_a_step
            progress((step + 1) / 10)
            self.seen()
        return Recognition((), "en")

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        return {"en": 1.0}


def run(seat: EngineSeat, options: RecognizeOptions = OPTIONS) -> None:
    seated = seat.take(options)
    finished = False
    try:
        seated.recognize(MINUTE, [], options, DecodeSettings(), lambda: None, lambda _: None)
        finished = True
    finally:
        seat.leave(finished)


def test_a_model_is_loaded_once_and_swapped_when_another_is_asked_for() -> None:
    loaded: list[tuple[str, str]] = []
    clock = Clock()

    def load(engine: str, model: str) -> Engine:
        loaded.append((engine, model))
        return Engine(clock, engine, model)

    seat = EngineSeat(load, clock)
    seat.warm("faster-whisper", "demo")
    run(seat)
    run(seat)
    run(seat, RecognizeOptions(model="tiny"))
    assert loaded == [("faster-whisper", "demo"), ("faster-whisper", "tiny")]


def test_speed_is_learnt_and_tells_when_to_fetch_ahead() -> None:
    clock = Clock()
    ahead: list[tuple[float, bool]] = []
    engine = Engine(clock, "faster-whisper", "demo")
    seat = EngineSeat(lambda *_: engine, clock)
    assert not seat.may_fetch_ahead()  # nobody sits
    run(seat)
    assert seat.rtfx == pytest.approx(6.0)
    began = clock.now
    engine.seen = lambda: ahead.append((clock.now - began, seat.may_fetch_ahead()))
    run(seat)
    assert ahead == [(s, 10 - s <= FIRST_LEAD_SECONDS) for s in range(1, 11)]


def test_the_next_chunk_is_fetched_as_much_ahead_as_the_last_one_took_to_be_ready() -> None:
    seat = EngineSeat(lambda *_: Engine(Clock(), "faster-whisper", "demo"), Clock())
    seat.prepared(0.0)
    quick = seat.lead_seconds
    seat.prepared(2.0)
    assert seat.lead_seconds == pytest.approx(quick + 6.0)
    seat.prepared(600.0)
    assert seat.lead_seconds == LONGEST_LEAD_SECONDS


def test_before_any_speed_is_known_progress_tells() -> None:
    clock = Clock()
    ahead: list[bool] = []
    engine = Engine(clock, "faster-whisper", "demo")
    engine.seen = lambda: ahead.append(seat.may_fetch_ahead())
    seat = EngineSeat(lambda *_: engine, clock)
    run(seat)
    assert ahead == [False] * 7 + [True] * 3


def test_an_overdue_chunk_is_stopped_and_its_speed_forgotten() -> None:
    clock = Clock()
    seat = EngineSeat(lambda *_: Engine(clock, "faster-whisper", "demo", seconds_a_step=100_000), clock)
    with pytest.raises(DeadlineExceeded, match="60 s of audio"):
        run(seat)
    assert seat.rtfx is None
    assert seat.remaining_seconds() is None


def test_one_sits_at_a_time() -> None:
    clock = Clock()
    seat = EngineSeat(lambda *_: Engine(clock, "faster-whisper", "demo"), clock)
    seat.take(OPTIONS)
    got = threading.Event()
    waiter = threading.Thread(target=lambda: (seat.take(OPTIONS), got.set(), seat.leave(False)))  # type: ignore[func-returns-value]
    waiter.start()
    assert not got.wait(0.05)
    seat.leave(False)
    assert got.wait(5)
    waiter.join(5)


def test_a_seat_whose_model_does_not_load_is_free_again() -> None:
    def broken(engine: str, model: str) -> Engine:
        raise OSError("no such file")

    seat = EngineSeat(broken, Clock())
    for _ in range(2):
        with pytest.raises(OSError, match="no such file"):
            seat.take(OPTIONS)
