"""openai-whisper: the reference implementation, on torch, one window after the other. Extra `openai`."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from workers.errors import EngineError, OptionError, WhisperfleetError
from workers.messages import RecognizeOptions
from workers.models import no_openai
from workers.recognizers import Audio, DecodeSettings, Recognition
from workers.recognizers.memory import is_out_of_memory
from workers.recognizers.tidy import Heard, HeardWord, tidy
from workers.recognizers.windows import plan_windows
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span

log = logging.getLogger(__name__)


class OpenAIWhisper:
    """One loaded model of openai-whisper.

    It gets the same windows of speech as the other engine and not the whole chunk: the library has no
    voice detection, loops over silence, and cannot be stopped or watched inside a call.
    """

    engine = "openai-whisper"

    def __init__(self, model: str, name_or_file: str, device: str, device_index: int, threads: int) -> None:
        try:
            import torch
            import whisper
        except ImportError as error:
            raise no_openai() from error
        self.model = model
        self._torch = torch
        if threads:
            torch.set_num_threads(threads)
        self._device = _device(torch, device, device_index)
        self._model = whisper.load_model(name_or_file, device=self._device)

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
        heard: list[Heard] = []
        try:
            language = options.language or self._detect(audio, speech)
            windows = plan_windows(audio, speech)
            for at, window in enumerate(windows):
                wanted()
                heard += self._hear(audio, window, options, settings, language)
                progress((at + 1) / len(windows))
        except WhisperfleetError:
            raise
        except Exception as error:  # whatever torch throws is this chunk's failure, not the worker's
            if is_out_of_memory(error):
                raise EngineError(
                    f"The device's memory does not hold the model {self.model} at work: take a smaller --model."
                ) from error
            raise EngineError(f"openai-whisper failed on this chunk: {error or type(error).__name__}.") from error
        return Recognition(tidy(heard, audio_ms), language)

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        if not self._model.is_multilingual:
            return {"en": 1.0}
        import whisper

        window = whisper.pad_or_trim(np.ascontiguousarray(audio[: 30 * SAMPLE_RATE]))
        mel = whisper.log_mel_spectrogram(window, self._model.dims.n_mels).to(self._device)
        return {str(code): float(share) for code, share in self._model.detect_language(mel)[1].items()}

    def _detect(self, audio: Audio, speech: Sequence[Span]) -> str:
        voiced = [audio[span.start_ms * SAMPLES_PER_MS : span.end_ms * SAMPLES_PER_MS] for span in speech]
        votes = self.language_probabilities(np.concatenate(voiced))
        return max(votes, key=lambda language: votes[language])

    def _hear(
        self, audio: Audio, window: Span, options: RecognizeOptions, settings: DecodeSettings, language: str
    ) -> list[Heard]:
        self._torch.manual_seed(0)  # temperatures above 0 sample: the same audio gives the same text in any process
        found: dict[str, Any] = self._model.transcribe(
            audio[window.start_ms * SAMPLES_PER_MS : window.end_ms * SAMPLES_PER_MS],
            language=language,
            task=options.task,
            beam_size=options.beam_size if settings.temperatures[0] == 0 else None,
            temperature=settings.temperatures,
            initial_prompt=options.prompt,
            word_timestamps=options.word_timestamps,
            condition_on_previous_text=False,
            fp16=self._device.startswith("cuda"),
            verbose=None,
        )
        offset = window.start_ms / 1000
        return [
            Heard(
                offset + float(segment["start"]),
                offset + float(segment["end"]),
                str(segment["text"]),
                tuple(
                    HeardWord(
                        offset + float(word["start"]),
                        offset + float(word["end"]),
                        str(word["word"]),
                        float(word["probability"]),
                    )
                    for word in segment.get("words", ())
                ),
            )
            for segment in found["segments"]
        ]


def _device(torch: Any, device: str, device_index: int) -> str:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and torch.cuda.device_count() > device_index else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available() or torch.cuda.device_count() <= device_index:
            raise OptionError(f"There is no GPU {device_index} that torch can use here: take --device cpu.")
        return f"cuda:{device_index}"
    if device != "cpu":
        raise OptionError(f"There is no device '{device}': take auto, cpu or cuda.")
    return "cpu"
