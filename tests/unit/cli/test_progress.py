"""The progress of a transfer on the terminal."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dockercomms.cli.progress import BarMeter, LineMeter, Meter, meter_for
from dockercomms.cli.render import Screen
from tests.cli.harness import Stream
from tests.fakes.clock import FakeClock


def event(done: int, total: int | None, *, chunk: int = 0, reused: bool = False) -> Any:
    return SimpleNamespace(done_bytes=done, total_bytes=total, chunk=chunk, reused=reused)


def screen_on(*, tty: bool = False, quiet: bool = False, **environ: str) -> tuple[Screen, Stream]:
    err = Stream(tty=tty)
    return Screen(Stream(), err, environ=environ, quiet=quiet), err


def lines(err: Stream) -> list[str]:
    return err.value().decode().splitlines()


def test_line_meter_says_each_tenth_once() -> None:
    screen, err = screen_on()
    clock = FakeClock()
    with LineMeter(screen, clock, "sending") as meter:
        for done in range(0, 1001, 25):
            clock.advance(0.05)
            meter.show(event(done, 1000))
    said = lines(err)
    assert [line.split()[1] for line in said] == [str(tenth) for tenth in range(10, 101, 10)]
    assert said[-1] == "sending: 100 %, 1000 B of 1000 B, 487 B/s"


@pytest.mark.parametrize("size", [12, 0])
def test_line_meter_says_a_small_or_empty_transfer_in_one_line(size: int) -> None:
    screen, err = screen_on()
    LineMeter(screen, FakeClock(), "sending").show(event(size, size))
    assert lines(err) == [f"sending: 100 %, {size} B of {size} B"]


def test_line_meter_counts_reused_chunks() -> None:
    screen, err = screen_on()
    meter = LineMeter(screen, FakeClock(), "sending")
    meter.show(event(1, 100, chunk=0, reused=True))
    meter.show(event(2, 100, chunk=0, reused=True))
    meter.show(event(100, 100, chunk=1, reused=True))
    assert lines(err) == ["sending: 100 %, 100 B of 100 B, 2 chunks reused"]


def test_line_meter_says_a_stream_every_ten_seconds() -> None:
    screen, err = screen_on()
    clock = FakeClock()
    meter = LineMeter(screen, clock, "sending")
    for _ in range(5):
        clock.advance(5)
        meter.show(event(2**20, None))
    assert lines(err) == ["sending: 1.0 MiB, 102.4 KiB/s", "sending: 1.0 MiB, 51.2 KiB/s"]


def test_line_meter_starts_again_after_finish() -> None:
    screen, err = screen_on()
    meter = LineMeter(screen, FakeClock(), "receiving")
    meter.show(event(5, 5, reused=True))
    meter.finish()
    meter.show(event(7, 7))
    assert lines(err) == [
        "receiving: 100 %, 5 B of 5 B, 1 chunk reused",
        "receiving: 100 %, 7 B of 7 B",
    ]


def test_line_meter_is_safe_under_threads() -> None:
    screen, err = screen_on()
    meter = LineMeter(screen, FakeClock(), "sending")
    threads = [
        threading.Thread(target=lambda: [meter.show(event(done, 400)) for done in range(401)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(err)) == 10


def test_bar_meter_shows_a_bar_and_takes_it_away() -> None:
    screen, err = screen_on(tty=True)
    with BarMeter(screen, "sending\x1b") as meter:
        assert lines(err) == []
        meter.show(event(2**20, 2**22, chunk=0))
        meter.show(event(2**21, 2**22, chunk=1, reused=True))
        screen.note("in between")
    text = err.value().decode()
    assert "sending\\x1b" in text
    assert "in between\n" in text
    assert text.endswith("\x1b[2K")  # the bar's line is cleared
    screen.note("after")
    assert err.value().decode().endswith("after\n")


def test_bar_meter_names_reused_chunks() -> None:
    screen, err = screen_on(tty=True, NO_COLOR="1")
    meter = BarMeter(screen, "sending")
    meter.show(event(1, 2, chunk=3, reused=True))
    meter.finish()
    meter.finish()
    assert "1 chunk reused" in err.value().decode()


@pytest.mark.parametrize(
    ("tty", "quiet", "environ", "kind"),
    [
        (True, False, {}, BarMeter),
        (False, False, {}, LineMeter),
        (True, False, {"TERM": "dumb"}, LineMeter),
        (True, True, {}, Meter),
    ],
)
def test_meter_for_chooses(
    tty: bool, quiet: bool, environ: dict[str, str], kind: type[Meter]
) -> None:
    screen, err = screen_on(tty=tty, quiet=quiet, **environ)
    meter = meter_for(screen, FakeClock(), "sending")
    assert type(meter) is kind
    if quiet:
        with meter:
            meter.show(event(1, 1))
        assert lines(err) == []
