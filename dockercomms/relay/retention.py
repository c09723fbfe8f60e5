"""Advice for owners of repositories whose registry does not let users delete.

The registry's answers tell whether it deletes; its host name only selects the text.
"""

from __future__ import annotations

import re

_RULE = """\
let the registry's own retention remove the tags inbox-*, bundle-*, receipt-*, receipts-* and \
sha256-* once they are a day older than your longest --ttl
a rule for untagged manifests alone removes nothing of this, and a shorter time loses messages"""

_GHCR = """\
GHCR deletes by GitHub's own API only, with a token that has delete:packages: \
gh api --method DELETE /orgs/ORG/packages/container/NAME/versions/ID"""

_ECR = """\
ECR deletes by its own API only: aws ecr put-lifecycle-policy with countType sinceImagePushed, \
or aws ecr batch-delete-image"""

_HUB = """\
Docker Hub deletes only with a token that has the delete permission, and what has no tag any more; \
its web page deletes tags"""

_AZURE = """\
Azure needs a token with content/delete and a repository that is not locked: \
az acr repository update --delete-enabled true; az acr purge removes by age"""

_GOOGLE = """\
Google needs the role Artifact Registry Repository Administrator; \
gcloud artifacts repositories set-cleanup-policies removes by age and tag"""

_GITLAB = """\
GitLab needs the role Maintainer; the project's cleanup policies remove by age and tag"""

_QUAY = """\
Quay's repositories have auto-prune policies by the age of tags"""

_SELF_HOSTED = """\
distribution deletes when it runs with REGISTRY_STORAGE_DELETE_ENABLED=true, and Harbor by its \
retention rules"""

_ADVICE = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"ghcr\.io", _GHCR),
        (r"(?:.*\.)?ecr\..*amazonaws\.com(?:\.cn)?|public\.ecr\.aws", _ECR),
        (r"(?:(?:index|registry-1)\.)?docker\.io", _HUB),
        (r".*\.azurecr\.io", _AZURE),
        (r"(?:.*[.-])?(?:gcr\.io|docker\.pkg\.dev)", _GOOGLE),
        (r"(?:.*\.)?gitlab\..*", _GITLAB),
        (r"quay\.io", _QUAY),
    )
)
"""Host names and the advice for each."""


def advice_for(repo: str) -> str:
    """Return the lines of advice for the owner of `repo`, a full repository name."""
    host = repo.partition("/")[0].partition(":")[0]
    words = next((text for pattern, text in _ADVICE if pattern.fullmatch(host)), _SELF_HOSTED)
    return f"{words}\n{_RULE}"
