"""Verdicts on the disk while an evaluation runs: a killed run goes on from them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from mindformers_glm.errors import DataError
from mindformers_glm.evaluation.interface import Judged, Row
from mindformers_glm.evaluation.share import Share
from mindformers_glm.log import logger


class Journal:
    """Verdicts of rows, on the disk as they come; each rank has its own file."""

    def __init__(self, path: str | Path | None, share: Share, identity: dict[str, Any]) -> None:
        self.verdicts: dict[str, Judged] = {}
        self._file: IO[str] | None = None
        self.path = None
        if path is None:
            return
        self.path = Path(path) if share.size == 1 else Path(f"{path}.rank{share.rank}")
        known = json.loads(json.dumps({**identity, "ranks": share.size}))
        self._read(self.path, known)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            fix = "Name another --output_dir"
            raise DataError(str(self.path), f"it cannot be written ({error.strerror})", fix) from error
        if not self.verdicts:
            self._file.truncate(0)
            self._write(self._file, [known])

    def _read(self, path: Path, identity: dict[str, Any]) -> None:
        """Takes what an earlier run with the same settings left; a line that was cut off is dropped."""
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        try:
            same = json.loads(lines[0]) == identity
        except ValueError:
            same = False
        if not same:
            logger.warning("%s is of another run (its first line says which): it is written anew", path)
            return
        whole = len(lines[0]) + 1
        for line in lines[1:-1]:
            try:
                fields = json.loads(line)
                self.verdicts[fields["row"]] = Judged(fields["figures"], fields["details"])
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line) + 1
        os.truncate(path, whole)
        logger.info("%s: %d rows of an earlier run are taken", path, len(self.verdicts))

    def add(self, rows: Sequence[Row], verdicts: Sequence[Judged]) -> None:
        """Keeps the verdicts of a window."""
        self.verdicts.update(zip((row.key for row in rows), verdicts, strict=True))
        if self._file is not None:
            self._write(
                self._file,
                [
                    {"row": row.key, "figures": verdict.figures, "details": verdict.details}
                    for row, verdict in zip(rows, verdicts, strict=True)
                ],
            )

    def close(self) -> None:
        """Closes the file, which stays."""
        if self._file is not None:
            self._file.close()

    def _write(self, file: IO[str], values: Sequence[dict[str, Any]]) -> None:
        try:
            file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            fix = "Free space and start the same command again: it goes on where it was"
            raise DataError(str(self.path), f"it cannot be written ({error.strerror})", fix) from error
