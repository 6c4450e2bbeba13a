"""The secret of a site: pseudonyms and roles are its keyed hashes, so nobody without it can recompute them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medssl.core.errors import PoolError

MIN_BYTES = 32


@dataclass(frozen=True)
class Key:
    """A secret that is never shown; two keys are told apart by their ``fingerprint``."""

    secret: bytes = field(repr=False)
    created: bool = field(default=False, compare=False)  # by the very call that returned it, so that the user is told

    @classmethod
    def load(cls, path: Path | None = None) -> Key:
        """Read the key at ``path``; without a path read the user's own key, creating it the first time.

        Raises:
            PoolError: no such file, or too short to be a secret.
        """
        if path is None:
            path = default_path()
            if not path.exists():
                return cls.create(path)
        return cls(_read(path))

    @classmethod
    def create(cls, path: Path) -> Key:
        """Write a new random key (mode 0600) to ``path``; the key already there wins, whoever wrote it.

        Raises:
            PoolError: the folder cannot be written, or the file there is no key.
        """
        try:
            created = _write_new(path, secrets.token_hex(MIN_BYTES))
        except OSError as error:
            raise PoolError(f"{path}: cannot create a key there ({error.strerror}); name another with --key") from None
        return cls(_read(path), created)

    def hmac(self, *words: str) -> str:
        """Return 32 hex digits that only this key gives for these words, in this order."""
        return self._digest("hmac", words).hex()[:32]

    def uniform(self, *words: str) -> float:
        """Return a number in [0, 1) with 53 random bits that only this key gives for these words."""
        return (int.from_bytes(self._digest("uniform", words)[:8], "big") >> 11) * 2.0**-53

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the key without revealing it."""
        return self._digest("fingerprint", ()).hex()[:16]

    def _digest(self, purpose: str, words: tuple[str, ...]) -> bytes:
        """HMAC-SHA256 over length-prefixed words: no two lists of words, and no two purposes, share a message."""
        message = hmac.new(self.secret, digestmod=hashlib.sha256)
        for word in ("medssl/1", purpose, *words):
            data = word.encode()
            message.update(len(data).to_bytes(8, "big") + data)
        return message.digest()


def default_path() -> Path:
    """Return ``~/.config/medssl/key``, or its place below an absolute ``XDG_CONFIG_HOME``."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "medssl" / "key"


def _read(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise PoolError(f"{path}: cannot read the key ({error.strerror})") from None
    if len(secret) < MIN_BYTES:
        raise PoolError(f"{path}: a key of {len(secret)} bytes, expected {MIN_BYTES} or more random ones")
    return secret


def _write_new(path: Path, text: str) -> bool:
    """Put a whole file at ``path`` unless there is one; a hard link is the step that only one process can win."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
            handle.write(text + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)
            return True
        return False
    finally:
        partial.unlink(missing_ok=True)
