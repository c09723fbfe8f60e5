"""The table of the verbs of `reg`, and their common options and hints.

A verb of `reg` is a row of `VERBS` and a module that is imported when the verb is used, like the
verbs of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

import click

from dockercomms import errors
from dockercomms.cli.options import DURATION, NAME, Option, Verb, VerbTable, option, verb

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "ls": ("reg.list", "List a registry's repositories."),
    "tags": ("reg.list", "List a repository's tags."),
    "referrers": ("reg.list", "List the referrers of a manifest."),
    "resolve": ("reg.look", "Print the digest that a reference resolves to."),
    "exists": ("reg.look", "Exit 0 if the object exists, 5 if not."),
    "inspect": ("reg.look", "Describe an image, an artifact or an index."),
    "manifest": ("reg.read", "Get a manifest, byte for byte."),
    "blob": ("reg.read", "Get a blob, or a part of one."),
    "index": ("reg.read", "Build an index that describes an image or index."),
    "get": ("reg.files", "Get all files of an artifact."),
    "pull": ("reg.files", "Get one file from an artifact or image."),
    "put-blob": ("reg.blob", "Push a file as a blob."),
    "put-manifest": ("reg.write", "Push a manifest or an index."),
    "tag": ("reg.write", "Add tags to a manifest."),
    "delete": ("reg.write", "Delete a tag, a manifest or a blob."),
    "copy": ("reg.copy", "Copy an image, artifact or index with all its parts."),
    "mount": ("reg.copy", "Mount a blob from another repository without copying it."),
    "ensure": ("reg.ensure", "Push and copy the objects in a list."),
    "ping": ("reg.raw", "Check that a registry is reachable and accepts your login."),
    "raw": ("reg.raw", "Send any request to a registry."),
    "ref": ("reg.raw", "Parse a reference, or print it in short or full form."),
})  # fmt: skip
"""Verb to module and one-line help, in the order of the help."""

_EXAMPLE = """\
dockercomms reg tags registry.example/team/app
dockercomms reg copy registry.example/team/app:v1 oci-layout:app:v1"""

_HINTS: tuple[tuple[type[errors.DockerCommsError], str], ...] = (
    (errors.PlatformNotFound, "'dockercomms reg inspect REF' lists the platforms"),
    (
        errors.ManifestBlobUnknown,
        "push first what it names: 'dockercomms reg put-blob', or 'dockercomms reg copy' for all",
    ),
    (
        errors.NotFoundError,
        "'dockercomms reg tags REPO' lists the tags, 'dockercomms reg ls HOST' the repositories",
    ),
    (errors.RangeInvalid, "for the size of a blob: dockercomms reg resolve --blob --json"),
    (errors.NetworkError, "check the host and your network, then run the same command again"),
    (
        errors.IntegrityError,
        "run the same command again; if the error stays, the content was changed at the registry",
    ),
    (
        errors.BadAnswer,
        "check whether a login page or a proxy answers instead, then run the same command again",
    ),
    (errors.ProtocolError, "if the error stays, report it to the registry's operator"),
    (errors.LimitError, "the limit stands above; see the verb's --help for a larger one"),
)
"""The next step for errors without a hint; the first matching class counts."""


def with_hint(error: errors.DockerCommsError) -> errors.DockerCommsError:
    """Return the error, with a hint for `reg` if it has no other."""
    if error.hint is None:
        error.hint = next((hint for cls, hint in _HINTS if isinstance(error, cls)), None)
    return error


class RegistryVerb(Verb):
    """A verb of `reg`, with more connection options than the verbs for messages."""

    shared: ClassVar[frozenset[str]] = Verb.shared | {
        "default_registry",
        "hub_proxy",
        "retry_seconds",
    }
    shared_help: ClassVar[tuple[str, ...]] = (
        *Verb.shared_help,
        "All reg verbs: --default-registry HOST for references without a host;",
        "--hub-proxy URL to use for Docker Hub; --retry-max-time T in total.",
    )

    @classmethod
    def shared_options(cls) -> list[click.Parameter]:
        """Return the options that every verb of `reg` takes."""
        return [
            *super().shared_options(),
            Option(["--default-registry"], type=NAME, metavar="HOST"),
            Option(["--hub-proxy"], type=NAME, metavar="URL"),
            Option(["--retry-max-time", "retry_seconds"], type=DURATION, metavar="T"),
        ]

    def invoke(self, ctx: click.Context) -> int:
        """Call the function; return the exit code.

        Raises:
            Any exception of the function.
        """
        try:
            return super().invoke(ctx)
        except errors.DockerCommsError as error:
            with_hint(error)
            raise


def reg_verb(name: str, *, example: str) -> Callable[[Callable[..., int | None]], Verb]:
    """Return the decorator that makes a function the verb `name` of `reg`."""
    return verb(name, example=example, no_args_is_help=True, kind=RegistryVerb)


platform_option = option("--platform", type=NAME, metavar="OS/ARCH[/VARIANT]",
                         help="Select the manifest for this platform from an index.")  # fmt: skip
output_option = option("-o", "--output", type=click.Path(readable=False), metavar="FILE",
                       help="Write to FILE, replacing it.  [default: standard output]")  # fmt: skip

reg_command = VerbTable(
    name="reg",
    verbs=VERBS,
    example=_EXAMPLE,
    nested=True,
    help="""Work with a registry directly: list, get, copy, push, delete.

    REF is host/repository[:tag][@digest], or in a folder or a tar archive:
    oci-layout:DIR[:tag][@digest], oci-archive:FILE[:tag][@digest]. All verbs except mount, ping and
    raw accept folders and archives. REPO is a REF without tag and digest.
    """,
    no_args_is_help=True,
)
