"""Bars as SVG, by hand: readable as text, and on light and dark pages alike."""

import math
import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

_COLOURS = ("#2f6fb2", "#9db8d6")
_LABEL_WIDTH, _BAR_WIDTH, _NUMBER_WIDTH = 190, 440, 70
_BAR, _GAP, _TOP = 14, 12, 58
# A bar longer than so many times the median would make all others dots: it is cut, and shows that it is.
_CUT = 2.0
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2933}.title{font-size:16px;font-weight:600}"
    ".page{fill:#fff}.own{font-weight:700}"
)

Rows = Sequence[tuple[str, Sequence[float]]]


def bars(title: str, rows: Rows, legend: Sequence[str]) -> str:
    """Return a picture with a group of bars for each row, the smallest first value on top; rows of NaN are left out.

    `legend` names the bars of a group; the row called trio_templar is set in bold.
    """
    shown = sorted((row for row in rows if not math.isnan(row[1][0])), key=lambda row: row[1][0])
    lengths = [value for _, values in shown for value in values if not math.isnan(value)] or [1.0]
    longest = min(max(lengths), _CUT * statistics.median(lengths))
    group = _BAR * max((len(values) for _, values in shown), default=1) + _GAP
    width, height = _LABEL_WIDTH + _BAR_WIDTH + _NUMBER_WIDTH, _TOP + group * len(shown) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        f'<text class="title" x="12" y="26">{escape(title)}</text>',
        *_legend(legend),
    ]
    for number, (name, values) in enumerate(shown):
        lines += _group(name, values, _TOP + number * group, longest)
    return "\n".join([*lines, "</svg>", ""])


def _legend(names: Sequence[str]) -> list[str]:
    lines = []
    for number, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)):
        x = _LABEL_WIDTH + number * 190
        lines.append(f'<rect x="{x}" y="37" width="11" height="11" fill="{colour}"/>')
        lines.append(f'<text x="{x + 17}" y="47">{escape(name)}</text>')
    return lines


def _group(name: str, values: Sequence[float], top: float, longest: float) -> list[str]:
    """Return the label and bars of one row."""
    style = ' class="own"' if name == "trio_templar" else ""
    middle = top + _BAR * len(values) / 2 + 4
    lines = [f'<text{style} x="{_LABEL_WIDTH - 10}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>']
    for number, (value, colour) in enumerate(zip(values, _COLOURS, strict=False)):
        if math.isnan(value):
            continue
        y = top + number * _BAR
        length = max(1.0, min(1.0, value / longest) * _BAR_WIDTH)
        lines.append(
            f'<rect x="{_LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{_BAR - 2}" rx="2" fill="{colour}"/>'
        )
        if value > longest:
            x = _LABEL_WIDTH + length - 40
            lines.append(f'<path class="page" d="M{x} {y + _BAR}l6 -{_BAR + 2}h6l-6 {_BAR + 2}z"/>')
        lines.append(f'<text x="{_LABEL_WIDTH + length + 6:.1f}" y="{y + 11}">{_number(value)}</text>')
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
