"""`verify` and `sign`: signatures of messages, manifests and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import option, verb
from dockercomms.cli.render import human_bytes, human_time
from dockercomms.cli.trust_options import (
    identity_options,
    offline_option,
    refuse_network,
    sign_options,
)
from dockercomms.errors import UsageError

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.messages.sign import Signature, Verification

FOLDERS = ("oci:", "oci-layout:", "oci-archive:", "ocidir:")
"""The prefixes of references to folders; references to registries have a slash."""


@verb(
    "verify",
    example="dockercomms verify 1a2b3c4d\n"
    "dockercomms verify registry.example/team/app:v1\n"
    "dockercomms verify backup.tar --bundle backup.tar.sigstore.json",
    no_args_is_help=True,
)
@click.argument("target", metavar="ID|REF|FILE")
@option("--bundle", type=click.Path(readable=False), metavar="F", help="Signature bundle of FILE.")
@offline_option()
def verify_command(session: Session, *, target: str, bundle: str | None, offline: bool) -> None:
    """Check who signed a message, a manifest or a file.

    ID is a prefix of a message's id or digest, REF any manifest, FILE a file with --bundle.
    Exits 0 if a trusted sender signed it, else 2.
    """
    if bundle is not None:
        found = _verify_file(session, Path(target), Path(bundle))
    else:
        found = _verify_object(session, target, offline=offline)
    _show(session, found)


def _verify_file(session: Session, path: Path, bundle: Path) -> Verification:
    from dockercomms.messages.sign import verify_file
    from dockercomms.platforms.files import local_errors
    from dockercomms.trust.bundle import MAX_BUNDLE_BYTES

    with local_errors(str(bundle)), bundle.open("rb") as file:
        data = file.read(MAX_BUNDLE_BYTES + 1)
    return verify_file(path, data, trust=session.owner().trust(), clock=session.clock)


def _verify_object(session: Session, target: str, *, offline: bool) -> Verification:
    repo, reference = _reference(session, target)
    refuse_network(session, offline=offline, repo=repo)
    with session.mailbox(repo=repo) as mailbox:
        if reference is None:
            return mailbox.verify(target)
        return mailbox.verify_object(reference)


def _reference(session: Session, target: str) -> tuple[str | None, str | None]:
    """Return the repository and the tag or digest of a reference; no tag or digest for an ID.

    Raises:
        UsageError: the reference names only a repository.
    """
    from dockercomms.oci.reference import is_valid_digest
    from dockercomms.oci.stores import parse_place

    if is_valid_digest(target):
        return None, target
    if "/" not in target and not target.startswith(FOLDERS):
        return None, None
    place = parse_place(target, default_host=session.settings.default_registry)
    named = place.digest or place.tag
    if named is None:
        raise UsageError(
            f"{target}: a tag or digest is missing", hint="write REPO:TAG or REPO@sha256:..."
        )
    return place.repo, named


def _show(session: Session, found: Verification) -> None:
    from dockercomms.cli.records import verification_record

    by = found.verified
    rows = [
        ("verified", f"{found.what} {found.id}".rstrip()),
        ("digest", found.digest),
        ("signed by", by.name or ("yourself" if by.own else "")),
        (by.kind, by.signer),
        *((("issuer", by.issuer),) if by.issuer else ()),
        *((("signed at", human_time(by.signed_at)),) if by.signed_at else ()),
        *((("for", found.recipient),) if found.recipient else ()),
    ]
    session.screen.details(verification_record(found), rows)
    if found.what == "message" and by.approval:
        session.screen.note(
            "signed with `cosign sign`: approved by its signer, who need not be its sender"
        )


@verb(
    "sign",
    example="dockercomms sign registry.example/team/app:v1\n"
    "dockercomms sign backup.tar --bundle backup.tar.sigstore.json",
    no_args_is_help=True,
)
@click.argument("target", metavar="REF|FILE")
@option("--bundle", type=click.Path(readable=False), metavar="OUT",
        help="Sign FILE, and write the signature bundle to OUT.")  # fmt: skip
@option("--message", "is_message", is_flag=True,
        help="REF is a message that another machine sent.")  # fmt: skip
@sign_options
@identity_options
def sign_command(session: Session, *, target: str, bundle: str | None, is_message: bool) -> None:
    """Sign a manifest or a file.

    Attaches the signature to REF as `cosign sign` does; `cosign verify` accepts it. A message sent
    from this machine is signed as its sender; any other message needs --message.
    """
    from dockercomms.cli.records import signature_record

    if bundle is None:
        done, place = _sign_object(session, target, is_message=is_message), None
    else:
        done, place = _sign_file(session, Path(target), Path(bundle)), bundle
    rows = [
        ("signed", done.subject),
        ("as", f"{done.signed_by.kind} {done.signed_by.signer}"),
        ("signature", place or done.attached or ""),
    ]
    if done.header is not None:
        rows += [
            ("from", done.header.sender),
            ("to", done.header.recipient),
            ("file", done.header.display_name),
            ("size", human_bytes(done.header.total_bytes)),
        ]
    session.screen.details(signature_record(done, place), rows)


def _sign_file(session: Session, path: Path, out: Path) -> Signature:
    from dockercomms.messages.sign import sign_file
    from dockercomms.platforms.files import local_errors

    signer = session.owner().signer()
    if signer is None:
        raise UsageError("--no-sign: this command only signs; leave the option out")
    done = sign_file(path, signer)
    with local_errors(str(out)):
        out.write_bytes(done.bundle)
    return done


def _sign_object(session: Session, target: str, *, is_message: bool) -> Signature:
    repo, reference = _reference(session, target)
    if reference is None:
        raise UsageError(
            f"{target!r:.100}: neither a reference nor a digest",
            hint="dockercomms sign REPO:TAG, or dockercomms sign FILE --bundle OUT",
        )
    with session.mailbox(repo=repo) as mailbox:
        return mailbox.sign_object(reference, is_message=is_message)
