"""Who may connect. Pure."""

from urllib.parse import urlsplit

__all__ = ["origin_allowed"]


def origin_allowed(origin: str | None, host: str, allowed: frozenset[str]) -> bool:
    """Tell whether a request's `Origin` may connect (RFC 6454).

    Args:
        origin: The header; None when there is none: not a browser, so no cross-site request.
        host: The `Host` header, which the page's own origin matches.
        allowed: Further origins, scheme and all, without a trailing slash.
    """
    if origin is None or origin in allowed:
        return True
    try:
        own = urlsplit(origin).netloc.lower()
    except ValueError:  # a bracket or a character that no URL has
        return False
    return own != "" and own == host.lower()  # "null" has no host, nor need `Host` name one
