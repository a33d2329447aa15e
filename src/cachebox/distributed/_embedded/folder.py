"""Where a folder is, and the checks that only its owner can see or change what is in it.

Each namespace has a folder of its own below the one that the user names. A file in it must not be a symbolic link,
belong to another user or be writable by others; such files are refused, because a user who can write there decides what
this program believes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from urllib.parse import quote, unquote_to_bytes

from cachebox.distributed._embedded.page import remote_kind

ANYWHERE = "CACHEBOX_ANY_FILE_SYSTEM"
"""The environment variable that allows a file system that other machines may share."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def path_of(url: str) -> str:
    """The path that a ``file://`` URL names. Raises ValueError if the URL is malformed.

    >>> path_of("file:///var/cache/my%20app")
    '/var/cache/my app'
    """
    rest = url[len("file://"):]
    wanted = f"url must name a folder by its whole path, as file:///var/cache/app, not {url!r}"
    for mark, name in (("?", "options"), ("#", "a fragment")):
        if mark in rest:
            raise ValueError(f"{wanted}: it has {name}; write %{ord(mark):X} for a {mark!r} in a path")
    if not rest.startswith("/"):
        raise ValueError(wanted)
    data = unquote_to_bytes(rest)
    if re.search("%(?![0-9a-fA-F]{2})", rest) or b"\0" in data:
        raise ValueError(f"{wanted}: every '%' has to be followed by two hexadecimal digits, and none may be %00")
    path = os.fsdecode(data)
    if ".." in path.split("/"):
        raise ValueError(f"{wanted}: it must not have '..' in it")
    return os.path.normpath("/" + path.lstrip("/"))


class Folder:
    """The folder of one namespace.

    Args:
        root: an absolute path; created if it does not exist.
        namespace: any str.
        name: the name of the namespace's folder, if it is known.
    """

    is_private = False

    def __init__(self, root: str, namespace: str, name: str = "") -> None:
        self.root = root
        self.namespace = namespace
        name = name or quote(namespace.encode("utf-8", "surrogatepass"), safe="")
        name = name.replace(".", "%2E") if set(name) == {"."} else name
        if len(name) > 200:             # file systems allow at most 255 bytes in a name
            name = f"{name[:100]}%%{hashlib.sha256(name.encode()).hexdigest()}"
        self.path = os.path.join(root, name)

    def __repr__(self) -> str:
        return f"file://{quote(os.fsencode(self.root))}"

    def make(self) -> None:
        """Create the folder if it does not exist, and check it. Raises ValueError or PermissionError if it must not
        be used."""
        for path in (self.root, self.path):
            if not os.path.lexists(path):
                _make(path)
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                raise ValueError(f"url must name a folder itself, but {path!r} is a symbolic link")
            if not stat.S_ISDIR(found.st_mode):
                raise ValueError(f"url must name a folder, but {path!r} is not one")
            _check_owner(path, found)
            if found.st_mode & 0o022:
                raise PermissionError(f"group or others may write to {path!r}: chmod go-w it, or name another folder")
        fd = os.open(self.path, os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_DIRECTORY", 0))
        try:
            kind = remote_kind(fd)
        finally:
            os.close(fd)
        if kind is not None and not os.environ.get(ANYWHERE):
            raise ValueError(
                f"{self.path!r} is on {kind}, where locks and mapped memory do not hold between machines: name a "
                f"folder of this machine's own, or set {ANYWHERE}=1 if no other machine ever uses it"
            )

    def __getitem__(self, name: str) -> str:
        """The path of a file in the folder."""
        return os.path.join(self.path, name)

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file of the folder for reading and writing. Raises OSError; PermissionError if it must not be used."""
        fd = os.open(self[name], os.O_RDWR | flags | _NO_FOLLOW, 0o600)
        try:
            self.check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self, fd: int) -> None:
        """Raises PermissionError if the open file may belong to another user, too."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise PermissionError(f"in {self.path!r} there is something that is not a file of this folder alone")
        _check_owner(self.path, found)
        if stat.S_IMODE(found.st_mode) != 0o600:        # because of the umask, or a chmod
            os.fchmod(fd, 0o600)

    def check_path(self, name: str) -> bool:
        """Check a file that SQLite is about to open. Returns whether it exists; raises PermissionError."""
        try:
            found = os.lstat(self[name])
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise PermissionError(f"{self[name]!r} is not a file of this folder alone")
        _check_owner(self[name], found)
        return True

    def size(self) -> int:
        """Bytes that the folder's files take."""
        size = 0
        for name in self.names():
            with contextlib.suppress(OSError):      # it is just being removed
                size += os.lstat(self[name]).st_size
        return size

    def remove(self) -> None:
        """Called when nobody uses the folder any more: it stays."""

    def names(self) -> list[str]:
        """The names of the files in the folder."""
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []


def _make(path: str) -> None:
    """Create a folder and its missing parents, for its owner alone, independent of the umask."""
    above = os.path.dirname(path)
    if not os.path.exists(above):
        _make(above)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    os.chmod(path, 0o700)


def _check_owner(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path!r} belongs to user {found.st_uid}, not to the one that this runs as")
