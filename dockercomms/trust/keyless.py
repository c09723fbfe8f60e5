# ruff: noqa: TID251 - the only module that imports sigstore, and one of few that import requests
"""Keyless signatures: the only module that imports sigstore, and only on use.

Verification needs no network: the trusted root is a file. Signing needs three services
(certificate,
timestamp, log entry) and is refused offline. This module adds to sigstore 4.5 timeouts for the
services, an early end if a timestamp fails (before the log entry), and one class for its many
errors; `sigstore_gaps` adds checks. It uses private names of sigstore: a test lists each of them.

Source: sigstore client specification v1.0; SPEC.md section 9.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dockercomms.errors import (
    ConfigError,
    NetworkError,
    SigningError,
    SigningUnreachable,
    UsageError,
    VerificationError,
)
from dockercomms.oci.model import Digest
from dockercomms.platforms.arguments import check_fields
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.manifest import Message, Receipt
from dockercomms.trust.bundle import SigstoreBundle, parse_bundle_json
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.roots import (
    KeylessProof,
    embedded,
    newest_key,
    read_json,
    read_root,
    root_path,
)
from dockercomms.trust.signing import SignedBy, check_bytes
from dockercomms.trust.sigstore_gaps import (
    Holder,
    as_dsse_entry,
    check_intoto_entry,
    narrow,
    with_zero_values,
)
from dockercomms.trust.statement import (
    ForeignPredicate,
    build_statement,
    message_predicate,
    receipt_predicate,
)
from dockercomms.trust.timestamps import (
    TimestampAuthority,
    authorities_of,
    earliest_time,
    hostile_input_errors,
)

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session
    from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer, SigningContext
    from sigstore.verify import Verifier

SERVICE_TIMEOUT_SECONDS = 30.0
"""A service that does not answer in this time counts as down; a log may take 10 s for an entry."""

MAX_TIMESTAMP_BYTES = 64 * 1024
"""A response with all certificates of its authority is below 10 KiB."""

TIMESTAMP_TIMEOUT_SECONDS = 10.0

MAX_TOKEN_BYTES = 64 * 1024
"""Of an identity token: more than any service accepts in a header."""


# --- verifying -----------------------------------------------------------------------------------


class SigstoreRoots:
    """Verifies certificates and times by the files of trusted roots.

    It reads each file once, uses no network, and imports sigstore only for certificates. Its
    methods raise ConfigError or LocalIOError if a root is not readable.

    Args:
        narrow: Reduces a root to the keys and authorities that were valid at a bundle's times.
        verifier: Makes sigstore's verifier; default: sigstore's own class.
    """

    def __init__(
        self,
        *,
        narrow: Callable[[TrustedRoot, Bundle], TrustedRoot] = narrow,
        verifier: Callable[[TrustedRoot], Verifier] | None = None,
    ) -> None:
        self._narrow = narrow
        self._verifier = verifier or _sigstore_verifier
        self._trusted: dict[Root, TrustedRoot] = {}
        self._authorities: dict[Root, tuple[TimestampAuthority, ...]] = {}

    def prove(self, bundle: SigstoreBundle, root: Root) -> KeylessProof:
        """Return the proof of a keyless bundle by `root`. It does not check the statement.

        Raises:
            VerificationError: the root does not prove it.
        """
        parsed = self.parse(bundle.value)
        proof, envelope = self.prove_envelope(parsed, root)
        if envelope != (bundle.envelope.payload_type, bundle.envelope.payload):
            raise VerificationError("sigstore read another payload than the envelope's")
        return proof

    @staticmethod
    def parse(value: Mapping[str, object]) -> Bundle:
        """Return sigstore's form of a bundle.

        Raises:
            VerificationError: it is malformed.
        """
        with _verifying():
            from sigstore.models import Bundle  # noqa: PLC0415 - 0.4 s

            return Bundle.from_json(json.dumps(with_zero_values(value)))

    def prove_envelope(self, bundle: Bundle, root: Root) -> tuple[KeylessProof, tuple[str, bytes]]:
        """Return the proof of a bundle with an envelope, and the envelope's type and payload.

        Raises:
            VerificationError: `root` does not prove it.
        """
        with _verifying():
            verifier, holder = self._make(bundle, root), Holder()
            with as_dsse_entry(bundle) as is_intoto:
                verify = _verify_intoto if is_intoto else type(verifier).verify_dsse
                envelope = verify(verifier, bundle, holder)
                return _proof(verifier, bundle, root, holder), envelope

    def prove_file(self, bundle: Bundle, root: Root, digest: Digest) -> KeylessProof:
        """Return the proof of a bundle with a plain signature for the file with `digest`.

        Raises:
            VerificationError: `root` does not prove it.
        """
        with _verifying():
            from sigstore.hashes import Hashed  # noqa: PLC0415 - 0.4 s
            from sigstore_models.common.v1 import HashAlgorithm  # noqa: PLC0415 - the same

            verifier, holder = self._make(bundle, root), Holder()
            raw = bytes.fromhex(digest.partition(":")[2])
            hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=raw)
            verifier.verify_artifact(hashed, bundle, holder)
            return _proof(verifier, bundle, root, holder)

    def prove_log_entry(self, value: Mapping[str, object], root: Root) -> bytes:
        """Return the body of a log entry, proven by a log of `root`.

        Raises:
            VerificationError: no log of `root` has it.
        """
        with _verifying():
            from sigstore._internal.trust import KeyringPurpose  # noqa: PLC0415 - 0.4 s
            from sigstore.models import TransparencyLogEntry  # noqa: PLC0415 - the same
            from sigstore_models.rekor.v1 import (  # noqa: PLC0415 - the same
                TransparencyLogEntry as Entry,
            )

            entry = Entry.from_json(json.dumps(value))
            keys = self.trusted(root).rekor_keyring(KeyringPurpose.VERIFY)
            TransparencyLogEntry(entry)._verify(keys)  # noqa: SLF001 - there is no public way
            return entry.canonicalized_body

    def _make(self, bundle: Bundle, root: Root) -> Verifier:
        return self._verifier(self._narrow(self.trusted(root), bundle))

    def trusted(self, root: Root) -> TrustedRoot:
        """Return sigstore's form of `root`.

        Raises:
            ConfigError: it is not a trusted root. LocalIOError: it is not readable.
        """
        if root not in self._trusted:
            self._trusted[root] = _load_root(root)
        return self._trusted[root]

    def signed_at(
        self, tokens: Iterable[bytes], signature: bytes, roots: Iterable[Root]
    ) -> datetime | None:
        """Return the earliest time that an authority of `roots` attests to `signature`, if any.

        Timestamps are outside the signature, so anyone can add one.
        """
        stamps = tuple(tokens)
        if not stamps:
            return None
        authorities = [authority for root in roots for authority in self.authorities(root)]
        return earliest_time(stamps, signature, authorities)

    def authorities(self, root: Root) -> tuple[TimestampAuthority, ...]:
        """Return the timestamp authorities of `root`, without importing sigstore.

        Raises:
            ConfigError: it is not a trusted root. LocalIOError: it is not readable.
        """
        if root not in self._authorities:
            self._authorities[root] = authorities_of(read_root(root), where=f"root {root.name}")
        return self._authorities[root]


def _sigstore_verifier(root: TrustedRoot) -> Verifier:
    from sigstore.verify import Verifier  # noqa: PLC0415 - 0.4 s

    return Verifier(trusted_root=root)


def _verify_intoto(verifier: Verifier, bundle: Bundle, holder: Holder) -> tuple[str, bytes]:
    """Verify a log entry of the kind `intoto`, as sigstore's `verify_dsse` does for `dsse`."""
    from sigstore import dsse  # noqa: PLC0415 - 0.4 s

    verifier._verify_common_signing_cert(bundle, holder)  # noqa: SLF001 - there is no public way
    envelope: Any = bundle._dsse_envelope  # noqa: SLF001 - the same
    certificate = bundle.signing_certificate
    dsse._verify(certificate.public_key(), envelope)  # type: ignore[arg-type]  # noqa: SLF001
    inner = envelope._inner  # noqa: SLF001 - the same
    check_intoto_entry(
        bundle.log_entry._inner.canonicalized_body,  # noqa: SLF001 - the same
        payload_type=inner.payload_type,
        payload=inner.payload,
        signatures=[item.sig for item in inner.signatures],
        certificate=certificate,
    )
    return inner.payload_type, inner.payload


