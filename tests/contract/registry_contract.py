"""The whole contract of `oci.interface.Registry`.

To hold a store to it, inherit in a test module and give three fixtures:

    class TestMyStore(RegistryContract):
        pass

`registry` is the store, empty or shared; `repository` is the name of a repository in it that does
not exist yet (the contract also writes to that name with `-other` behind it); `capabilities` is a
`tests.contract.capabilities.Capabilities` with the store's known deviations.
"""

from __future__ import annotations

from tests.contract.blobs import BlobContract
from tests.contract.concurrency import ConcurrencyContract
from tests.contract.listing import ListingContract
from tests.contract.manifests import ManifestContract
from tests.contract.referrers import ReferrersContract
from tests.contract.uploads import UploadContract


class RegistryContract(
    BlobContract,
    UploadContract,
    ManifestContract,
    ListingContract,
    ReferrersContract,
    ConcurrencyContract,
):
    """All of it."""
