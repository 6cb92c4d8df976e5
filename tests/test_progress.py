"""Progress of long commands: bars on a terminal, log lines elsewhere."""

import pytest

from tests.interop.conftest import foreign  # noqa: F401  a fixture
from vljax.commands.main import main
from vljax.data import records
from vljax.progress import Display, shown


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BETWEEN_LINES", 0)


def test_a_log_line_has_both_counts(caplog):
    with shown("import", "{:,} of {:,} bytes", "bytes") as progress:
        progress(1_000, 2_000)
    assert caplog.messages == ["import: 1,000 of 2,000 bytes"]


def test_a_terminal_shows_bars_and_no_log_lines(caplog, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for unit in ("number", "bytes"):
        with Display("set", unit) as display:
            display.stage("read", "{} {}")(1_000, 2_000)
            display._bars.refresh()
    err = capsys.readouterr().err
    assert "read" in err
    assert "1000/2000" in err
    assert "1.0/2.0 kB" in err
    assert not caplog.messages


def test_names_between_colons_are_not_emoji(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Display("set") as display:
        display.stage("runs/:dog: [b]", "{} {}")(1, 2)
        display._bars.refresh()
    assert "runs/:dog: [b]" in capsys.readouterr().err


def test_import_logs_its_progress(foreign, tmp_path, caplog):  # noqa: F811
    assert main(["import", str(foreign("bert_a")), str(tmp_path / "w")]) == 0
    first, *_, last = [line for line in caplog.messages if line.startswith("import: ")]
    assert first != last
    done, _, total = last.removeprefix("import: ").removesuffix(" bytes").split(" ")
    assert done == total
