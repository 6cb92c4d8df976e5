"""pytest options of this project: which slow proofs run, and what each test file costs.

A slow proof (`@pytest.mark.slow(subject=[...])`) takes minutes: 200 training steps, compiles for
TPUs. Its subject is a list of files and folders, relative to the root of the repository. By default
it runs only if its subject changed since it last passed. `slow_proofs.json` stores a hash of the
subject for each proof that passed; comments, docstrings and formatting do not count. A proof that
passes updates the file, which is committed with the change. A proof whose stored hash is missing or
old runs, so forgetting to commit the file costs time but hides nothing.
"""

import ast
import functools
import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).with_name("slow_proofs.json")


def pytest_addoption(parser):
    parser.addoption(
        "--slow",
        choices=("changed", "all", "none"),
        default="changed",
        help="which slow proofs run: those whose subject changed (default), all, or none",
    )
    parser.addoption(
        "--dearest",
        type=int,
        default=0,
        metavar="N",
        help="print the N test files that took most CPU time, child processes included",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow(subject): see tests/plugin.py")
    config.pluginmanager.register(SlowProofs(config), "slow_proofs")
    config.pluginmanager.register(CpuTime(), "cpu_time")


@functools.cache
def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".py":
        tree = ast.parse(content)
        for node in ast.walk(tree):
            # Docstrings, and the strings that document fields.
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [n for n in body if not _is_text(n)]
        content = ast.dump(tree).encode()
    return hashlib.sha256(content).hexdigest()


def _is_text(node):
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def fingerprint(subject):
    """A hash of the files of a subject: of the syntax trees of Python files, without docstrings.

    Raises:
      FileNotFoundError: if the subject names a path that does not exist.
    """
    files = set()
    for name in subject:
        path = ROOT / name
        if path.is_file():
            files.add(path)
        elif path.is_dir():
            files |= {f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
        else:
            raise FileNotFoundError(f"the subject of a slow proof names {name}, which is not there")
    names = sorted((str(f.relative_to(ROOT)), _digest(f)) for f in files)
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


class SlowProofs:
    """Leaves out slow proofs whose subject did not change, and notes those that passed."""

    def __init__(self, config):
        self.mode = config.getoption("slow")
        self.left_out, self.passed = [], {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        stored = json.loads(STORED.read_text()) if STORED.exists() else {}
        kept, left_out = [], []
        for item in items:
            marker = item.get_closest_marker("slow")
            if marker is None:
                kept.append(item)
                continue
            now = fingerprint(marker.kwargs["subject"])
            item.user_properties.append(("slow_proof", now))
            unchanged = stored.get(item.nodeid) == now
            run = self.mode == "all" or (self.mode == "changed" and not unchanged)
            (kept if run else left_out).append(item)
        items[:] = kept
        self.left_out = [item.nodeid for item in left_out]
        config.hook.pytest_deselected(items=left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        """With xdist: what the workers left out is the same in each."""
        self.left_out = node.workeroutput.get("left_out", self.left_out)

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = self.left_out
        elif self.passed:
            stored = json.loads(STORED.read_text()) if STORED.exists() else {}
            text = json.dumps(stored | self.passed, indent=1, sort_keys=True) + "\n"
            if not STORED.exists() or STORED.read_text() != text:
                STORED.write_text(text)

    def pytest_runtest_logreport(self, report):
        proof = dict(report.user_properties).get("slow_proof")
        if proof and report.when == "call" and report.passed:
            self.passed[report.nodeid] = proof

    def pytest_terminal_summary(self, terminalreporter):
        if self.left_out:
            why = "not asked for" if self.mode == "none" else "their subjects did not change"
            terminalreporter.section(f"{len(self.left_out)} slow proofs left out: {why}")
            for name in self.left_out:
                terminalreporter.write_line(name)


class CpuTime:
    """Adds the CPU seconds of each phase of a test to its report, which xdist sends on."""

    def __init__(self):
        self.before = self.now()
        self.seconds = defaultdict(float)

    @staticmethod
    def now():
        return sum(os.times()[:4])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item):
        now = self.now()
        rest = [pair for pair in item.user_properties if pair[0] != "cpu_seconds"]
        item.user_properties = [*rest, ("cpu_seconds", now - self.before)]
        self.before = now

    def pytest_runtest_logreport(self, report):
        self.seconds[report.location[0]] += dict(report.user_properties).get("cpu_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter, config):
        count = config.getoption("dearest")
        if not count:
            return
        rows = sorted(self.seconds.items(), key=lambda row: -row[1])
        total = sum(self.seconds.values())
        terminalreporter.section(f"{total / 60:.1f} CPU minutes; the dearest files, in CPU seconds")
        for path, seconds in rows[:count]:
            terminalreporter.write_line(f"{seconds:8.1f}  {path}")
