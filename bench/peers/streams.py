"""How many streams of 20 chunks a second the relay and its peers hold at once, in turns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.goals import Goal
from bench.peers.known import STREAM
from bench.peers.then import STREAMS, THEN, streams_goal
from bench.run import Measured, Stage
from bench.scale import Held, held_table

# Of the number that is known of each, from the fewest on until it does not hold.
STEPS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
# The relay's own steps end where bench.scale's do.
RELAY_STEPS = (0.5, 0.75, 1.0, 1.2, 1.4)


@dataclass(frozen=True, slots=True)
class Tried:
    """Whoever is asked for more and more of them, what was seen, and whether there is more to try."""

    each: Measured
    numbers: tuple[int, ...]
    seen: list[Held]

    @property
    def next(self) -> int | None:
        if len(self.seen) == len(self.numbers) or (self.seen and not self.seen[-1].holds):
            return None
        return self.numbers[len(self.seen)]

    @property
    def most(self) -> int:
        return max((held.streams for held in self.seen if held.holds), default=0)


def tried(stage: Stage, factor: float = 1.0) -> list[Tried]:
    """A step of everybody before the next step of anybody."""
    found = [Tried(each, numbers, []) for each in stage.everyone if (numbers := _numbers(each))]
    while asked := [each for each in found if each.next is not None]:
        for each in asked:
            work = replace(STREAM.shortened(factor), at_once=each.next or 0)
            figures = stage.measure(work, each.each)
            each.seen.append(Held(each.each.result.name, work.at_once, figures))
    return found


def _numbers(each: Measured) -> tuple[int, ...]:
    if each.result.database:
        return tuple(round(step * STREAMS) for step in RELAY_STEPS)
    then = THEN.get(each.result.name)
    if then is None or then.streams is None:
        return ()
    return tuple(round(step * then.streams) for step in STEPS)


def markdown(found: list[Tried]) -> str:
    return held_table([held for each in found for held in each.seen])


def goals(found: list[Tried]) -> list[Goal]:
    relays = [each for each in found if each.each.result.database]
    peers = [each for each in found if not each.each.result.database]
    return [
        streams_goal(ours.each.result.name, ours.most, theirs.each.result.name, theirs.most)
        for ours in relays
        for theirs in peers
    ]
