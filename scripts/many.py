"""Measure what a message costs among many; run by `scripts/bench --only many`.

One process sends unsigned notes into an image-layout folder, others list and receive them; then the
same in a distribution registry. Each runs with 1,000 notes and with 20,000. If the cost of a note
grows with their number, that is a defect.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from dockercomms.mailbox import Mailbox
from dockercomms.trust.owner import SigningOptions, TrustOptions

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.real.launch import distribution  # noqa: E402

MESSAGES = 1000
FACTOR = 20
KIB = 1024


@dataclass(frozen=True, slots=True)
class Many:
    """Seconds for each message among many."""

    place: str
    messages: int
    send: float
    list: float
    receive: float
    """Without receipts."""
    peak_mib: int
    """Of this process, so far."""

    def told(self) -> str:
        """Return a line with the figures."""
        return (
            f"{self.place} of {self.messages:6} messages: send {self.send * 1000:.1f} ms, "
            f"list {self.list * 1000:.2f} ms, receive {self.receive * 1000:.1f} ms a message; "
            f"{self.peak_mib} MiB"
        )


def many_messages(place: str, repo: str, messages: int, folder: Path) -> Many:
    """Send, list and receive notes, one process each; repeat the receive until no note waits."""
    folder.mkdir()

    def mailbox(me: str, name: str) -> Mailbox:
        return Mailbox(
            repo,
            me=me,
            state_path=folder / f"{name}.db",
            keys_folder=folder / "keys",
            signing=SigningOptions(sign=False),
            trust=TrustOptions(verify=False),
        )

    times = [time.perf_counter()]
    with mailbox("alice", "alice") as alice:
        for number in range(messages):
            alice.send(text=f"note {number}", to="bob")
    times.append(time.perf_counter())
    with mailbox("bob", "lists") as bob:
        while len(bob.inbox()) < messages or bob.waiting:
            pass
    times.append(time.perf_counter())
    received = 0
    with mailbox("bob", "receives") as bob:
        while received < messages:
            received += len(list(bob.receive(out=folder / "in", receipt=False)))
    times.append(time.perf_counter())
    send, listing, receive = ((end - begin) / messages for begin, end in pairwise(times))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB
    return Many(place, messages, send=send, list=listing, receive=receive, peak_mib=peak)


def main() -> None:
    """Measure both places with few and with many messages, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="many")
    parser.add_argument("--place", action="append", choices=["layout", "registry"])
    parser.add_argument("--messages", type=int, default=MESSAGES, help="of the small one")
    parser.add_argument("--factor", type=int, default=FACTOR, help="what the large one has more")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    done: list[Many] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(HOME=name, XDG_STATE_HOME=name, XDG_DATA_HOME=name, XDG_CONFIG_HOME=name)
        for place in options.place or ["layout", "registry"]:
            for messages in (options.messages, options.factor * options.messages):
                inside = folder / f"{place}-{messages}"
                if place == "layout":
                    one = many_messages(place, f"oci-layout:{inside}/box", messages, inside)
                else:
                    (served := folder / f"server-{messages}").mkdir()
                    with distribution(served) as server:
                        repo = f"{server.host}/many/{messages}"
                        one = many_messages(place, repo, messages, inside)
                print(one.told(), flush=True)
                done.append(one)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")


if __name__ == "__main__":
    main()
