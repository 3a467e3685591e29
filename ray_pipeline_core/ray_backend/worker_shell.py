"""The actor that Ray starts on a node. It makes this package importable there, and calls a `RankWorker`.

Ray gets this module's code by value, since a node may lack the package or have another release of it. So the module
uses the standard library and what Ray itself needs. All arguments and results are bytes, since no process between
driver and worker, such as the head that serves a Ray Client, need know the package either.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.util


class RankWorker:
    """Calls the methods of this package's `RankWorker` by name.

    It has the same name because that is what Ray shows in the titles of processes and in its dashboard.
    """

    def __init__(self) -> None:
        self._worker: Any = None

    def prepare(self, code: Mapping[str, Any], archive: Sequence[Any], pipeline: Any, settings: Any) -> bytes:
        """Make the driver's code importable, and load the pipeline.

        Args:
            code: what to make importable, see `ShippedCode.offer`, and `variables` for the environment.
            archive: the reference of the archive, in a list, so that it is fetched only where it is needed.
            pipeline: the pickled pipeline.
            settings: the pickled settings.

        Returns:
            The pickled answer of `RankWorker.prepare`; why there is none, as a string, if the code can't be imported.
        """
        os.environ.update(code["variables"])
        try:
            if self._worker is None:
                self._worker = _make_worker(code, archive)
        except Exception as error:  # noqa: BLE001 - it must reach the driver as a value
            return pickle.dumps(_import_problem(error))
        return pickle.dumps(self._worker.prepare(pipeline, settings))

    def call(self, method: str, arguments: bytes) -> bytes:
        """Call a method of the worker.

        Args:
            method: its name.
            arguments: its pickled positional arguments.

        Returns:
            Its pickled result; None if there is no worker, because `prepare` has failed.
        """
        if self._worker is None:
            return pickle.dumps(None)
        return pickle.dumps(getattr(self._worker, method)(*pickle.loads(arguments)))


def _make_worker(code: Mapping[str, Any], archive: Sequence[Any]) -> Any:
    if code["driver_path"] is not None:
        _follow(code["driver_path"])
    missing = [package for package in code["packages"] if not _fits(package)]
    if missing:
        root = _unpacked(code, archive)
        sys.path[:0] = [str(root / package["name"]) for package in missing]
        importlib.invalidate_caches()
        _forget({package["module"] for package in missing})
    return importlib.import_module("ray_pipeline_core.ray_backend.rank_worker").RankWorker()


def _import_problem(error: Exception) -> str:
    advice = "install what it names there, in a version that fits, or remove what hides it"
    if isinstance(error, OSError):
        advice = f"check the free space and the permissions of {tempfile.gettempdir()} there"
    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"ray-pipeline can't be imported on node {node}: {type(error).__name__}: {error}; {advice}"


def _forget(modules: Collection[str]) -> None:
    """Let modules be imported anew, which something has imported where they were found before."""
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        del sys.modules[name]


def _follow(driver_path: Sequence[str]) -> None:
    """Search for modules where the driver does, in its order, but first where a runtime environment wants it."""
    own = [entry for entry in sys.path if entry not in driver_path]
    of_ray = [entry for entry in own if entry.startswith(os.path.dirname(ray.__file__))]
    sys.path[:] = [*(entry for entry in own if entry not in of_ray), *driver_path, *of_ray]


def _fits(package: Mapping[str, Any]) -> bool:
    """Return whether a package is importable here, in a version that fits the driver's."""
    spec = importlib.util.find_spec(package["module"])
    if spec is None or not spec.origin:
        return False
    if package["file"] == identity_of(spec.origin):  # the driver's own, on its machine or on a shared disk
        return True
    if package["digest"]:
        return source_digest(Path(spec.origin).parent) == str(package["digest"])
    from packaging.specifiers import SpecifierSet

    try:
        version = importlib.metadata.version(package["name"])
    except importlib.metadata.PackageNotFoundError:
        return False
    return SpecifierSet(package["requires"]).contains(version, prereleases=True)


def identity_of(path: str) -> list[Any]:
    """Return what tells a file from those of other machines and containers, and from itself after a change."""
    status, boot = os.stat(path), Path("/proc/sys/kernel/random/boot_id")
    return [path, status.st_dev, status.st_ino, status.st_mtime_ns, boot.read_text() if boot.exists() else ""]


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files of a package in a fixed order, relative to its folder."""
    for path, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(path, name).relative_to(folder) for name in sorted(names) if name.endswith(".py"))


def source_digest(folder: Path) -> str:
    """Return a digest of the Python files of a package."""
    digest = hashlib.sha256()
    for file in source_files(folder):
        content = (folder / file).read_bytes()
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _unpacked(code: Mapping[str, Any], archive: Sequence[Any]) -> Path:
    """Return the folder with the content of the archive, which the workers of a node share."""
    parent = _private_folder()
    folder = parent / str(code["digest"])
    if _is_complete(folder, code):
        return folder
    new = Path(tempfile.mkdtemp(dir=parent))
    with zipfile.ZipFile(io.BytesIO(bytes(ray.get(archive[0])))) as content:
        content.extractall(new)
    try:
        new.rename(folder)
    except OSError:  # another worker was faster, or the folder is incomplete
        if not _is_complete(folder, code):
            return new
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _private_folder() -> Path:
    """Return a folder of this node in which no other user can change what is run."""
    folder = Path(tempfile.gettempdir(), f"ray-pipeline-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_private = status.st_uid == os.getuid() and not status.st_mode & 0o022 and not folder.is_symlink()
    return folder if is_private else Path(tempfile.mkdtemp(prefix="ray-pipeline-"))


def _is_complete(folder: Path, code: Mapping[str, Any]) -> bool:
    """Return whether all files are there: who cleans up a node's temporary files may have removed some."""
    return folder.is_dir() and sum(1 for _ in source_files(folder)) == code["files"]
