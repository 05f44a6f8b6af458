"""What a process has in memory, and the most that it has had, on Linux."""

from pathlib import Path


def resident_bytes() -> int:
    """What this process has in memory now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that this process has had in memory since it began, or since ``forget_peak_``."""
    return _status("VmHWM")


def forget_peak_() -> None:
    """Let the peak be what is in memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f"/proc/self/status has no {name}")
