"""Mailbox: the library's face. One object to send, list, receive, acknowledge and ask for receipts.

It never prints, and reads neither configuration files nor `DOCKERCOMMS_*` variables: what it needs
is passed in. Progress, retries and notices leave as values to hooks. Messages and receipts are
signed with the user's own key, and senders have to be trusted by the user's trust file; the own key
is trusted without one.

Example:
    >>> import pathlib, tempfile
    >>> from dockercomms import Mailbox, Policy
    >>> from dockercomms.mailbox import TrustOptions
    >>> base = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (base / "report.txt").write_text("all is well")
    >>> options = {
    ...     "repo": f"oci-layout:{base}/box",
    ...     "keys_folder": base / "keys",
    ...     "trust": TrustOptions(policy=Policy(me=("alice", "bob"))),
    ... }
    >>> with Mailbox(me="alice", state_path=base / "alice.db", **options) as alice:
    ...     sent = alice.send([base / "report.txt"], to="bob", title="weekly")
    >>> with Mailbox(me="bob", state_path=base / "bob.db", **options) as bob:
    ...     [(entry.signer, entry.title) for entry in bob.inbox()]
    ...     (received,) = bob.receive(out=base / "in")
    ...     received.files[0].read_text()
    [('alice', 'weekly')]
    'all is well'
    >>> with Mailbox(me="alice", state_path=base / "alice.db", **options) as alice:
    ...     [(receipt.signer, receipt.status) for receipt in alice.receipts()]
    [('bob', 'accepted')]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypedDict, Unpack

from dockercomms.inbox.listing import InboxEntry, answer_to
from dockercomms.mailbox.incoming import Incoming
from dockercomms.mailbox.outgoing import Outgoing
from dockercomms.mailbox.whole import Whole
from dockercomms.oci.stores import ConnectionSettings, Store, open_store
from dockercomms.platforms.arguments import checks_arguments
from dockercomms.trust.owner import SigningOptions, TrustOptions

if TYPE_CHECKING:
    from dockercomms.messages.draft import Sent
    from dockercomms.transport.files import Links
    from dockercomms.transport.push import Compress

__all__ = [
    "ConnectionSettings",
    "InboxEntry",
    "Mailbox",
    "SigningOptions",
    "Store",
    "TrustOptions",
    "open_store",
]


class ReplyOptions(TypedDict, total=False):
    """What may be said of an answer beside what it says; see `Mailbox.send`."""

    text: str | None
    name: str | None
    stdin: BinaryIO | None
    ttl_seconds: int
    compress: Compress
    chunk_bytes: int | None
    concurrency: int
    keep_mtime: bool
    exclude: Sequence[str]
    links: Links
    again: bool
    clock_skew_ok: bool


@checks_arguments
class Mailbox(Outgoing, Incoming, Whole):
    """One user's mail in one repository. Not safe for several threads.

    Where a method takes several paths, ids or patterns, one may stand alone.

    Args:
        repo: `host[:port]/path`, `oci://host/path`, `oci-layout:FOLDER`, or `oci-archive:FILE`;
            None is the user's own mailbox folder, `$XDG_DATA_HOME/dockercomms/mailbox`.
        me: The name to receive as, and to send as, or several to receive as, the first one to send
            as; None is those in the trust file, else the login name.
        settings: How to reach a registry.
        state_path: The file to remember in; None is `$XDG_STATE_HOME/dockercomms/state.db`.
        keys_folder: Where the keys are; None is `$XDG_DATA_HOME/dockercomms/keys`.
        signing: What messages and receipts are signed with; None is the own key.
        trust: Whom to believe; None is the trust file.
        clock: The time.
        progress: Called as chunks of payload arrive, there or here.
        on_retry: Called before a request is tried again; False gives up.
        on_notice: Called with what the user may want to know.
        store: A store to use instead of the one that `repo` and `settings` say.
        discovery: How messages are looked for: "referrers" lists no tags, "tags" asks for no
            referrers, "auto" does both.
        referrers_index: Whether the fallback index of the tag schema is written: "auto" where the
            registry has no referrers API.
        manifest_form: How manifests say what they are: by their artifact type, as an image with an
            annotation, or "auto", as the registry takes (SPEC.md 2.9).
        clock_choice: Whose time decides whether a message has expired or comes from the future:
            "both" where they say the same, else the message is held; "own" or "registry".

    Raises:
        UsageError: `repo` is not a repository, or there is no login name.
        ConfigError: the trust file is wrong, where it has to say who we are.
        TypeError: an argument, here or of any method, is not what its annotation says.
    """

    def reply(
        self,
        id: str,  # noqa: A002 - as the argument is called
        paths: Path | str | Sequence[Path | str] = (),
        *,
        title: str | None = None,
        **options: Unpack[ReplyOptions],
    ) -> Sent:
        """Answer the one message whose id or digest begins with `id`, in its conversation.

        Args:
            id: The message.
            paths: What to send, as for `send`.
            title: None: that of the message, after `Re: `.
            options: As for `send`.

        Raises:
            NotFoundError, UsageError: as `show`.
            ProtocolError: the message could not be read.
            As `send`.
        """
        answer = answer_to(self.show(id))
        return self.send(
            paths,
            to=answer.to,
            sender=answer.sender,
            title=answer.title if title is None else title,
            thread_id=answer.thread_id,
            in_reply_to=answer.in_reply_to,
            **options,
        )
