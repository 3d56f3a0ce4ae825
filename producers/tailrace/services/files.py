"""Read files below one folder, and nothing else."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from tailrace.schemas import ParameterError, TailraceError
from tailrace.services.documents import SUPPORTED, is_supported
from tailrace.services.errors import (
    NotFoundError,
    PathForbiddenError,
    TooLargeError,
    UnsupportedTypeError,
)

__all__ = ["FileRoot"]

# A FIFO must not hold up its reader, and a link put in after the check must not be followed.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FileRoot:
    """The only folder whose files may be ingested. Its methods block.

    Symbolic links are followed as long as they end below the root.

    Args:
        root: The folder.
        max_bytes: Size of the largest file that is read; a larger one is refused.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root.resolve()
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"<FileRoot {self._root}>"

    def locate(self, path: str) -> str:
        """Check that a file can be ingested, short of its content.

        Args:
            path: Relative to the root, or absolute.

        Returns:
            Its real path relative to the root, with slashes: equal for all names of one file.

        Raises:
            PathForbiddenError: It is outside of the root, or not readable.
            NotFoundError: It does not exist.
            UnsupportedTypeError: Its name has another ending than `SUPPORTED`.
            TooLargeError: It is larger than the bound.
            ParameterError: It is a folder, no regular file, or no possible path.
        """
        with self._opened(path) as (relative, _):
            return relative.as_posix()

    def read(self, path: str) -> bytes:
        """Return the content of a file, with the checks of `locate` made again."""
        with self._opened(path) as (_, descriptor), os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise TooLargeError(f"file {path!r}", self._max_bytes)
        return data

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[PurePath, int]]:
        relative = self._relative(path)
        try:
            descriptor = self._open(relative)
        except OSError as exc:
            raise _refusal(path, exc) from exc
        try:
            self._check(path, relative, os.fstat(descriptor))
            yield relative, descriptor
        finally:
            os.close(descriptor)

    def _relative(self, path: str) -> PurePath:
        """Resolve `path`, links included, and refuse what does not end below the root."""
        try:
            resolved = self._root.joinpath(path).resolve()
            str(resolved).encode()
        except (OSError, RuntimeError, ValueError) as exc:  # a loop of links is a RuntimeError
            raise ParameterError("path", "is not a possible path") from exc
        if not resolved.is_relative_to(self._root):
            raise PathForbiddenError(path)
        return resolved.relative_to(self._root)

    def _open(self, relative: PurePath) -> int:
        """Open folder by folder, following no link: what was resolved cannot be swapped since."""
        *folders, name = relative.parts or (".",)
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folders:
                inner = os.open(part, _READ | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(name, _READ, dir_fd=folder)
        finally:
            os.close(folder)

    def _check(self, path: str, relative: PurePath, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            raise ParameterError("path", f"{path!r} is a folder: send one request per file")
        if not stat.S_ISREG(status.st_mode):
            raise ParameterError("path", f"{path!r} is not a regular file")
        if not is_supported(relative.name):
            raise UnsupportedTypeError(f"file {path!r}", SUPPORTED)
        if status.st_size > self._max_bytes:
            raise TooLargeError(f"file {path!r}", self._max_bytes)


def _refusal(path: str, error: OSError) -> TailraceError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return NotFoundError("file", path)
    if error.errno in {errno.EACCES, errno.EPERM, errno.ELOOP}:
        return PathForbiddenError(path)
    return ParameterError("path", f"{path!r} cannot be opened: {error.strerror}")
