"""
Counters, histograms and gauges, as Prometheus reads them.

They are plain figures in a dict, read by the scrape: who counts pays one look-up and takes no lock, and who counts at each call
keeps its cell. What there is of them, `observe.py` names.
"""

from __future__ import annotations

import bisect
import itertools
import operator
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from headrace.trace import Trace

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of seconds, as Prometheus' own client has them."""

_Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Cell:
    """One count of a counter."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __repr__(self) -> str:
        return str(self.count)


class Counter:
    """
    Counts by label values, in the order in which the labels were named; shown as so many *per* one of the unit.

    *known* are values label by label, as `start` takes them.
    """

    def __init__(self, name: str, help: str, *labels: str, per: int = 1, known: Sequence[Iterable[str]] = ()) -> None:
        self.name, self.help, self.labels, self._per = name, help, labels, per
        self._counts: defaultdict[tuple[str, ...], Cell] = defaultdict(Cell)
        if not labels or known:
            self.start(*known)

    def __repr__(self) -> str:
        return f"<Counter {self.name} {self._counts}>"

    def inc(self, *values: str, by: int = 1) -> None:
        self._counts[values].count += by

    def start(self, *known: Iterable[str]) -> None:
        """Begin at 0, for all that may come of these values: an alert on the first time needs to have seen none."""
        for values in itertools.product(*known):
            self._counts[values]

    def at(self, *values: str) -> Cell:
        """Return the count of these values, for who adds to it again and again."""
        return self._counts[values]

    def value(self, *values: str) -> int:
        return self._counts[values].count if values in self._counts else 0

    def collect(self) -> Metric:
        family = CounterMetricFamily(self.name.removesuffix("_total"), self.help, labels=self.labels)
        for values, cell in list(self._counts.items()):
            family.add_metric(values, cell.count if self._per == 1 else cell.count / self._per)
        return family


class Sizes:
    """Many sizes by the buckets of a histogram, for who tells them all at its end (`add_all`)."""

    __slots__ = ("_buckets", "seen", "total")

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = buckets
        self.seen, self.total = [0] * (len(buckets) + 1), 0.0

    def __repr__(self) -> str:
        return f"<Sizes [{sum(self.seen)}, {self.total:g} in all]>"

    def add(self, size: float) -> None:
        """Take in one."""
        self.seen[bisect.bisect_left(self._buckets, size)] += 1
        self.total += size


class Histogram:
    """
    Counts sizes by buckets, for each value of its labels; as cheap as a counter.

    Of each bucket it remembers the last one that is in a recorded trace, as its exemplar: from a graph to a trace.
    """

    def __init__(
        self, name: str, help: str, *labels: str, buckets: tuple[float, ...] = BUCKETS, known: Sequence[Iterable[str]] = ()
    ) -> None:
        self.name, self.help, self.labels, self.buckets = name, help, labels, buckets
        self._sizes: defaultdict[tuple[str, ...], Sizes] = defaultdict(lambda: Sizes(self.buckets))
        self._exemplars: dict[tuple[tuple[str, ...], int], Exemplar] = {}
        self._known = known
        self._start()

    def _start(self) -> None:
        if not self.labels or self._known:
            for values in itertools.product(*self._known):
                self._sizes[values]

    def reach(self, size: float) -> None:
        """Have buckets up to this size, at least: each twice as large as the one before; before anything is seen."""
        if self.buckets[-1] >= size:
            return
        while self.buckets[-1] < size:
            self.buckets += (self.buckets[-1] * 2,)
        self._sizes.clear()
        self._start()

    def __repr__(self) -> str:
        return f"<Histogram {self.name} {dict(self._sizes)}>"

    def observe(self, size: float, *values: str, trace: Trace | None = None) -> None:
        sizes, at = self._sizes[values], bisect.bisect_left(self.buckets, size)
        sizes.seen[at] += 1
        sizes.total += size
        if trace is not None and trace.is_sampled:
            labels = {"trace_id": trace.trace_id, "span_id": trace.span_id}
            self._exemplars[values, at] = Exemplar(labels, size, time.time())

    def add_all(self, sizes: Sizes, *values: str) -> None:
        """Take in what somebody counted by the buckets of this one; none of them is an exemplar."""
        if any(sizes.seen):
            all_sizes = self._sizes[values]
            all_sizes.seen = list(map(operator.add, all_sizes.seen, sizes.seen))
            all_sizes.total += sizes.total

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*map(floatToGoString, self.buckets), "+Inf"]
        for values, sizes in list(self._sizes.items()):
            rows = enumerate(zip(bounds, itertools.accumulate(sizes.seen), strict=True))
            family.add_metric(values, [self._shown(values, at, *row) for at, row in rows], sizes.total)
        return family

    def _shown(self, values: tuple[str, ...], at: int, bound: str, count: int) -> _Bucket:
        exemplar = self._exemplars.get((values, at))
        return (bound, count) if exemplar is None else (bound, count, exemplar)


class Gauge:
    """A figure that is read when somebody looks: set `read` to a function, or use `set`."""

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self.read: Callable[[], float] = lambda: 0.0

    def __repr__(self) -> str:
        return f"<Gauge {self.name}>"

    def set(self, value: float) -> None:
        self.read = lambda: value

    def collect(self) -> Metric:
        return GaugeMetricFamily(self.name, self.help, value=self.read())


class Gauges:
    """The same by label values: set `read` to a function that returns them all, and those that are not there are not shown."""

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.read: Callable[[], Mapping[tuple[str, ...], float]] = dict

    def __repr__(self) -> str:
        return f"<Gauges {self.name}>"

    def set(self, values: Mapping[tuple[str, ...], float]) -> None:
        self.read = lambda: values

    def collect(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for values, figure in self.read().items():
            family.add_metric(values, figure)
        return family


Instrument = Counter | Histogram | Gauge | Gauges


class Collector:
    """Shows instruments to a registry of Prometheus' client, in the order in which they are given."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._instruments = tuple(instruments)

    def __repr__(self) -> str:
        return f"<Collector [{len(self._instruments)} instruments]>"

    def collect(self) -> Iterator[Metric]:
        """Yield what they show at present."""
        for instrument in self._instruments:
            yield instrument.collect()
