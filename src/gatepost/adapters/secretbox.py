"""Secrets at rest: AES-256-GCM, each value bound to the row it stands in."""

import base64
import binascii
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatepost.adapters.system import SystemChance
from gatepost.domain.errors import StoreUnavailable

KEY_BYTES = 32
_NONCE_BYTES = 12  # NIST SP 800-38D, section 8.2.2: random nonces of 96 bits

_chance_bytes = SystemChance().key_bytes


class SecretBox:
    """Seals values with the newest key of a ring; opens what any key of it has sealed.

    Shape: sealed is ``v1.<key id>.<base64 of nonce and ciphertext>``. `place` names the table, the column, the row
           and its group: a sealed value moved to another place does not open.
    """

    def __init__(self, key: bytes, *older_keys: bytes, chance_bytes: Callable[[int], bytes] = _chance_bytes) -> None:
        ring = (key, *older_keys)
        for each in ring:
            _check_length(each, "the secret key")
        self._key_id = _key_id(key)
        self._ciphers = {_key_id(each): AESGCM(each) for each in ring}
        self._chance_bytes = chance_bytes

    def seal(self, plain: bytes, place: Sequence[str]) -> str:
        nonce = self._chance_bytes(_NONCE_BYTES)
        ciphertext = self._ciphers[self._key_id].encrypt(nonce, plain, _associated(place))
        return f"v1.{self._key_id}.{base64.b64encode(nonce + ciphertext).decode()}"

    def open(self, sealed: str, place: Sequence[str]) -> bytes:
        """Raises: StoreUnavailable, when it was changed or moved, or its key is not in the ring."""
        version, _, rest = sealed.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != "v1":
            raise StoreUnavailable("a sealed value has an unknown form; it was changed, or a newer Gatepost wrote it")
        if key_id not in self._ciphers:
            raise StoreUnavailable(f"a value was sealed with another secret key (its id is {key_id})")
        try:
            raw = base64.b64decode(encoded, validate=True)
            return self._ciphers[key_id].decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _associated(place))
        except (InvalidTag, binascii.Error, ValueError):
            raise StoreUnavailable("a sealed value was changed, or moved here from another place") from None


def key_file(path: Path, *, chance_bytes: Callable[[int], bytes] = _chance_bytes) -> bytes:
    """Return the key that a file holds, as the base64 of 32 bytes; a file that is missing is made, for its owner only.

    Raises: ValueError with the fix, when the file holds anything else.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        _create(path, base64.b64encode(chance_bytes(KEY_BYTES)) + b"\n", suffix=chance_bytes(8).hex())
        text = path.read_bytes()  # what another process made at the same moment counts, not what we drew
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise ValueError(f"{path} is no key file: it must hold the base64 of {KEY_BYTES} bytes") from None
    _check_length(key, str(path))
    return key


def _create(path: Path, content: bytes, *, suffix: str) -> None:
    # Written whole and flushed under another name, then linked: no crash and no neighbour ever sees half a key,
    # and a database is never sealed with a key that a power cut takes back.
    draft = path.with_name(f"{path.name}.{suffix}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
        os.link(draft, path)
        _flush_folder(path.parent)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        draft.unlink()


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_length(key: bytes, name: str) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"{name} holds a key of {len(key)} bytes; it must have {KEY_BYTES}")


def _key_id(key: bytes) -> str:
    return sha256(b"gatepost key id" + key).hexdigest()[:8]


def _associated(place: Sequence[str]) -> bytes:
    return "\x1f".join(place).encode()
