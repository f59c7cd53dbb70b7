"""Figures in Prometheus' text form, under the names that dashboards of vLLM know."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """Counters, gauges and histograms of one server; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], _Histogram] = {}
        self._followed: WeakKeyDictionary[object, dict[str, float]] = WeakKeyDictionary()

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Adds to a counter of `COUNTERS`."""
        key = name, tuple(labels.items())
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + value

    def follow(self, name: str, source: object, value: float, **labels: str) -> None:
        """Adds to a counter of `COUNTERS` what the count that `source` keeps has grown by since the last call.

        A counter never falls, also where a source goes with what it has counted.
        """
        with self._lock:
            seen, key = self._followed.setdefault(source, {}), (name, tuple(labels.items()))
            self._counters[key] = self._counters.get(key, 0) + value - seen.get(name, 0)
            seen[name] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds to a histogram of `HISTOGRAMS`."""
        key = name, tuple(labels.items())
        with self._lock:
            histogram = self._histograms.get(key)
            if histogram is None:
                histogram = self._histograms[key] = _Histogram(HISTOGRAMS[name][1])
            histogram.add(value)

    def text(self, gauges: Iterable[tuple[str, float, dict[str, str]]]) -> str:
        """All figures, with gauges of the moment (name, value, labels)."""
        lines: list[str] = []
        gauges = list(gauges)
        for name, told in GAUGES.items():
            found = [(labels, value) for other, value, labels in gauges if other == name]
            if found:
                lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
                lines += [f"{name}{_labels(tuple(labels.items()))} {_written(value)}" for labels, value in found]
        with self._lock:
            for name, told in COUNTERS.items():
                lines += [f"# HELP {name} {told}", f"# TYPE {name} counter"]
                for (other, labels), value in self._counters.items():
                    if other == name:
                        lines.append(f"{name}{_labels(labels)} {_written(value)}")
            for name, (told, bounds) in HISTOGRAMS.items():
                lines += [f"# HELP {name} {told}", f"# TYPE {name} histogram"]
                for (other, labels), histogram in self._histograms.items():
                    if other == name:
                        lines += _histogram_lines(name, labels, bounds, histogram)
        return "\n".join(lines) + "\n"


GAUGES = {
    "vllm:num_requests_running": "Answers that the engine works at.",
    "vllm:num_requests_waiting": "Answers that wait for a place in the engine.",
    "vllm:kv_cache_usage_perc": "Share of the cache of keys and values in use, 1 being all.",
    "vllm:lora_requests_info": "Adapters that are loaded.",
    "glm:server_ready": "1 when requests are taken, 0 while loading or draining.",
}
COUNTERS = {
    "vllm:prompt_tokens_total": "Tokens of prompts.",
    "vllm:generation_tokens_total": "Tokens of answers.",
    "vllm:prefix_cache_queries_total": "Tokens of prompts that looked for a kept prefix.",
    "vllm:prefix_cache_hits_total": "Those of them that were found.",
    "vllm:num_preemptions_total": "Answers that gave their cache up for others, and went on later.",
    "vllm:spec_decode_num_draft_tokens_total": "Tokens that were guessed from what stands before them, and checked.",
    "vllm:spec_decode_num_accepted_tokens_total": "Those of them that were right.",
    "vllm:request_success_total": "Answers that ended, by how they did.",
    "vllm:admission_rejections_total": "Requests that were sent away, by why.",
    "glm:requests_cancelled_total": "Requests whose client went away.",
    "glm:request_failures_total": "Requests that failed in the server.",
    "glm:http_responses_total": "Responses, by path and status.",
}
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("From request to first token.", _FIRST),
    "vllm:inter_token_latency_seconds": ("Between tokens of an answer.", _BETWEEN),
    "vllm:e2e_request_latency_seconds": ("From request to the end of an answer.", _WHOLE),
}


def _histogram_lines(name: str, labels: Labels, bounds: Sequence[float], histogram: _Histogram) -> list[str]:
    lines, below = [], 0
    for bound, count in zip([*map(_written, bounds), "+Inf"], histogram.counts, strict=True):
        below += count
        lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {below}")
    return [
        *lines,
        f"{name}_sum{_labels(labels)} {_written(histogram.total)}",
        f"{name}_count{_labels(labels)} {below}",
    ]


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _written(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.9g}"
