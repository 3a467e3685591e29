"""What a run folder holds before a run: which ranks are completed, which of them are stale, and why ranks will run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ray_pipeline_core.driver.own_listings import changed_listing, own_listings, stored_listings
from ray_pipeline_core.driver.parent_runs import generation_in, generations_of, parents_in
from ray_pipeline_core.driver.planning import RunSpec, pending_ranks
from ray_pipeline_core.driver.rerun import requests_in
from ray_pipeline_core.driver.stale_ranks import noted_ranks
from ray_pipeline_core.errors import ConfigError, RunFolderMismatchError
from ray_pipeline_core.fingerprint import OlderRanks, stored_fingerprint, stored_older_ranks
from ray_pipeline_core.inputs.changes import Change, RefreshedDeal, refresh_deal
from ray_pipeline_core.inputs.deal import Deal, Share
from ray_pipeline_core.inputs.items import InputItem, by_key, digest_of
from ray_pipeline_core.rank_failures import format_ranks
from ray_pipeline_core.redaction import redact_url, shown
from ray_pipeline_core.storage.folder_owners import check_inputs
from ray_pipeline_core.storage.run_folder import EXECUTOR_FILE, INPUTS_FILE, RunFolder, parse_rank

MISSING, NEW_INPUT, STEPS_CHANGED, NOT_SKIPPED = "missing", "new input", "steps changed", "skip_completed=False"
"""Reasons why a rank runs; others are `input changed: PATH`, `input gone: PATH` and `parent NAME ran`."""

_MAX_NAMED_RANGES = 20
_TO_COME = "to come"
"""Stands for the generation that a parent will have whose ranks would run before."""


@dataclass(frozen=True)
class FolderState:
    """What a run folder holds before a run.

    Attributes:
        world_size: number of ranks.
        completed: the ranks that need not run.
        reasons: why the others run, by rank.
        stale: those of them that have a marker, which must go first.
        older: completed ranks that ran with other parameters, or after other runs of the parents, than now.
        warnings: what a person should know.
        deal: which rank gets which inputs; None if there are no inputs, or no rank has to run.
        former_deal: the deal that is in the folder; None if there is none.
        former_shares: the inputs that ranks had whose inputs have changed, or that are stale, by rank.
        parents: the generations that the parents have now, by their folders.
        generation: the generation of the folder, which a run that completes a rank replaces; None if it has none.
        listings: the files that steps list by themselves, as they were in the first run of the folder.
        inputs_digest: what tells whether the source lists the same as now; None if changes of inputs don't count.
        had_run: the ranks that had been completed, whether or not they run again.
        noted: those of them of which an earlier run was going to tell `on_stale`.
        requests: the requests of an orchestrator that the folder remembers.
    """

    world_size: int
    completed: frozenset[int] = frozenset()
    reasons: Mapping[int, str] = field(default_factory=dict)
    stale: frozenset[int] = frozenset()
    older: tuple[OlderRanks, ...] = ()
    warnings: tuple[str, ...] = ()
    deal: Deal | None = None
    former_deal: Deal | None = None
    former_shares: Mapping[int, Share] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    generation: str | None = None
    listings: tuple[Mapping[str, Any], ...] = ()
    inputs_digest: str | None = None
    had_run: frozenset[int] = frozenset()
    noted: frozenset[int] = frozenset()
    requests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def inspect_folder(spec: RunSpec, parents_to_run: Collection[str] = ()) -> FolderState:
    """Return the state of the run folder, compared with what there is now; nothing in it is changed.

    Args:
        spec: the run.
        parents_to_run: for a plan, the folders of the parents whose ranks would run before.

    Raises:
        RunFolderMismatchError: its ranks were completed by another pipeline.
        ConfigError: the source of the inputs lists none, and never has; or it lists files of the run folder.
    """
    executor, is_damaged = _read_executor(spec.folder)
    parents = generations_of(spec.parents) | dict.fromkeys(parents_to_run, _TO_COME)
    items = None if spec.source is None else list(spec.source.list())
    digest = None if items is None or "inputs" not in spec.rerun_on else digest_of(items)
    inspect = partial(_Inspection, spec, executor, is_damaged, parents)
    if digest is not None and digest == executor.get("inputs_digest"):
        state = inspect(None).state()
        if len(state.completed) == state.world_size and spec.folder.has_inputs():
            return replace(state, inputs_digest=digest)
    return replace(inspect(items).state(), inputs_digest=digest)


def stored_deal(spec: RunSpec) -> Deal | None:
    """Return the deal that a folder's ranks were given; None if there is none yet.

    Raises:
        RunFolderMismatchError: it is damaged, so that nobody knows what the completed ranks have read.
    """
    stored = spec.folder.read_inputs()
    try:
        return None if stored is None else Deal.from_bytes(stored)
    except ValueError as error:
        if not spec.config.skip_completed:
            return None
        raise RunFolderMismatchError(
            f"{spec.folder.url}/{INPUTS_FILE} is damaged ({error}), so it is not known which inputs the "
            "completed ranks have read. Restore the file, use another logging_dir, or skip_completed=False to deal "
            "the inputs anew and run all ranks again. Nothing was deleted."
        ) from None


class _Inspection:
    """Compares a run folder with the pipeline, the inputs and the parents of a run.

    Args:
        spec: the run.
        executor: the content of `executor.json`, as far as it says what ran.
        is_damaged: whether it is damaged.
        parents: the generations that the parents have now.
        items: what the source lists; None if there is none, or if it lists what it did when the folder was last dealt.
    """

    def __init__(
        self,
        spec: RunSpec,
        executor: Mapping[str, Any],
        is_damaged: bool,
        parents: Mapping[str, str],
        items: Sequence[InputItem] | None,
    ) -> None:
        self._spec = spec
        self._executor = executor
        self._is_damaged = is_damaged
        self._parents = parents
        self._items = items
        self._warnings: list[str] = []
        self._reasons: dict[int, str] = {}
        self._with_other_parameters: list[OlderRanks] = []
        self._with_later_parent: list[tuple[str, OlderRanks]] = []

    def state(self) -> FolderState:
        markers = self._spec.folder.marker_names() if self._needs_markers() else None
        refreshed, stored = self._refresh(markers)
        world_size = self._world_size_without_news() if refreshed is None else refreshed.deal.world_size
        spec = self._spec.for_world_size(world_size)
        marked, noted = self._marked(spec, markers), noted_ranks(spec.folder)
        self._reasons.update(dict.fromkeys(marked & noted, MISSING))
        older = tuple(self._compare(spec, marked, markers))
        if refreshed is not None:
            self._compare_inputs(refreshed, marked)
        stale = marked & self._reasons.keys()
        self._warn_of_older(spec, stale)
        self._explain_others(world_size, marked, refreshed)
        listings = tuple(self._compare_listings(does_resume=bool(marked - stale)))
        return FolderState(
            world_size,
            marked - stale,
            self._reasons,
            stale,
            tuple(replace(each, ranks=each.ranks - stale) for each in older if each.ranks - stale),
            tuple(self._warnings),
            None if refreshed is None else refreshed.deal,
            stored,
            _former_shares(stored, refreshed, stale),
            self._parents,
            generation_in(self._executor),
            listings,
            had_run=noted | self._had_run(spec, marked, markers),
            noted=noted,
            requests=requests_in(self._executor),
        )

    def _needs_markers(self) -> bool:
        """Return whether all markers must be listed, not only those of the ranks that there are now."""
        return self._spec.config.skip_completed and (not self._executor or self._is_damaged)

    # --- inputs ---

    def _refresh(self, markers: Sequence[str] | None) -> tuple[RefreshedDeal | None, Deal | None]:
        """Return the deal of this run and the stored one; None if there are no inputs."""
        spec = self._spec
        earlier = stored_fingerprint(self._executor) if self._executor else {}
        had_inputs = earlier.get("inputs", False)
        if self._items is None:
            return None, stored_deal(spec) if had_inputs and spec.source is None else None
        stored, listed = stored_deal(spec), by_key(spec.source, self._items)
        if not listed and (stored is None or not stored.shares):
            raise ConfigError(
                f"inputs={shown(spec.source)}: has no input, so there is nothing to run; correct the path and the "
                "pattern, or start the run when there are inputs"
            )
        if not listed and stored is not None and any(stored.shares):
            self._warnings.append(
                f"inputs={shown(spec.source)}: lists nothing any more, and the last run had inputs; unless that is "
                "meant, correct the source and run again"
            )
        check_inputs(spec.source, listed, spec.folder.folder)
        kept: Collection[int] = ()
        if "inputs" not in spec.rerun_on and spec.config.skip_completed and stored is not None:
            kept = spec.folder.completed_ranks(stored.world_size, markers)
        rank_weight = getattr(spec.source, "rank_bytes", None)
        at_least = earlier.get("world_size", 0) if had_inputs else 0
        return refresh_deal(stored, listed, spec.config.tasks, rank_weight, kept, at_least), stored

    def _world_size_without_news(self) -> int:
        """Return the number of ranks where there are no inputs, or they are those that were dealt."""
        if self._spec.source is None:
            return self._spec.config.tasks
        world_size: int = stored_fingerprint(self._executor)["world_size"]
        return world_size

    def _compare_inputs(self, refreshed: RefreshedDeal, marked: frozenset[int]) -> None:
        kept: dict[int, Change] = {}
        for rank, change in refreshed.changes.items():
            if rank not in marked:
                continue
            if "inputs" in self._spec.rerun_on:
                self._reasons.setdefault(rank, change.reason())
            else:
                kept[rank] = change
        # What stands in the folder of ranks that were not dealt yet is of another deal.
        self._reasons.update((rank, NEW_INPUT) for rank in refreshed.new_ranks if rank in marked)
        if kept:
            first, change = next(iter(kept.items()))
            self._warnings.append(
                f"inputs of completed ranks have changed, and Refresh.rerun_on has no 'inputs', so ranks "
                f"{format_ranks(sorted(kept), _MAX_NAMED_RANGES)} keep their old outputs; rank {first}: "
                f"{redact_url(change.reason())}"
            )

    # --- steps and parents ---

    def _marked(self, spec: RunSpec, markers: Sequence[str] | None) -> frozenset[int]:
        if not spec.config.skip_completed:
            return frozenset()
        return frozenset(spec.folder.completed_ranks(spec.config.tasks, markers))

    def _had_run(self, spec: RunSpec, marked: frozenset[int], markers: Sequence[str] | None) -> frozenset[int]:
        """Return the ranks that have a marker, which are listed only if that was done anyway or somebody asks."""
        if spec.config.skip_completed or spec.config.refresh.on_stale is None:
            return marked
        return frozenset(spec.folder.completed_ranks(spec.config.tasks, markers))

    def _compare(self, spec: RunSpec, marked: frozenset[int], markers: Sequence[str] | None) -> Iterator[OlderRanks]:
        """Compare completed ranks with steps and parents, and yield those that ran with others and need not run."""
        if not spec.config.skip_completed:
            return
        fingerprint = stored_fingerprint(self._executor) if self._executor else {}
        if "steps" in spec.rerun_on and _has_other_steps(spec, fingerprint):
            self._reasons.update(dict.fromkeys(marked, STEPS_CHANGED))
            return
        _check_same_pipeline(spec, fingerprint, markers)
        if self._is_damaged:
            self._warnings.append(_not_compared(spec.folder))
        elif markers:
            self._warnings.append(_without_description(spec.folder))
        for each in self._by_what_they_ran_with(fingerprint, marked, spec.config.tasks):
            if self._is_older(spec, each):
                yield each

    def _by_what_they_ran_with(
        self, fingerprint: Mapping[str, Any], marked: frozenset[int], world_size: int
    ) -> list[OlderRanks]:
        """Return all completed ranks by what they ran with; those not listed ran with what the newest run had."""
        listed = stored_older_ranks(self._executor, world_size) if self._executor else []
        older = [replace(each, ranks=each.ranks & marked) for each in listed]
        others = marked.difference(*(each.ranks for each in older))
        newest = OlderRanks(fingerprint.get("steps", ()), others, parents_in(self._executor))
        return [each for each in (*older, newest) if each.ranks]

    def _is_older(self, spec: RunSpec, each: OlderRanks) -> bool:
        """Return whether ranks ran with something else than now; those that therefore run again get their reason."""
        parameters = spec.fingerprint.changed_parameters({"steps": each.steps}, sorted(each.ranks))
        if parameters and "steps" in spec.rerun_on:
            self._reasons.update(dict.fromkeys(each.ranks, STEPS_CHANGED))
        elif parameters:
            self._with_other_parameters.append(each)
        return self._has_later_parent(spec, each) or bool(parameters)

    def _warn_of_older(self, spec: RunSpec, stale: frozenset[int]) -> None:
        """Warn of the ranks that ran with other parameters or earlier parents, but for those that run again."""
        for each in self._with_other_parameters:
            if kept := sorted(each.ranks - stale):
                self._warnings.extend(spec.fingerprint.changed_parameters({"steps": each.steps}, kept))
        for parent, each in self._with_later_parent:
            if each.ranks - stale:
                self._warnings.append(_older_than_parent(parent, each.ranks - stale))

    def _has_later_parent(self, spec: RunSpec, each: OlderRanks) -> bool:
        does_rerun = "parents" in spec.rerun_on
        # A parent that was never recorded may be new: then only a chain that runs again by itself must not trust it.
        later = [
            parent.name
            for parent in spec.parents
            if self._parents.get(parent.folder.url, "") != each.parents.get(parent.folder.url, "")
            and (does_rerun or parent.folder.url in each.parents)
        ]
        if not later:
            return False
        if does_rerun:
            self._reasons.update((rank, f"parent {later[0]} ran") for rank in each.ranks if rank not in self._reasons)
        else:
            self._with_later_parent.append((later[0], each))
        return True

    # --- the rest ---

    def _compare_listings(self, does_resume: bool) -> Iterator[Mapping[str, Any]]:
        """Yield what steps list by themselves, as it was when the folder's first ranks ran, and warn of changes."""
        earlier = stored_listings(self._executor) if does_resume else {}
        for listing in own_listings(self._spec.steps) if self._spec.source is None else ():
            stored = earlier.get(listing.index)
            if stored is not None and listing.differs_from(stored):
                self._warnings.append(changed_listing(listing, stored))
            yield stored or listing.to_dict()

    def _explain_others(self, world_size: int, marked: frozenset[int], refreshed: RefreshedDeal | None) -> None:
        new = refreshed.new_ranks if refreshed is not None else ()
        missing = MISSING if self._spec.config.skip_completed else NOT_SKIPPED
        for rank in pending_ranks(world_size, marked):
            self._reasons.setdefault(rank, NEW_INPUT if rank in new else missing)


