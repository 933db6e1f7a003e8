"""Settings: what is read, and what is refused with which sentence."""

import base64
import resource
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from pydantic import ValidationError

from gatepost import config
from gatepost.config import InvalidSettings

KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.Settings.model_fields:
        monkeypatch.delenv(f"GATEPOST_{name.upper()}", raising=False)


def test_everything_has_a_default() -> None:
    settings = config.load()
    assert settings.store.path == Path("gatepost.db")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.allowed_target_networks == ()
    assert settings.secret_key_bytes is None
    assert settings.lease_seconds == 30


def test_an_option_goes_before_the_environment_and_none_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_PORT", "9001")
    assert config.load(port=9002).port == 9002
    assert config.load(port=None).port == 9001


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_SECRET_KEY", "")
    monkeypatch.setenv("GATEPOST_PORT", "")
    assert config.load().port == 8000


def test_values_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32))
    monkeypatch.setenv("GATEPOST_SECRET_KEY", base64.b64encode(key).decode())
    monkeypatch.setenv("GATEPOST_ALLOWED_TARGET_NETWORKS", "127.0.0.0/8, ::1")
    monkeypatch.setenv("GATEPOST_NAMESERVERS", "10.0.0.2,10.0.0.3:5353,[fd00::2]:53,fd00::3")
    monkeypatch.setenv("GATEPOST_HTTPS_ONLY", "true")
    monkeypatch.setenv("GATEPOST_LOG_LEVEL", "WARNING")
    settings = config.load()
    assert settings.secret_key_bytes == key
    assert settings.allowed_target_networks == (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
    assert settings.nameservers == ("10.0.0.2", "10.0.0.3:5353", "[fd00::2]:53", "fd00::3")
    assert settings.https_only is True
    assert settings.log_level == "warning"


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("sqlite:///./gatepost.db", "gatepost.db"),
        ("sqlite:///data/g.db", "data/g.db"),
        ("sqlite:////var/lib/g.db", "/var/lib/g.db"),
    ],
)
def test_three_slashes_are_relative_and_four_absolute(path: str, file: str) -> None:
    assert config.load(store=path).store.path == Path(file)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("STORE", "mysql://db/gatepost", "write it as sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE or"),
        ("SECRET_KEY", "AAAA", "exactly 32 random bytes"),
        ("PORT", "65536", "give a whole number from 0 to 65535"),
        ("PORT", "http", "give a whole number from 0 to 65535"),
        ("ALLOWED_TARGET_NETWORKS", "127.0.0.1/0", "write 127.0.0.1/32 or 0.0.0.0/0"),
        ("ALLOWED_TARGET_NETWORKS", "intranet", "write it as 10.0.0.0/8 or fd00::/8"),
        ("HTTPS_ONLY", "perhaps", "give true or false"),
        ("LEASE_SECONDS", "1.9", "give 2 to 3600 seconds"),
        ("LEASE_SECONDS", "nan", "give 2 to 3600 seconds"),
        ("SECRET_KEY", "c2hvcnQ=", "exactly 32 random bytes"),
        ("SECRET_KEY", "not base64 at all!", "exactly 32 random bytes"),
        ("MAX_IN_FLIGHT", "0", "give a whole number from 1"),
        ("CA_FILE", "no-such-file.pem", "name a readable file of certificates"),
        ("NAMESERVERS", "dns.example", "write 10.0.0.2, 10.0.0.2:5353 or [fd00::2]:53"),
        ("LOG_LEVEL", "loud", "give debug, info, warning or error"),
        ("LOG_FORMAT", "xml", "give json or console"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"GATEPOST_{name}", value)
    with pytest.raises(InvalidSettings) as refusal:
        config.load()
    assert f"GATEPOST_{name}" in str(refusal.value)
    assert says in str(refusal.value)


@pytest.mark.parametrize("store", ["postgresql://db/gatepost", "mongodb+srv://db.example/gatepost"])
def test_a_store_on_a_server_needs_a_secret_key(store: str) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        config.load(store=store)
    assert str(refusal.value).startswith("GATEPOST_SECRET_KEY is not set: a store on")
    assert "`openssl rand -base64 32`" in str(refusal.value)
    assert config.load(store=store, secret_key=KEY).secret_key_bytes == bytes(32)


