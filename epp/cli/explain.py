"""`epp explain`: why a running EPP chose an endpoint, and why not the others. It reads the metrics port.

Exit status: 0 shown, 1 there is nothing to show or nobody answers, 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from epp.cli.metrics_port import MetricsPort, Unanswered, add_flags

_POLL_S: Final = 0.5
_SHOWN_ENDPOINTS: Final = 20
_LATENCIES: Final = {"ttft": "to the first token", "tpot": "a token"}


def explain(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    epp = MetricsPort.of(parser, options)
    try:
        if options.follow:
            _follow(epp, as_json=options.json)
        elif options.id is not None:
            _show(epp.get(f"/explain/{quote(options.id)}"), options)
        else:
            decisions = epp.get(f"/explain?last={options.last}")["decisions"]
            if not decisions:
                raise Unanswered("no request has been decided yet")
            for number, decision in enumerate(decisions):
                if number and not options.json:
                    print()
                _show(decision, options)
    except Unanswered as error:
        print(f"epp explain: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp explain",
        description="Tell why a running EPP chose an endpoint for a request, and why not each of the others.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", metavar="ID", help="a request's x-request-id")
    which.add_argument("--last", nargs="?", type=_count, const=1, metavar="N", help="the last decision, or the last N")
    which.add_argument("--follow", action="store_true", help="a line for each new decision, until Ctrl-C")
    add_flags(parser)
    parser.add_argument("--json", action="store_true", help="all that is known, one JSON object a line")
    parser.add_argument("--all", action="store_true", help=f"every endpoint, not only the first {_SHOWN_ENDPOINTS}")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100")
    return int(text)


# --- asking --------------------------------------------------------------------------------------------------------------


def _follow(epp: MetricsPort, *, as_json: bool) -> None:
    number = _latest(epp)
    while True:
        newer = epp.get(f"/explain?after={number}")["decisions"]
        for decision in newer:
            print(json.dumps(decision) if as_json else _line(decision))
            number = decision["number"]
        sys.stdout.flush()
        if not newer:
            time.sleep(_POLL_S)
            if _latest(epp) < number:
                number = 0  # another process counts from the beginning


def _latest(epp: MetricsPort) -> int:
    """The number of the latest decision; 0 before the first."""
    found = epp.get("/explain?last=1")["decisions"]
    return int(found[-1]["number"]) if found else 0


# --- showing -------------------------------------------------------------------------------------------------------------


def _show(decision: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(decision))
        return
    for line in _text(decision, most=None if options.all else _SHOWN_ENDPOINTS):
        print(line)


def _line(decision: Mapping[str, Any]) -> str:
    """One line: when, which, where to, and the runner-up's "why not"."""
    head = f"{decision['timestamp'][11:23]}  {_plain(decision['id']) or '-'}  {_plain(decision['target_model'])}"
    if decision["refusal"] is not None:
        return f"{head}  refused: {_plain(decision['refusal']['reason'])}"
    chosen = ", ".join(_plain(e["name"]) for e in decision["chosen"])
    runner_up = next((e for e in _scored(decision) if not e["chosen"]), None)
    against = "" if runner_up is None else f"  {_plain(runner_up['name'])}: {_plain(runner_up['why_not'])}"
    return f"{head}  -> {chosen}{against}"


