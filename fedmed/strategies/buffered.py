"""FedBuff: the server does not wait for everybody; an update counts less, the older the model that it is on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedmed.seeds import derive
from fedmed.strategies.averaging import local_sgd
from fedmed.strategies.base import Strategy, Turn, equally
from fedmed.strategies.options import AggregationOptions


def polynomial(staleness: int) -> float:
    """s(τ) = 1 / √(1 + τ)  (Nguyen et al. 2022, section 5.1).

    >>> polynomial(3)
    0.5
    """
    return float((1 + staleness) ** -0.5)


def as_they_arrive(sites: Sequence[str], number: int, seed: int, options: AggregationOptions) -> tuple[Turn, ...]:
    """The hospitals whose updates fill the buffer of round `number`, each on the model that it was given last.

    A hospital starts anew, on the newest model, when the buffer that took its update is full. The order of arrival is
    `options.arrivals`, or drawn: every hospital has a pace of its own, and every training takes its time anew.

    Raises:
        ValueError: if a recorded order is too short for the round, or names somebody who cannot arrive.

    >>> recorded = AggregationOptions(buffer=2, arrivals=("a", "b", "a", "c"))
    >>> [tuple(turn) for turn in as_they_arrive(["a", "b", "c"], 2, 0, recorded)]
    [('a', 1), ('c', 0)]
    """
    size = min(options.buffer, len(sites))
    arrivals = iter(options.arrivals) if options.arrivals else None
    since, busy = dict.fromkeys(sorted(sites), 0), _drawn(sorted(sites), seed)
    turns: list[Turn] = []
    for version in range(number):
        turns = []
        while len(turns) < size:
            taken = {turn.site for turn in turns}
            site = next(arrivals, None) if arrivals is not None else next(name for name in busy if name not in taken)
            if site is None:
                raise ValueError(f"aggregation.arrivals ends before round {number}; it needs {number * size} entries")
            if site not in since or site in taken:
                raise ValueError(
                    f"aggregation.arrivals, entry {version * size + len(turns) + 1}: expected a hospital of the run"
                    f" that is not yet in this buffer of {size}, got {site!r}"
                )
            turns.append(Turn(site, since[site]))
        for turn in turns:
            since[turn.site] = version + 1
    return tuple(sorted(turns))


def _drawn(sites: Sequence[str], seed: int) -> Iterator[str]:
    """Hospitals in the order in which they finish, endlessly."""
    pace = {site: 1 + derive(seed, site, "pace") % 1000 / 250 for site in sites}
    due, count = dict.fromkeys(sites, 0.0), dict.fromkeys(sites, 0)

    def go_on(site: str) -> None:
        due[site] += pace[site] * (0.5 + derive(seed, site, count[site], "duration") % 1000 / 1000)
        count[site] += 1

    for site in sites:
        go_on(site)
    while True:
        site = min(sites, key=lambda name: (due[name], name))
        yield site
        go_on(site)


FEDBUFF = Strategy(local_sgd, schedule=as_they_arrive, weigh=equally, staleness=polynomial)
"""FedBuff: Nguyen et al. 2022, AISTATS, Algorithm 1, with the polynomial staleness weight of section 5.1."""
