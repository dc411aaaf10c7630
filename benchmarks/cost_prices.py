"""What others ask for an hour of audio, as it was found in print. Pure.

None of these was asked of its maker by this benchmark: prices age fast, most were read in somebody else's article, and
some exclude what this project's figures include. Where two sources disagree both ends are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

GATHERED = "October 2026"
"""When the sources were read; a source's own date, where it gives one, stands with it."""


@dataclass(frozen=True)
class Price:
    """Dollars for an hour of audio, lowest and highest found.

    basis: as the source has it. verified: read on a page of whoever sells it, and not in an article about them.
    """

    service: str
    least_usd: float
    most_usd: float
    basis: str
    source: str
    verified: bool = False

    @property
    def middle_usd(self) -> float:
        return median((self.least_usd, self.most_usd))


PRICES = (
    Price("AWS Transcribe, batch", 1.44, 1.44, "$0.024 a minute, first tier", "privocio.com"),
    Price("Google Chirp 3", 0.96, 0.96, "$0.016 a minute", "apiscout.dev"),
    Price("OpenAI whisper-1", 0.36, 0.36, "$0.006 a minute", "apiscout.dev"),
    Price(
        "Deepgram Nova-3 by Cloudflare", 0.312, 0.312, "$0.0052 a minute", "developers.cloudflare.com", verified=True
    ),
    Price("Deepgram Nova-3, batch", 0.258, 0.258, "$0.0043 a minute", "privocio.com, apiscout.dev"),
    Price(
        "AssemblyAI", 0.15, 0.37, "by the hour; the sources disagree", "digitalapplied (2026-06), apiscout (2026-03)"
    ),
    Price("Google Chirp 3, dynamic batch", 0.24, 0.24, "$0.004 a minute", "apiscout.dev"),
    Price("OpenAI gpt-4o-mini-transcribe", 0.18, 0.18, "$0.003 a minute", "apiscout.dev"),
    Price(
        "Salad, Whisper large-v3",
        0.0051,
        0.0051,
        "1,000,000 hours for $5110; a report of its own, no price list",
        "blog.salad.com/whisper-large-v3",
        verified=True,
    ),
    Price("Parakeet v3 on AWS Batch", 0.003, 0.0066, "$0.00005 to $0.00011 a minute; another model", "saipien.org"),
    Price(
        "Salad, Parakeet 1.1B",
        0.00126,
        0.0018,
        "1,000,000 hours for $1260 to $1800; another model, a report of its own",
        "blog.salad.com/parakeet-tdt-1-1b",
        verified=True,
    ),
)


def rows(ours_usd: float, prices: Sequence[Price] = PRICES) -> tuple[tuple[str | float | None, ...], ...]:
    """Service, dollars (a span where sources disagree), how many times ours, basis, source, verified. Dearest first."""
    return tuple(
        (
            price.service,
            span(price),
            round(price.middle_usd / ours_usd, 2),
            price.basis,
            price.source,
            "seller's page" if price.verified else "second-hand",
        )
        for price in sorted(prices, key=lambda price: -price.middle_usd)
    )


def span(price: Price) -> str:
    """Dollars, to the cent or as far as the source goes."""
    least, most = (_written(usd) for usd in (price.least_usd, price.most_usd))
    return least if least == most else f"{least}–{most}"


def _written(usd: float) -> str:
    whole, _, digits = f"{usd:.5f}".rstrip("0").partition(".")
    return f"{whole}.{digits:0<2}"


def drawn(prices: Sequence[Price] = PRICES) -> list[dict[str, Any]]:
    """For the picture."""
    return [
        {"service": price.service, "least_usd": price.least_usd, "most_usd": price.most_usd, "verified": price.verified}
        for price in prices
    ]
