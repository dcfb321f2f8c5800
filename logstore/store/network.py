"""Whether a directory lies on another machine's disk, where locks and caches may not be shared as they must.

Pure but for reading the kernel's list of mounts.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_KINDS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs",
    "smb2", "smb3", "smbfs", "vboxsf",
})  # fmt: skip
_FUSE_PREFIX = "fuse"
_FUSE_ON_A_DISK = "fuseblk"
_ESCAPED = re.compile(r"\\([0-7]{3})")


def find_network_file_system(path: Path) -> str | None:
    """The kind of network file system, or of one made by a program, that a path is on; None where it is on neither."""
    with contextlib.suppress(OSError):  # where there is no such list nobody is warned
        mounts = Path("/proc/mounts").read_text(errors="surrogateescape")
        kind = kind_of_mount(mounts, os.path.realpath(path))
        if kind in _KINDS or (kind.startswith(_FUSE_PREFIX) and kind != _FUSE_ON_A_DISK):
            return kind
    return None


def kind_of_mount(mounts: str, path: str) -> str:
    """The kind of file system that a real path is on, by the text of /proc/mounts; empty where that does not say."""
    kind, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[1])
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= longest:  # of two at one place the later one counts
            kind, longest = fields[2], len(place)
    return kind
