"""The exceptions of dockercomms: one tree, one exit code per class.

    DockerCommsError 1
    ├ ConfigError 1                a configuration file or environment variable is wrong
    │ └ NoHomeError                the user has no home folder, and a file needs one
    ├ UsageError 64                an argument is wrong (click's own usage errors are mapped here)
    ├ NetworkError 6               timeout, connection, TLS, retries used up
    │ ├ ProxyError 6               the proxy on the way refused, or could not be reached
    │ └ ServerFailed               it answered the last try with a failure of its own (5xx)
    ├ RetryAborted 1               a retry hook asked to stop
    ├ RegistryError 1              the registry answered with an error
    │ ├ AuthError 3
    │ │ ├ Unauthorized             UNAUTHORIZED
    │ │ └ Denied                   DENIED
    │ ├ NotFoundError 5
    │ │ ├ NameUnknown              NAME_UNKNOWN
    │ │ ├ ManifestUnknown          MANIFEST_UNKNOWN
    │ │ │ └ Withdrawn              a listed message whose manifest does not exist
    │ │ ├ BlobUnknown              BLOB_UNKNOWN
    │ │ ├ UploadUnknown            BLOB_UPLOAD_UNKNOWN
    │ │ └ PlatformNotFound         no entry of an index fits
    │ ├ TooManyRequests 9          TOOMANYREQUESTS
    │ ├ BadAnswer 4                an answer that HTTP or the distribution spec does not allow
    │ │ └ UnreadableEntries        a complete list with some unreadable entries
    │ ├ DigestInvalid, SizeInvalid, NameInvalid, ManifestInvalid, ManifestBlobUnknown,
    │ └ UploadInvalid, RangeInvalid, Unsupported                                       1
    ├ ProtocolError 4              bad manifest, annotation, version, chunk order, limit
    │ └ IntegrityError 4           bytes differ from their descriptor
    │   ├ DigestMismatch           other content
    │   ├ SizeMismatch             another size than a size stated elsewhere
    │   ├ Truncated                the bytes end early
    │   └ TrailingData             bytes follow the end
    ├ LimitError 9                 above a limit of dockercomms or of the registry
    ├ SigningError 1               signing failed: no identity, or a service refused
    │ └ SigningUnreachable 6       a service that signing needs did not answer
    ├ VerificationError 2          bad signature, wrong identity
    │ ├ Unsigned                   no signature
    │ ├ UnknownSender              the policy does not say how that name signs
    │ ├ TooEarly                   its creation time is in the future
    │ └ ClocksDiffer               the two clocks judge it differently
    ├ CommandError 1               a command that ran for a message failed
    ├ PartialError 7               some messages failed
    ├ RejectedError 10             a receiver rejected a message
    ├ NoAnswerError 11             no receipt came in time
    ├ NothingNewError 12           no new message, and the caller asked for an exit code
    ├ InternalError 1              a defect of dockercomms at one object; the others went on
    └ LocalIOError 8               disk full, permissions, a file that changed while it was read
      └ PlaceError                 existing files in the folder conflict with the payload

Codes 0 to 5 are those of the 1.0 program. A message names the failure, the object, the expected
and the received value, in lower case without a full stop. `hint` tells the user the next step.

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
        message: The failure, the object, the expected and the received value.
        hint: The next step for the user, one line or several.
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
    """The registry cannot be reached, or stopped answering, and retries failed.

    Args:
        message: See the base class.
        attempts: The number of tries.
        waited_seconds: The time between the tries.
        retryable: False if another try cannot help, for example with an untrusted certificate.
        refused: The connection was refused, or the answer was not HTTP, and the address has not
            answered before.
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
    """The proxy requires a login, refuses the registry, or cannot be reached."""


class ServerFailed(NetworkError):
    """The registry answered the last try with a failure of its own (5xx)."""


class RetryAborted(DockerCommsError):
    """A retry hook returned False."""


