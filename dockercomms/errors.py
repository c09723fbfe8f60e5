"""The exceptions of dockercomms: one tree, one exit code per class.

    DockerCommsError 1
    ├ ConfigError 1                a configuration file or environment variable is wrong
    │ └ NoHomeError                the user has no home folder, and a file needs one
    ├ UsageError 64                an argument is wrong (click's own usage errors are mapped here)
    ├ NetworkError 6               timeout, connection, TLS, retries used up
    │ ├ ProxyError 6               the proxy on the way refused, or could not be reached
    │ └ ServerFailed               it answered, with a failure of its own (5xx) to the last
    ├ RetryAborted 1               a retry hook asked to stop
    ├ RegistryError 1              the registry answered with an error
    │ ├ AuthError 3
    │ │ ├ Unauthorized             UNAUTHORIZED
    │ │ └ Denied                   DENIED
    │ ├ NotFoundError 5
    │ │ ├ NameUnknown              NAME_UNKNOWN
    │ │ ├ ManifestUnknown          MANIFEST_UNKNOWN
    │ │ ├ BlobUnknown              BLOB_UNKNOWN
    │ │ ├ UploadUnknown            BLOB_UPLOAD_UNKNOWN
    │ │ └ PlatformNotFound         no entry of an index fits
    │ ├ TooManyRequests 9          TOOMANYREQUESTS
    │ ├ BadAnswer 4                an answer that HTTP or the distribution spec does not allow
    │ │ └ UnreadableEntries        a list that was read, but for some of its entries
    │ ├ DigestInvalid, SizeInvalid, NameInvalid, ManifestInvalid, ManifestBlobUnknown,
    │ └ UploadInvalid, RangeInvalid, Unsupported                                       1
    ├ ProtocolError 4              bad manifest, annotation, version, chunk order, limit
    │ └ IntegrityError 4           bytes are not what was promised
    │   ├ DigestMismatch           other content
    │   ├ SizeMismatch             another length where the length is a claim of its own
    │   ├ Truncated                the bytes end early
    │   └ TrailingData             bytes follow the end
    ├ LimitError 9                 a limit of ours or of the registry would be passed
    ├ SigningError 1               nothing could be signed: no identity, or a service refused
    │ └ SigningUnreachable 6       a service that signing needs did not answer
    ├ VerificationError 2          bad signature, wrong identity
    │ ├ Unsigned                   there is no signature at all
    │ ├ UnknownSender              the policy does not say how that name signs
    │ ├ TooEarly                   it claims to be from the future
    │ └ ClocksDiffer               the two clocks judge it differently
    ├ CommandError 1               a command that was run for a message did not take it
    ├ PartialError 7               some messages failed
    ├ RejectedError 10             a receiver rejected what was sent
    ├ NoAnswerError 11             no receiver said anything in time
    ├ NothingNewError 12           nothing new, and the caller wanted to know
    ├ InternalError 1              a defect of ours, met at one object; the others went on
    └ LocalIOError 8               disk full, permissions, a file that changed while it was read
      └ PlaceError                 a payload does not fit into the folder that it is to go to

Codes 0 to 5 are those of the 1.0 program. Messages are lower case, without a full stop: what
failed, on which object, what was expected and what came. `hint` says what the user can do.

Example:
    >>> from dockercomms.errors import NetworkError
    >>> NetworkError("registry.example: connection refused").exit_code
    6
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, NamedTuple


class DockerCommsError(Exception):
    """Base of every error that dockercomms raises on purpose.

    Args:
        message: What failed, on which object, what was expected and what came.
        hint: What the user can do about it, one line or several.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The class name: the stable word for programs that read `--format json`."""
        return type(self).__name__


class ConfigError(DockerCommsError):
    """A configuration file or environment variable is wrong."""


class NoHomeError(ConfigError):
    """The user has no home folder, and no variable names another one for the file."""


class UsageError(DockerCommsError):
    """An argument is wrong."""

    exit_code = 64


class NetworkError(DockerCommsError):
    """The registry could not be reached, or stopped answering, and retrying did not help.

    Args:
        message: See the base class.
        attempts: How many times it was tried.
        waited_seconds: How long was waited between the tries.
        retryable: False where trying again cannot help, such as a certificate that is not trusted.
        refused: The connection was refused, or the answer was not HTTP, and nothing has answered
            there before.
        hint: See the base class.
    """

    exit_code = 6

    def __init__(
        self,
        message: str,
        *,
        attempts: int = 1,
        waited_seconds: float = 0.0,
        retryable: bool = True,
        refused: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.refused = refused
        self.attempts = attempts
        self.waited_seconds = waited_seconds
        self.retryable = retryable


class ProxyError(NetworkError):
    """The proxy wants a login, refuses the way to the registry, or cannot be reached."""


class ServerFailed(NetworkError):
    """The registry answered, and with a failure of its own (5xx) to the last try."""


class RetryAborted(DockerCommsError):
    """A retry hook returned False."""


class RegistryError(DockerCommsError):
    """The registry answered with an error.

    Args:
        message: The registry's own text, or ours where it gave none.
        code: The OCI error code, "" where there was none.
        status: The HTTP status, 0 for a store without HTTP.
        method: The HTTP method.
        url: The address without its query.
        detail: The `detail` member of the OCI error, as JSON text.
        body: The first bytes of the answer's body, at most 8192.
        retry_after_seconds: How long the registry asks to wait (Retry-After), None if it does not.
        hint: See the base class.

    Source: OCI distribution-spec v1.1.1, "Error Codes".
    """

    code: str = ""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int = 0,
        method: str = "",
        url: str = "",
        detail: str = "",
        body: bytes = b"",
        retry_after_seconds: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code
        self.status = status
        self.method = method
        self.url = url
        self.detail = detail
        self.body = body


class AuthError(RegistryError):
    """The registry wants other credentials, or none would do."""

    exit_code = 3


class Unauthorized(AuthError):
    """Authentication is required or was refused."""

    code = "UNAUTHORIZED"


class Denied(AuthError):
    """The credentials are known but do not allow this."""

    code = "DENIED"


class NotFoundError(RegistryError):
    """What was asked for is not there."""

    exit_code = 5


class NameUnknown(NotFoundError):
    """The repository does not exist."""

    code = "NAME_UNKNOWN"


class ManifestUnknown(NotFoundError):
    """The manifest or tag does not exist."""

    code = "MANIFEST_UNKNOWN"


class BlobUnknown(NotFoundError):
    """The blob does not exist."""

    code = "BLOB_UNKNOWN"


class UploadUnknown(NotFoundError):
    """The upload session does not exist (any more)."""

    code = "BLOB_UPLOAD_UNKNOWN"


class PlatformNotFound(NotFoundError):
    """No entry of an index fits the platform asked for."""


class TooManyRequests(RegistryError):
    """The registry asked to slow down, and waiting did not help."""

    exit_code = 9
    code = "TOOMANYREQUESTS"


class BadAnswer(RegistryError):
    """The registry, or something in front of it, gave an answer that cannot be used.

    A login page, a redirect to nowhere, a header or list that is malformed: a fault of the way. It
    proves nothing about the message or blob that was asked for, so another try may help. It is no
    `ProtocolError`, whose bytes were proven to be the message's own.

    Source: SPEC.md section 7.4.
    """

    exit_code = 4


class UnreadableEntries(BadAnswer):
    """A list was read to its end, and some of its entries are no descriptors.

    Raised behind the last entry; the others have been handed out before.

    Source: SPEC.md section 7.4.
    """


class DigestInvalid(RegistryError):
    """The registry found another digest than was said."""

    code = "DIGEST_INVALID"


class SizeInvalid(RegistryError):
    """The registry found another size than was said."""

    code = "SIZE_INVALID"


class NameInvalid(RegistryError):
    """The registry refuses the repository's name."""

    code = "NAME_INVALID"


