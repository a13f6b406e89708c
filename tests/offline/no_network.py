"""No test leaves this machine: a hook that Python asks before every connection, in this process and its children.

`install` adds an audit hook (PEP 578): it hears of each connection, datagram and look-up of a name that Python's
sockets are about to make, in whatever library, thread or event loop, refuses those that are not loopback, and writes
them down in the file that `$SFUMATO_TEST_NETWORK_LOG` names, so that no `except` can hide them.
`$SFUMATO_TEST_NETWORK=none` refuses loopback, too. Python processes inherit it through `$PYTHONPATH` (`sitecustomize`
beside this file).

Not covered: sockets that native code opens itself (torch's own stores and gloo, which tests put on loopback), programs
that are not Python, and Python started with `-I`, `-E` or `-S` or without this `$PYTHONPATH`.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

__all__ = ["LOG", "MODE", "NetworkUsed", "install", "is_local"]

LOG, MODE = "SFUMATO_TEST_NETWORK_LOG", "SFUMATO_TEST_NETWORK"
ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # (socket, address)
NAME = {"socket.getaddrinfo", "socket.gethostbyname"}  # (name, …)
NUMBER = {"socket.gethostbyaddr"}  # (name or address,): asks for the name of an address, too
installed = False


class NetworkUsed(RuntimeError):
    """A test tried to leave this machine. Not an OSError: code that treats those as "offline" must not swallow it."""


def is_local(address: object) -> bool:
    """Whether a socket address stays on this machine: a Unix path, a loopback address, the local host's name."""
    if not isinstance(address, tuple):
        return True  # AF_UNIX and its like; None where a socket is connected already
    host = address[0].decode("ascii", "replace") if isinstance(address[0], bytes) else address[0]
    if host in (None, "", "localhost", os.uname().nodename):
        return True
    return isinstance(host, str) and (number := _number(host)) is not None and number.is_loopback


def _number(host: str) -> "IPv4Address | IPv6Address | None":
    """The address that a text spells in numbers; None for a name."""
    import ipaddress  # not at the start of every process

    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def install() -> None:
    """Add the hook to this process, once; it cannot be taken away again."""
    global installed
    if not installed:
        installed = True
        sys.addaudithook(_asked)


def _asked(event: str, args: tuple[object, ...]) -> None:
    if event in ADDRESS:
        _require(args[1], is_local(args[1]), f"tried to reach {args[1]!r}")
    elif (event in NAME and _is_name(args[0])) or event in NUMBER:
        _require(args[0], is_local((args[0],)), f"looked up the name {args[0]!r}")


def _is_name(host: object) -> bool:
    """Whether somebody must be asked what a host means."""
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    return isinstance(text, str) and _number(text) is None


def _require(target: object, local: bool, did: str) -> None:
    if target is None or (local and os.environ.get(MODE) != "none"):
        return
    if (log := os.environ.get(LOG)) is not None:
        with open(log, "a") as file:
            file.write(f"{did}\n")
    raise NetworkUsed(f"a test {did}; sfumato works with no network at all")
