"""A plot of latencies by percentile, as SVG."""

import math
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from hdrh.histogram import HdrHistogram

__all__ = ["plot"]

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 200, 40, 50
_NINES = 4
"""The last mark: 99.99 %."""
_STEPS = 80
_OPENING = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
    'font-family="sans-serif" font-size="12">'
)
_COLOURS = (
    "#0b6e4f", "#c1292e", "#235789", "#f1a208", "#6a4c93",
    "#5f6b6d", "#e76f51", "#2a9d8f", "#8d6a9f", "#b08968",
)  # fmt: skip


def plot(title: str, curves: Mapping[str, HdrHistogram]) -> str:
    """Return an SVG: the share of events on a scale of nines, milliseconds on a logarithmic one."""
    lines = {name: list(_points(curve)) for name, curve in curves.items()}
    values = [ms for points in lines.values() for _, ms in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    parts = [
        _OPENING,
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}: emit to receive, ms</text>',
        *_grid(low, high),
    ]
    for nth, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[nth % len(_COLOURS)]
        dashes = ' stroke-dasharray="6 3"' if nth >= len(_COLOURS) else ""
        path = " ".join(f"{_x(nines):.1f},{_y(ms, low, high):.1f}" for nines, ms in points)
        y = _TOP + 16 * nth + 8
        parts += [
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dashes} points="{path}"/>',
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{y}" fill="{colour}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _points(curve: HdrHistogram) -> Iterator[tuple[float, float]]:
    """Yield (nines, milliseconds) as far as there are events enough to tell."""
    most = min(float(_NINES), math.log10(max(1, curve.get_total_count())))
    for step in range(1, _STEPS + 1):
        nines = most * step / _STEPS
        ms = curve.get_value_at_percentile(100 * (1 - 10**-nines)) / 1000
        yield nines, max(ms, 0.001)


def _grid(low: int, high: int) -> Iterator[str]:
    for nines in range(_NINES + 1):
        x, share = _x(nines), 100 * (1 - 10**-nines)
        yield f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>'
        at = f'x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
        yield f'<text {at} text-anchor="middle">{share:g} %</text>'
    for power in range(low, high + 1):
        y = _y(10**power, low, high)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>'


def _x(nines: float) -> float:
    return _LEFT + nines / _NINES * (_WIDTH - _LEFT - _RIGHT)


def _y(ms: float, low: int, high: int) -> float:
    share = (math.log10(ms) - low) / (high - low)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
