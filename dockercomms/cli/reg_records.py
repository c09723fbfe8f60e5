"""The JSON objects that the verbs of `reg` print: `spec/schema/reg-*.json` describes them.

As in `records`: keys are a promise, a key may be added within `/v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dockercomms.oci.inspection import Inspection
    from dockercomms.oci.model import Descriptor

Record = Mapping[str, object]


def record(verb: str, **members: object) -> Record:
    """Return the object of a verb: its schema, then `members` in the order given."""
    return {"schema": f"dockercomms/reg-{verb}/v1", **members}


def descriptor_record(descriptor: Descriptor) -> Record:
    """Return media type, digest and size; platform, artifact type and annotations."""
    return {
        "media_type": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "platform": None if descriptor.platform is None else str(descriptor.platform),
        "artifact_type": descriptor.artifact_type,
        "annotations": dict(descriptor.annotations),
    }


def inspection_record(reference: str, found: Inspection) -> Record:
    """Return the object of `inspect`."""
    config, subject = found.config, found.subject
    return record(
        "inspect",
        reference=reference,
        digest=found.descriptor.digest,
        media_type=found.descriptor.media_type,
        size=found.descriptor.size,
        is_index=found.is_index,
        artifact_type=found.artifact_type,
        platform=None if found.platform is None else str(found.platform),
        config=None if config is None else descriptor_record(config),
        layers=[descriptor_record(layer) for layer in found.layers],
        entries=[descriptor_record(entry) for entry in found.entries],
        subject=None if subject is None else descriptor_record(subject),
        labels=dict(found.labels),
        annotations=dict(found.annotations),
    )
