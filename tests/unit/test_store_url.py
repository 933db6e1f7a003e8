"""The URL of a store: what it names, what is shown of it, and what is refused with which sentence."""

import pytest

from gatepost.store_url import StoreKind, parse_store_url


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("sqlite:///./g.db", StoreKind.SQLITE, "sqlite:///./g.db"),
        ("postgresql://db/gatepost", StoreKind.POSTGRESQL, "postgresql://db/gatepost"),
        ("postgres://u:p%40@db:5433/g?sslmode=require&sslpassword=p", StoreKind.POSTGRESQL, "postgres://db:5433/g"),
        ("postgresql://u:p@a,b:2/g?target_session_attrs=primary", StoreKind.POSTGRESQL, "postgresql://a,b:2/g"),
        ("postgresql://u@/g?host=/tmp/sockets", StoreKind.POSTGRESQL, "postgresql:///tmp/sockets/g"),
        ("postgresql://[fd00::1]:5432/?dbname=g", StoreKind.POSTGRESQL, "postgresql://[fd00::1]:5432/g"),
        ("mongodb://u:p@a:1,b:2/g?replicaSet=r", StoreKind.MONGODB, "mongodb://a:1,b:2/g"),
        ("mongodb+srv://u:p@cluster.example/g", StoreKind.MONGODB, "mongodb+srv://cluster.example/g"),
    ],
)
def test_a_store_is_shown_without_user_password_and_options(text: str, kind: StoreKind, shown: str) -> None:
    url = parse_store_url(text)
    assert (url.kind, str(url), url.secret) == (kind, shown, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gatepost.db", "write it as sqlite:///PATH, postgresql://"),
        ("mysql://hunter2@db/g", "write it as sqlite:///PATH, postgresql://"),
        ("postgresql:hunter2", "write it as sqlite:///PATH, postgresql://"),
        ("sqlite://", "name a file after the three slashes"),
        ("sqlite:///", "name a file after the three slashes"),
        ("sqlite:///./folder/", "name a file after the three slashes"),
        ("sqlite:///:memory:", "name a file after the three slashes"),
        ("postgresql:///g", "name the host, such as postgresql://"),
        ("mongodb://u:hunter2@/g", "name the host, such as mongodb://"),
        ("postgresql://u:hunter2@db", "name the database after the host"),
        ("postgresql://u:hunter2@db/", "name the database after the host"),
        ("postgresql://db:port/g", "write hosts as HOST or HOST:PORT"),
        ("postgresql://db:65536/g", "write hosts as HOST or HOST:PORT"),
        ("postgresql://a,,b/g", "write hosts as HOST or HOST:PORT"),
        ("postgresql://[::1/g", "write it as sqlite:///PATH, postgresql://"),
        ("mongodb+srv://a.example:27017/g", "takes one name, without a port"),
        ("mongodb+srv://a.example,b.example/g", "takes one name, without a port"),
        # What is special in a password, and not encoded, wherever it makes the rest end up.
        ("postgresql://u:hunter2/1@db/g", "as %2F %3F %23 %40"),
        ("postgresql://u:1/hunter2@db/g", "as %2F %3F %23 %40"),
        ("postgresql://u:hunter2?@db/g", "as %2F %3F %23 %40"),
        ("postgresql://u:1?hunter2@db/g", "name the database after the host"),
        ("postgresql://u:1#hunter2@db/g", "as %2F %3F %23 %40"),
        ("postgresql://u:hunter2@1@db/g", "as %2F %3F %23 %40"),
        ("postgresql://u:hunter 2@db/g", "as %2F %3F %23 %40"),
        ("postgresql://db/g\n", "as %2F %3F %23 %40"),
    ],
)
def test_what_names_no_store_is_refused_with_the_fix_and_not_repeated(text: str, says: str) -> None:
    with pytest.raises(ValueError) as refusal:
        parse_store_url(text)
    assert says in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
