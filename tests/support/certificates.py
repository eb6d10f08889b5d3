"""Throw-away certificates."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """Signs certificates for 127.0.0.1, for servers and clients alike."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.pair = self._make("authority")

    def issue(self, name: str) -> Pair:
        signer = ["-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key)]
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        uses = ["-addext", "extendedKeyUsage=serverAuth,clientAuth"]
        leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
        return self._make(name, *signer, *names, *uses, *leaf)

    def _make(self, name: str, *arguments: str) -> Pair:
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-keyout", str(pair.key), "-out", str(pair.certificate), *arguments]
        subprocess.run(command, check=True, capture_output=True)
        return pair