def _scored(decision: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [e for p in decision["profiles"] if p["primary"] for e in p["endpoints"]]


def _text(decision: Mapping[str, Any], *, most: int | None) -> Iterator[str]:
    yield f"request {_plain(decision['id']) or '(no id)'}  decision {decision['number']} at {decision['timestamp']}"
    model, target = _plain(decision["model"]), _plain(decision["target_model"])
    objective = f"  objective {_plain(decision['objective'])}" if decision["objective"] else ""
    renamed = f" (asked for {model})" if model != target else ""
    yield (
        f"model {target or '-'}{renamed}{objective}  priority {decision['priority']}"
        f"  fairness id {_plain(decision['fairness_id']) or '-'}  configuration hash {decision['config_hash']}"
    )
    if decision["refusal"] is not None:
        refusal = decision["refusal"]
        yield f"refused: {_plain(refusal['reason'])}"
        yield f"the client was told: {refusal['code']}: {_plain(refusal['message'])}"
    if decision["chosen"]:
        names = ", ".join(f"{_plain(e['name'])} ({e['address']})" for e in decision["chosen"])
        yield f"chosen: {names} in {decision['scheduling_us']:g} µs"
    yield _outcome(decision["outcome"])
    if decision["outcome"] is not None and decision["outcome"].get("latency") is not None:
        yield _latency(decision["outcome"]["latency"])
    if not decision["detail_kept"]:
        yield "scores and loads are not kept any more"
    facts = {e["name"]: e for e in decision["endpoints"]}
    for profile in decision["profiles"]:
        yield ""
        yield from _profile(profile, facts, most=most, blocks=_blocks(decision))
    for prefix in decision["prefixes"]:
        if prefix["confidence"]:
            yield ""
            shares = ", ".join(f"{_plain(name)} {share:.0%}" for name, share in [*prefix["confidence"].items()][:most])
            yield f"predictions of cached tokens that proved right, lately ({prefix['key'].partition('/')[2]}): {shares}"
    left_out = [e for e in decision["endpoints"] if e["removed_by"]]
    for endpoint in left_out[:most]:
        yield f"{_plain(endpoint['name'])}: not a candidate: removed by {_plain(endpoint['removed_by'])}"


def _outcome(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "outcome: under way"
    parts = [f"status {outcome['status']}", outcome["termination"]]
    if outcome["served"]:
        parts.append(f"served by {outcome['served']}")
    for name, unit in (("ttft_ms", "ms to the first token"), ("duration_ms", "ms in all")):
        if outcome[name] is not None:
            parts.append(f"{outcome[name]:g} {unit}")
    if outcome["prompt_tokens"] is not None:
        cached, predicted = outcome["cached_tokens"], outcome["predicted_cached_tokens"]
        notes = [f"{cached} cached"] if cached is not None else []
        notes += [f"{predicted} predicted"] if predicted is not None else []
        parts.append(f"{outcome['prompt_tokens']} prompt tokens" + (f" ({', '.join(notes)})" if notes else ""))
    if outcome["completion_tokens"] is not None:
        parts.append(f"{outcome['completion_tokens']} completion tokens")
    return "outcome: " + ", ".join(part for part in parts if part)


def _latency(latency: Mapping[str, Any]) -> str:
    """What was predicted beside what happened."""
    parts = []
    for target, text in _LATENCIES.items():
        predicted = _interval(latency, f"predicted_{target}")
        took = latency[f"{target}_ms"]
        parts.append(f"{predicted} {text}, {'not seen' if took is None else f'took {took:.3g}'}")
    return f"predicted: {'; '.join(parts)}"


def _interval(values: Mapping[str, Any], name: str) -> str:
    """`80 ms (61 to 112)`: the median, and where nine of ten are."""
    middle, low, high = (values[f"{name}{which}_ms"] for which in ("", "_low", "_high"))
    if middle is None:
        return "-"
    return f"{middle:.3g} ms" + (f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else "")


def _blocks(decision: Mapping[str, Any]) -> int | None:
    return next((p["total_blocks"] for p in decision["prefixes"]), None)


def _profile(
    profile: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]], *, most: int | None, blocks: int | None
) -> Iterator[str]:
    yield f"profile {profile['name']}{' (primary)' if profile['primary'] else ''}: {_plain(profile['result'])}"
    if profile["tied"]:
        yield f"tied at the top: {', '.join(map(_plain, profile['tied']))}; {profile['picker']} decided"
    failed = [s["name"] for s in profile["scorers"] if s["failed"]]
    if failed:
        yield f"failed, and counted as zero: {', '.join(failed)}"
    scorers = [s for s in profile["scorers"] if not s["failed"]]
    predicted = any(fact.get("predicted") for fact in facts.values())
    head = ["endpoint", "total", *(f"{s['name']} x{s['weight']:g}" for s in scorers)]
    head += ["queue", "running", "kv", "in flight", "prefix", "age"]
    head += ["first token", "per token", "why not"] if predicted else ["why not"]
    endpoints = profile["endpoints"]
    rows = [_row(e, facts.get(e["name"], {}), scorers, blocks, predicted=predicted) for e in endpoints[:most]]
    yield from _table(head, rows)
    if most is not None and len(endpoints) > most:
        yield f"... and {len(endpoints) - most} more: --all shows them"


def _row(
    endpoint: Mapping[str, Any],
    fact: Mapping[str, Any],
    scorers: Sequence[Mapping[str, Any]],
    blocks: int | None,
    *,
    predicted: bool,
) -> list[str]:
    scores = endpoint["scores"]
    age_s = fact.get("metrics_age_s")
    matched = fact.get("prefix_blocks")
    return [
        _plain(endpoint["name"]),
        "-" if endpoint["total"] is None else f"{endpoint['total']:.3f}",
        *(f"{scores[s['name']]['raw']:.2f}" if s["name"] in scores else "-" for s in scorers),
        *(_number(fact, name, "g") for name in ("waiting", "running")),
        _number(fact, "kv_cache_usage", ".0%"),
        f"{fact['in_flight']:g}" if "in_flight" in fact else "-",
        "-" if matched is None else f"{matched:g}/{blocks}",
        "unknown" if age_s is None else f"{age_s:.2f} s",
        *(_interval(fact["predicted"], name) if fact.get("predicted") else "-" for name in _LATENCIES if predicted),
        "chosen" if endpoint["chosen"] else _plain(endpoint["why_not"]),
    ]


def _number(fact: Mapping[str, Any], name: str, shape: str) -> str:
    """`?` for what the picker did not know."""
    if name not in fact:
        return "-"
    return "?" if fact[name] is None else format(fact[name], shape)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they must be: the first and the last to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    last = len(head) - 1
    for row in (head, *rows):
        cells = [
            cell if i == last else cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
            for i, cell in enumerate(row)
        ]
        yield "  " + "  ".join(cells).rstrip()


def _plain(text: str) -> str:
    # Ids and names are others' to choose: they must not steer a terminal.
    return text if text.isprintable() else text.encode("unicode_escape").decode()