def test_the_password_of_a_store_is_not_shown() -> None:
    settings = config.load(store="postgresql://gatepost:hunter2@db/gatepost?password=hunter2", secret_key=KEY)
    assert "hunter2" in settings.store.secret
    assert f"{settings.store} {settings.store!r} {settings!r} {settings}".count("hunter2") == 0
    with pytest.raises(InvalidSettings) as refusal:
        config.load(store="postgresql://gatepost:hunter2/@db/gatepost")
    assert "hunter2" not in str(refusal.value)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as refusal:
        config.load(port=-1, lease_seconds=0)
    assert len(str(refusal.value).splitlines()) == 2


def test_no_secret_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_SECRET_KEY", "dGhpcyBpcyBub3QgYSBrZXk=")
    with pytest.raises(InvalidSettings) as refusal:
        config.load()
    assert "dGhpcy" not in str(refusal.value)
    settings = config.load(secret_key=base64.b64encode(bytes(32)).decode())
    assert "AAAA" not in repr(settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        config.load().port = 1


def test_requests_in_flight_are_cut_to_the_descriptor_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert config.load().max_in_flight == 1024 - config.SPARE_DESCRIPTORS
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert config.load().max_in_flight == 8192


def test_a_misspelt_variable_is_found_with_the_one_that_was_meant() -> None:
    found = config.unknown_variables(["GATEPOST_LEASE_SECOND", "GATEPOST_PORT", "GATEPOST_API_KEY", "PATH"])
    assert found == {"GATEPOST_LEASE_SECOND": "GATEPOST_LEASE_SECONDS"}


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://hooks.example.com", "https://hooks.example.com"),
        ("https://hooks.example.com/", "https://hooks.example.com"),
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
        ("http://[fd00::1]:8000", "http://[fd00::1]:8000"),
    ],
)
def test_the_public_url_is_an_origin(monkeypatch: pytest.MonkeyPatch, given: str, origin: str) -> None:
    monkeypatch.setenv("GATEPOST_PUBLIC_URL", given)
    assert config.load().public_url == origin


@pytest.mark.parametrize(
    "given",
    [
        "hooks.example.com",
        "ftp://hooks.example.com",
        "https://",
        "https://hooks.example.com/gatepost",
        "https://ann@hooks.example.com",
        "https://hooks.example.com?x",
        "https://hooks.example.com:port",
        "https://[fd00",
        "https://hooks.example.com\x00",
    ],
)
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(InvalidSettings, match=r"GATEPOST_PUBLIC_URL cannot be used: write an origin"):
        config.load(public_url=given)


def test_whom_the_first_start_makes_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (config.load().admin_email, config.load().admin_password) == ("admin@localhost", None)
    monkeypatch.setenv("GATEPOST_ADMIN_EMAIL", " Ann@Example.com ")
    monkeypatch.setenv("GATEPOST_ADMIN_PASSWORD", "correct horse")
    settings = config.load()
    assert settings.admin_email == "ann@example.com"
    assert "correct horse" not in repr(settings)
    monkeypatch.setenv("GATEPOST_ADMIN_EMAIL", "nobody")
    monkeypatch.setenv("GATEPOST_ADMIN_PASSWORD", "short")
    with pytest.raises(InvalidSettings) as refused:
        config.load()
    assert "GATEPOST_ADMIN_EMAIL cannot be used: give an e-mail address" in str(refused.value)
    assert "GATEPOST_ADMIN_PASSWORD cannot be used: give 8 to 200 characters" in str(refused.value)
    assert "short" not in str(refused.value)


def test_trusted_proxies_are_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_TRUSTED_PROXIES", "10.0.0.0/8,fd00::/8")
    assert config.load().trusted_proxies == (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))
    monkeypatch.setenv("GATEPOST_TRUSTED_PROXIES", "127.0.0.1/0")
    with pytest.raises(InvalidSettings, match="GATEPOST_TRUSTED_PROXIES"):
        config.load()