def _proof(verifier: Verifier, bundle: Bundle, root: Root, holder: Holder) -> KeylessProof:
    times = verifier._establish_time(bundle)  # noqa: SLF001 - no public method returns them
    return KeylessProof(
        root=root.name,
        identities=holder.identities,
        issuer=holder.issuer,
        signed_at=min(item.time for item in times),
    )


def _load_root(root: Root) -> TrustedRoot:
    from sigstore.errors import Error  # noqa: PLC0415 - 0.4 s
    from sigstore.models import TrustedRoot  # noqa: PLC0415 - the same

    path = root_path(root)
    try:
        with local_errors(f"root {root.name}: {path}"):
            return TrustedRoot.from_file(str(path))
    except (Error, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"root {root.name}: {path}: not a trusted root: {error}") from error


def fetch_public_root(url: str | None = None, *, bootstrap: Path | None = None) -> bytes:
    """Return the current trusted root of the public good instance, by sigstore's TUF client.

    It keeps TUF's metadata in sigstore's own folder, waits at most 30 s for an answer, and uses
    the proxy in the environment.

    Args:
        url: The TUF repository; default: that of the public good instance.
        bootstrap: The root of another repository's TUF metadata.

    Raises:
        NetworkError: the repository is not reachable.
        VerificationError: a signature, version or expiry of its metadata is wrong.
        LocalIOError: the metadata folder is not writable.

    Source: TUF specification v1.0, section 5.
    """
    from sigstore._internal.tuf import DEFAULT_TUF_URL, TrustUpdater  # noqa: PLC0415 - 0.4 s
    from sigstore.errors import TUFError  # noqa: PLC0415 - the same
    from tuf.api.exceptions import RepositoryError  # noqa: PLC0415 - the same

    place = url or DEFAULT_TUF_URL
    try:
        with local_errors(f"what is known of {place}"):
            path = TrustUpdater(place, bootstrap_root=bootstrap).get_trusted_root_path()
            return Path(path).read_bytes()
    except TUFError as error:
        what = f"{place}: {_text(error)}: {_text(error.__cause__ or error)}"
        if isinstance(error.__cause__, RepositoryError):
            raise VerificationError(what, hint="check this machine's clock first") from error
        hint = "check your network and proxy; --from FILE takes a file that another machine got"
        raise NetworkError(what, hint=hint) from error


