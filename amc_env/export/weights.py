"""The weights beside a script that needs nothing of this package."""

from importlib.resources import files
from pathlib import Path

from amc_env.export.finished import Finished
from amc_env.files import atomic, write_text
from amc_env.policy import POLICY_FILE, WEIGHTS_FILE

LOADER_FILE = "load.py"


def write_weights(run: Finished, out: Path) -> list[Path]:
    """Copy ``policy.json`` and ``pruned.safetensors``, and write ``load.py`` beside them.

    Raises:
        ValueError: The folder holds those of another run.
    """
    names = (POLICY_FILE, WEIGHTS_FILE)
    contents = {name: (run.folder / name).read_bytes() for name in names}
    for name, content in contents.items():
        if (out / name).is_file() and (out / name).read_bytes() != content:
            raise ValueError(f"{out} holds {name} of another run; give another folder as --out")
    for name, content in contents.items():
        with atomic(out / name) as temporary:
            temporary.write_bytes(content)
    script = files("amc_env.export").joinpath("standalone.py").read_text(encoding="utf-8")
    write_text(out / LOADER_FILE, script)
    return [out / name for name in (*names, LOADER_FILE)]
