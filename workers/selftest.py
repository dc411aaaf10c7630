"""Whether this machine computes rightly, and how fast: `python -m workers.selftest MODEL [--needs-gpu]`.

A process of its own, as a broken driver takes down or hangs whoever asks it. Prints one line of JSON. It transcribes
the packaged recording with the packaged model, whose words are known; then it measures the wanted model by a fixed
amount of work (windows of half a minute, so many tokens each), the same whatever the model makes of the sound.
"""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import models
from workers.errors import EngineError, WhisperfleetError, one_line

WORDS_RIGHT = 0.9  # of the known words: batched the model makes no error, and arithmetic differs a little by machine
GPU_WINDOWS, CPU_WINDOWS = 16, 1
WINDOW_SECONDS = 30
TOKENS = 96  # a window: at three a second what speech of usual speed takes
BEAM = 5
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_DEVICE = Path("/dev/nvidia0")


@dataclass(frozen=True)
class Report:
    """What came of it. rtfx: audio seconds per second of the wanted model; demo_rtfx: of the packaged one.

    words_right: share of the known words that were heard, in order. gpu: name as the driver tells it, "" without one.
    """

    ok: bool
    reason: str = ""
    device: str = "cpu"
    gpu: str = ""
    gpu_memory_mb: int | None = None
    driver: str = ""
    words_right: float | None = None
    demo_rtfx: float | None = None
    rtfx: float | None = None
    seconds: float = 0.0

    def encode(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print; the one line is not to be among theirs
    report = run(sys.argv[1], "--needs-gpu" in sys.argv[2:])
    output.write(report.encode() + "\n")
    output.flush()


def run(model: str, needs_gpu: bool) -> Report:
    """Never raises for what is wrong with the machine: that is its result."""
    began = time.monotonic()
    facts = gpu_facts()
    found: dict[str, Any] = dict(facts)
    try:
        found |= _try_out(model, needs_gpu or bool(facts) or _DEVICE.exists())
        reason = ""
    except WhisperfleetError as error:
        reason = str(error)
    except Exception as error:  # a driver or library that is broken in whatever way: this machine is of no use
        reason = f"{type(error).__name__}: {one_line(error)}"
    if not reason and found["words_right"] < WORDS_RIGHT:
        reason = f"it heard {found['words_right']:.0%} of the known words: it does not compute rightly"
    return Report(ok=not reason, reason=reason, seconds=round(time.monotonic() - began, 1), **found)


def _try_out(model: str, needs_gpu: bool) -> dict[str, Any]:
    import ctranslate2

    gpus = int(ctranslate2.get_cuda_device_count())
    if needs_gpu and not gpus:
        raise EngineError("it has or needs a GPU, and CTranslate2 can use none")
    device = "cuda" if gpus else "cpu"
    right, demo_rtfx = _transcribe_demo(device)
    rtfx = demo_rtfx if model == models.DEMO else measure(model, device)
    return {"device": device, "words_right": right, "demo_rtfx": demo_rtfx, "rtfx": rtfx}


def gpu_facts() -> dict[str, Any]:
    """Of the first GPU, by the driver's own program; empty where there is none or it does not answer."""
    try:
        said = subprocess.run(_SMI, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    name, memory, driver, *_ = [*(part.strip() for part in said.partition("\n")[0].split(",")), "", "", ""]
    if not name:
        return {}
    return {"gpu": name, "gpu_memory_mb": int(memory) if memory.isdigit() else None, "driver": driver}


def _transcribe_demo(device: str) -> tuple[float, float]:
    """The share of the known words that are heard, and audio seconds per second."""
    from workers.messages import RecognizeOptions
    from workers.recognizers import DecodeSettings
    from workers.recognizers.loading import load
    from workers.recognizers.windows import speech_of

    audio = _demo_audio()
    recognizer = load("faster-whisper", models.DEMO, device)
    options = RecognizeOptions(engine="faster-whisper", model=models.DEMO, language="en")
    began = time.monotonic()
    found = recognizer.recognize(audio, speech_of(audio), options, DecodeSettings(), lambda: None, lambda share: None)
    seconds = max(time.monotonic() - began, 1e-3)
    truth = json.loads(models.demo_recording().with_suffix(".json").read_text(encoding="utf-8"))
    heard = " ".join(segment.text for segment in found.segments)
    known = " ".join(segment["text"] for segment in truth["segments"])
    return share_heard(known, heard), round(len(audio) / 16_000 / seconds, 2)


def _demo_audio() -> NDArray[np.float32]:
    from workers.recording import read_flac

    samples = read_flac(models.demo_recording().read_bytes(), "the packaged recording")
    return (samples / np.float32(32_768)).astype(np.float32)


def share_heard(known: str, heard: str) -> float:
    """The share of the known words that are heard in their order (longest common subsequence), less what is added."""
    wanted, said = (re.findall(r"[a-z']+", text.lower()) for text in (known, heard))
    if not wanted:
        return 0.0
    row = [0] * (len(said) + 1)
    for word in wanted:
        before = 0
        for at, other in enumerate(said, 1):
            before, row[at] = row[at], before + 1 if word == other else max(row[at], row[at - 1])
    return max(0.0, (row[-1] - max(0, len(said) - len(wanted))) / len(wanted))


def measure(model: str, device: str) -> float:
    """Audio seconds per second of the model on this device, all of it kept busy with the same work every time.

    Raises ModelError where it is not here and cannot be fetched.
    """
    from faster_whisper import WhisperModel

    from workers.recognizers.loading import compute_type_for

    folder = Path(models.locate(model, "faster-whisper"))
    whisper = WhisperModel(str(folder), device=device, compute_type=compute_type_for(device, folder))
    windows = GPU_WINDOWS if device == "cuda" else CPU_WINDOWS
    mel = whisper.feature_extractor(_demo_audio()[: WINDOW_SECONDS * 16_000])[:, : WINDOW_SECONDS * 100]
    batch = np.stack([mel] * windows)
    token = whisper.hf_tokenizer.token_to_id
    spoken = ["<|en|>", "<|transcribe|>"] if whisper.model.is_multilingual else []
    prompt = [token(name) for name in ("<|startoftranscript|>", *spoken, "<|notimestamps|>")]
    end = token("<|endoftext|>")
    generate(whisper, batch[:1], prompt, end, 4)  # kernels are compiled and memory is taken at the first
    began = time.monotonic()
    generate(whisper, batch, prompt, end, TOKENS)
    return round(windows * WINDOW_SECONDS / max(time.monotonic() - began, 1e-3), 2)


def generate(whisper: Any, mel: NDArray[np.float32], prompt: list[int], end: int, tokens: int) -> Any:
    """So many tokens for every window: the model may not end one sooner. It writes half of what max_length says."""
    return whisper.model.generate(
        whisper.encode(mel), [prompt] * len(mel), beam_size=BEAM, max_length=2 * tokens, suppress_tokens=[-1, end]
    )


if __name__ == "__main__":
    main()
