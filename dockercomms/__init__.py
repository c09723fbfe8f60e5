"""dockercomms: send files to a named recipient through any OCI registry.

A public name is imported on first use, to keep `import dockercomms` fast. Type checkers read
`__init__.pyi`.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "1.1.0"

_PUBLIC = {
    "Mailbox": "dockercomms.mailbox",
    "Sent": "dockercomms.messages.send",
    "Received": "dockercomms.messages.receive",
    "InboxEntry": "dockercomms.inbox.listing",
    "OutboxEntry": "dockercomms.messages.outbox",
    "ReceiptEntry": "dockercomms.messages.receipts",
    "Inbox": "dockercomms.inbox.inbox",
    "ManifestBuilder": "dockercomms.protocol.manifest",
    "Message": "dockercomms.protocol.manifest",
    "Receipt": "dockercomms.protocol.manifest",
    "send": "dockercomms.messages.send",
    "receive": "dockercomms.messages.receive",
    "acknowledge": "dockercomms.messages.receipts",
    "verify": "dockercomms.messages.sign",
    "sign": "dockercomms.messages.sign",
    "Identity": "dockercomms.trust.owner",
    "Policy": "dockercomms.trust.policy",
    "Client": "dockercomms.oci.client",
    "Reference": "dockercomms.oci.reference",
    "Descriptor": "dockercomms.oci.model",
    "Platform": "dockercomms.oci.model",
    "RetryPolicy": "dockercomms.oci.remote.retry",
    "RetryEvent": "dockercomms.oci.remote.retry",
    **dict.fromkeys(
        (
            "AuthError",
            "BadAnswer",
            "BlobUnknown",
            "ClocksDiffer",
            "CommandError",
            "ConfigError",
            "Denied",
            "DigestInvalid",
            "DigestMismatch",
            "DockerCommsError",
            "IntegrityError",
            "InternalError",
            "LimitError",
            "LocalIOError",
            "ManifestBlobUnknown",
            "ManifestInvalid",
            "ManifestUnknown",
            "NameInvalid",
            "NameUnknown",
            "NetworkError",
            "NoAnswerError",
            "NoHomeError",
            "NotFoundError",
            "NothingNewError",
            "PartialError",
            "PlaceError",
            "PlatformNotFound",
            "ProtocolError",
            "ProxyError",
            "RangeInvalid",
            "RegistryError",
            "RejectedError",
            "RetryAborted",
            "ServerFailed",
            "SigningError",
            "SigningUnreachable",
            "SizeInvalid",
            "SizeMismatch",
            "TooEarly",
            "TooManyRequests",
            "TrailingData",
            "Truncated",
            "Unauthorized",
            "UnknownSender",
            "UnreadableEntries",
            "Unsigned",
            "Unsupported",
            "UploadInvalid",
            "UploadUnknown",
            "UsageError",
            "VerificationError",
            "Withdrawn",
        ),
        "dockercomms.errors",
    ),
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - the table above is the one list of names


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'dockercomms' has no attribute {name!r}") from None
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
