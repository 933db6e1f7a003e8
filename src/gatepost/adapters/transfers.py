"""One HTTP attempt inside libcurl: what is asked of it, and what its answer means."""

import functools
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Any, NamedTuple

import pycurl

from gatepost.domain.network import IpAddress, TargetPolicy
from gatepost.domain.outcomes import (
    KEPT_LIMIT_BYTES,
    READ_LIMIT_BYTES,
    Blocked,
    ErrorClass,
    Outcome,
    Response,
    Unreachable,
    outcome_of,
)
from gatepost.ports import Clock, Dropped, Outgoing

HEAD_LIMIT_BYTES = 32 * 1024  # all heads of one answer together
HEAD_LIMIT_FIELDS = 100
INTERIM_LIMIT = 20  # 1xx answers before the real one
KEPT_HEADERS_BYTES = 16 * 1024
REMEMBERED_HEAD_BYTES = 2 * 1024  # the fields of heads up to this size are parsed once: a receiver's are all alike
REMEMBERED_FIELDS = 4096
REMEMBERED_STATUSES = 256
CONNECTION_LIFETIME_SECONDS = 300  # the address of a kept connection counts as checked for so long
IDLE_LIMIT_SECONDS = 55  # many servers and balancers hang up after 60; the request that meets it would be lost

ABORT = -1  # what a callback answers to end the transfer
REFUSE_TO_RESOLVE = 1


@dataclass(slots=True)
class Submission:
    """A request on its way to libcurl. Shape: `addresses` are checked ones for a name, None for a literal host."""

    outgoing: Outgoing
    started: float
    addresses: tuple[IpAddress, ...] | None = None


