"""What has changed since the inputs were dealt, and the deal that follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ray_pipeline_core.inputs.deal import Deal, Share, deal_out, first_deal, ranks_for
from ray_pipeline_core.inputs.items import InputItem


@dataclass(frozen=True)
class Change:
    """How the inputs of a rank differ from those that it was dealt.

    Attributes:
        changed: keys of the items that have another version.
        gone: keys of the items that are not listed any more.
    """

    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def reason(self) -> str:
        """Return why the rank has to run again, by its first input that changed."""
        return f"input changed: {self.changed[0]}" if self.changed else f"input gone: {self.gone[0]}"


@dataclass(frozen=True)
class RefreshedDeal:
    """A deal that has been compared with a listing.

    Attributes:
        deal: the deal from now on.
        changes: what has changed for ranks that were dealt before, by rank.
        new_ranks: the ranks that were added for new inputs.
    """

    deal: Deal
    changes: Mapping[int, Change] = field(default_factory=dict)
    new_ranks: range = range(0)


def refresh_deal(
    stored: Deal | None,
    listed: Mapping[str, InputItem],
    tasks: int,
    rank_weight: float | None = None,
    kept: Collection[int] = (),
    at_least: int = 0,
) -> RefreshedDeal:
    """Compare a deal with what is listed now.

    What is unchanged stays where it is, and new items make new ranks at the end: no rank is renumbered.

    Args:
        stored: the deal of the run folder; None before its first run.
        listed: all items that there are now, by key.
        tasks: the number of ranks of a first deal.
        rank_weight: the weight that a rank should have, at most; None = what the ranks have on average.
        kept: ranks that keep the items that they were dealt, whatever has changed.
        at_least: the number of ranks of a deal that is lost: all that have written something get their turn again.
    """
    if stored is None or not stored.shares:
        deal = first_deal(list(listed.values()), tasks, rank_weight).with_ranks(at_least)
        return RefreshedDeal(deal, new_ranks=range(deal.world_size))
    changes = dict(_changes(stored, listed))
    # An item may have another weight though its version is the same.
    shares = [share if rank in kept else _renewed(share, listed) for rank, share in enumerate(stored.shares)]
    dealt = {item.key for share in stored.shares for item in share}
    shares += _new_shares([item for key, item in listed.items() if key not in dealt], stored, tasks, rank_weight)
    return RefreshedDeal(Deal(tuple(shares)), changes, range(stored.world_size, len(shares)))


def _changes(stored: Deal, listed: Mapping[str, InputItem]) -> Iterable[tuple[int, Change]]:
    for rank, share in enumerate(stored.shares):
        gone = tuple(item.key for item in share if item.key not in listed)
        there = (item for item in share if item.key in listed)
        changed = tuple(item.key for item in there if item.version != listed[item.key].version)
        if gone or changed:
            yield rank, Change(changed, gone)


def _renewed(share: Share, listed: Mapping[str, InputItem]) -> Share:
    return tuple(listed[item.key] for item in share if item.key in listed)


def _new_shares(new: list[InputItem], stored: Deal, tasks: int, rank_weight: float | None) -> tuple[Share, ...]:
    if not new:
        return ()
    weight = stored.weight_per_rank() if rank_weight is None else rank_weight
    per_rank = stored.items_per_rank() or len(new) / tasks
    return deal_out(new, ranks_for(new, weight, per_rank))
