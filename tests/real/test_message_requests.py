"""The number of requests for a message, counted by the registry, with and without referrers API."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.zygote import Ended, Zygote
from tests.real.counting_proxy import CountingProxy
from tests.real.launch import Server

MESSAGES = 2
WITH_REFERRERS = {"ggcr"}

MOST = {
    # with the referrers API, without it
    ("send", "signed"): (7, 10),
    ("send", "unsigned"): (5, 7),
    ("receive", "signed"): (4, 4),
    ("receive", "unsigned"): (2, 2),
    ("receipt", "signed"): (4, 6),
}


@dataclass
class Machine:
    """Somebody's home."""

    zygote: Zygote
    home: Path

    def run(self, *words: str) -> Ended:
        kinds = ("CONFIG", "DATA", "STATE")
        homes = {f"XDG_{kind}_HOME": str(self.home / kind.lower()) for kind in kinds}
        self.home.mkdir(exist_ok=True)
        ended = self.zygote.start(
            list(words), folder=self.home, environ={"HOME": str(self.home), **homes}
        ).wait()
        assert ended.exit_code == 0, ended.stderr
        return ended


@dataclass
class Post:
    """Two machines that share a repository, behind a proxy that counts."""

    proxy: CountingProxy
    alice: Machine
    bob: Machine
    repo: str

    def count(self, who: Machine, *words: str) -> int:
        """Return how many requests one run of the program makes."""
        self.proxy.reset()
        who.run(*words, "--repo", self.repo, "-q")
        return len(self.proxy.counts.requests)


@pytest.fixture(params=("ggcr", "distribution"))
def post(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> Iterator[Post]:
    server: Server = request.getfixturevalue(request.param)
    with CountingProxy(server.address) as proxy:
        alice, bob = (Machine(zygote, tmp_path / name) for name in ("alice", "bob"))
        yield Post(proxy, alice, bob, f"{proxy.host}/requests/{uuid.uuid4().hex}")


@pytest.mark.parametrize("how", ["signed", "unsigned"])
def test_message_keeps_its_budget_of_requests(
    post: Post, tmp_path: Path, how: str, request: pytest.FixtureRequest
) -> None:
    column = 0 if request.node.callspec.params["post"] in WITH_REFERRERS else 1
    sign = "--sign" if how == "signed" else "--no-sign"
    receive = ("recv", "--me", "bob", "--out", str(tmp_path / "in"), sign)
    number = 0

    def send() -> int:
        """Send what is not there yet."""
        nonlocal number
        number += 1
        note = tmp_path / "note"
        note.write_text(f"small message {number}")
        return post.count(post.alice, "send", str(note), "--to", "bob", "--from", "alice", sign)

    trust(post, tmp_path, how)
    first = send()
    post.count(post.bob, *receive)  # what is asked once for each repository

    spent: dict[str, float] = {"send": max(send() for _ in range(MESSAGES))}
    delivered = post.count(post.bob, *receive, "--no-receipt")
    idle = post.count(post.bob, *receive, "--no-receipt")
    spent["receive"] = (delivered - idle) / MESSAGES
    for _ in range(MESSAGES):
        send()
    spent["receipt"] = (post.count(post.bob, *receive) - delivered) / MESSAGES
    assert len(list((tmp_path / "in").iterdir())) == 2 * MESSAGES + 1

    print(f"{how}: {spent}, the first send {first}, an idle recv {idle}")
    for what, requests in spent.items():
        assert requests <= MOST.get((what, how), MOST["receipt", "signed"])[column], (what, spent)


def trust(post: Post, folder: Path, how: str) -> None:
    """Let bob know alice's key, or that she does without."""
    if how == "unsigned":
        post.bob.run("trust", "add", "alice", "--allow-unsigned")
        return
    key = folder / "alice.pub"
    post.alice.run("keys", "generate")
    key.write_text(post.alice.run("keys", "export", "--public").stdout)
    post.bob.run("trust", "add", "alice", str(key))