def _former_shares(stored: Deal | None, refreshed: RefreshedDeal | None, stale: Iterable[int]) -> dict[int, Share]:
    """Return the inputs that ranks had which get others now, or which are stale."""
    if stored is None or refreshed is None:
        return dict.fromkeys(sorted(stale), ())
    shares = refreshed.deal.shares
    changed = {rank for rank in refreshed.changes if shares[rank] != stored.shares[rank]}
    return {rank: stored.shares[rank] if rank < stored.world_size else () for rank in sorted(changed.union(stale))}


def _read_executor(folder: RunFolder) -> tuple[dict[str, Any], bool]:
    """Return the content of `executor.json` as far as it says what ran, and whether it is damaged."""
    try:
        executor = folder.read_executor() or {}
        fingerprint = stored_fingerprint(executor)
        stored_older_ranks(executor, fingerprint.get("world_size", 0))
        return executor if fingerprint else {}, False
    except ValueError:
        return {}, True


def _has_other_steps(spec: RunSpec, fingerprint: Mapping[str, Any]) -> bool:
    """Return whether the steps are others than those in the folder, but the ranks are the same."""
    return spec.fingerprint.has_same_ranks(fingerprint) and bool(spec.fingerprint.differences(fingerprint))


def _check_same_pipeline(spec: RunSpec, earlier: Mapping[str, Any], markers: Sequence[str] | None) -> None:
    if markers is None:
        differences = spec.fingerprint.differences(earlier)
        markers = spec.folder.marker_names() if differences else ()
    else:
        differences = _differences_by_other_files(spec, markers) if markers else []
    if not (differences and markers):
        return
    raise RunFolderMismatchError(
        f"Run folder {spec.folder.url} has ranks completed by another pipeline: {'; and '.join(differences)}. "
        "Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. "
        "Nothing was deleted."
    )


