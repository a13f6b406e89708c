"""No test, and so nothing that a test calls, leaves this machine; loopback stays open for several processes."""

import socket
import urllib.request

import pytest


def test_a_foreign_address_is_refused():
    with socket.socket() as outside, pytest.raises(RuntimeError, match=r"tried to reach .*192\.0\.2\.1"):
        outside.connect(("192.0.2.1", 80))  # TEST-NET-1 (RFC 5737): nobody answers there
    with socket.socket() as outside, pytest.raises(RuntimeError, match="tried to reach"):
        outside.connect_ex(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as outside, pytest.raises(RuntimeError, match="tried to reach"):
        outside.sendto(b"", ("192.0.2.1", 80))


def test_a_foreign_name_is_not_looked_up():
    with pytest.raises(RuntimeError, match=r"looked up the name 'example\.org'"):
        urllib.request.urlopen("http://example.org/")


def test_loopback_is_open():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
        server.accept()[0] as peer,
    ):
        client.sendall(b"sfumato")
        assert peer.recv(16) == b"sfumato"