class Connections:
    """What transfers and the loop tell each other of connections.

    Shape: `opened` counts the sockets made so far. `spoiled` holds idle connections that must not be used again, by
           the address they have on this side.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.spoiled: set[tuple[str, int]] = set()
        self._spoiled_by_fd: dict[int, tuple[str, int]] = {}

    def spoil(self, fd: int) -> None:
        with socket.socket(fileno=os.dup(fd)) as connection:
            place = connection.getsockname()[:2]
        self._spoiled_by_fd[fd] = place
        self.spoiled.add(place)

    def forget(self, fd: int) -> None:
        self.spoiled.discard(self._spoiled_by_fd.pop(fd, ("", 0)))


class Transfer:
    """One easy handle, used for one request after another; libcurl calls its `on_…` methods back."""

    submission: Submission
    is_unused: bool  # the request was not sent: its connection turned out to be spoiled
    _lines: list[bytes]
    _fields: "list[Field]"
    _fault: str | None
    _blocked: str | None
    _bug: str | None
    _sent: bool
    _dropped: bool

    def __init__(self, policy: TargetPolicy, clock: Clock, connections: Connections, ca_file: str | None) -> None:
        self._policy = policy
        self._clock = clock
        self._connections = connections
        self.curl = pycurl.Curl()
        self._url = ""
        self._timeout_ms = 0
        self._configure(ca_file)
        self.forget()

    def prepare(self, submission: Submission, *, remaining: float, pin: str | None) -> None:
        """Set what differs between requests. Shape: `pin` is ``host:port:address[,address…]``, when it is news."""
        self.submission = submission
        outgoing = submission.outgoing
        setopt = self.curl.setopt
        if outgoing.target.url != self._url:
            setopt(pycurl.URL, outgoing.target.url)
            self._url = outgoing.target.url
        if pin is not None:
            setopt(pycurl.RESOLVE, [pin])
        setopt(pycurl.HTTPHEADER, header_lines(outgoing.headers))
        setopt(pycurl.POSTFIELDS, outgoing.body)
        timeout_ms = max(1, int(remaining * 1000))  # 0 would be none at all
        if timeout_ms != self._timeout_ms:
            setopt(pycurl.TIMEOUT_MS, timeout_ms)
            self._timeout_ms = timeout_ms

    def finish(self, errno: int, detail: str) -> "Outcome | Dropped":
        """Return what became of the request and be ready for the next. Shape: `errno` 0 is success."""
        try:
            return self._outcome(errno, detail)
        finally:
            self.forget()

    # --- libcurl calls ---------------------------------------------------------------------------------------

    def on_header(self, line: bytes) -> int | None:
        """Take one line of a head, or of a trailer; limits count before anything is understood."""
        self._head_bytes += len(line)
        if self._head_bytes > HEAD_LIMIT_BYTES:
            return self._abort("the head is too large")
        if self._complete:
            return None  # a trailer
        if line in _BLANK:
            return self._end_of_head()
        lines = self._lines
        lines.append(line)
        return self._abort("the head has too many fields") if len(lines) > HEAD_LIMIT_FIELDS + 1 else None

    def on_body(self, chunk: bytes) -> int | None:
        """Take a part of the body up to the limits; the transfer ends at what is read at most."""
        self._body_bytes += len(chunk)
        if len(self._body) < KEPT_LIMIT_BYTES:
            self._body += chunk[: KEPT_LIMIT_BYTES - len(self._body)]
        return ABORT if self._body_bytes > READ_LIMIT_BYTES else None

    def on_resolve(self) -> int:
        """Let libcurl parse literal addresses, and never look a name up: a name without its pin is refused."""
        if self.submission.addresses is None:
            return 0
        self._bug = "the pinned addresses were lost"
        return REFUSE_TO_RESOLVE

    def on_open_socket(self, _purpose: int, address: Any) -> "socket.socket | int":
        """Judge the real address of every connect once more; after a refusal no other address is tried."""
        ip, port = address.addr[0], address.addr[1]
        self._blocked = self._blocked or self._policy.refusal(ip_address(ip), port)
        if self._blocked:
            return int(pycurl.SOCKET_BAD)
        self._connections.opened += 1
        try:
            return _Handed(address.family, address.socktype, address.protocol)
        except OSError as error:  # out of descriptors: our fault, not the receiver's
            self._bug = str(error)
            return int(pycurl.SOCKET_BAD)

    def on_send(self, _ip: str, own_ip: str, _port: int, own_port: int) -> int:
        """Allow one sending, on a sound connection, before the deadline of the lease.

        When a kept connection dies before an answer, libcurl sends again at once on a fresh one; but the first
        may have arrived, so that would be a duplicate.
        """
        if self._sent:
            return int(pycurl.PREREQFUNC_ABORT)
        if self._clock.boot() > self.submission.outgoing.start_before():
            self._dropped = True
            return int(pycurl.PREREQFUNC_ABORT)
        if (own_ip, own_port) in self._connections.spoiled:
            self.is_unused = True
            return int(pycurl.PREREQFUNC_ABORT)
        self._sent = True
        return int(pycurl.PREREQFUNC_OK)

    # --- what it means ---------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Be ready for the next request."""
        self._lines = []
        self._fields = []
        self._head_bytes = 0
        self._interim = 0
        self._complete = False
        self._status = 0
        self._body = bytearray()
        self._body_bytes = 0
        self._fault = None
        self._blocked = None
        self._bug = None
        self._sent = False
        self._dropped = False
        self.is_unused = False

    def _abort(self, fault: str) -> int:
        self._fault = fault
        return ABORT

    def _end_of_head(self) -> int | None:
        self._status = parse_status(self._lines[0]) if self._lines else 0
        if not self._status:
            return self._abort("the status line is malformed")
        if self._status >= 200:
            return self._final_head()
        self._interim += 1
        if self._status == 101 or self._interim > INTERIM_LIMIT:
            return self._abort("101 was not asked for" if self._status == 101 else "too many interim answers")
        self._lines = []
        return None

    def _final_head(self) -> int | None:
        lines = self._lines[1:]
        parse = _remembered_field if self._head_bytes <= REMEMBERED_HEAD_BYTES else parse_field
        fields = [field for field in map(parse, lines) if field]
        fault = framing_fault(fields) if len(fields) == len(lines) else "a header is malformed"
        if fault:
            return self._abort(fault)
        self._fields = fields
        self._complete = True
        return None

    def _outcome(self, errno: int, detail: str) -> "Outcome | Dropped":
        if self._complete:
            return outcome_of(self._response(broken=errno != 0))
        if self._dropped:
            return Dropped()
        if self._blocked:
            return Blocked(ErrorClass.BLOCKED_ADDRESS, self._blocked)
        if self._bug:
            return Unreachable(ErrorClass.INTERNAL_ERROR, self._bug)
        if self._fault or not errno:
            return Unreachable(ErrorClass.INVALID_RESPONSE, self._fault or "no answer")
        error_class = _ERROR_CLASSES.get(errno, ErrorClass.INTERNAL_ERROR)
        if error_class is ErrorClass.CONNECT and self._head_bytes:
            error_class = ErrorClass.INVALID_RESPONSE
        return Unreachable(error_class, detail)

    def _response(self, *, broken: bool) -> Response:
        cut = self._body_bytes > len(self._body)
        return Response(self._status, _kept_headers(self._fields), bytes(self._body), truncated=broken or cut)

    def _configure(self, ca_file: str | None) -> None:
        for option, value in _OPTIONS:
            self.curl.setopt(option, value)
        if ca_file is not None:
            self.curl.setopt(pycurl.CAINFO, ca_file)
        self.curl.setopt(pycurl.HEADERFUNCTION, self.on_header)
        self.curl.setopt(pycurl.WRITEFUNCTION, self.on_body)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self.on_open_socket)
        self.curl.setopt(pycurl.RESOLVER_START_FUNCTION, self.on_resolve)
        self.curl.setopt(pycurl.PREREQFUNCTION, self.on_send)


