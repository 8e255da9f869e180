"""An evaluation as a page with pictures: predicted beside observed, coverage and error over time, tables. Pure: HTML out.

The pictures are SVG within the page, which needs nothing from anywhere.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from epp_predictor.evaluation import INTERVAL, Evaluation, Part, Quality

_WIDTH: Final = 640
_HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 36, 16, 44
_MOST_POINTS: Final = 2000
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #ccc;padding:.25rem .7rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}th{background:#f4f4f4}svg{max-width:100%;height:auto}"
    ".pictures{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-size:.9em;color:#555}"
    "svg text{font:12px system-ui,sans-serif;fill:currentColor}.axis{stroke:#888;stroke-width:1}"
    ".point{fill:#2166ac;fill-opacity:.35}.aim{stroke:#b2182b;stroke-dasharray:5 4;stroke-width:1.5;fill:none}"
    ".line{stroke:#2166ac;stroke-width:2;fill:none}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}th{background:#222}th,td{border-color:#444}"
    ".point{fill:#92c5de}.line{stroke:#92c5de}.aim{stroke:#f4a582}figcaption{color:#aaa}}"
)
_NAMES: Final = {"ttft": "Time to first token (TTFT)", "tpot": "Time per output token (TPOT)"}


def page(sections: Sequence[tuple[str, Sequence[Evaluation]]], *, source: str) -> str:
    """`sections`: a heading and the evaluations under it. `source` says where the records come from."""
    told = "".join(_section(heading, evaluations) for heading, evaluations in sections)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Predicted latencies</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>Predicted latencies</h1><p>{html.escape(source)}</p>{told}</html>\n"
    )


def _section(heading: str, evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return f"<h2>{html.escape(heading)}</h2><p>Nothing to judge.</p>"
    return f"<h2>{html.escape(heading)}</h2>" + "".join(_target(evaluation) for evaluation in evaluations)


def _target(evaluation: Evaluation) -> str:
    overall = Part("all", evaluation.overall)
    pictures = (
        (_scatter(evaluation), "Each point is a request; on the dashed line the prediction came true."),
        (
            _coverage(evaluation),
            f"Share within the predicted interval; the dashed line is the promised {INTERVAL:.0%}.",
        ),
        (_error(evaluation), "Median distance from the prediction, as a share of what was observed."),
    )
    shown = "".join(f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for svg, text in pictures)
    return (
        f"<h3>{_NAMES[evaluation.target]}</h3>{table('', [overall])}<div class='pictures'>{shown}</div>"
        f"{table('uncached tokens ahead', evaluation.by_load)}{table('endpoint', evaluation.by_endpoint)}"
    )


# --- tables --------------------------------------------------------------------------------------------------------------

HEADS: Final = ("requests", "median error", "90th percentile", "bias", "coverage", "± (95 %)", "a line's median error")


def cells(quality: Quality) -> list[str]:
    """What a table says of it, in the order of HEADS."""
    shares = (quality.median_error, quality.p90_error, quality.bias, quality.coverage, quality.coverage_margin)
    told = [_percent(share) for share in (*shares, quality.line_error)]
    return [str(quality.count), *told]


def table(first: str, parts: Iterable[Part]) -> str:
    """One row a part, as HTML."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in (first, *HEADS))
    rows = "".join(
        f"<tr><td>{html.escape(part.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells(part.quality))}</tr>"
        for part in parts
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _percent(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else "–"


# --- pictures ------------------------------------------------------------------------------------------------------------


def _scatter(evaluation: Evaluation) -> str:
    records = evaluation.records
    chosen = np.linspace(0, len(records) - 1, min(len(records), _MOST_POINTS)).astype(int)
    x, y = np.log10(records.predicted_ms[chosen]), np.log10(records.observed_ms[chosen])
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    if high - low < 0.1:
        low, high = low - 0.1, high + 0.1
    across, down = _scales((low, high), (low, high))
    points = "".join(
        f'<circle class="point" cx="{across(a):.1f}" cy="{down(b):.1f}" r="2"/>'
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    )
    aim = f'<path class="aim" d="M{across(low):.1f} {down(low):.1f}L{across(high):.1f} {down(high):.1f}"/>'
    ticks = [(math.log10(ms), _ms(ms)) for ms in _decades(low, high)]
    return _frame(points + aim, across, down, ticks, ticks, "predicted", "observed")


def _coverage(evaluation: Evaluation) -> str:
    return _over_time([(t, c) for t, c, _ in evaluation.over_time], top=1.0, aim=INTERVAL)


def _error(evaluation: Evaluation) -> str:
    values = [(t, e) for t, _, e in evaluation.over_time]
    return _over_time(values, top=max([e for _, e in values if math.isfinite(e)] + [0.1]) * 1.1, aim=None)


def _over_time(values: Sequence[tuple[float, float]], *, top: float, aim: float | None) -> str:
    known = [(t, v) for t, v in values if math.isfinite(v)]
    end = max([t for t, _ in known] + [1.0])
    across, down = _scales((0.0, end), (0.0, top))
    path = "L".join(f"{across(t):.1f} {down(v):.1f}" for t, v in known)
    drawn = f'<path class="line" d="M{path}"/>' if known else ""
    if aim is not None:
        drawn += f'<path class="aim" d="M{across(0):.1f} {down(aim):.1f}H{across(end):.1f}"/>'
    times = [(end * i / 4, f"{end * i / 4:.0f} s") for i in range(5)]
    shares = [(top * i / 4, f"{top * i / 4:.0%}") for i in range(5)]
    return _frame(drawn, across, down, times, shares, "", "")


_Scale = Callable[[float], float]


def _scales(x: tuple[float, float], y: tuple[float, float]) -> tuple[_Scale, _Scale]:
    def across(value: float) -> float:
        return _LEFT + (value - x[0]) / (x[1] - x[0]) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y[0]) / (y[1] - y[0]) * (_HEIGHT - _TOP - _BOTTOM)

    return across, down


def _frame(
    drawn: str,
    across: _Scale,
    down: _Scale,
    x: Sequence[tuple[float, str]],
    y: Sequence[tuple[float, str]],
    x_name: str,
    y_name: str,
) -> str:
    bottom = _HEIGHT - _BOTTOM
    below = "".join(
        f'<text x="{across(v):.1f}" y="{bottom + 18}" text-anchor="middle">{html.escape(text)}</text>' for v, text in x
    )
    beside = "".join(
        f'<text x="{_LEFT - 6}" y="{down(v) + 4:.1f}" text-anchor="end">{html.escape(text)}</text>' for v, text in y
    )
    names = (
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{x_name}</text>'
        f'<text x="12" y="{(_TOP + bottom) / 2}" transform="rotate(-90 12 {(_TOP + bottom) / 2})" '
        f'text-anchor="middle">{y_name}</text>'
    )
    axes = f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}"/>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">{axes}{below}{beside}{names}{drawn}</svg>'
    )


def _decades(low: float, high: float) -> list[float]:
    """Round milliseconds between two powers of ten."""
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    found = [step * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [ms for ms in found if low <= math.log10(ms) <= high]


def _ms(ms: float) -> str:
    return f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"
