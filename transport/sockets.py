"""Listening sockets: on TCP, on the file system, and those that the system opened before we began."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_DESCRIPTOR: Final = 3
"""Where the descriptors begin that systemd hands over; source: sd_listen_fds(3)."""
MAX_ACTIVATED: Final = 64
"""More are refused: a number so large is no count of sockets."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
"""Begins an IPv4 address that a dual-stack socket shows as IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket that listens."""

    socket: socket.socket
    address: str
    """ "127.0.0.1:8000", "[::1]:8000" or "unix:/path"."""
    port: int | None = None
    """Of TCP."""
    path: Path | None = None
    """The file to remove at the end; None where there is none, or where it is another's."""

    def close(self) -> None:
        """Listen no longer."""
        self.socket.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


async def listen_tcp(host: str, port: int, *, backlog: int) -> Listener:
    """
    Listen on TCP; port 0 takes a free one.

    Raises:
        OSError: the address cannot be used; says which and why.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, name = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(listener, name, backlog=backlog, address=host_port(host, port))
    bound: int = listener.getsockname()[1]
    return Listener(socket=listener, address=host_port(host, bound), port=bound)


def listen_unix(path: Path, *, mode: int, backlog: int) -> Listener:
    """
    Listen on the file system, in place of a socket that nobody answers any more.

    Args:
        path: At most 103 bytes on macOS, 107 on Linux.
        mode: Who may connect: those who may write to the file.
        backlog: Connections that the system holds until they are accepted.

    Raises:
        OSError: the path cannot be used; says which and why.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode) and not _is_answered(path):
            path.unlink()  # left by a process that was killed
    _bind(listener, str(path), backlog=backlog, address=f"unix:{path}", mode=mode)
    return Listener(socket=listener, address=f"unix:{path}", path=path)


def adopt(listener: socket.socket) -> Listener:
    """
    Take a socket that already listens; its file, where it has one, stays at the end.

    Raises:
        OSError: it does not listen for streams.
    """
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise OSError(f"the activated socket {listener.fileno()} does not listen for streams")
    listener.settimeout(0)
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return Listener(socket=listener, address=f"unix:{name}")
    return Listener(socket=listener, address=host_port(name[0], name[1]), port=name[1])


def activated_sockets(environ: Mapping[str, str], *, pid: int) -> list[tuple[str, socket.socket]]:
    """
    Take the sockets that systemd opened for this process, with their names.

    Args:
        environ: Of the process; LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are read.
        pid: Of the process: what its parent inherited is not for it.

    Raises:
        OSError: a descriptor is no socket.
    """
    taken = []
    for descriptor, name in activated_descriptors(environ, pid=pid):
        listener = socket.socket(fileno=descriptor)
        listener.set_inheritable(inheritable=False)
        taken.append((name, listener))
    return taken


def activated_descriptors(environ: Mapping[str, str], *, pid: int) -> list[tuple[int, str]]:
    """Return the descriptors that systemd hands over, with their names; none where it did not start us."""
    if environ.get("LISTEN_PID") != str(pid):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdigit() or len(count) > 2 or int(count) > MAX_ACTIVATED:
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * int(count)
    return [(FIRST_DESCRIPTOR + index, names[index] or "unknown") for index in range(int(count))]


def host_port(host: str, port: int) -> str:
    """Write an address as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def prefix_of(address: str) -> bytes:
    """
    Return what stands for a client's address: of IPv6 its network of 64 bits, of which anybody has 2**64.

    An address that is none stands for itself.
    """
    if ":" not in address:
        return address.encode()
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address.encode()
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:]).encode()
    return packed[:8]


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _bind(listener: socket.socket, name: Any, *, backlog: int, address: str, mode: int | None = None) -> None:
    try:
        listener.bind(name)
        if mode is not None:
            Path(name).chmod(mode)  # before listen: nobody can have connected
        listener.listen(backlog)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None
