"""The cache of compiled programs: its folder, the user's settings, and exact results."""

import stat

import jax
import numpy as np
import pytest

from vljax import host_process
from vljax.training.checkpoint import saved_state

SETTINGS = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
LIMITS = ("jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def enable(tmp_path, monkeypatch):
    """Enables the cache as if for the first time in this process: (its folder, its size)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = {name: getattr(jax.config, name) for name in SETTINGS + LIMITS}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)

    def run():
        host_process.enable_compilation_cache.__wrapped__()
        return jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size

    yield run
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_enabled_by_default_with_limited_size(enable):
    assert enable() == (str(host_process.compilation_cache_folder()), 2**30)


def test_the_cache_can_be_turned_off_in_jax(enable, tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)  # JAX_ENABLE_COMPILATION_CACHE=0
    assert enable()[0] is None
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_the_user_configured_is_left_alone(enable, tmp_path):
    own, size = str(tmp_path / "own"), jax.config.jax_compilation_cache_max_size
    jax.config.update("jax_compilation_cache_dir", own)  # JAX_COMPILATION_CACHE_DIR
    assert enable() == (own, size)
    assert not (tmp_path / "cache").exists()


def test_a_size_that_the_user_set_is_left_alone(enable, monkeypatch):
    size = jax.config.jax_compilation_cache_max_size
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", str(size))
    assert enable() == (str(host_process.compilation_cache_folder()), size)


def test_a_folder_that_cannot_be_written_is_a_warning(enable, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert enable()[0] is None
    folder = host_process.compilation_cache_folder()
    (line,) = caplog.messages
    assert line.startswith(f"compiled programs are not kept: {folder}: Not a directory; set JAX_")


def test_hosts_with_different_processors_have_different_folders(monkeypatch):
    here = host_process.compilation_cache_folder()
    monkeypatch.setattr("os.cpu_count", lambda: 10_000)
    more_cores = host_process.compilation_cache_folder()
    monkeypatch.undo()
    monkeypatch.setattr(host_process, "_processor", lambda: "flags: avx10")
    assert len({here, more_cores, host_process.compilation_cache_folder()}) == 3


def test_a_run_with_cached_programs_is_bitwise_the_same(call, environment, tmp_path, monkeypatch):
    for name in list(environment):
        if "CACHE" in name:
            monkeypatch.delitem(environment, name)
    monkeypatch.setitem(environment, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(environment, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    fields = ["--steps", "2", "--optim.schedule.warmup_steps", "1"]
    fields += ["--model.nodes.image.depth", "1", "--model.nodes.text.depth", "1"]
    for evaluator in ("retrieval", "zero_shot"):
        fields += [f"--evaluators.{evaluator}", "none", f"--final_evaluators.{evaluator}", "none"]
    states = {}
    for name in ("off", "cold", "warm"):
        monkeypatch.setitem(environment, "JAX_ENABLE_COMPILATION_CACHE", str(int(name != "off")))
        workdir = ["--workdir", tmp_path / name]
        status, _, err = call("train.py", "configs/quickstart.py:tiny", *fields, *workdir)
        assert status == 0, err
        # XLA warns of a program that was compiled for another machine.
        assert "machine" not in err
        folder = tmp_path / name / "checkpoints" / "2"
        states[name] = saved_state.read_state(folder, saved_state.shapes(folder))
        assert (tmp_path / "cache" / "vljax").exists() == (name != "off")
    (program,) = tmp_path.glob("cache/vljax/compiled/*/jit_step-*-cache")
    assert stat.S_IMODE(program.parent.stat().st_mode) == 0o700
    for name in ("cold", "warm"):
        jax.tree.map(np.testing.assert_array_equal, states["off"], states[name])