def header_lines(headers: Sequence[tuple[str, str]]) -> list[str]:
    """Return headers as libcurl wants them.

    >>> header_lines([("X-Empty", "")])[0]  # with a colon, libcurl would leave it out
    'X-Empty;'

    Raises: ValueError when a line break would smuggle in another header.
    """
    lines = list(map(": ".join, headers))
    text = "\t".join((*lines, ""))
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError("a header holds a line break")
    if " \t" in text:  # rare, so that the usual request need not look at each value
        lines = [f"{name}: {value}" if value.strip() else f"{name};" for name, value in headers]
    lines += _OWN_HEADERS
    return lines


class Field(NamedTuple):
    """One header field as it came. Shape: `framing` is its name in lower case when it says where the body ends."""

    pair: tuple[str, str]
    size: int
    framing: str


@functools.lru_cache(REMEMBERED_STATUSES)  # each line is under `HEAD_LIMIT_BYTES`
def parse_status(line: bytes) -> int:
    """Return the status in the first line of a head; 0 when it is malformed."""
    matched = _STATUS_LINE.match(line)
    return int(matched[1]) if matched else 0


def parse_field(line: bytes) -> Field | None:
    """Return the field in a line of a head; None when it is malformed."""
    name, colon, value = line.decode("latin-1").partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        return None
    framing = name.lower() if name.lower() in ("content-length", "transfer-encoding") else ""
    return Field((name, value.strip(" \t\r\n")), len(line), framing)


_remembered_field = functools.lru_cache(REMEMBERED_FIELDS)(parse_field)


def framing_fault(fields: Sequence[Field]) -> str | None:
    """Return what is wrong with how a head frames its body; libcurl forgives more than RFC 9112 section 6.3 does."""
    framing = [(field.framing, field.pair[1]) for field in fields if field.framing]
    if not framing:
        return None
    name, value = framing[0]
    if name == "transfer-encoding":
        return None if value.lower() == "chunked" and len(framing) == 1 else "the transfer coding is unknown"
    if any(other != framing[0] for other in framing):
        return "the length is given twice"
    return None if _DIGITS.fullmatch(value) else "the length is malformed"


