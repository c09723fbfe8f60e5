"""The options of verbs that sign, and of verbs that check signatures.

Every `--help` imports this module, so it must load fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dockercomms.cli.options import NAME, option

if TYPE_CHECKING:
    from dockercomms.cli.session import Session

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_Decorator = Callable[[_Decorated], _Decorated]


def sign_options(function: _Decorated) -> _Decorated:
    """Add the options of a verb that signs with a key, or by the settings."""
    return _add(function, [
        option("--sign/--no-sign", default=None, help="Attach a signature.  [default: yes]"),
        option("--key", type=NAME, metavar="NAME",
               help="Signing key.  [default: default]"),
        option("--timestamp", type=NAME, metavar="URL",
               help="RFC 3161 timestamp authority for the key."),
        option("--keyless", is_flag=True, default=None,
               help="Sign with a (public) Sigstore identity."),
    ])  # fmt: skip


def identity_options(function: _Decorated) -> _Decorated:
    """Add the options of a verb that signs with an identity."""
    return _add(function, [
        option("--identity-token", type=click.Path(readable=False), metavar="FILE",
               help="Identity token.  [default: the CI job's]"),
        option("--interactive", is_flag=True, default=None,
               help="Sign in through a browser."),
        option("--trusted-root", type=click.Path(readable=False), metavar="FILE",
               help="Trusted root of a private Sigstore (with --signing-config)."),
        option("--signing-config", type=click.Path(readable=False), metavar="FILE",
               help="Service addresses of a private Sigstore."),
    ])  # fmt: skip


def trust_options(function: _Decorated) -> _Decorated:
    """Add the options of a verb that verifies messages or receipts."""
    return _add(function, [
        option("--no-verify", is_flag=True,
               help="Skip signature checks (sender names are unverified)."),
        offline_option(),
    ])  # fmt: skip


def pin_option() -> _Decorator[Any]:
    """Return the option of verbs that may pin a new sender's key."""
    return option("--accept-new", is_flag=True, help="Trust a new sender's key from now on.")


def offline_option() -> _Decorator[Any]:
    """Return the option that forbids the network."""
    return option("--offline", is_flag=True,
                  help="Use no network; --repo must be a folder or archive.")  # fmt: skip


def _add(function: _Decorated, decorators: Sequence[_Decorator[Any]]) -> _Decorated:
    for decorate in reversed(decorators):  # the first one stands first in the help
        function = decorate(function)
    return function


def warn_unverified(session: Session, *, no_verify: bool, accept_new: bool = False) -> None:
    """Warn that signatures are not verified.

    Raises:
        UsageError: the flags ask to trust new senders, and to skip verification.
    """
    if no_verify and accept_new:
        from dockercomms.errors import UsageError

        raise UsageError("--accept-new needs signature checks: leave out --no-verify")
    if no_verify:
        session.screen_of("text").warn(
            "--no-verify: signatures are not checked; sender and content may be forged"
        )


def refuse_network(session: Session, *, offline: bool, repo: str | None = None) -> None:
    """Refuse a repository that needs the network, with the option that forbids it.

    Raises:
        UsageError: it does.
    """
    if not offline:
        return
    repo = session.repo if repo is None else repo
    if repo is None:
        return
    from dockercomms.oci.stores import parse_place

    place = parse_place(repo, default_host=session.settings.default_registry)
    if place.folder is None:
        from dockercomms.errors import UsageError

        raise UsageError(
            f"--offline: {place.repo} is at a registry, which needs the network",
            hint="copy it to a folder first: dockercomms reg copy REF oci-layout:FOLDER:TAG",
        )
