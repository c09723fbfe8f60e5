"""`reg ensure`: push and copy the objects of a list."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from dockercomms.cli.failures import exit_code_of
from dockercomms.cli.options import MAX_CONCURRENCY, option
from dockercomms.cli.records import error_record
from dockercomms.cli.reg.output import read_input, record
from dockercomms.cli.reg.table import reg_verb, with_hint
from dockercomms.errors import (
    DockerCommsError,
    ManifestUnknown,
    PartialError,
)
from dockercomms.platforms.records import dataclass

if TYPE_CHECKING:
    from dockercomms.cli.reg.deploy import Job
    from dockercomms.cli.render import Listing
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Stores
    from dockercomms.oci.model import Digest
    from dockercomms.oci.stores import Location

COLUMNS = ("STATUS", "TYPE", "REFERENCE")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a job."""

    status: str
    """pushed, copied or failed; in a dry run missing or there; skipped after a failure it depends
    on."""
    digest: Digest | None = None
    error: DockerCommsError | None = None


@reg_verb("ensure", example="dockercomms reg ensure --from-json list.json --dry-run")
@option("--from-json", "file", required=True, type=click.Path(readable=False), metavar="FILE",
        help="List to read; - is standard input.")  # fmt: skip
@option("--dry-run", is_flag=True, help="Print what is missing, and push nothing.")
@option("--concurrency", former=("--parallel",), type=click.IntRange(1, MAX_CONCURRENCY),
        metavar="N", help="Parallel objects, each after its parts.  [default: 4]")  # fmt: skip
@option("--cache/--no-cache", default=True, help="Cache lookups.  [default: yes]")
def ensure_command(session: Session, *, file: str, dry_run: bool, cache: bool) -> int:
    """Push and copy the objects in a list.

    The list is a stream of {"type": "manifest" or "blob", "refs": [REF...], "lookup": {DIGEST:
    REPO...}, "data": JSON or base64}, parts first. An object without data is copied from its lookup
    repository. Piped, a line holds: status, type, digest, reference.
    """
    from dockercomms.cli.reg.deploy import MAX_INPUT_BYTES, parse_items, plan

    data = read_input(session, file, MAX_INPUT_BYTES, what="a list")
    with (
        session.stores(cached=cache) as stores,
        session.screen.listing(COLUMNS) as listing,
    ):
        jobs = plan(parse_items(data, stores.place, where=file))
        # Open all places first: a bad host or a second login must fail before the first push.
        # Targets come first, because a folder that is created may be a source later.
        for job in jobs:
            stores.open_place(job.target, create=True)
        for job in jobs:
            _open(stores, job)
        work = partial(_look if dry_run else _do, stores)
        done = []
        for job, outcome in run_jobs(jobs, work, session.settings.concurrency):
            _report(session, listing, job, outcome)
            done.append(outcome)
    return _sum_up(session, done)


def _report(session: Session, listing: Listing, job: Job, outcome: Outcome) -> None:
    kind, origin, error = job.item.kind, job.item.origin, outcome.error
    row = record(
        "ensure",
        reference=str(job.target),
        type=kind,
        digest=outcome.digest,
        source=None if origin is None else str(origin),
        status=outcome.status,
        error=None if error is None else error_record(error),
    )
    cells = (outcome.status, kind, outcome.digest or "", str(job.target))
    listing.add(row, cells, (outcome.status, kind, str(job.target)))
    if error is not None:
        session.tell_failure(str(job.target), with_hint(error))


def _sum_up(session: Session, done: Sequence[Outcome]) -> int:
    """Print the number of jobs by status; return the exit code."""
    counts: dict[str, int] = {}
    for outcome in done:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    said = ", ".join(f"{number} {what}" for what, number in counts.items())
    session.screen.note(said or "an empty list")
    failed = [outcome.error for outcome in done if outcome.error is not None]
    if not failed:
        return 0
    reached = any(outcome.status not in {"failed", "skipped"} for outcome in done)
    return PartialError.exit_code if reached else exit_code_of(failed)


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job], Outcome], concurrency: int
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job and its result, in order; run `concurrency` jobs in parallel.

    A job waits in its own thread for the jobs that it needs. This cannot deadlock: those jobs are
    earlier in the list and have started before it.
    """
    from dockercomms.transport.window import workers

    futures: list[Future[Outcome]] = []

    def perform(job: Job) -> Outcome:
        if any(futures[number].result().status in {"failed", "skipped"} for number in job.after):
            return Outcome("skipped")
        try:
            return work(job)
        except DockerCommsError as error:
            return Outcome("failed", error=error)

    with workers(concurrency) as pool:
        for job in jobs:
            futures.append(pool.submit(perform, job))  # noqa: PERF401 - a job reads the list
        for job, future in zip(jobs, futures, strict=True):
            yield job, future.result()


def _open(stores: Stores, job: Job) -> tuple[Location, Location | None, dict[str, Location]]:
    """Return a job's target, the object to copy, and the sources of parts."""
    item = job.item
    target = stores.open_place(job.target, create=True).location
    origin = None if item.origin is None else stores.open_place(item.origin).location
    parts = {key: stores.open_place(place).location for key, place in item.sources.items()}
    return target, origin, parts


def _do(stores: Stores, job: Job) -> Outcome:
    from dockercomms.oci.images.copy import copy_manifest, ensure_manifest
    from dockercomms.oci.images.ensure import copy_blob, ensure_blob

    target, origin, parts = _open(stores, job)
    data = job.item.data
    if data is not None:
        if job.item.kind == "blob":
            done = ensure_blob(target, len(data), lambda: io.BytesIO(data))
        else:
            done = ensure_manifest(target, data, job.item.media_type, parts)
        return Outcome("pushed", done.digest)
    if origin is None:
        raise AssertionError("internal: an object without data and origin")
    if job.item.kind == "blob":
        return Outcome("copied", copy_blob(origin, target).digest)
    return Outcome("copied", copy_manifest(origin, target, parts).digest)


def _look(stores: Stores, job: Job) -> Outcome:
    """Return whether one object exists at its target.

    Raises:
        DockerCommsError: the registry refused, or the object to copy does not exist.
    """
    from dockercomms.oci.images.ensure import lookup

    target, origin, _ = _open(stores, job)
    digest = target.digest
    if digest is None and origin is not None:
        source = lookup(origin, head=True, denied="raise")
        if source is None:
            raise ManifestUnknown(f"{job.item.origin}: not there")
        digest = source.descriptor.digest
    # By its tag if it has one: the tag may be on another manifest.
    named = target if target.tag is None else replace(target, digest=None)
    if named.tag is None and named.digest is None:
        named = replace(named, digest=digest)
    found = lookup(named, kind=job.item.kind, head=True, denied="raise")
    there = found is not None and found.descriptor.digest == digest
    return Outcome("there" if there else "missing", digest)
