"""Text -> keywords and the sentences that say most. Pure, and the same each time."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

__all__ = ["condensed", "coverage", "keywords"]

_WORD = re.compile(r"[^\W\d_]{3,}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_MAX_SENTENCES = 500
_NO_PROSE = ("#", "|", "```", "![")
_SILENT = frozenset(
    "about after also and are because been before but can could did does for from had has have how"  # noqa: SIM905 - the formatter would give each word a line
    " into its may more most not now only other our out over should some such than that the their"
    " them then there these they this those through under very was were what when where which while"
    " who will with would you your".split()
)


def keywords(texts: Iterable[str], limit: int) -> list[str]:
    """Return the words that the texts use most, most frequent first, ties by the alphabet."""
    counts = Counter(word for text in texts for word in _words(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:limit]


def condensed(text: str, sentences: int) -> str:
    """Return the sentences with the most of the text's frequent words, in their order.

    Args:
        text: Its first 500 sentences or lines count; headings and rows of tables do not.
        sentences: How many to keep.
    """
    lines = [line.strip() for line in _SENTENCE.split(text, _MAX_SENTENCES)]
    said = [line for line in lines if line and not line.startswith(_NO_PROSE)]
    counts = Counter(word for line in said for word in _words(line))
    ranked = sorted(range(len(said)), key=lambda at: (-_weight(said[at], counts), at))
    return " ".join(said[at] for at in sorted(ranked[:sentences]))


def coverage(wanted: Sequence[str], text: str) -> float:
    """Return which share of the wanted words the text holds; 1 when none are wanted."""
    held = set(_words(text))
    return sum(word in held for word in wanted) / len(wanted) if wanted else 1.0


def _words(text: str) -> list[str]:
    return [word for word in map(str.lower, _WORD.findall(text)) if word not in _SILENT]


def _weight(sentence: str, counts: Counter[str]) -> float:
    words: Collection[str] = set(_words(sentence))
    return sum(counts[word] for word in words) / (len(words) + 5)  # short ones say little
