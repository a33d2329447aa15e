"""Which folders a cache takes, how they are made, and which it refuses."""

from __future__ import annotations

import os
import stat
import struct
import sys
from urllib.parse import quote
from zlib import crc32

import pytest

from both_kinds import KINDS, make
from cachebox import BackendUnavailable, DistributedCache
from cachebox.distributed._embedded import folder as folders
from cachebox.distributed._embedded.page import remote_kind
from conftest import named

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no folders on Windows yet")


def url_of(path) -> str:
    return f"file://{quote(str(path))}"


@pytest.mark.parametrize(
    "url",
    [
        "file://",
        "file:/tmp/x",
        "file://relative",
        "file://host/tmp/x",
        "file:///tmp/x?a=1",
        "file:///tmp/x#a",
        "file:///tmp/%zz",
        "file:///tmp/%0",
        "file:///tmp/a%00b",
        "file:///tmp/../etc",
        "memory://x",
        "memory:///x",
        "memory:",
    ],
)
def test_urls_that_make_no_sense(url):
    with pytest.raises(ValueError, match="url must"):
        DistributedCache(url=url)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"size_limit": "31MiB"}, ValueError, "size_limit must be at least 32 MiB"),
        ({"size_limit": 0}, ValueError, "size_limit must be 1 bytes or more"),
        ({"size_limit": "much"}, ValueError, "size_limit must be a number with"),
        ({"size_limit": 1.5}, TypeError, "size_limit must be an int or a text"),
        ({"size_limit": True}, TypeError, "size_limit must be an int or a text"),
        ({"durability": "yes"}, ValueError, "durability must be"),
        ({"invalidation": False}, ValueError, "invalidation=False"),
        ({"redis_port": 1}, ValueError, "redis_port and url"),
    ],
    ids=named,
)
def test_options_that_make_no_sense(tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        DistributedCache(url=url_of(tmp_path / "cache"), **options)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("options", [{"size_limit": "2GB"}, {"durability": "machine"}], ids=named)
def test_options_of_folders_are_none_of_a_server(options):
    with pytest.raises(ValueError, match="size_limit and durability are for"):
        DistributedCache(**options)


@pytest.mark.parametrize("name", ["plain", "with space", "ümlaut", "100%", "a?b#c", "line\nbreak", "'quoted\";--"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_may_have_any_name(tmp_path, name, kind):
    path = tmp_path / name / "deeper"
    with make(kind, url=url_of(path)) as cache, make(kind, url=url_of(path)) as other:
        cache.set("a", 1)
        assert other.get("a") == 1
    assert path.is_dir()


@pytest.mark.parametrize("namespace", ["a/b", "..", ".", "a:sub", "\ud800", "x" * 1000, "%2F", "a\0b", "ü", " "])
def test_each_namespace_has_a_folder_of_its_own(tmp_path, namespace):
    with (
        DistributedCache(url=url_of(tmp_path / "c"), namespace=namespace) as cache,
        DistributedCache(url=url_of(tmp_path / "c"), namespace="other") as other,
    ):
        cache.set("a", 1)
        other.set("a", 2)
        other.clear()
        assert cache.get("a") == 1 and other.get("a") is None
    (first, second) = sorted(os.listdir(tmp_path / "c"))
    assert "other" in (first, second)
    with DistributedCache(url=url_of(tmp_path / "c"), namespace=namespace) as cache:
        assert cache.get("a") == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_everything_is_for_its_owner_alone_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with DistributedCache(url=url_of(tmp_path / "a" / "b")) as cache:
            cache.set("a", 1)
            modes = {
                path: stat.S_IMODE(os.lstat(path).st_mode)
                for above, folders, files in os.walk(tmp_path / "a")
                for path in [above, *(os.path.join(above, name) for name in folders + files)]
            }
    finally:
        os.umask(before)
    assert {mode for path, mode in modes.items() if os.path.isdir(path)} == {0o700}
    assert {mode for path, mode in modes.items() if os.path.isfile(path)} == {0o600}
    assert len(modes) >= 8


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    path = tmp_path / "cache"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(PermissionError, match="group or others may write"):
        DistributedCache(url=url_of(path))
    path.chmod(0o700)
    DistributedCache(url=url_of(path)).close()
    (path / "cachebox").chmod(mode)
    with pytest.raises(PermissionError, match="group or others may write"):
        DistributedCache(url=url_of(path))


def test_links_are_refused(tmp_path):
    real = tmp_path / "real"
    DistributedCache(url=url_of(real)).close()
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(ValueError, match="is a symbolic link"):
        DistributedCache(url=url_of(tmp_path / "link"))
    (real / "cachebox").rename(tmp_path / "elsewhere")
    (real / "cachebox").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a symbolic link"):
        DistributedCache(url=url_of(real))


@pytest.mark.parametrize("name", ["page", "lock", "processes", "data"])
@pytest.mark.parametrize("how", [os.symlink, os.link])
def test_files_that_are_others_too_are_refused(tmp_path, name, how):
    path = tmp_path / "cache"
    with DistributedCache(url=url_of(path)) as cache:
        cache.set("a", "old")
    (found,) = [entry for entry in os.scandir(path / "cachebox") if entry.name.startswith(name)]
    os.rename(found.path, tmp_path / "foreign")
    before = (tmp_path / "foreign").read_bytes()
    how(tmp_path / "foreign", found.path)
    if name == "data":
        with DistributedCache(url=url_of(path), on_unavailable="raise") as cache:
            with pytest.raises(BackendUnavailable):
                cache.get("a")
            with pytest.raises(BackendUnavailable):
                cache.set("a", 1)
    else:
        with pytest.raises((PermissionError, OSError)):
            DistributedCache(url=url_of(path))
    assert (tmp_path / "foreign").read_bytes() == before


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"is not one$"):
        DistributedCache(url=url_of(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        DistributedCache(url=url_of(tmp_path / "file" / "below"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_folder_is_refused(tmp_path):
    path = tmp_path / "cache"
    DistributedCache(url=url_of(path)).close()
    os.chown(path, 12345, -1)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        DistributedCache(url=url_of(path))
    os.chown(path, os.geteuid(), -1)
    os.chown(path / "cachebox" / "page", 12345, -1)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        DistributedCache(url=url_of(path))


def test_network_file_systems_are_refused_unless_told_otherwise(tmp_path, monkeypatch):
    fd = os.open(tmp_path, os.O_RDONLY)
    here = remote_kind(fd)
    os.close(fd)
    assert here is None
    monkeypatch.setattr(folders, "remote_kind", lambda fd: "NFS")
    with pytest.raises(ValueError, match="is on NFS, where locks and mapped memory do not hold"):
        DistributedCache(url=url_of(tmp_path / "cache"))
    monkeypatch.setenv(folders.ANYWHERE, "1")
    DistributedCache(url=url_of(tmp_path / "cache")).close()


@pytest.mark.parametrize("size", [100, 10**7])
def test_a_page_of_another_version_is_refused(tmp_path, size):
    path = tmp_path / "cache" / "cachebox" / "page"
    DistributedCache(url=url_of(tmp_path / "cache")).close()
    start = bytearray(path.read_bytes()[:64])
    start[5] = 200
    (flags,) = struct.unpack_from("=I", start, 48)
    struct.pack_into("=II", start, 48, flags, crc32(start[:8] + start[16:48], flags))
    written = bytes(start).ljust(size, b"\0")
    path.write_bytes(written)
    with pytest.raises(ValueError, match="another version"):
        DistributedCache(url=url_of(tmp_path / "cache"))
    assert path.read_bytes() == written


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such names")
def test_a_path_need_not_be_text(tmp_path):
    url = f"file://{tmp_path}/na%EFve"
    with DistributedCache(url=url, on_unavailable="raise") as cache:
        cache.set("a", 1)
        assert cache.get("a") == 1
    assert b"na\xefve" in os.listdir(os.fsencode(tmp_path))


def test_a_page_whose_version_is_damaged_is_a_new_one(tmp_path):
    with DistributedCache(url=url_of(tmp_path / "cache")) as cache:
        cache.set("a", 1)
    with open(tmp_path / "cache" / "cachebox" / "page", "r+b") as file:
        file.seek(5)
        file.write(b"\x07\x00")
    with DistributedCache(url=url_of(tmp_path / "cache")) as cache:
        assert cache.get("a") is None
        cache.set("a", 2)
        assert cache.get("a") == 2
