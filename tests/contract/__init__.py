"""One contract for every implementation of `oci.interface.Registry`.

`registry_contract.RegistryContract` holds the tests; a test class inherits it and gives the
fixtures `registry`, `repository` and `capabilities`.
"""

import pytest

for part in ("blobs", "uploads", "manifests", "listing", "referrers", "concurrency"):
    pytest.register_assert_rewrite(f"{__name__}.{part}")
