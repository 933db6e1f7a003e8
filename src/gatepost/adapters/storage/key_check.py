"""A constant sealed with the installation's key and kept in the store, so that another key is refused at start."""

from gatepost.adapters.secretbox import SecretBox
from gatepost.domain.errors import StoreUnavailable

_CONSTANT = b"gatepost"
_PLACE = ("key_check", "sealed")


def sealed_key_check(box: SecretBox) -> str:
    """Return what a new store keeps."""
    return box.seal(_CONSTANT, _PLACE)


def check_key(sealed: str, box: SecretBox) -> None:
    """Raises: StoreUnavailable, when another key sealed it."""
    try:
        box.open(sealed, _PLACE)
    except StoreUnavailable as error:
        raise StoreUnavailable(
            "the secrets in this database were sealed with another secret key: start with the key it was made with"
        ) from error