def check_root(data: bytes, *, where: str) -> None:
    """Check that sigstore can read `data` as a trusted root; `where` names it in errors.

    Raises:
        ConfigError: it is not a trusted root.
    """
    with local_errors("temporary file"), tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        root = Root(name=PUBLIC_ROOT, path=Path(file.name))
        try:
            newest_key(read_root(root), Path(where))
            _load_root(root)
        except ConfigError as error:
            raise ConfigError(f"{where}: not a trusted root") from error


@contextmanager
def _verifying() -> Iterator[None]:
    """Convert errors of sigstore and its parsers about a bundle into VerificationError."""
    try:
        yield
    except verifying_errors() as error:
        raise VerificationError(_text(error)) from error


def verifying_errors() -> tuple[type[Exception], ...]:
    """Return all classes of errors that a foreign bundle can cause in sigstore."""
    from sigstore.errors import Error  # noqa: PLC0415 - 0.4 s

    return (Error, *hostile_input_errors())


def _text(error: BaseException) -> str:
    """Return the first line of an error's text, or its class if it has no text."""
    lines = str(error).split("\n")
    return f"{lines[0]:.300}" if lines[0] else type(error).__name__


# --- signing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeylessOptions:
    """Options for the identity and the Sigstore instance."""

    token: str | None = None
    """An OpenID Connect identity token; takes precedence over `token_file`."""
    token_file: Path | None = None
    interactive: bool = False
    """Sign in through a browser if there is no token and no ambient credential."""
    trusted_root: Path | None = None
    """Required with `signing_config`. Default: the public good instance of the sigstore package."""
    signing_config: Path | None = None
    offline: bool = False
    timeout_seconds: float = SERVICE_TIMEOUT_SECONDS
    """For each answer of a service."""

    def __post_init__(self) -> None:
        check_fields(self)


