"""Mailbox: one object that sends, lists, receives and acknowledges messages.

The library never prints, and reads neither configuration files nor `DOCKERCOMMS_*` variables: the
caller passes its settings in. Hooks receive progress, retries and notices as values. The mailbox
signs with the user's own key, trusts that key, and trusts senders by the user's trust file.

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
    "Mailbox",
    "SigningOptions",
    "Store",
    "TrustOptions",
    "open_store",
]


class ReplyOptions(TypedDict, total=False):
    """The options of `Mailbox.reply`; `Mailbox.send` explains them."""

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

    An argument that takes several paths, ids or patterns also takes a single one.

    Args:
        repo: `host[:port]/path`, `oci://host/path`, `oci-layout:FOLDER`, or `oci-archive:FILE`.
            Default: the user's own mailbox folder, `$XDG_DATA_HOME/dockercomms/mailbox`.
        me: The name to send and receive as, or several to receive as; the first one sends. Default:
            the names in the trust file, else the login name.
        settings: The connection to a registry.
        state_path: The state database. Default: `$XDG_STATE_HOME/dockercomms/state.db`.
        keys_folder: The folder of the keys. Default: `$XDG_DATA_HOME/dockercomms/keys`.
        signing: The key or identity that signs messages and receipts. Default: the own key.
        trust: The trusted senders. Default: the trust file.
        clock: The time.
        progress: Called for each chunk of payload that was uploaded or downloaded.
        on_retry: Called before a request is tried again; if it returns False, no retry happens.
        on_notice: Called with notices for the user.
        store: A store to use instead of `repo` and `settings`.
        discovery: The way to find messages: "referrers" lists no tags, "tags" asks for no
            referrers, "auto" does both.
        referrers_index: When to write the fallback index of the tag schema: "auto" where the
            registry has no referrers API.
        manifest_form: The member of manifests with their type: "artifact" for the artifact type,
            "image" for an annotation, "auto" as the registry accepts it (SPEC.md 2.9).
        clock_choice: The clock that decides whether a message has expired or comes from the future:
            "own", "registry", or "both", which holds a message if the clocks disagree.

    Raises:
        UsageError: `repo` is not a repository, or there is no login name.
        ConfigError: the trust file is malformed and its names are needed.
        TypeError: an argument, here or of any method, does not fit its annotation.
    """

    def reply(
        self,
        id: str,  # noqa: A002 - as the argument is called
        paths: Path | str | Sequence[Path | str] = (),
        *,
        title: str | None = None,
        **options: Unpack[ReplyOptions],
    ) -> Sent:
        """Reply to the message whose id or digest begins with `id`, in its conversation.

        Args:
            id: The message.
            paths: The files to send, as for `send`.
            title: Default: the title of the message, after `Re: `.
            options: As for `send`.

        Raises:
            NotFoundError, UsageError: as `show`.
            ProtocolError: the message cannot be read.
            As `send`.
        """
        from dockercomms.inbox.listing import answer_to

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
