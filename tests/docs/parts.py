"""What this is made of, from the lock: each part with its version, its hashes, its licence and who needs it.

python -m tests.docs.parts      prints it as CycloneDX JSON (`make sbom`)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from controlplane import __version__
from tests.docs.generated import ROOT

LOCK = ROOT / "requirements.lock"
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<where>[^\\]+?))? \\$")
HASH = re.compile(r"^    --hash=sha256:([0-9a-f]{64})")
VIA = re.compile(r"^    #(?: via)? +([A-Za-z0-9._-]+)")
OURS = "controlplane"
SPOKEN = {  # what metadata say in other words than SPDX
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


@dataclass(slots=True, kw_only=True)
class Part:
    """`where`: the machines that need it, as the lock says; None: all. `needed_by`: names of others, or ours."""

    name: str
    version: str
    where: str | None
    hashes: list[str] = field(default_factory=list)
    needed_by: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"

    @property
    def licence(self) -> str | None:
        """As SPDX says it; None for what is not installed on this machine."""
        try:
            said = importlib.metadata.metadata(self.name)
        except importlib.metadata.PackageNotFoundError:
            return None
        classifiers = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or () if "License" in one]
        text = said.get("License-Expression") or said.get("License") or next(iter(classifiers), "")
        return SPOKEN.get(text, text)


def parts(text: str) -> list[Part]:
    """Everything that the lock pins. Raises ValueError for a line that pins nothing."""
    found: list[Part] = []
    for line in text.splitlines():
        if match := PIN.match(line):
            found.append(Part(name=match["name"], version=match["version"], where=match["where"]))
        elif match := HASH.match(line):
            found[-1].hashes.append(match[1])
        elif match := VIA.match(line):
            found[-1].needed_by.append(match[1])
        elif line and not line.startswith("    # via"):
            raise ValueError(line)
    return found


def bill(found: list[Part], *, of: str) -> dict[str, Any]:
    """The parts as CycloneDX 1.6; the same for the same lock. `of`: the text of the lock."""
    purls = {part.name: part.purl for part in found} | {OURS: f"pkg:pypi/{OURS}@{__version__}"}
    needs: dict[str, list[str]] = {purl: [] for purl in purls.values()}
    for part in found:
        for name in part.needed_by:
            needs[purls.get(name, purls[OURS])].append(part.purl)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.UUID(bytes=hashlib.sha256(of.encode()).digest()[:16], version=4).urn,
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": purls[OURS], "name": OURS, "version": __version__}
        },
        "components": [_component(part) for part in found],
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(on))} for ref, on in needs.items()],
    }


def _component(part: Part) -> dict[str, Any]:
    licence = part.licence
    hashes = [{"alg": "SHA-256", "content": one} for one in part.hashes]
    return {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
        # The hashes are those of its files (a wheel for each kind of machine), not of the part itself.
        "externalReferences": [{"type": "distribution", "url": part.purl, "hashes": hashes}],
        **({"licenses": [{"expression": licence}]} if licence else {}),
    }


def unhashed(found: list[Part]) -> Iterator[str]:
    """What anybody could put something else in place of."""
    return (part.name for part in found if not part.hashes)


if __name__ == "__main__":
    lock = LOCK.read_text(encoding="utf-8")
    print(json.dumps(bill(parts(lock), of=lock), indent=2))