class ManifestInvalid(RegistryError):
    """The registry refuses the manifest."""

    code = "MANIFEST_INVALID"


class ManifestBlobUnknown(RegistryError):
    """The manifest names a blob or manifest that the registry does not have."""

    code = "MANIFEST_BLOB_UNKNOWN"


class UploadInvalid(RegistryError):
    """The upload session cannot go on."""

    code = "BLOB_UPLOAD_INVALID"


class RangeInvalid(RegistryError):
    """The byte range is not there, or not the one the registry expects next."""

    code = "RANGE_INVALID"


class Unsupported(RegistryError):
    """The registry does not do this."""

    code = "UNSUPPORTED"


class ProtocolError(DockerCommsError):
    """A manifest, annotation, version, chunk or name breaks the protocol or a limit of it."""

    exit_code = 4


class IntegrityError(ProtocolError):
    """Bytes are not what was promised."""


class DigestMismatch(IntegrityError):
    """The content has another digest than was asked for."""


class SizeMismatch(IntegrityError):
    """The content has another size than was promised."""


class Truncated(IntegrityError):
    """The content ends before its promised end."""


class TrailingData(IntegrityError):
    """The content goes on after its promised end."""


class LimitError(DockerCommsError):
    """A limit of ours or of the registry would be passed."""

    exit_code = 9


