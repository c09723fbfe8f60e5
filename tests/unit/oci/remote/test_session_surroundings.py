"""The variables and challenges that a session reads."""

from __future__ import annotations

import os
from pathlib import Path

from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.remote.session import Endpoint, Session
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry, Quirks
from tests.fakes.scripted import Reply, ScriptedServer, Seen
from tests.unit.oci.sessions import ANN, pull, session


def test_session_reads_the_users_own_configuration(tmp_path):
    config = tmp_path / ".docker" / "config.json"
    config.parent.mkdir()
    with FakeRegistry(Quirks(auth="basic"), users={"ann": "secret"}) as registry:
        config.write_text(
            f'{{"auths": {{"{registry.host}": {{"username": "ann", "password": "secret"}}}}}}'
        )
        made = Session(
            Endpoint(host=registry.host, env={"HOME": str(tmp_path), "PATH": os.defpath}),
            retry=RetryPolicy.none(),
            clock=FakeClock(),
        )
        assert made.send(pull("/v2/")).status == 200
        made.close()
    assert Path(config).exists()


def test_session_lowercase_challenge_and_several_headers_are_understood():
    def answer(seen: Seen) -> Reply:
        if seen.headers.get("authorization") == ANN.basic_header():
            return Reply(200)
        return Reply(401, headers={"WWW-Authenticate": 'Negotiate, basic realm="x"'})

    with ScriptedServer(rest=answer) as server, session(server.host, credentials=ANN) as one:
        assert one.send(pull()).status == 200
