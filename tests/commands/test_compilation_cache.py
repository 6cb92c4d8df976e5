"""Where compiled programs are kept, and that what is found there computes the same."""

import stat

import jax
import numpy as np
import pytest

from vljax.training.checkpoint import saved_state

CODE = """\
import jax
from vljax.compilation_cache import folder, keep_compiled
{before}
keep_compiled()
keep_compiled()
print(folder())
for name in ("dir", "max_size"):
    print(getattr(jax.config, f"jax_compilation_cache_{{name}}"))
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
"""


@pytest.fixture
def keep(call, environment, tmp_path, monkeypatch):
    """Turns the cache on in a process of its own; (folder, what JAX uses, its size, stderr)."""
    for name in list(environment):
        if "CACHE" in name:
            monkeypatch.delitem(environment, name)
    monkeypatch.setitem(environment, "XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(before="", **variables):
        for name, value in variables.items():
            monkeypatch.setitem(environment, name, str(value))
        status, out, err = call("-c", CODE.format(before=before))
        assert status == 0, err
        return *out.split(), err

    return run


def test_on_by_default_in_a_private_folder_of_limited_size(keep, tmp_path):
    folder, used, size, err = keep(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0)
    assert (used, size, err) == (folder, str(2**30), "")
    assert (tmp_path / "cache/vljax/compiled").samefile(f"{folder}/..")
    kept = list((tmp_path / "cache").glob("vljax/compiled/*/*-cache"))
    assert kept
    assert stat.S_IMODE(kept[0].parent.stat().st_mode) == 0o700


def test_off_when_jax_is_told_so(keep, tmp_path):
    _, used, _, err = keep(JAX_ENABLE_COMPILATION_CACHE=0)
    assert (used, err) == ("None", "")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("how", ["environment", "configuration"])
def test_what_the_user_set_up_stays(keep, tmp_path, how):
    own = str(tmp_path / "own")
    if how == "environment":
        _, used, size, _ = keep(JAX_COMPILATION_CACHE_DIR=own)
    else:
        _, used, size, _ = keep(f"jax.config.update('jax_compilation_cache_dir', {own!r})")
    assert (used, size) == (own, "-1")
    assert not (tmp_path / "cache").exists()


def test_a_size_that_the_user_set_stays(keep):
    folder, used, size, _ = keep(JAX_COMPILATION_CACHE_MAX_SIZE=12345)
    assert (used, size) == (folder, "12345")


def test_a_folder_that_cannot_be_written_is_said_and_no_failure(keep, tmp_path):
    (tmp_path / "cache").write_text("a file")
    folder, used, _, err = keep()
    assert used == "None"
    (line,) = err.splitlines()
    assert line.startswith(f"compiled programs are not kept: {folder}: Not a directory; set JAX_")


def test_hosts_with_other_processors_have_other_folders(monkeypatch):
    from vljax import compilation_cache

    here = compilation_cache.folder()
    monkeypatch.setattr("os.cpu_count", lambda: 10_000)
    more_cores = compilation_cache.folder()
    monkeypatch.undo()
    monkeypatch.setattr(compilation_cache, "_processor", lambda: "flags: avx10")
    assert len({here, more_cores, compilation_cache.folder()}) == 3


def test_a_run_is_bitwise_the_same_with_programs_from_the_cache(keep, call, environment, tmp_path):
    keep(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0)
    states = {}
    for name in ("off", "cold", "warm"):
        environment["JAX_ENABLE_COMPILATION_CACHE"] = str(int(name != "off"))
        fields = ["--steps", "3", "--optim.schedule.warmup_steps", "1"]
        fields += ["--workdir", tmp_path / name]
        status, _, err = call("train.py", "configs/quickstart.py:tiny", *fields)
        assert status == 0, err
        # XLA would say here that the processor is another one than the program was made for.
        assert "machine" not in err
        folder = tmp_path / name / "checkpoints" / "3"
        states[name] = saved_state.read_state(folder, saved_state.shapes(folder))
    assert len(list(tmp_path.glob("cache/vljax/compiled/*/jit_step-*-cache"))) == 1
    for name in ("cold", "warm"):
        jax.tree.map(np.testing.assert_array_equal, states["off"], states[name])