class RegistryError(DockerCommsError):
    """The registry answered with an error.

    Args:
        message: The registry's own text, or ours if it sent no text.
        code: The OCI error code; "" if it sent no code.
        status: The HTTP status; 0 for a store without HTTP.
        method: The HTTP method.
        url: The address without its query.
        detail: The `detail` member of the OCI error, as JSON text.
        body: The first bytes of the answer's body, at most 8192.
        retry_after_seconds: The wait that the registry asks for (Retry-After), if it does.
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
    """The registry refused the credentials, or needs some."""

    exit_code = 3


class Unauthorized(AuthError):
    """Authentication is required or was refused."""

    code = "UNAUTHORIZED"


class Denied(AuthError):
    """The credentials are valid but do not allow the request."""

    code = "DENIED"


class NotFoundError(RegistryError):
    """The requested object does not exist."""

    exit_code = 5


class NameUnknown(NotFoundError):
    """The repository does not exist."""

    code = "NAME_UNKNOWN"


class ManifestUnknown(NotFoundError):
    """The manifest or tag does not exist."""

    code = "MANIFEST_UNKNOWN"


class Withdrawn(ManifestUnknown):
    """The manifest of a listed message does not exist: its sender or the registry deleted it."""


class BlobUnknown(NotFoundError):
    """The blob does not exist."""

    code = "BLOB_UNKNOWN"


class UploadUnknown(NotFoundError):
    """The upload session does not exist, or has ended."""

    code = "BLOB_UPLOAD_UNKNOWN"


class PlatformNotFound(NotFoundError):
    """No entry of an index fits the requested platform."""


class TooManyRequests(RegistryError):
    """The registry asked to slow down, and waiting did not help."""

    exit_code = 9
    code = "TOOMANYREQUESTS"


class BadAnswer(RegistryError):
    """The registry, or a host in front of it, gave an unusable answer.

    Examples are a login page, a redirect to nowhere, a malformed header or list. The answer proves
    no fault of the requested message or blob, so another try may help. A `ProtocolError` is about
    bytes that are proven to belong to the message.

    Source: SPEC.md section 7.4.
    """

    exit_code = 4


class UnreadableEntries(BadAnswer):
    """A list was read to its end, and some of its entries are no descriptors.

    Raised after the last entry; the caller has received the valid ones by then.

    Source: SPEC.md section 7.4.
    """


class DigestInvalid(RegistryError):
    """The registry computed another digest than the request stated."""

    code = "DIGEST_INVALID"


class SizeInvalid(RegistryError):
    """The registry found another size than the request stated."""

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
    """The byte range does not exist, or is not the next one that the registry expects."""

    code = "RANGE_INVALID"


class Unsupported(RegistryError):
    """The registry does not support the request."""

    code = "UNSUPPORTED"


class ProtocolError(DockerCommsError):
    """A manifest, annotation, version, chunk or name breaks the protocol or one of its limits."""

    exit_code = 4


class IntegrityError(ProtocolError):
    """Bytes differ from their descriptor."""


class DigestMismatch(IntegrityError):
    """The content has another digest than requested."""


class SizeMismatch(IntegrityError):
    """The content has another size than stated."""


class Truncated(IntegrityError):
    """The content ends before its stated size."""


class TrailingData(IntegrityError):
    """The content continues after its stated size."""


class LimitError(DockerCommsError):
    """A value is above a limit of dockercomms or of the registry."""

    exit_code = 9


class SigningError(DockerCommsError):
    """Signing failed: the user has no identity, or a service refused."""


class SigningUnreachable(SigningError):
    """A service that signing needs did not answer, or not in time."""

    exit_code = 6


class VerificationError(DockerCommsError):
    """A signature, identity or statement does not hold."""

    exit_code = 2


class Unsigned(VerificationError):
    """There is no signature; a policy may accept such a message as a claim."""


class UnknownSender(VerificationError):
    """The policy does not say how that name signs."""


class TooEarly(VerificationError):
    """The creation time is in the future: a clock is wrong, or the message is too early."""


class ClocksDiffer(VerificationError):
    """This machine's clock and the registry's disagree about a message; the user decides."""

    HINT: ClassVar[str] = (
        "correct the wrong clock, or receive this message by its id: dockercomms recv ID\n"
        "or choose the right clock: --clock own, or --clock registry\n"
        'a machine that has no clock of its own sets clock = "registry" in config.toml, once'
    )

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=self.HINT if hint is None else hint)


class CommandError(DockerCommsError):
    """A command that ran for a message failed or took too long."""


class PartialError(DockerCommsError):
    """Some of the messages failed, for more than one reason."""

    exit_code = 7


class RejectedError(DockerCommsError):
    """A receiver rejected a message; the receipt has the reason."""

    exit_code = 10


class NoAnswerError(DockerCommsError):
    """No verified receipt came in time."""

    exit_code = 11


class NothingNewError(DockerCommsError):
    """There was no new message, and the caller asked for an exit code."""

    exit_code = 12


class LocalIOError(DockerCommsError):
    """A local file cannot be read or written, or changed while it was read."""

    exit_code = 8


class PlaceError(LocalIOError):
    """Existing files in the target folder conflict with the payload."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="receive it into its own folder, without --flat: dockercomms recv ID"
        )


class InternalError(DockerCommsError):
    """A defect of dockercomms at one object: an unexpected exception.

    Args:
        message: See the base class.
        what: The object's digest, tag or other name.
        hint: See the base class.
    """

    def __init__(self, message: str, *, what: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.what = what

    @classmethod
    def of(cls, error: Exception, what: str) -> InternalError:
        """Return the error for an unexpected `error` at the object `what`; log its traceback."""
        import logging  # noqa: PLC0415 - only a defect needs it
        import traceback  # noqa: PLC0415 - the same

        frames = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" ({frame.name}, line {frame.lineno})" for frame in frames)
        kind = "out of memory" if isinstance(error, MemoryError) else "internal error"
        text = f"{what}: {kind}: {type(error).__name__}: {error!s:.300}{where}"
        logging.getLogger("dockercomms.internal").debug("%s", text, exc_info=error)
        return cls(text, what=what)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Raise an `InternalError` for an unexpected exception in the block.

    It surrounds the work on one message, bundle, receipt, index entry or answer, so that a defect
    does not stop the others. Our own errors and `BaseException` pass.

    Args:
        what: The object, for the message.

    Raises:
        InternalError: the block raised an exception outside our tree.

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
"""The class of each OCI error code of distribution-spec v1.1.1, and of RANGE_INVALID."""


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
    """News for the user about a problem that did not stop the program."""

    kind: NoticeKind
    text: str


NoticeHook = Callable[[Notice], None]
