"""faster-whisper: Whisper on CTranslate2, many windows at once or one after the other.

What the library would silently do otherwise, and what is done about it:
* batched, it hears only the first of several temperatures: passes with more go one after the other;
* batched, it drops the sentence that a window's end cuts off: it is heard again (windows.py);
* batched, it ignores conditioning and thresholds: nothing is ever conditioned here, in either mode;
* a word's time depends on which windows shared its batch: the pipeline is told where speech last
  ended, so that any batch size gives the same words.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workers.errors import EngineError, WhisperfleetError
from workers.messages import RecognizeOptions
from workers.models import folder_bytes
from workers.recognizers import Audio, DecodeSettings, Recognition
from workers.recognizers.memory import batch_for, in_batches
from workers.recognizers.tidy import Heard, HeardWord, tidy
from workers.recognizers.windows import plan_windows, unheard_tail, voiced_stretches
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span

log = logging.getLogger(__name__)

TIMESTAMP_STEP_MS = 20  # one time stamp token of Whisper


class FasterWhisper:
    """One loaded model in either mode; `engine` says which."""

    def __init__(
        self, engine: str, model: str, folder: Path, device: str, device_index: int, threads: int, compute_type: str
    ) -> None:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        self.engine = engine
        self.model = model
        self._model = WhisperModel(
            str(folder), device=device, device_index=device_index, compute_type=compute_type, cpu_threads=threads
        )
        self._pipeline = BatchedInferencePipeline(self._model)
        self._batch = batch_for(device, device_index, folder_bytes(folder))
        self._first_timestamp: int = int(self._model.hf_tokenizer.token_to_id("<|notimestamps|>")) + 1

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition:
        audio_ms = len(audio) // SAMPLES_PER_MS
        if not speech:
            progress(1.0)
            return Recognition((), options.language)
        try:
            language = options.language or self._detect(audio, speech)
            arguments = _arguments(options, settings, language)
            if self.engine == "faster-whisper" and not settings.one_by_one and len(settings.temperatures) == 1:
                windows = plan_windows(audio, speech)
                heard = self._batched(audio, windows, speech, arguments, options.batch_size, wanted, progress)
            else:
                heard = self._sequential(audio, voiced_stretches(audio, speech), arguments, settings, wanted, progress)
        except WhisperfleetError:
            raise
        except Exception as error:  # whatever the engine's native code throws is this chunk's failure, not the worker's
            raise EngineError(f"{self.engine} failed on this chunk: {error or type(error).__name__}.") from error
        return Recognition(tidy(heard, audio_ms), language)

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        if not self._model.model.is_multilingual:
            return {"en": 1.0}
        found = self._model.detect_language(audio=audio[: 30 * SAMPLE_RATE])[2]
        return {str(language): float(probability) for language, probability in found}

    def _detect(self, audio: Audio, speech: Sequence[Span]) -> str:
        """The language of the first half minute of speech."""
        voiced = [audio[span.start_ms * SAMPLES_PER_MS : span.end_ms * SAMPLES_PER_MS] for span in speech]
        votes = self.language_probabilities(np.concatenate(voiced))
        return max(votes, key=lambda language: votes[language])

    def _batched(
        self,
        audio: Audio,
        windows: Sequence[Span],
        speech: Sequence[Span],
        arguments: dict[str, Any],
        batch_size: int | None,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> list[Heard]:
        heard: list[Heard] = []
        size = batch_size or self._batch
        done, total = 0, sum(window.duration_ms for window in windows)
        last_end = 0.0

        def hear(batch: Sequence[Span]) -> list[list[Any]]:
            nonlocal done, last_end
            wanted()
            by_window = self._hear(audio, batch, arguments, last_end)
            last_end = next((found[-1].end for found in reversed(by_window) if found), last_end)
            done += sum(window.duration_ms for window in batch)
            progress(min(0.99, done / total))
            return by_window

        todo = list(windows)
        while todo:
            found, size = in_batches(todo, size, hear)
            tails: list[Span] = []
            for window, segments in zip(todo, found, strict=True):
                heard += [self._heard(segment, window.start_ms) for segment in segments]
                tail = unheard_tail(window, self._heard_until(window, segments), speech)
                tails += [tail] if tail else []
            total += sum(tail.duration_ms for tail in tails)
            todo = tails
        progress(1.0)
        return heard

    def _hear(self, audio: Audio, batch: Sequence[Span], arguments: dict[str, Any], last_end: float) -> list[list[Any]]:
        """The library's segments of each window of a batch."""
        self._pipeline.last_speech_timestamp = last_end
        clips = [{"start": window.start_ms / 1000, "end": window.end_ms / 1000} for window in batch]
        segments, _ = self._pipeline.transcribe(
            audio, clip_timestamps=clips, batch_size=len(clips), without_timestamps=False, **arguments
        )
        by_window: list[list[Any]] = [[] for _ in batch]
        seeks = {_seek(clip["start"]): at for at, clip in enumerate(clips)}
        for segment in segments:
            by_window[seeks[segment.seek]].append(segment)
        return by_window

    def _heard_until(self, window: Span, segments: Sequence[Any]) -> int:
        """Where the model closed its last sentence; the window's end where it did not say."""
        if not segments:
            return window.start_ms
        closed = self._stamp_ms(segments[-1].tokens[-1])
        return window.end_ms if closed is None else window.start_ms + closed

    def _heard(self, segment: Any, window_ms: int) -> Heard:
        """The segment between the model's own time stamps.

        The library moves a segment's ends to those of its words; so they would depend on whether words
        are asked for, and be no better than the model's alignment heads, which a small model may lack.
        """
        start, end = self._stamp_ms(segment.tokens[0]), self._stamp_ms(segment.tokens[-1])
        words: Iterable[Any] = segment.words or ()
        return Heard(
            segment.start if start is None else (window_ms + start) / 1000,
            segment.end if end is None else (window_ms + end) / 1000,
            segment.text,
            tuple(HeardWord(word.start, word.end, word.word, word.probability) for word in words),
        )

    def _stamp_ms(self, token: int) -> int | None:
        """Milliseconds into the window that a time stamp token says; None for a text token."""
        return (token - self._first_timestamp) * TIMESTAMP_STEP_MS if token >= self._first_timestamp else None

    def _sequential(
        self,
        audio: Audio,
        stretches: Sequence[Span],
        arguments: dict[str, Any],
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> list[Heard]:
        clips = [second for span in stretches for second in (span.start_ms / 1000, span.end_ms / 1000)]
        segments, _ = self._model.transcribe(
            audio,
            clip_timestamps=clips,
            condition_on_previous_text=False,
            **{**arguments, "temperature": list(settings.temperatures)},
        )
        heard = []
        wanted()
        for segment in segments:
            heard.append(self._heard(segment, segment.seek * 10))  # seek: the window's first frame
            progress(min(0.99, segment.end * SAMPLE_RATE / len(audio)))
            wanted()
        progress(1.0)
        return heard


def _seek(start: float) -> int:
    """How the library names a window that begins at `start` seconds: its frame, by way of its sample."""
    return int(int(start * SAMPLE_RATE) / SAMPLE_RATE * 100)


def _arguments(options: RecognizeOptions, settings: DecodeSettings, language: str) -> dict[str, Any]:
    """What both modes of the library are asked for."""
    return {
        "language": language,
        "task": options.task,
        "beam_size": options.beam_size,
        "temperature": settings.temperatures[0],
        "repetition_penalty": settings.repetition_penalty,
        "no_repeat_ngram_size": settings.no_repeat_ngram_size,
        "word_timestamps": options.word_timestamps,
        "initial_prompt": options.prompt,
        "hotwords": options.hotwords,
    }
