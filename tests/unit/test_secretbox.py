import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gatepost.adapters.secretbox import SecretBox, key_file
from gatepost.domain.errors import StoreUnavailable

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PLACE = ("webhooks", "secrets", "wh_1", "grp_1")
SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_what_was_sealed_opens() -> None:
    box = SecretBox(KEY)

    assert box.open(box.seal(SECRET, PLACE), PLACE) == SECRET
    assert box.open(box.seal(b"", PLACE), PLACE) == b""


def test_a_sealed_value_shows_nothing_of_what_is_in_it() -> None:
    sealed = SecretBox(KEY).seal(SECRET, PLACE)

    assert SECRET.decode() not in sealed
    assert SECRET not in base64.b64decode(sealed.split(".")[2])


def test_the_same_value_never_looks_the_same() -> None:
    box = SecretBox(KEY)

    assert box.seal(SECRET, PLACE) != box.seal(SECRET, PLACE)


@pytest.mark.parametrize("part", range(len(PLACE)))
def test_a_sealed_value_opens_in_its_own_place_only(part: int) -> None:
    box = SecretBox(KEY)
    elsewhere = [*PLACE[:part], "another", *PLACE[part + 1 :]]

    with pytest.raises(StoreUnavailable, match="changed, or moved here"):
        box.open(box.seal(SECRET, PLACE), elsewhere)


def test_any_changed_byte_is_found() -> None:
    box = SecretBox(KEY)
    version, key_id, encoded = box.seal(SECRET, PLACE).split(".")
    raw = base64.b64decode(encoded)

    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(StoreUnavailable, match="changed"):
            box.open(f"{version}.{key_id}.{base64.b64encode(changed).decode()}", PLACE)


@pytest.mark.parametrize("tail", ["", "AAAA", "*", "AAAAAAAAAAAAAAAA", "Zm9v.YmFy"])
def test_what_is_no_sealed_value_is_refused(tail: str) -> None:
    box = SecretBox(KEY)
    key_id = box.seal(SECRET, PLACE).split(".")[1]

    with pytest.raises(StoreUnavailable, match="changed"):
        box.open(f"v1.{key_id}.{tail}", PLACE)


@pytest.mark.parametrize("sealed", ["", "whsec_plain", "v2.00000000.AAAA"])
def test_an_unknown_form_is_refused(sealed: str) -> None:
    with pytest.raises(StoreUnavailable, match="unknown form"):
        SecretBox(KEY).open(sealed, PLACE)


def test_another_key_is_named_as_the_reason() -> None:
    sealed = SecretBox(KEY).seal(SECRET, PLACE)

    with pytest.raises(StoreUnavailable, match="another secret key"):
        SecretBox(OTHER_KEY).open(sealed, PLACE)


def test_an_older_key_of_the_ring_still_opens_and_the_newest_seals() -> None:
    old = SecretBox(KEY).seal(SECRET, PLACE)
    box = SecretBox(OTHER_KEY, KEY)

    assert box.open(old, PLACE) == SECRET
    assert SecretBox(OTHER_KEY).open(box.seal(SECRET, PLACE), PLACE) == SECRET


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"a key of {length} bytes; it must have 32"):
        SecretBox(bytes(length))


# --- the key file --------------------------------------------------------------------------------------------


def test_a_missing_key_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.db.key"

    key = key_file(path)

    assert len(key) == 32
    assert base64.b64decode(path.read_bytes()) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_file_is_read_again_as_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "key"

    assert key_file(path) == key_file(path)


def test_processes_that_make_the_key_file_at_once_get_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key"

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(key_file, [path] * 40))

    assert len(keys) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_file_may_come_from_openssl_rand(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(base64.b64encode(KEY) + b"\n")

    assert key_file(path) == KEY


@pytest.mark.parametrize("length", [16, 31, 33, 64])
def test_a_key_file_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(base64.b64encode(bytes(length)))

    with pytest.raises(ValueError, match=f"key holds a key of {length} bytes; it must have 32"):
        key_file(path)


@pytest.mark.parametrize("content", [b"not base64!", b"\xff\xfe\x00", b"=" * 44])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"it must (hold the base64 of|have) 32"):
        key_file(path)
    assert path.read_bytes() == content
