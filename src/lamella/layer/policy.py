"""What an apply does where shipping engines disagree: one frozen value, a field for each such point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["POLICIES", "Policy", "policy_of"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Choices at the points where engines differ; numbers are those of the tests in tests/contract.

    The defaults are ``"spec"``: what the OCI text says, and where it is silent the outcome that loses nothing.
    """

    same_layer: Literal["keep", "delete"] = "keep"  # 2-4: entries of the layer that whites them out
    zero_device: Literal["refuse", "make"] = "refuse"  # 24: a 0:0 character device on an overlay target
    nondir_ancestor: Literal["replace", "error"] = "replace"  # 31: an entry below a non-directory
    parent_mode: int = 0o755  # 32, 108: of a parent without entry
    root_entry: Literal["apply", "skip"] = "apply"  # 34
    duplicates: Literal["last", "error"] = "last"  # 37
    link_metadata: Literal["ignore", "apply"] = "ignore"  # 46
    parent_mtime: Literal["restore", "touch"] = "restore"  # 54, 112
    times: Literal["keep", "zero"] = "keep"  # 59, 111: outside 1970..2262
    trusted: Literal["keep", "drop"] = "keep"  # 64
    through_symlink: Literal["follow", "replace"] = "follow"  # 105


_ENGINES = {"same_layer": "delete", "nondir_ancestor": "error", "parent_mtime": "touch", "times": "zero"}

POLICIES: dict[str, Policy] = {
    "spec": Policy(),
    "umoci": Policy(),
    "moby": Policy(**_ENGINES, parent_mode=0o600, duplicates="error", link_metadata="apply"),  # type: ignore[arg-type]
    "podman": Policy(**_ENGINES, duplicates="error", link_metadata="apply"),  # type: ignore[arg-type]
    "containerd": Policy(**_ENGINES, root_entry="skip", link_metadata="apply", trusted="drop"),  # type: ignore[arg-type]
}


def policy_of(policy: str | Policy) -> Policy:
    """Return a preset by name, or the value itself. ValueError for an unknown name."""
    if isinstance(policy, Policy):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    return POLICIES[policy]
