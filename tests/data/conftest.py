"""Fixtures of the data tests: a private cache folder, the larger real data, proof that inputs stay untouched; a file
server that misbehaves, and small sets in the layout of the published ones.
"""

import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may read or write the cache of the person who runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def real_data() -> Path:
    """The folder of larger real data sets; the test is skipped, visibly, where there is none."""
    folder = os.environ.get("SFUMATO_TEST_DATA")
    if not folder:
        pytest.skip("SFUMATO_TEST_DATA does not name a folder of real data")
    return Path(folder)


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it once the inputs below `tmp_path` are written; at the end of the test they must be as they were."""
    before: dict[str, str] = {}

    def state() -> dict[str, str]:
        files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file() and not p.is_symlink()]
        return {str(p): f"{hashlib.sha256(p.read_bytes()).hexdigest()} {p.stat().st_mtime_ns}" for p in files}

    yield lambda: before.update(state())
    assert before, "the test never took its snapshot"
    assert state() == before


@pytest.fixture
def save_png() -> Callable[..., None]:
    """Write a uint8 array (H, W), (H, W, 3) or (H, W, 4) as a PNG, making its folders."""

    def save(path: Path, pixels: np.ndarray | int = 128, shape: tuple[int, ...] = (4, 4, 3)) -> None:
        array = np.full(shape, pixels, np.uint8) if isinstance(pixels, int) else pixels
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, format="PNG")

    return save


class FileServer(ThreadingHTTPServer):
    """Gives out `files` over HTTP on this machine, ranges included, and misbehaves as `faults` say, one a request.

    A fault is a status, `("cut", n)` for n bytes of the body and then the end, or `("hang", n)` for n bytes and then
    silence. `requests` remembers each path with the range that was asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.faults: list[int | tuple[str, int]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.requests.append((name, asked))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int) or name not in self.server.files:
            return self._refuse(fault if isinstance(fault, int) else 404, name)
        content = self.server.files[name]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start and start >= len(content):
            return self._refuse(416, name)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body if fault is None else body[: fault[1]])
        self.wfile.flush()
        if fault is not None and fault[0] == "hang":
            self.server.over.wait(10)
        return None

    def _refuse(self, status: int, name: str) -> None:
        if name in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[name])
        else:
            self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A file server on this machine, reached without a proxy."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    serving = FileServer()
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield serving
    serving.over.set()
    serving.shutdown()
    serving.server_close()


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the format of MNIST's files."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def plain_picture(value: int, height: int, width: int, *, format: str = "PNG") -> bytes:
    """One colour all over, (value, 255 - value, 7): its pixels are known at every size."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (value, 255 - value, 7)).save(stream, format=format)
    return stream.getvalue()


class Publisher:
    """Small sets in the layout of the published ones; each method gives the files by name. What they hold is known:

    pictures of digits and CIFAR are `self.grey` and `self.colour`, of the others one colour that tells which it is.
    """

    PETS = (("Abyssinian", 1, 1), ("american_bulldog", 2, 2), ("Bengal", 6, 1), ("pug", 26, 2))

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.grey = rng.integers(0, 256, (42, 28, 28), np.uint8)  # the last 12 to test with
        self.digits = rng.integers(0, 10, 42).astype(np.uint8)
        self.digits[:10] = range(10)
        self.colour = rng.integers(0, 256, (23, 32, 32, 3), np.uint8)  # the last 3 to test with
        self.classes = np.arange(23, dtype=np.uint8) * 7 % 10
        self.fine = (np.arange(23) * 31 % 100).astype(np.uint8)
        self.flower_labels = np.arange(1, 41) * 17 % 102 + 1  # of pictures 1..40
        self.flower_parts = {"trnid": [7, 3, 40], "valid": [20, 1], "tstid": [2, 33, 9, 21]}
        self.attributes = np.where(rng.random((7, 3)) < 0.5, -1, 1)
        self.persons = np.array([5, 5, 9, 2, 9, 5, 2])

    def mnist(self) -> dict[str, bytes]:
        files = {
            "train-images-idx3-ubyte": idx(self.grey[:30]),
            "train-labels-idx1-ubyte": idx(self.digits[:30]),
            "t10k-images-idx3-ubyte": idx(self.grey[30:]),
            "t10k-labels-idx1-ubyte": idx(self.digits[30:]),
        }
        return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}

    def cifar10_parts(self) -> dict[str, bytes]:
        planes = self.colour.transpose(0, 3, 1, 2).reshape(23, -1)
        records = np.concatenate([self.classes[:, None], planes], axis=1)
        names = [f"data_batch_{i}.bin" for i in range(1, 6)]
        parts = {name: records[4 * i : 4 * i + 4].tobytes() for i, name in enumerate(names)}
        words = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
        meta = "\n".join(words) + "\n\n"
        return {"batches.meta.txt": meta.encode(), **parts, "test_batch.bin": records[20:].tobytes()}

    def cifar10(self) -> dict[str, bytes]:
        parts = {f"cifar-10-batches-bin/{name}": content for name, content in self.cifar10_parts().items()}
        return {"cifar-10-binary.tar.gz": tarred({"cifar-10-batches-bin/readme.html": b"<a>", **parts})}

    def cifar100(self) -> dict[str, bytes]:
        planes = self.colour.transpose(0, 3, 1, 2).reshape(23, -1)
        records = np.concatenate([self.fine[:, None] // 5, self.fine[:, None], planes], axis=1)
        files = {
            "train.bin": records[:20].tobytes(),
            "test.bin": records[20:].tobytes(),
            "fine_label_names.txt": "\n".join(f"fine {i}" for i in range(100)).encode(),
            "coarse_label_names.txt": "\n".join(f"coarse {i}" for i in range(20)).encode(),
        }
        return {"cifar-100-binary.tar.gz": tarred({f"cifar-100-binary/{k}": v for k, v in files.items()})}

    def flowers(self) -> dict[str, bytes]:
        """Picture n of 40 has red level 6 n."""
        pictures = {f"jpg/image_{n:05d}.jpg": plain_picture(6 * n, 20 + n, 30) for n in range(40, 0, -1)}
        labels, parts = io.BytesIO(), io.BytesIO()
        scipy.io.savemat(labels, {"labels": self.flower_labels[None].astype(np.uint8)}, do_compression=True)
        scipy.io.savemat(parts, {k: np.array([v], np.uint16) for k, v in self.flower_parts.items()})
        mats = {"imagelabels.mat": labels.getvalue(), "setid.mat": parts.getvalue()}
        return {"102flowers.tgz": tarred(pictures), **mats}

    def pets(self) -> dict[str, bytes]:
        """Picture k (1, 2, 10) of pet p (0..3) has red level 50 p + 10 min(k, 3); number 10 is to test with."""
        images: dict[str, bytes] = {}
        own: list[str] = []
        test: list[str] = []
        for p, (breed, number, species) in enumerate(self.PETS):
            for k in (1, 2, 10):
                kind = "GIF" if (p, k) == (0, 2) else "PNG"
                level = 50 * p + 10 * min(k, 3)
                images[f"images/{breed}_{k}.jpg"] = plain_picture(level, 14 + k, 20, format=kind)
                images[f"images/._{breed}_{k}.jpg"] = b"\0\5\x16\7"
                (test if k == 10 else own).append(f"{breed}_{k} {number} {species} 1")
        images["images/Abyssinian_1.mat"] = b"MATLAB"
        lists = {
            "annotations/list.txt": "#Image CLASS-ID SPECIES BREED ID\n" + "\n".join([*own, *test]),
            "annotations/trainval.txt": "\n".join(reversed(own)) + "\n",
            "annotations/test.txt": "\n".join(test) + "\n",
            "annotations/._trainval.txt": "\0\5",
        }
        annotations = {name: text.encode() for name, text in lists.items()}
        return {"images.tar.gz": tarred(images), "annotations.tar.gz": tarred(annotations)}

    def celeba(self) -> dict[str, bytes]:
        """Picture i (1..7) has red level 30 i; 2 and 5 are to test with, 3 to validate."""
        names = [f"{i:06d}.jpg" for i in range(1, 8)]
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for i, name in enumerate(names, start=1):
                archive.writestr(f"img_align_celeba/{name}", plain_picture(30 * i, 22, 18))
        rows = ["  ".join(map(str, row)) for row in self.attributes]
        table = ["7", "Bald Eyeglasses Smiling ", *(f"{n} {row}" for n, row in zip(names, rows, strict=True))]
        part = [0, 2, 1, 0, 2, 0, 0]
        return {
            "img_align_celeba.zip": stream.getvalue(),
            "list_attr_celeba.txt": "\n".join(table).encode(),
            "identity_CelebA.txt": "\n".join(f"{n} {p}" for n, p in zip(names, self.persons, strict=True)).encode(),
            "list_eval_partition.txt": "\n".join(f"{n} {p}" for n, p in zip(names, part, strict=True)).encode(),
        }

    def fetchable(self) -> dict[str, dict[str, bytes]]:
        """The files of every set that can be fetched, by its name."""
        return {
            "mnist": self.mnist(),
            "fashion-mnist": self.mnist(),
            "cifar10": self.cifar10(),
            "cifar100": self.cifar100(),
            "oxford-flowers": self.flowers(),
            "oxford-pets": self.pets(),
        }


@pytest.fixture(scope="session")
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def laid_out(tmp_path: Path) -> Callable[..., Path]:
    """Write files by name into a folder of their own and return it."""

    def write(files: dict[str, bytes], name: str = "set") -> Path:
        for relative, content in files.items():
            path = tmp_path / name / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / name

    return write
