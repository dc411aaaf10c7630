"""Which options an engine honours; the others are refused with a sentence, before any work. Imports no engine."""

import difflib

from workers.errors import OptionError
from workers.messages import RecognizeOptions

LANGUAGES = (  # Whisper's own; a test holds them to faster-whisper's list
    *("af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da", "de", "el"),
    *("en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi", "hr", "ht", "hu", "hy"),
    *("id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la", "lb", "ln", "lo", "lt", "lv", "mg", "mi"),
    *("mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru"),
    *("sa", "sd", "si", "sk", "sl", "sn", "so", "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl"),
    *("tr", "tt", "uk", "ur", "uz", "vi", "yi", "yo", "zh", "yue"),
)
_NAMES = {  # what people write instead of a code
    "english": "en", "spanish": "es", "german": "de", "french": "fr", "italian": "it", "portuguese": "pt",
    "dutch": "nl", "russian": "ru", "chinese": "zh", "japanese": "ja", "korean": "ko", "arabic": "ar",
    "hindi": "hi", "polish": "pl", "turkish": "tr", "ukrainian": "uk", "swedish": "sv", "czech": "cs",
}  # fmt: skip
LONGEST_PROMPT = 800  # characters; Whisper hears the last 223 tokens of a prompt, and silently no more


def check_options(options: RecognizeOptions) -> None:
    """Refuse what the engine would ignore, cut or do otherwise.

    Raises OptionError with one sentence about the first thing that is wrong.
    """
    _check_language(options)
    _check_task(options)
    _check_hints(options)
    if options.batch_size is not None and options.engine != "faster-whisper":
        raise OptionError(
            f"--batch-size has no meaning for the engine {options.engine}, which hears one window after the other: "
            "leave it out, or take --engine faster-whisper."
        )


def _check_language(options: RecognizeOptions) -> None:
    language = options.language
    if language is None:
        return
    if language not in LANGUAGES:
        code = _NAMES.get(language)
        close = [code] if code else difflib.get_close_matches(language, LANGUAGES, n=3, cutoff=0.5)
        advice = (
            f"did you mean {' or '.join(close)}?" if close else "write auto, per-chunk or a code such as en, es, de."
        )
        raise OptionError(f"There is no language '{language}'; {advice}")
    if _english_only(options.model) and language != "en":
        raise OptionError(
            f"The model {options.model} knows only English, not '{language}': take {options.model.removesuffix('.en')}."
        )
    if language == "yue" and not _knows_cantonese(options.model):
        raise OptionError(f"The model {options.model} does not know Cantonese (yue): take large-v3 or turbo, or zh.")


def _check_task(options: RecognizeOptions) -> None:
    if options.task != "translate":
        return
    if _english_only(options.model):
        raise OptionError(
            f"The model {options.model} knows only English and cannot translate into it: take a model without .en."
        )
    if "turbo" in options.model or "distil" in options.model:
        raise OptionError(
            f"The model {options.model} was not trained to translate and would write the original: take large-v3."
        )


def _check_hints(options: RecognizeOptions) -> None:
    if options.hotwords and options.engine == "openai-whisper":
        raise OptionError(
            "openai-whisper knows no --hotwords: put the words into --prompt, or take --engine faster-whisper."
        )
    if options.hotwords and options.prompt:
        raise OptionError(
            "--hotwords and --prompt share one place of limited length in the model: put the words into the --prompt."
        )
    for name, text in (("--prompt", options.prompt), ("--hotwords", options.hotwords)):
        if text and len(text) > LONGEST_PROMPT:
            raise OptionError(
                f"{name} has {len(text)} characters and the model would hear a part of it only: "
                f"shorten it to {LONGEST_PROMPT}."
            )


def _english_only(model: str) -> bool:
    return model.endswith(".en")


def _knows_cantonese(model: str) -> bool:
    """Among the published models only those made from large-v3 have the language; of others nobody can tell."""
    older = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "distil-large-v2", "demo")
    return model not in older
