"""Text that Kafka and JSON can carry: no lone surrogates, bounded length."""

__all__ = ["ERROR_MAX_CHARS", "ID_MAX_CHARS", "clean", "error_text"]

ID_MAX_CHARS = 512
"""Ids, status and stage are cut here."""
ERROR_MAX_CHARS = 10_000
"""Error messages are cut here."""


def clean(text: str, max_chars: int = ID_MAX_CHARS) -> str:
    """Return `text` cut to `max_chars`, each lone surrogate replaced by ``?``."""
    cut = text if len(text) <= max_chars else text[:max_chars]
    if cut.isascii():
        return cut
    return cut.encode("utf-8", "replace").decode()


def error_text(error: object) -> str | None:
    """Return the error message of `error`: text, an exception, or anything with a `str()`.

    An exception without a message gives its class name; None and empty text give none.
    """
    if error is None:
        return None
    text = str(error)
    if not text and isinstance(error, BaseException):
        text = type(error).__name__
    return clean(text, ERROR_MAX_CHARS) or None
