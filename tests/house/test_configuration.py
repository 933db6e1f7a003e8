"""The page about settings says what the code does."""

from pathlib import Path

from gatepost.config import Settings, as_markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_settings_generate() -> None:
    assert PAGE.read_text() == as_markdown(), "run: python -m gatepost.config > docs/configuration.md"


def test_every_setting_has_a_reason_a_unit_and_a_fix() -> None:
    assert Settings.model_fields
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict), name
        assert extra["unit"], name
        assert extra["fix"], name
        assert len(field.description or "") > 60, name
