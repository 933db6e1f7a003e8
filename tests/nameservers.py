"""A name server on loopback that answers as it is told to.

async with NameServer() as server:
    server.answers["hooks.test"] = Records("127.0.0.1", ttl=5)
    Resolver(clock, nameservers=[server.address])
"""

import asyncio
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

A, AAAA = 1, 28
NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3


@dataclass
class Records:
    """What a name answers: addresses of both kinds; or an error; or nothing at all when `silent`."""

    addresses: tuple[str, ...] = ()
    ttl: int = 0
    code: int = NO_ERROR
    silent: bool = False


SILENCE = Records(silent=True)


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP; unknown names do not exist. Shape: `questions` holds (name, type) as they came."""

    def __init__(self) -> None:
        self.answers: dict[str, Records] = {}
        self.questions: list[tuple[str, int]] = []
        self.address = ""

    async def __aenter__(self) -> "NameServer":
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._transport.get_extra_info('sockname')[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _read_name(data)
        (kind,) = struct.unpack_from("!H", data, end)
        self.questions.append((name, kind))
        records = self.answers.get(name, Records(code=NO_SUCH_NAME))
        if not records.silent:
            self._transport.sendto(_reply(data[:2], data[12 : end + 4], kind, records), addr)


def _read_name(data: bytes) -> tuple[str, int]:
    labels = []
    at = 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _reply(query_id: bytes, question: bytes, kind: int, records: Records) -> bytes:
    addresses = [ip_address(text) for text in records.addresses]
    wanted = [each for each in addresses if isinstance(each, IPv4Address) == (kind == A)] if kind in (A, AAAA) else []
    head = query_id + struct.pack("!HHHHH", 0x8180 | records.code, 1, len(wanted), 0, 0)
    answers = (
        b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, records.ttl, len(each.packed)) + each.packed for each in wanted
    )
    return head + question + b"".join(answers)
