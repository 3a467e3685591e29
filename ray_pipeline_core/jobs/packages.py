"""Files for the cluster: zip files named by their content, as Ray keeps them for its runtime environments."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ray_pipeline_core.errors import ConfigError, JobError
from ray_pipeline_core.jobs.dashboard import Dashboard, Request
from ray_pipeline_core.jobs.steps import Steps
from ray_pipeline_core.redaction import cause_to_show

_UPLOAD_TIMEOUT_S = 300.0
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_Ignore = Callable[[Path], bool]


@dataclass(frozen=True)
class Package:
    """A file for the cluster.

    Attributes:
        name: its name, which tells its content.
        content: its content.
    """

    name: str
    content: bytes = field(repr=False)

    @property
    def uri(self) -> str:
        """What stands for it in a runtime environment."""
        return f"gcs://{self.name}"

    @classmethod
    def of_zip(cls, content: bytes) -> Package:
        """Return the package of a zip file."""
        return cls(f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:32]}.zip", content)


def upload(dashboard: Dashboard, package: Package) -> Steps[None]:
    """Put a package into the cluster, unless it is there; in both cases Ray keeps it until the job has it.

    Raises:
        JobError: the cluster does not take it.
        ClusterError: the cluster does not answer.
    """
    path = f"/api/packages/gcs/{package.name}"
    found = yield from dashboard.ask(Request("GET", path), 404)
    if found.status == 200:
        return
    if b"does not exist" not in found.content:
        raise dashboard.something_else(found)
    put = Request("PUT", path, content=package.content, timeout_s=_UPLOAD_TIMEOUT_S)
    answer = yield from dashboard.ask(put, 413, 500)
    if answer.status != 200:
        raise JobError(
            f"the cluster does not take the {len(package.content) / 1e6:.1f} MB of files that the job needs "
            f"({answer.status}: {answer.text}); make them fewer with runtime_env={{'excludes': [...]}}, or put them "
            "where the nodes can read them and pass the URI"
        )


class LocalFiles:
    """The local folders of runtime environments, as packages.

    Attributes:
        packages: the packages so far, by name.
    """

    def __init__(self) -> None:
        self.packages: dict[str, Package] = {}

    def replaced(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Return a runtime environment with the URIs of packages in place of local folders.

        Raises:
            ConfigError: a folder or file is missing, or can't be uploaded because of what it is.
        """
        new = dict(environment)
        excludes = new.pop("excludes", None) or []
        if new.get("working_dir"):
            new["working_dir"] = self._uri("working_dir", new["working_dir"], excludes, is_module=False)
        if new.get("py_modules"):
            new["py_modules"] = [self._uri("py_modules", each, excludes, is_module=True) for each in new["py_modules"]]
        return new

    def _uri(self, name: str, value: Any, excludes: Sequence[str], is_module: bool) -> str:
        place = value.__path__[0] if isinstance(value, ModuleType) else os.fspath(value)
        if "://" in place:
            return str(place)
        try:
            package = _package_of(Path(place).expanduser().resolve(), excludes, is_module)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"runtime_env[{name!r}]={place!r}: can't be uploaded ({type(error).__name__}: {error}); name a "
                "folder, a zip file or, in py_modules, a wheel that is there where the job is submitted"
            ) from cause_to_show(error)
        self.packages[package.name] = package
        return package.uri


def _package_of(path: Path, excludes: Sequence[str], is_module: bool) -> Package:
    if path.suffix == ".whl" and is_module:
        return Package(path.name, path.read_bytes())  # the name of a wheel says what it is
    if path.suffix == ".zip" and path.is_file():
        return Package.of_zip(path.read_bytes())
    if path.is_file() and is_module:
        return Package.of_zip(zipped([(path.name, path.read_bytes(), path.stat().st_mode)]))
    if not path.is_dir():
        raise FileNotFoundError("there is no such folder")
    above = f"{path.name}/" if is_module else ""
    files = sorted(_files(path, [_patterns(path, excludes)]))
    return Package.of_zip(
        zipped((f"{above}{one.relative_to(path)}", one.read_bytes(), one.stat().st_mode) for one in files)
    )


def zipped(files: Any) -> bytes:
    """Return a zip file, the same for the same names, contents and modes of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in files:
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr = (mode & 0o777) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _files(folder: Path, ignored: Sequence[_Ignore]) -> Iterator[Path]:
    """Yield the files below a folder that neither `excludes` nor a .gitignore or .rayignore leaves out, as Ray does."""
    names = (
        (".rayignore",) if os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") == "1" else (".gitignore", ".rayignore")
    )
    ignored = [
        *ignored,
        *(_patterns(folder, (folder / name).read_text().splitlines()) for name in names if (folder / name).is_file()),
    ]
    for path in folder.iterdir():
        if path.name in (".git", "__pycache__") or any(is_ignored(path) for is_ignored in ignored):
            continue
        if path.is_dir():
            yield from _files(path, ignored)
        elif path.is_file():
            yield path


def _patterns(folder: Path, lines: Sequence[str]) -> _Ignore:
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines(lines)

    def is_ignored(path: Path) -> bool:
        relative = path.relative_to(folder).as_posix()
        return spec.match_file(f"{relative}/" if path.is_dir() else relative)

    return is_ignored
