"""What runs in a sandbox: a script that confines its own process, and then calls one function; see `sandbox`.

The operating system confines it where it can: Landlock (Linux 5.13 and later, needs no privileges), else a mount
namespace in which nothing else exists. Where there is neither, only what Python itself opens is refused.

It imports nothing but the standard library: the process is confined before any other code is loaded.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# How a process can be confined; "python" is the last resort.
LANDLOCK, NAMESPACE, PYTHON = "landlock", "namespace", "python"
# linux/landlock.h; the numbers of its system calls are the same on every processor.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR, _CONNECT_TCP = 1 << 2, 1 << 3, 1 << 1
_NO_NEW_PRIVILEGES = 38
# linux/sched.h and linux/mount.h
_NEW_USER, _NEW_MOUNTS, _NEW_NETWORK = 0x10000000, 0x00020000, 0x40000000
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18


def main() -> None:
    settings = json.load(sys.stdin)
    with suppress(OSError):  # where memory is short, the system is to end this process before the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    readable = [Path(path) for path in settings["readable"]]
    confined_by = confine(settings["means"], readable, Path(settings["root"]))
    sys.addaudithook(_refusal([os.path.realpath(path) for path in readable]))
    module, _, function = settings["call"].partition(":")
    found, error, problems = None, "", []
    try:
        found = getattr(importlib.import_module(module), function)(**settings["given"])
    except Exception as failure:  # the parent reports it as the reason
        error = " ".join(str(failure).split())[:500] or type(failure).__name__
        problems = [problem.as_dict() for problem in getattr(failure, "problems", ())]
    print(json.dumps({"found": found, "error": error, "confined_by": confined_by, "problems": problems}))


def confine(means: Sequence[str], readable: Sequence[Path], root: Path) -> str:
    """Confine this process by the first means that works; returns which.

    Args:
        means: LANDLOCK or NAMESPACE
        readable: all that it may read
        root: an empty folder
    """
    ways: dict[str, Callable[[], None]] = {
        LANDLOCK: lambda: _landlock(readable),
        NAMESPACE: lambda: _namespace(readable, root),
    }
    for way in means:
        try:
            ways[way]()
        except (OSError, AttributeError):  # no such system call, or it is not allowed here
            continue
        return way
    return PYTHON


def _landlock(readable: Sequence[Path]) -> None:
    version = _system_call(_CREATE_RULESET, None, 0, 1)
    network = _CONNECT_TCP if version >= 4 else 0
    handled = (ctypes.c_uint64 * 2)(_READ_FILE | _READ_DIR, network)
    rules = _system_call(_CREATE_RULESET, handled, 16 if network else 8, 0)
    for path in readable:
        opened = os.open(path, os.O_PATH)
        allowed = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        beneath = allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
        _system_call(_ADD_RULE, rules, 1, beneath, 0)
        os.close(opened)
    _checked(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _system_call(_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _namespace(readable: Sequence[Path], root: Path) -> None:
    """Enter a mount namespace in which only these paths exist, and no network."""
    user, group, folder = os.getuid(), os.getgid(), Path.cwd()
    _checked(_libc().unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount(None, Path("/"), _RECURSIVE | _PRIVATE)
    _mount(None, root, 0, b"tmpfs")
    for path in sorted({*readable, *(path.resolve() for path in readable)}):
        shown = root / path.relative_to("/")
        if shown.exists() or shown.is_symlink():
            continue
        shown.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and path.parent == Path("/"):
            shown.symlink_to(path.readlink())
            continue
        shown.mkdir() if path.is_dir() else shown.touch()
        _mount(path, shown, _BIND | _RECURSIVE)
    os.chroot(root)
    os.chdir(folder)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(status: int) -> int:
    if status < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return status


def _system_call(number: int, *arguments: Any) -> int:
    if sys.platform != "linux":
        raise OSError("only Linux has it")
    words = [ctypes.c_long(it) if isinstance(it, int) else it for it in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *words))


def _mount(source: Path | None, target: Path, flags: int, kind: bytes | None = None) -> None:
    given = None if source is None else os.fsencode(source)
    _checked(_libc().mount(given, os.fsencode(target), kind, ctypes.c_ulong(flags), None))


def _refusal(readable: Sequence[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses what Python opens elsewhere, with a message that names it."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            raise PermissionError(errno.EACCES, "the network is out of reach")
        if event not in ("open", "os.listdir", "os.scandir") or not arguments:
            return
        if isinstance(arguments[0], (str, bytes, os.PathLike)):
            real = os.path.realpath(os.fsdecode(arguments[0]))
            is_readable = any(real == place or real.startswith(place + os.sep) for place in readable)
            if not is_readable and os.path.lexists(real):
                raise PermissionError(errno.EACCES, "out of reach", real)

    return refuse


if __name__ == "__main__":
    main()
