"""Synthetic conversations whose speakers are known to the millisecond: what diarization is measured on.

The voices are flite's four recorded ones and, for a fifth and a sixth person, one man and one woman of espeak-ng.
Not more of espeak's: its voices differ in pitch and filter alone, and a speaker encoder takes them for one person.
"""

from benchmarks.speech import Script


def conversation(speakers: int, seed: int = 1, seconds: float = 300) -> Script:
    """`speakers` people (1 to 6) take turns of one to four sentences, 0.1 to 0.6 s apart, never at once.

    Their levels lie within 8 dB of each other, over a noise of -55 dBFS. The truth of the recording has one
    turn for each sentence, from its first sound to its last.
    """
    return Script(
        seconds=seconds,
        speakers=speakers,
        seed=seed,
        pause_s=(0.1, 0.6),
        long_gap=0.0,
        noise_db=-55.0,
        level_db=(-9.0, -1.0),
        voices="distinct",
    )
