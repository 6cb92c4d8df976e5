"""CPU time of each test file, its child processes included: `pytest --dearest 10`."""

import os
from collections import defaultdict


def pytest_addoption(parser):
    parser.addoption(
        "--dearest",
        type=int,
        default=0,
        metavar="N",
        help="print the N test files that took most CPU time, child processes included",
    )


class CpuTime:
    """Adds the CPU seconds of each phase of a test to its report, which xdist sends on."""

    def __init__(self):
        self.before = self.now()
        self.seconds = defaultdict(float)

    @staticmethod
    def now():
        return sum(os.times()[:4])

    def pytest_runtest_makereport(self, item):
        now = self.now()
        item.user_properties = [("cpu_seconds", now - self.before)]
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


def pytest_configure(config):
    config.pluginmanager.register(CpuTime(), "cpu_time")