def _differences_by_other_files(spec: RunSpec, markers: Sequence[str]) -> list[str]:
    """Return why the folder must not be continued, when `executor.json` does not say what ran in it."""
    tasks = spec.config.tasks
    world_size = spec.folder.recorded_world_size()
    if world_size is not None and world_size != tasks:
        return spec.fingerprint.differences({"world_size": world_size, "inputs": spec.source is not None})
    highest = max((rank for rank in map(parse_rank, markers) if rank is not None), default=0)
    return [f"it completed rank {highest}, now it has {tasks} ranks"] if highest >= tasks else []


def _without_description(folder: RunFolder) -> str:
    return (
        f"{folder.url}/{EXECUTOR_FILE} is missing or has no fingerprint, although ranks are completed, so this run "
        "can't be compared with the earlier one; check that the pipeline is the same"
    )


def _not_compared(folder: RunFolder) -> str:
    return (
        f"{folder.url}/{EXECUTOR_FILE} is damaged or of a newer release, so this run can't be compared with the "
        "earlier one; check that the pipeline is the same"
    )


def _older_than_parent(parent: str, ranks: Iterable[int]) -> str:
    return (
        f"ranks of {parent!r}, which this run depends on, have run since ranks "
        f"{format_ranks(sorted(ranks), _MAX_NAMED_RANGES)} were completed, so these may be older than what they are "
        "made from; use refresh=Refresh(rerun_on=['parents']), or skip_completed=False to run all ranks again"
    )
