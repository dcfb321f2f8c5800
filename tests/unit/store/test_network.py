"""File systems of other machines are warned of before several processes share a store there."""

from __future__ import annotations

from pathlib import Path

import pytest

import logstore
from logstore.store import network
from logstore.store.network import find_network_file_system, kind_of_mount

MOUNTS = r"""/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /mnt/share nfs4 rw 0 0
//server/files /mnt/share/inner cifs rw 0 0
/dev/sdb /mnt/share/inner/disk xfs rw 0 0
sshfs#host: /mnt/with\040blank fuse.sshfs rw 0 0
/dev/sdc /mnt/usb fuseblk rw 0 0
tmpfs /mnt/twice tmpfs rw 0 0
server:/b /mnt/twice nfs rw 0 0
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"), ("/home/me", "ext4"), ("/mnt/share", "nfs4"), ("/mnt/share/a", "nfs4"), ("/mnt/shared", "ext4"),
        ("/mnt/share/inner/x", "cifs"), ("/mnt/share/inner/disk/x", "xfs"), ("/mnt/with blank/x", "fuse.sshfs"),
        ("/mnt/usb/x", "fuseblk"), ("/mnt/twice/x", "nfs"),
    ],
)  # fmt: skip
def test_the_mount_nearest_to_a_path_counts(path: str, kind: str) -> None:
    assert kind_of_mount(MOUNTS, path) == kind


def test_a_list_that_says_nothing_gives_nothing() -> None:
    assert kind_of_mount("", "/x") == ""


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [("nfs", True), ("nfs4", True), ("cifs", True), ("smb3", True), ("9p", True), ("fuse.sshfs", True), ("fuse", True),
     ("fuseblk", False), ("ext4", False), ("xfs", False), ("overlay", False), ("tmpfs", False), ("", False)],
)  # fmt: skip
def test_which_kinds_are_those_of_other_machines(kind: str, is_network: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "kind_of_mount", lambda mounts, path: kind)
    assert find_network_file_system(Path("/x")) == (kind if is_network else None)


def test_one_that_opens_a_store_to_be_shared_is_warned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "kind_of_mount", lambda mounts, path: "nfs4")
    with pytest.warns(RuntimeWarning, match="'nfs4'") as caught:
        logstore.open(tmp_path / "store").close()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    logstore.open(tmp_path / "store", mode="exclusive").close()


def test_a_disk_is_no_network(tmp_path: Path) -> None:
    logstore.open(tmp_path / "store").close()
    assert find_network_file_system(tmp_path / "not there yet") is None
