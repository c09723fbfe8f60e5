"""`reg get` and `reg pull`: get all files of an artifact, or one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dockercomms.cli.options import NAME, SIZE, option
from dockercomms.cli.progress import metering
from dockercomms.cli.reg.output import path_of, record, refuse_terminal, screen_beside, watched
from dockercomms.cli.reg.output import sink as open_sink
from dockercomms.cli.reg.table import output_option, platform_option, reg_verb
from dockercomms.cli.render import count_of, human_bytes, to_json
from dockercomms.errors import LocalIOError, NotFoundError, UsageError
from dockercomms.platforms.files import local_errors, make_folder

if TYPE_CHECKING:
    from dockercomms.cli.session import Session
    from dockercomms.cli.stores import Opened
    from dockercomms.oci.images.select import ResolvedManifest


@reg_verb("get", example="dockercomms reg get registry.example/team/site:v1 -o site")
@click.argument("reference", metavar="REF")
@platform_option
@option("--all", "include_all", is_flag=True,
        help="Include layers without a file name, named by digest.")  # fmt: skip
@option("-o", "--output", default=".", type=click.Path(readable=False), metavar="DIR",
        help="Target folder, created if missing.  [default: .]")  # fmt: skip
@option("--overwrite", is_flag=True, help="Replace existing files.")
def get_command(
    session: Session,
    *,
    reference: str,
    platform: str | None,
    include_all: bool,
    output: str,
    overwrite: bool,
) -> None:
    """Get all files of an artifact.

    Layer titles are the file names within DIR; folders that oras pushed are unpacked. Either all
    files are written or none. From an index, selects --platform, or else this machine's platform.
    """
    from dockercomms.cli.stores import resolve_opened
    from dockercomms.oci.images.pull import save_artifact
    from dockercomms.oci.model import ANNOTATION_TITLE
    from dockercomms.transport.unpack import unpacked_layer

    with session.stores() as stores:
        opened = stores.source(reference)
        resolved = resolve_opened(opened, platform)
        if not include_all:
            _refuse_untitled(opened, resolved)
        folder = Path(output)
        with metering(session, "getting") as show, _made(folder), _hinting():
            saved = save_artifact(
                opened.registry,
                opened.at(resolved.descriptor.digest).reference,
                folder,
                overwrite=overwrite,
                unpack=unpacked_layer,
                progress=show,
            )
    with session.screen.listing(("FILE", "SIZE", "DIGEST")) as listing:
        for one in saved:
            layer, path = one.descriptor, str(one.path.absolute())
            row = record(
                "get",
                reference=str(opened),
                manifest=resolved.descriptor.digest,
                digest=layer.digest,
                media_type=layer.media_type,
                bytes=layer.size,
                title=layer.annotations.get(ANNOTATION_TITLE),
                path=path,
            )
            cells = (path, str(layer.size), layer.digest)
            listing.add(row, cells, (str(one.path), human_bytes(layer.size), layer.digest))
    folders = sum(one.path.is_dir() for one in saved)
    counts = [(len(saved) - folders, "file"), (folders, "folder")]
    session.screen.note(f"got {' and '.join(count_of(*one) for one in counts if one[0])}")


def _refuse_untitled(opened: Opened, resolved: ResolvedManifest) -> None:
    """Refuse an artifact if a layer is not a file.

    Raises:
        UsageError: a layer has no title.
    """
    from dockercomms.oci.model import ANNOTATION_TITLE

    layers = resolved.manifest.layers
    untitled = sum(not layer.annotations.get(ANNOTATION_TITLE) for layer in layers)
    if untitled:
        raise UsageError(
            f"{opened}: {untitled} of {count_of(len(layers), 'layer')} without a file name",
            hint="--all writes them under their digests; 'reg pull --file NAME' looks into them",
        )


@contextlib.contextmanager
def _hinting() -> Iterator[None]:
    """Add a hint to an error about an existing or a missing file."""
    try:
        yield
    except NotFoundError as error:
        if not error.code:  # no registry answer: the artifact itself lacks the file
            error.hint = error.hint or "'dockercomms reg inspect REF' lists its layers"
        raise
    except LocalIOError as error:
        if isinstance(error.__cause__, FileExistsError):
            error.hint = "--overwrite replaces it, -o DIR puts all of them elsewhere"
        raise


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Create `folder` for the block; remove it again if the block fails."""
    if folder.is_dir():
        yield
        return
    with local_errors(str(folder)):
        make_folder(folder.absolute())
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # another program uses it by now
            folder.rmdir()
        raise


@reg_verb(
    "pull", example="dockercomms reg pull registry.example/team/tool:v1 --file bin/tool -o tool"
)
@click.argument("reference", metavar="REF")
@option("--file", "name", type=NAME, metavar="NAME",
        help="File name, or a path in the image.  [default: the only layer]")  # fmt: skip
@option("--path", "inside", default="", metavar="FOLDER", help="Folder that holds the file.")
@platform_option
@option("--max-size", type=SIZE, metavar="SIZE", help="Largest file to accept.  [default: 4GiB]")
@output_option
def pull_command(
    session: Session,
    *,
    reference: str,
    name: str | None,
    inside: str,
    platform: str | None,
    max_size: int | None,
    output: str | None,
) -> None:
    """Get one file from an artifact or image.

    Looks for a layer with that title, then in the layers' tars (plain, gzip, zstd) for that path,
    then for that file name. Verifies the content before it writes the file.
    """
    from dockercomms.cli.stores import resolve_opened
    from dockercomms.oci.images.extract import MAX_FILE_BYTES, extract_file

    refuse_terminal(session, output)
    with session.stores() as stores, metering(session, "searching") as show:
        opened = stores.source(reference)
        resolved = resolve_opened(opened, platform)
        with open_sink(session, output) as stream, _hinting():
            found = extract_file(
                watched(opened.registry, show),
                opened.repository,
                resolved.manifest,
                stream,
                name=name,
                path=inside,
                limit=max_size or MAX_FILE_BYTES,
            )
    screen = screen_beside(session, output)
    if screen.is_json:
        row = record(
            "pull",
            reference=str(opened),
            manifest=resolved.descriptor.digest,
            layer=found.layer.digest,
            member=found.member,
            bytes=found.size,
            path=path_of(output),
        )
        screen.data(to_json(row))
    else:
        where = f" as {found.member}" if found.member else ""
        screen.note(f"got {human_bytes(found.size)} from layer {found.layer.digest}{where}")
