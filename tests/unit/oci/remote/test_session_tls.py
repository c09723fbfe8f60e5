"""The certificates that a session accepts."""

from __future__ import annotations

import socket
import threading

import pytest

from dockercomms.errors import NetworkError
from dockercomms.oci.auth.credentials import DockerConfig
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.remote.session import Endpoint, Session
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Reply, ScriptedServer
from tests.unit.oci.sessions import pull, session


def test_session_tls_with_a_private_authority(tmp_path):
    with ScriptedServer(Reply(200), Reply(200), tls=True) as server:
        authority = tmp_path / "ca.pem"
        server.authority.cert_pem.write_to_path(str(authority))
        with session(server.host, ca_file=str(authority)) as one:
            assert one.send(pull()).status == 200
            assert one.send(pull()).url.startswith("https://")


def test_session_tls_untrusted_is_refused_at_once():
    clock = FakeClock()
    with ScriptedServer(Reply(200), tls=True) as server:
        with (
            session(
                server.host, plain_http=False, retry=RetryPolicy.requests(), clock=clock
            ) as one,
            pytest.raises(NetworkError, match="certificate is refused") as caught,
        ):
            one.send(pull())
    assert caught.value.hint is not None
    assert "--ca-file" in caught.value.hint
    assert clock.sleeps == []


def test_session_tls_insecure_is_for_the_registrys_own_host_only():
    with (
        ScriptedServer(rest=Reply(200, b"other"), tls=True) as other,
        ScriptedServer(
            Reply(200), Reply(307, headers={"Location": f"{other.url}/x"}), tls=True
        ) as server,
        session(server.host, plain_http=False, insecure=True) as one,
    ):
        assert one.send(pull()).status == 200
        with pytest.raises(NetworkError, match="certificate is refused"):
            one.send(pull(redirects=True))


def test_session_tls_reads_certs_d(tmp_path):
    with ScriptedServer(Reply(200), tls=True) as server:
        folder = tmp_path / "docker" / "certs.d" / server.host
        folder.mkdir(parents=True)
        server.authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        made = Session(
            Endpoint(host=server.host, plain_http=False, env={"XDG_CONFIG_HOME": str(tmp_path)}),
            retry=RetryPolicy.none(),
            clock=FakeClock(),
            config=DockerConfig(),
        )
        assert made.send(pull()).status == 200
        made.close()


def test_session_tls_to_a_plain_server_says_so():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            session(host, plain_http=False) as one,
            pytest.raises(NetworkError, match="TLS: ") as caught,
        ):
            one.send(pull())
        thread.join()
    assert "--plain-http" in (caught.value.hint or "")
    assert not caught.value.retryable