class _Handed(socket.socket):
    """A socket for libcurl, which duplicates its descriptor and drops the object at once."""

    def __del__(self) -> None:
        self.close()


def _kept_headers(fields: Sequence[Field]) -> tuple[tuple[str, str], ...]:
    kept = []
    room = KEPT_HEADERS_BYTES
    for pair, size, _ in fields:
        room -= size
        if room < 0:
            break
        kept.append(pair)
    return tuple(kept)


def pin_of(host: str, port: int, addresses: Sequence[IpAddress]) -> str:
    """Return the entry for libcurl's own cache of names that makes it connect to checked addresses only."""
    shown = (str(address) if isinstance(address, IPv4Address) else f"[{address}]" for address in addresses)
    return f"{host}:{port}:{','.join(shown)}"


_BLANK = frozenset((b"\r\n", b"\n"))
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?=[ \r\n])")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIGITS = re.compile(r"[0-9]{1,18}")
_OWN_HEADERS = ("Accept-Encoding: identity", "Expect:")

_OPTIONS: tuple[tuple[int, Any], ...] = (
    (pycurl.POST, 1),
    (pycurl.NOSIGNAL, 1),
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
    (pycurl.HTTP09_ALLOWED, 0),
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.PATH_AS_IS, 1),
    (pycurl.PROXY, ""),
    (pycurl.NOPROXY, "*"),
    (pycurl.HTTP_CONTENT_DECODING, 0),
    (pycurl.TCP_NODELAY, 1),
    (pycurl.MAXLIFETIME_CONN, CONNECTION_LIFETIME_SECONDS),
    (pycurl.MAXAGE_CONN, IDLE_LIMIT_SECONDS),
    (pycurl.DNS_CACHE_TIMEOUT, -1),  # pins are replaced by newer ones and never run out
    (pycurl.SSL_VERIFYPEER, 1),
    (pycurl.SSL_VERIFYHOST, 2),
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
)

_ERROR_CLASSES = {
    pycurl.E_OPERATION_TIMEDOUT: ErrorClass.TIMEOUT,
    pycurl.E_COULDNT_CONNECT: ErrorClass.CONNECT,
    pycurl.E_GOT_NOTHING: ErrorClass.CONNECT,
    pycurl.E_SEND_ERROR: ErrorClass.CONNECT,
    pycurl.E_RECV_ERROR: ErrorClass.CONNECT,
    pycurl.E_ABORTED_BY_CALLBACK: ErrorClass.CONNECT,  # on_send refused to send twice
    pycurl.E_COULDNT_RESOLVE_HOST: ErrorClass.DNS,
    pycurl.E_SSL_CONNECT_ERROR: ErrorClass.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: ErrorClass.TLS,
    pycurl.E_SSL_CERTPROBLEM: ErrorClass.TLS,
    pycurl.E_SSL_CIPHER: ErrorClass.TLS,
    pycurl.E_SSL_ISSUER_ERROR: ErrorClass.TLS,
    pycurl.E_SSL_INVALIDCERTSTATUS: ErrorClass.TLS,
    pycurl.E_SSL_SHUTDOWN_FAILED: ErrorClass.TLS,
    pycurl.E_UNSUPPORTED_PROTOCOL: ErrorClass.INVALID_RESPONSE,  # HTTP/0.9
    pycurl.E_FTP_WEIRD_SERVER_REPLY: ErrorClass.INVALID_RESPONSE,  # libcurl renamed it to CURLE_WEIRD_SERVER_REPLY
    pycurl.E_PARTIAL_FILE: ErrorClass.INVALID_RESPONSE,
    pycurl.E_WRITE_ERROR: ErrorClass.INVALID_RESPONSE,
    pycurl.E_BAD_CONTENT_ENCODING: ErrorClass.INVALID_RESPONSE,
    100: ErrorClass.INVALID_RESPONSE,  # CURLE_TOO_LARGE
}