class SigningError(DockerCommsError):
    """Nothing could be signed: there is no identity to sign with, or a service refused."""


class SigningUnreachable(SigningError):
    """A service that signing needs did not answer, or not in time."""

    exit_code = 6


class VerificationError(DockerCommsError):
    """A signature, identity or statement does not hold."""

    exit_code = 2


class Unsigned(VerificationError):
    """There is no signature at all; a policy may let such a message pass, as a claim."""


class UnknownSender(VerificationError):
    """The policy does not say how that name signs."""


class TooEarly(VerificationError):
    """It claims to be from the future, which is over some day, or a clock is wrong."""


class ClocksDiffer(VerificationError):
    """This machine's clock and the registry's judge a message differently; the user decides."""

    HINT: ClassVar[str] = (
        "set the wrong clock right; or receive this one by its id: dockercomms recv ID\n"
        "or say which clock is right: --clock own, or --clock registry\n"
        'a machine that has no clock of its own sets clock = "registry" in config.toml, once'
    )

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=self.HINT if hint is None else hint)


class CommandError(DockerCommsError):
    """A command that was run for a message ended with another exit code than 0, or not in time."""


class PartialError(DockerCommsError):
    """Some of what was asked for failed, for more than one reason."""

    exit_code = 7


class RejectedError(DockerCommsError):
    """A receiver rejected what was sent; the receipt says why."""

    exit_code = 10


class NoAnswerError(DockerCommsError):
    """Nobody said in time what became of what was sent, as far as that is proven."""

    exit_code = 11


class NothingNewError(DockerCommsError):
    """There was nothing new, and the caller asked to be told by the exit code."""

    exit_code = 12


class LocalIOError(DockerCommsError):
    """A local file cannot be read, written or trusted to hold still."""

    exit_code = 8


class PlaceError(LocalIOError):
    """A payload does not fit into the folder that it is to go to, whose content is in its way."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="it gets a folder of its own without --flat: dockercomms recv ID"
        )


class InternalError(DockerCommsError):
    """A defect of dockercomms was met at one object: an exception that no code foresaw.

    Args:
        message: See the base class.
        what: The object: its digest, tag, or what else it is called.
        hint: See the base class.
    """

    def __init__(self, message: str, *, what: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.what = what

    @classmethod
    def of(cls, error: Exception, what: str) -> InternalError:
        """Return the report of `error`, met at the object `what`, and log its traceback."""
        import logging  # noqa: PLC0415 - nobody waits for it who meets no defect
        import traceback  # noqa: PLC0415 - the same

        frames = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" ({frame.name}, line {frame.lineno})" for frame in frames)
        kind = "out of memory" if isinstance(error, MemoryError) else "internal error"
        text = f"{what}: {kind}: {type(error).__name__}: {error!s:.300}{where}"
        logging.getLogger("dockercomms.internal").debug("%s", text, exc_info=error)
        return cls(text, what=what)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Raise an `InternalError` for an exception in the block that no code foresaw.

    Used around each message, bundle, receipt, index entry and answer, so that a defect that one of
    them brings out holds that one alone. Our own errors pass, as does what ends a program.

    Args:
        what: The object, for the report.

    Raises:
        InternalError: the block raised an exception that is none of ours.

    Source: SPEC.md section 7.4.
    """
    try:
        yield
    except DockerCommsError:
        raise
    except Exception as error:
        raise InternalError.of(error, what) from error


OCI_ERROR_CLASSES: dict[str, type[RegistryError]] = {
    cls.code: cls
    for cls in (
        Unauthorized,
        Denied,
        NameUnknown,
        ManifestUnknown,
        BlobUnknown,
        UploadUnknown,
        TooManyRequests,
        DigestInvalid,
        SizeInvalid,
        NameInvalid,
        ManifestInvalid,
        ManifestBlobUnknown,
        UploadInvalid,
        RangeInvalid,
        Unsupported,
    )
}
"""OCI error code to class, complete for distribution-spec v1.1.1 plus RANGE_INVALID."""


NoticeKind = Literal[
    "clock-skew",
    "no-bell",
    "anchor-untagged",
    "not-indexed",
    "receipt-waits",
    "receipt-unreadable",
    "created",
    "key-created",
    "pinned",
    "elsewhere",
    "published",
    "watch-waits",
    "not-remembered",
    "not-tried",
]


class Notice(NamedTuple):
    """Something the user may want to know that stopped nothing."""

    kind: NoticeKind
    text: str


NoticeHook = Callable[[Notice], None]
