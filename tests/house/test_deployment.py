"""What can be known of the image and of compose.yaml without running them: that they speak of things that exist."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from gatepost import config
from gatepost.api.routes import health
from gatepost.cli import root
from gatepost.store_url import StoreKind

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in DOCKERFILE.splitlines() if line and line[0] not in "# "]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "gatepost:local"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)
EXAMPLE = {"POSTGRES_PASSWORD": "0f1e2d", "GATEPOST_SECRET_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}


def of_dockerfile(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in of_dockerfile("ENV") for pair in shlex.split(line))


def interpolated(value: str) -> str:
    return re.sub(r"\$\{([A-Z_]+)(?::[-?][^}]*)?\}", lambda found: EXAMPLE.get(found[1], ""), value)


# --- the image -----------------------------------------------------------------------------------------------


def test_what_is_copied_into_the_image_exists_and_is_not_ignored() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for line in of_dockerfile("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert len(copied) >= 5
    assert sorted(copied) == sorted(sent)
    assert [source for source in sent if not (ROOT / source).exists()] == []


def test_both_stages_have_the_python_that_the_package_is_made_for() -> None:
    (base,) = {line.split()[0] for line in of_dockerfile("FROM")}
    found = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", base)
    assert found
    assert PROJECT["requires-python"] == f">={found[1]}"
    assert f"Programming Language :: Python :: {found[1]}" in PROJECT["classifiers"]


def test_the_image_gets_every_extra_at_the_versions_that_are_tested() -> None:
    pinned = set(PINNED.findall((ROOT / "requirements" / "deploy.txt").read_text()))
    wanted = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    assert len(wanted) > 10
    assert {re.split(r"[\[>]", each)[0] for each in wanted} - pinned == set()
    assert all("--require-hashes" in line for line in of_dockerfile("RUN") if "--requirement" in line)


def test_the_image_runs_the_command_as_nobody_special_and_passes_signals_on() -> None:
    assert of_dockerfile("USER") == ["10001:10001"]
    assert of_dockerfile("ENTRYPOINT") == ['["gatepost"]']
    assert of_dockerfile("CMD") == ['["serve"]']
    assert of_dockerfile("STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_asks_a_route_at_the_port_that_is_listened_at() -> None:
    (check,) = of_dockerfile("HEALTHCHECK")
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/[a-z/]+)", check)
    assert asked
    assert asked[2] in {route.path for route in health.router.routes}
    assert {asked[1]} == {image_environment()["GATEPOST_PORT"], *of_dockerfile("EXPOSE")}


# --- compose -------------------------------------------------------------------------------------------------


def test_compose_runs_the_api_the_workers_and_the_migration() -> None:
    assert set(OURS) == {"migrate", "api", "worker"}
    assert set(COMPOSE["services"]) - set(OURS) == {"postgres"}


@pytest.mark.parametrize("service", OURS)
def test_every_command_of_compose_is_one_with_its_options(service: str) -> None:
    name, *arguments = OURS[service]["command"]
    command = typer.main.get_command(root).commands[name]
    command.make_context(name, arguments)  # raises what the command line would refuse


@pytest.mark.parametrize("service", OURS)
def test_the_settings_of_a_container_can_be_used(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: interpolated(value) for name, value in OURS[service]["environment"].items()}
    settings = {name: value for name, value in {**image_environment(), **given}.items() if name.startswith("GATEPOST_")}
    assert config.unknown_variables(settings) == {}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    loaded = config.load()
    assert loaded.store.kind is StoreKind.POSTGRESQL
    assert loaded.secret_key_bytes
    assert int(OURS[service]["stop_grace_period"].removesuffix("s")) > loaded.shutdown_seconds


def test_what_compose_asks_for_is_in_the_example_and_the_secrets_in_it_are_empty() -> None:
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / "compose.env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text())) == set(example)
    assert set(example.values()) == {""}


def test_nothing_is_published_but_the_api_on_loopback() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    port = image_environment()["GATEPOST_PORT"]
    assert published == {"api": [f"127.0.0.1:8000:{port}"]}


def test_workers_can_be_scaled_and_keep_the_health_check_of_the_image() -> None:
    worker = OURS["worker"]
    assert worker.keys().isdisjoint({"container_name", "ports", "healthcheck", "hostname"})
    assert worker["command"][-2:] == ["--http", f"127.0.0.1:{image_environment()['GATEPOST_PORT']}"]
    assert all(
        OURS[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        for name in ("api", "worker")
    )
