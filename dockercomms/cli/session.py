"""The state of one command line: its streams, flags and settings, and its signals.

SIGINT is held between the publication of a message and the line that reports it: a user who reads
"interrupted, run it again" about a published message would send it twice.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from dockercomms.cli.config import Discovery, FormChoice, ReferrersIndex, Settings, TrustedClock
    from dockercomms.cli.progress import Meter
    from dockercomms.cli.render import Screen
    from dockercomms.cli.stores import Stores
    from dockercomms.errors import DockerCommsError, Notice, NoticeHook
    from dockercomms.inbox.poll import PollResult
    from dockercomms.mailbox import Mailbox
    from dockercomms.oci.remote.retry import RetryEvent, RetryHook
    from dockercomms.oci.stores import ConnectionSettings
    from dockercomms.platforms.clock import Clock
    from dockercomms.state.allowed_files import AllowedFiles
    from dockercomms.transport.journal import Progress
    from dockercomms.trust.owner import Owner, SigningOptions, TrustOptions
    from dockercomms.trust.policy import Policy
    from dockercomms.trust.roots import RootAge

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Holds SIGINT and SIGTERM; a second signal interrupts at once."""

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._came = False

    def hold(self) -> None:
        """Hold signals from now on, if they are not held already."""
        if self._former or threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set signal handlers
        self._came = False
        for number in _NUMBERS:
            self._former[number] = signal.signal(number, self._note)

    def release(self) -> bool:
        """Let signals interrupt again; return whether one arrived."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        return self._came

    def obey(self) -> None:
        """Let signals interrupt again; interrupt if one arrived."""
        if self.release():
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True


PASSPHRASE_VARIABLE = "DOCKERCOMMS_PASSPHRASE"  # noqa: S105 - a name


class MailboxFactory(Protocol):
    """A function that opens a mailbox, such as `Mailbox` itself."""

    def __call__(
        self,
        repo: str | None,
        *,
        me: str | Sequence[str] | None,
        settings: ConnectionSettings,
        clock: Clock,
        signing: SigningOptions,
        trust: TrustOptions,
        discovery: Discovery,
        referrers_index: ReferrersIndex,
        manifest_form: FormChoice,
        clock_choice: TrustedClock,
        progress: Progress | None,
        on_retry: RetryHook | None,
        on_notice: NoticeHook | None,
    ) -> Mailbox:
        """Return the mailbox of `me` in `repo`; the caller closes it as a context manager."""
        ...


class Session:
    """The streams, flags and settings of one command. Tests pass their own streams.

    Args:
        stdin: The bytes a command may read.
        stdout: The stream for data; its `buffer` takes bytes.
        stderr: The stream for notes, warnings and errors.
        environ: The environment.
        folder: The current folder of the command. Default: the process' own.
        clock: The time. Default: the machine's.
        mailbox_factory: Opens mailboxes. Default: `Mailbox`.
    """

    def __init__(
        self,
        *,
        stdin: BinaryIO,
        stdout: TextIO,
        stderr: TextIO,
        environ: Mapping[str, str],
        folder: Path | None = None,
        clock: Clock | None = None,
        mailbox_factory: MailboxFactory | None = None,
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.environ = environ
        self.verb = ""
        self._folder = folder
        self._clock = clock
        self._factory = mailbox_factory
        self._common: dict[str, Any] = {}
        self._flags: dict[str, object] = {}
        self.interrupts = Interrupts()

    def begin(self, ctx: click.Context) -> dict[str, Any]:
        """Take the flags of a verb and of the groups above it; return the verb's own parameters.

        A flag nearer to the verb overrides the same flag of a group.
        """
        from dataclasses import fields

        from dockercomms.cli.config import Settings

        of_all_verbs: frozenset[str] = getattr(ctx.command, "of_all_verbs", frozenset())
        self.verb = " ".join(ctx.command_path.split()[1:])
        chain = [ctx]
        while chain[0].parent is not None:
            chain.insert(0, chain[0].parent)
        for place in chain:
            common = place.params.items()
            self._common |= {k: v for k, v in common if k in of_all_verbs and v is not None}
        settable = {field.name for field in fields(Settings)}
        own = {k: v for k, v in ctx.params.items() if k not in of_all_verbs}
        given = {**self._common, **own}
        self._flags = {k: v for k, v in given.items() if k in settable and v is not None}
        return {k: v for k, v in own.items() if k not in settable}

    @property
    def verbose(self) -> bool:
        """Return whether `--verbose` was given."""
        return bool(self._common.get("verbose"))

    @property
    def plain_style(self) -> str:
        """Return the output format of the flags, without reading a file."""
        if self._common.get("as_json"):
            return "json"
        return str(self._common.get("format") or "text")

    @property
    def clock(self) -> Clock:
        """The time."""
        if self._clock is None:
            from dockercomms.platforms.clock import SystemClock

            self._clock = SystemClock()
        return self._clock

    @cached_property
    def settings(self) -> Settings:
        """The settings of this command.

        Raises:
            ConfigError, UsageError: as `config.load`.
        """
        from dockercomms.cli.config import load

        flags, named = dict(self._flags), self._common.get("config")
        if self._common.get("as_json"):
            flags["format"] = "json"
        if self._common.get("password_stdin"):
            flags["password"] = self._read_password()
        if ("username" in flags) != ("password" in flags):
            from dockercomms.errors import UsageError

            raise UsageError(
                "--username and --password-stdin are given together or not at all",
                hint="printenv TOKEN | dockercomms ... --username NAME --password-stdin",
            )
        return load(
            flags,
            environ=self.environ,
            folder=self.folder,
            named=None if named is None else str(self.folder / named),
            allowed=self._is_allowed,
        )

    @property
    def folder(self) -> Path:
        """The current folder of the command."""
        from pathlib import Path

        if self._folder is not None:
            return self._folder
        try:
            return Path.cwd()
        except FileNotFoundError:
            return Path()  # it was removed: no project file, no relative paths

    def _is_allowed(self, path: Path, data: bytes) -> bool:
        """Return whether the user allowed a project file; False without a readable state."""
        from dockercomms.errors import NoHomeError

        try:
            return self.allowed_files.allows(path, data)
        except NoHomeError:
            return False

    @property
    def allowed_files(self) -> AllowedFiles:
        """The project files that may name the repository."""
        from dockercomms.state import default_path
        from dockercomms.state.allowed_files import AllowedFiles

        return AllowedFiles(default_path(self.environ).parent / "allowed")

    @cached_property
    def repo(self) -> str | None:
        """The repository of flags and settings; the user's own mailbox folder if it is `None`.

        It writes a note if a project file names the repository, or would if it were allowed.

        Raises:
            ConfigError: only a project file that the user has not allowed names a repository.
        """
        chosen = self.settings
        if chosen.not_allowed is not None:
            path, repo = chosen.not_allowed
            if chosen.repo is None:
                from dockercomms.errors import ConfigError

                raise ConfigError(
                    f"{path}: sets the repository {repo}, but you have not allowed this file",
                    hint="if you trust the file: dockercomms config allow\n"
                    "or choose another repository with --repo or DOCKERCOMMS_REPO, or another "
                    "file with --config FILE",
                )
            self.screen.warn(
                f"{path} sets another repository, {repo}: ignored, because you have not "
                "allowed this file ('dockercomms config allow')"
            )
        elif not chosen.repo_is_named:
            self.screen.note(f"repository {chosen.repo}, from {chosen.origins['repo']}")
        return chosen.repo

    def _read_password(self) -> str:
        from dockercomms.errors import UsageError

        if self.stdin.isatty():
            raise UsageError(
                "--password-stdin reads a pipe: a terminal would show the password",
                hint="printenv TOKEN | dockercomms ... --username NAME --password-stdin",
            )
        password = self.stdin.read().decode("utf-8", "surrogateescape").rstrip("\r\n")
        if not password:
            raise UsageError("--password-stdin: standard input is empty")
        return password

    @property
    def reads_password(self) -> bool:
        """Return whether a password is read from standard input, which excludes other uses."""
        return bool(self._common.get("password_stdin"))

    @cached_property
    def screen(self) -> Screen:
        """The two streams, in the format of flags and settings."""
        return self.screen_of(self.settings.format)

    def screen_of(self, style: str) -> Screen:
        """Return the two streams with data in `style`, without reading a file."""
        return self._screen(self.stdout, style)

    def screen_on(self, data: TextIO) -> Screen:
        """Return a screen that writes data to `data`, because standard output has the content."""
        return self._screen(data, self.settings.format)

    def _screen(self, data: TextIO, style: str) -> Screen:
        from dockercomms.cli.render import Screen

        quiet = bool(self._common.get("quiet"))
        return Screen(data, self.stderr, environ=self.environ, style=style, quiet=quiet)

    def tell_failure(self, what: str, error: DockerCommsError) -> None:
        """Report the failure of one of several objects, in three lines."""
        from dockercomms.cli.failures import explain

        meaning, why, hints = explain(error)
        self.screen_of("text").failure(f"{self.verb}: {what}: {meaning}", why, hints)

    def tell_withheld(self, what: str, error: DockerCommsError) -> None:
        """Report that the policy holds a message, and the command that would accept it."""
        from dockercomms.cli.failures import explain

        _, why, hints = explain(error)
        self.screen.note(f"{what} is held: {why}")
        for hint in hints:
            self.screen.note(f"hint: {hint}")

    def connection(self, repo: str | None = None) -> ConnectionSettings:
        """Return the connection settings for a registry.

        The user name and password of flags and environment go only to a host that the user named by
        a flag, an argument, a variable or their own configuration. They do not go to the address of
        a recipient, nor to the repository of a project file.

        Args:
            repo: The repository. Default: the command line names it.
        """
        from dockercomms.oci.stores import ConnectionSettings

        chosen = self.settings
        username, password = chosen.username, chosen.password
        if username is not None and repo is not None and not self._has_named(repo):
            username = password = None
            self.screen.warn(
                f"{repo}: user name and password not used: no flag, environment variable or "
                "configuration of yours names this host"
            )
        return ConnectionSettings(
            plain_http=chosen.plain_http,
            insecure=chosen.insecure,
            ca_file=chosen.ca_file,
            authfile=chosen.authfile,
            username=username,
            password=password,
            timeout=chosen.timeout,
        )

    def _has_named(self, repo: str) -> bool:
        """Return whether the user named the host of `repo`; True for a folder."""
        from dockercomms.oci.stores import parse_repo

        host, named = parse_repo(repo).host, self.settings.repo
        if not host:
            return True
        return named is not None and self.settings.repo_is_named and parse_repo(named).host == host

    def stores(self, *, cached: bool = False) -> Stores:
        """Return an opener of the references of the command line; see `Stores`."""
        from dockercomms.cli.stores import Stores

        return Stores(self, cached=cached)

    def mailbox(
        self,
        meter: Meter | None = None,
        *,
        repo: str | None = None,
        address: str | None = None,
        sender: str | None = None,
        verify: bool = True,
        accept_new: bool = False,
    ) -> Mailbox:
        """Open a mailbox with the settings.

        Args:
            meter: Shows the progress of transfers.
            repo: A repository from an argument, instead of that of the settings.
            address: A repository from the trust file, instead of that of the settings.
            sender: The name to send as, if settings and trust file have no name.
            verify: Verify the signatures of senders.
            accept_new: Trust the keys of new senders from the first message on.

        Raises:
            UsageError, ConfigError: the settings are wrong.
        """
        chosen = self.settings
        if repo is not None:
            connection = self.connection()
        else:
            repo = self.repo if address is None else address
            connection = self.connection(repo)
        factory = self._factory
        if factory is None:
            from dockercomms.mailbox import Mailbox

            factory = Mailbox
        return factory(
            repo,
            me=self.names or sender,
            settings=connection,
            signing=self.signing(),
            trust=self.trust(verify=verify, accept_new=accept_new),
            discovery=chosen.discovery,
            referrers_index=chosen.referrers_index,
            manifest_form=chosen.manifest_form,
            clock_choice=chosen.clock,
            clock=self.clock,
            progress=None if meter is None else meter.show,
            on_retry=self.tell_retry,
            on_notice=self._tell_notice,
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The user's names: from the settings, else from the trust file, else the login name.

        Raises:
            ConfigError, LocalIOError: the trust file is malformed, or cannot be read.
        """
        chosen = self.settings
        if chosen.origins.get("me") in {None, "login name"}:
            listed = self.policy().me
            if listed:
                return listed
        return () if chosen.me is None else (chosen.me,)

    def address_of(self, recipient: str) -> str | None:
        """Return a recipient's address in the trust file, if it has one.

        A repository on the command line or in the environment overrides it.

        Raises:
            ConfigError, LocalIOError: the trust file is malformed, or cannot be read.
        """
        if self.settings.origins.get("repo") in {"flag", "DOCKERCOMMS_REPO"}:
            return None
        entry = self.policy().sender(recipient)
        return None if entry is None else entry.address

    def policy(self) -> Policy:
        """Return the policy of the trust file; an empty policy for a user without a folder for it.

        Raises:
            ConfigError, LocalIOError: the trust file is malformed, or cannot be read.
        """
        from dockercomms.trust.policy import Policy
        from dockercomms.trust.policy_file import load_policy

        file = self._readable_trust_file
        return Policy() if file is None else load_policy(file)

    @property
    def _readable_trust_file(self) -> Path | None:
        """The path of the trust file, if the user has a folder for it."""
        from dockercomms.errors import NoHomeError

        try:
            return self.trust_file
        except NoHomeError:
            return None

    @property
    def trust_file(self) -> Path:
        """The path of the trust file.

        Raises:
            NoHomeError: the user has no folder for it.
        """
        from pathlib import Path

        from dockercomms.trust.owner import default_trust_file

        named = self.settings.trust
        return default_trust_file(self.environ) if named is None else Path(named)

    def owner(self) -> Owner:
        """Return the owner with the keys and the trust of the settings."""
        from dockercomms.errors import NoHomeError
        from dockercomms.trust.keys import default_keys_folder
        from dockercomms.trust.owner import Owner

        try:
            keys = default_keys_folder(self.environ)
        except NoHomeError:
            keys = None  # verification needs no keys; signing reports the error later
        return Owner(
            self.names or None,
            keys=keys,
            signing=self.signing(),
            trust=self.trust(),
            on_notice=self._tell_notice,
        )

    def signing(self) -> SigningOptions:
        """Return the signing options of the settings."""
        from pathlib import Path

        from dockercomms.errors import UsageError
        from dockercomms.trust.keyless import KeylessOptions
        from dockercomms.trust.owner import SigningOptions

        chosen = self.settings
        if not (chosen.timestamp or "https://").startswith(("https://", "http://")):
            raise UsageError(f"--timestamp {chosen.timestamp}: an address with https:// expected")
        token_file = None if chosen.identity_token is None else Path(chosen.identity_token)
        keyless = KeylessOptions(
            token=chosen.token if token_file is None else None,
            token_file=token_file,
            interactive=chosen.interactive,
            trusted_root=None if chosen.trusted_root is None else Path(chosen.trusted_root),
            signing_config=None if chosen.signing_config is None else Path(chosen.signing_config),
        )
        return SigningOptions(
            sign=chosen.sign,
            key=chosen.key,
            passphrase=self.passphrase,
            keyless=keyless if chosen.keyless else None,
            timestamp=chosen.timestamp,
        )

    def public_root(self) -> tuple[str, RootAge | None]:
        """Return the age of the public Sigstore's root as text, and as a value if it is usable."""
        from dockercomms.cli.render import count_of
        from dockercomms.errors import DockerCommsError
        from dockercomms.trust.roots import public_root_age

        try:
            found = public_root_age(self.environ)
        except DockerCommsError as error:  # the verb that needs the root reports the error
            return f"unusable: {error.message}", None
        newest = f"newest key of {found.newest:%Y-%m-%d}"
        if found.updated is None:
            return f"that of the sigstore package, {newest}", found
        days = max(0, (self.clock.now() - found.updated).days)
        return f"updated {found.updated:%Y-%m-%d}, {count_of(days, 'day')} ago, {newest}", found

    def trust(self, *, verify: bool = True, accept_new: bool = False) -> TrustOptions:
        """Return the trust options of the settings."""
        from dockercomms.trust.owner import TrustOptions

        flags = (("--repo", self.settings.repo), ("--me", self.settings.me))
        given = [(flag, value) for flag, value in flags if self._is_flag(flag) and value]
        return TrustOptions(
            file=self._readable_trust_file,
            verify=verify,
            accept_new=accept_new,
            words=tuple(word for pair in given for word in pair),
        )

    def _is_flag(self, flag: str) -> bool:
        return self.settings.origins.get(flag.removeprefix("--")) == "flag"

    def passphrase(self, name: str, *, new: bool = False) -> str | None:
        """Return the passphrase of a key from the environment, else from a prompt on the terminal.

        Args:
            name: The name of the key.
            new: The user chooses it now: ask twice.

        Raises:
            UsageError: the second input differs from the first.
        """
        given = self.environ.get(PASSPHRASE_VARIABLE)
        if given or not self.stdin.isatty():
            return given
        import getpass

        typed = getpass.getpass(f"passphrase of the key {name}: ")
        if new and getpass.getpass("repeat the passphrase: ") != typed:
            from dockercomms.errors import UsageError

            raise UsageError("the two passphrases differ")
        return typed or None

    def tell_retry(self, event: RetryEvent) -> None:
        """Report a failed try before the next one."""
        most = "" if event.max_attempts is None else f" of {event.max_attempts}"
        self.screen.note(
            f"attempt {event.attempt}{most} failed: {event.error}; "
            f"retrying in {event.next_retry_in:.1f} s"
        )

    def tell_defects(self, mailbox: Mailbox) -> int:
        """Report the new defects at single objects; return the exit code."""
        for error in mailbox.defects:
            self.tell_failure(error.what, error)
        return error.exit_code if mailbox.defects else 0

    def _tell_notice(self, notice: Notice) -> None:
        """Write important notices; those about workarounds for a registry only with `--verbose`."""
        if notice.kind == "published":
            self.interrupts.hold()  # until the line about it is written
        if notice.kind in {
            "clock-skew",
            "elsewhere",
            "not-remembered",
            "not-tried",
            "pinned",
            "receipt-unreadable",
            "watch-waits",
        }:
            self.screen.warn(notice.text)
        elif notice.kind in {"created", "key-created"} or self.verbose:
            self.screen.note(notice.text)

    def tell_poll(self, poll: PollResult | None) -> None:
        """Report the failures of a poll."""
        if poll is None:
            return
        if poll.repository_missing:
            self.screen.note(
                f"No mailbox at {self.repo} yet: the inbox is empty."
                if self.repo
                else "No mailbox in your own folder yet. "
                "Set --repo or DOCKERCOMMS_REPO to the mailbox that your sender used."
            )
        if poll.clocks_differ:
            self.screen.warn(
                f"{poll.clocks}: messages that the clocks disagree on are held; choose the right "
                "clock with --clock own or --clock registry"
            )
        for way, error in poll.errors:
            self.screen.warn(f"search by {way} failed, there may be more messages: {error}")

    def tell_waiting(self, candidates: int) -> None:
        """Report the number of candidates that a run left for the next one, if any."""
        from dockercomms.protocol.header import MAX_FETCHED_MANIFESTS

        if candidates:
            self.screen.warn(
                f"{candidates} candidate messages not read yet: one run reads at most "
                f"{MAX_FETCHED_MANIFESTS} manifests; run the same command again"
            )


def process_session(mailbox_factory: MailboxFactory | None = None) -> Session:
    """Return the session of this process, with the streams of its start."""
    import os

    return Session(
        stdin=_binary(sys.stdin, "rb"),
        stdout=_text(sys.stdout),
        stderr=_text(sys.stderr),
        environ=os.environ,
        mailbox_factory=mailbox_factory,
    )


def _text(stream: TextIO | None) -> TextIO:
    """Return the stream, or the null device if the process was started without it (`>&-`)."""
    import os

    return stream if stream is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - open to the end


def _binary(stream: TextIO | None, mode: str) -> BinaryIO:
    import os

    return stream.buffer if stream is not None else open(os.devnull, mode)  # type: ignore[return-value]  # noqa: PTH123 - open to the end