class KeylessSigner:
    """Signs as an identity; see `signing.Signer` for the contract.

    It asks for the token once, and uses a certificate until it expires (10 minutes). Not safe for
    several threads.

    Raises (when it is made):
        UsageError: only one of trusted root and signing config is given.
    """

    def __init__(self, options: KeylessOptions, *, roots: SigstoreRoots | None = None) -> None:
        if (options.trusted_root is None) != (options.signing_config is None):
            raise UsageError(
                "a trusted root needs a signing config, and a signing config a trusted root"
            )
        self._options = options
        self._roots = roots or SigstoreRoots()
        self._root = Root(name=PUBLIC_ROOT, path=options.trusted_root)
        self._config: ClientTrustConfig | None = None
        self._token: IdentityToken | None = None
        self._signer: Signer | None = None
        self._certified_as = ""

    @property
    def signed_by(self) -> SignedBy:
        """The identity of the certificate; before the first signature, that of the token.

        The two differ for some issuers, such as those of CI services.
        """
        return SignedBy("keyless", self._certified_as or self._identity().identity)

    def sign(self, message: Message, manifest: bytes) -> bytes:
        """Return a bundle about a message."""
        check_bytes(message, manifest)
        predicate = message_predicate(message)
        return self._bundle(build_statement(message.header.id, message.digest, predicate))

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Return a bundle about a receipt."""
        predicate = receipt_predicate(receipt)
        return self._bundle(build_statement(receipt.message_id, receipt.message, predicate))

    def approve(self, name: str, digest: Digest) -> bytes:
        """Return a bundle that approves of `digest`."""
        return self._bundle(build_statement(name, digest, ForeignPredicate()))

    def _bundle(self, statement: bytes) -> bytes:
        """Sign, then verify as a receiver would: a service may return a wrong answer."""
        identity = self._identity()
        with _signing():
            from sigstore.dsse import Statement  # noqa: PLC0415 - 0.4 s

            data = self._certified(identity).sign_dsse(Statement(statement)).to_json().encode()
        bundle = parse_bundle_json(data, where="the bundle just made")
        proof = self._roots.prove(bundle, self._root)
        if bundle.envelope.payload != statement or identity.issuer != proof.issuer:
            raise VerificationError(
                f"the new bundle is for another identity, of issuer {proof.issuer}"
            )
        self._certified_as = next(iter(proof.identities), "")
        return data

    def _identity(self) -> IdentityToken:
        if self._options.offline:
            raise SigningError("keyless signing needs the network, which --offline forbids")
        if self._token is None:
            with _signing():
                self._token = self._find_identity()
        return self._token

    def _find_identity(self) -> IdentityToken:
        """Return the given token, else the ambient one of a CI job, else sign in by browser."""
        from sigstore.oidc import IdentityToken, Issuer, detect_credential  # noqa: PLC0415 - 0.2 s

        options = self._options
        if options.token:
            return IdentityToken(options.token.strip())
        if options.token_file is not None:
            return IdentityToken(_read_token(options.token_file))
        ambient = detect_credential()
        if ambient is not None:
            return IdentityToken(ambient)
        if options.interactive:
            return Issuer(self._trust().signing_config.get_oidc_url()).identity_token()
        raise SigningError(
            "no identity to sign with: no token was given, and no CI job provides one",
            hint="--identity-token FILE, or --interactive to ask with a browser",
        )

    def _certified(self, identity: IdentityToken) -> Signer:
        """Return a signer with a certificate for `identity` that is still valid."""
        from sigstore._internal.fulcio.client import ExpiredCertificate  # noqa: PLC0415 - 0.4 s

        if self._signer is not None:
            try:
                self._signer._signing_cert()  # noqa: SLF001 - the only way to ask
            except ExpiredCertificate:
                self._signer = None
        if self._signer is None:
            with self._context().signer(identity) as signer:
                self._signer = signer
        return self._signer

    def _context(self) -> SigningContext:
        """Return the services, with the timeout of the options."""
        from sigstore.sign import SigningContext  # noqa: PLC0415 - 0.4 s

        context = SigningContext.from_trust_config(self._trust())
        services: Any = context  # private parts: sigstore has no timeouts of its own
        clocks = services._tsa_clients  # noqa: SLF001
        services._tsa_clients = [_StrictClock(clock) for clock in clocks]  # noqa: SLF001
        sessions = [clock._session for clock in clocks]  # noqa: SLF001
        for session in (services._fulcio.session, services._rekor._session, *sessions):  # noqa: SLF001
            _limit_time(session, self._options.timeout_seconds)
        return context

    def _trust(self) -> ClientTrustConfig:
        if self._config is None:
            self._config = _load_config(self._root, self._options.signing_config)
        return self._config


def _load_config(root: Root, signing_config: Path | None) -> ClientTrustConfig:
    """Return the addresses of the services, and the root that verifies their answers.

    Raises:
        ConfigError: a file has a wrong form. LocalIOError: it is not readable.
    """
    from sigstore.errors import Error  # noqa: PLC0415 - 0.4 s
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415 - the same

    path = signing_config or embedded("signing_config.v0.2.json")
    config = {
        "mediaType": ClientTrustConfig.ClientTrustConfigType.CONFIG_0_1.value,
        "trustedRoot": read_root(root),
        "signingConfig": read_json(path, "signing config"),
    }
    try:
        found = ClientTrustConfig.from_json(json.dumps(config))
        found.signing_config.get_fulcio()
    except (Error, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"signing config: {path}: {_text(error)}") from error
    return found


def _read_token(path: Path) -> str:
    with local_errors(f"identity token: {path}"), path.open("rb") as file:
        data = file.read(MAX_TOKEN_BYTES + 1)
    try:
        return data[:MAX_TOKEN_BYTES].decode("ascii").strip()
    except UnicodeDecodeError:
        raise SigningError(f"identity token: {path}: not a token") from None


@dataclass(frozen=True, slots=True)
class _StrictClock:
    """Asks a timestamp authority; its failure ends the signing.

    sigstore only warns, makes a log entry all the same, and then finds the bundle incomplete.
    """

    client: Any

    def request_timestamp(self, signature: bytes) -> Any:
        """Return the timestamp of `signature`; sigstore calls this."""
        from sigstore._internal.timestamp import TimestampError  # noqa: PLC0415 - 0.4 s

        try:
            return self.client.request_timestamp(signature)
        except TimestampError as error:
            place = _place(self.client.url)
            raise SigningUnreachable(f"{place}: no timestamp received: {_text(error)}") from error


def timestamp_source(
    url: str, *, timeout_seconds: float = TIMESTAMP_TIMEOUT_SECONDS
) -> Callable[[bytes], bytes]:
    """Return a function that gets timestamps for a key's signatures from the authority at `url`.

    It does not verify the answer: a receiver does, by its own roots. It does not import sigstore.

    Raises (when it is called):
        SigningUnreachable: no answer. SigningError: not a timestamp of that signature.
    """

    def ask(signature: bytes) -> bytes:
        import requests  # noqa: PLC0415 - 0.1 s
        from rfc3161_client import (  # noqa: PLC0415 - 0.1 s
            HashAlgorithm,
            TimestampRequestBuilder,
            decode_timestamp_response,
        )

        builder = TimestampRequestBuilder().hash_algorithm(HashAlgorithm.SHA256)
        query = builder.data(signature).nonce(nonce=True).build()
        try:
            answer = requests.post(
                url,
                data=query.as_bytes(),
                headers={"Content-Type": "application/timestamp-query"},
                timeout=timeout_seconds,
                stream=True,
            )
            with answer:
                answer.raise_for_status()
                content = bytes(answer.raw.read(MAX_TIMESTAMP_BYTES + 1, decode_content=True))
            if len(content) > MAX_TIMESTAMP_BYTES:
                raise SigningError(
                    f"{_place(url)}: a timestamp of more than {MAX_TIMESTAMP_BYTES} bytes"
                )
            found = decode_timestamp_response(content).tst_info
        except requests.RequestException as error:
            raise SigningUnreachable(
                f"{_place(url)}: no timestamp received: {_text(error)}"
            ) from error
        except ValueError as error:
            raise SigningError(f"{_place(url)}: not a timestamp: {_text(error)}") from error
        if (found.nonce, found.message_imprint.message) != (
            query.nonce,
            query.message_imprint.message,
        ):
            raise SigningError(f"{_place(url)}: the timestamp is for other content")
        return content

    return ask


def _limit_time(session: Session, seconds: float) -> None:
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - 0.1 s

    class Impatient(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
            given = options.get("timeout")
            options["timeout"] = min(given, seconds) if isinstance(given, int | float) else seconds
            return super().send(request, *args, **options)

    for scheme in ("https://", "http://"):
        session.mount(scheme, Impatient())


@contextmanager
def _signing() -> Iterator[None]:
    """Convert errors of sigstore during signing into SigningError, naming the service."""
    from requests import ConnectionError as Unreachable  # noqa: PLC0415 - 0.1 s
    from requests import Timeout  # noqa: PLC0415 - the same

    try:
        yield
    except (Unreachable, Timeout) as error:
        place = _place(getattr(error.request, "url", None))
        raise SigningUnreachable(f"{place}: no answer: {_text(error)}") from error
    except signing_errors() as error:
        raise SigningError(f"signing: {_reason(error)}") from error


def signing_errors() -> tuple[type[Exception], ...]:
    """Return all classes of errors of signing, except those of the network."""
    from requests import RequestException  # noqa: PLC0415 - 0.1 s
    from sigstore import errors, oidc  # noqa: PLC0415 - 0.4 s
    from sigstore._internal.fulcio.client import (  # noqa: PLC0415 - they have no common base
        ExpiredCertificate,
        FulcioClientError,
    )
    from sigstore._internal.rekor import RekorClientError  # noqa: PLC0415 - the same
    from sigstore._internal.timestamp import TimestampError  # noqa: PLC0415 - the same
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - of the ambient credentials

    return (
        errors.Error,
        oidc.ExpiredIdentity,
        oidc.IssuerError,
        ExpiredCertificate,
        FulcioClientError,
        RekorClientError,
        TimestampError,
        HTTPError,
        RequestException,
        # an answer of a wrong form
        ValueError,
        TypeError,
        LookupError,
    )


def _reason(error: BaseException) -> str:
    """Return the reason of a service's refusal: sigstore 4.5 drops Fulcio's text."""
    answer = getattr(error.__cause__, "response", None)
    if str(error) or answer is None:
        return _text(error)
    try:
        message = answer.json().get("message")
    except (ValueError, AttributeError):
        message = None
    return f"{_place(answer.url)}: {answer.status_code} {message or answer.reason}"


def _place(url: str | None) -> str:
    """Return the host of a service; the rest of an address may hold secrets."""
    return urlsplit(url or "").netloc or "a service of Sigstore"
