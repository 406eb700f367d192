"""Folders behind URLs: fetched once, whole, ahead, into a cache that keeps its limit. All of it on loopback."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import cache as cache_module
from datamodules import storage
from datamodules.cache import Cache
from datamodules.errors import InputError
from datamodules.storage import LocalFolder, RemoteFolder, StorageError, open_folder

HOSTILE = ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "x\0y"]
ODD_NAMES = [
    "a b.ogg",
    "100%.ogg",
    "50%20off.ogg",
    "a#b.ogg",
    "what?.ogg",
    "album/é 音楽.ogg",
    "a..b.ogg",
    "-" * 200 + ".flac",
]


class Store(ThreadingHTTPServer):
    """A web server whose files are a dictionary."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/music"
        self.files, self.etags = {}, {}
        self.requests = []  # (method, name)
        self.cut, self.status = {}, {}  # name -> how many downloads break off; name -> answer
        self.delay, self.closing = 0.0, threading.Event()
        self.now = self.peak = 0  # downloads at this moment, and the most there were
        self.lock = threading.Lock()

    def asked(self, method):
        return [name for asked, name in self.requests if asked == method]


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        store = self.server
        with store.lock:
            store.now += 1
            store.peak = max(store.peak, store.now)
        try:
            self.answer("GET")
        finally:
            with store.lock:
                store.now -= 1

    def answer(self, method):
        store, name = self.server, unquote(self.path).removeprefix("/music/")
        store.requests.append((method, name))
        status = store.status.get(name, 200 if name in store.files else 404)
        if status != 200:
            self.send_error(status)
            return
        body = store.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", store.etags.get(name, '"1"'))
        self.end_headers()
        if method == "GET":
            store.closing.wait(store.delay)
            with store.lock:
                store.cut[name] = store.cut.get(name, 0) - 1
                broken = store.cut[name] >= 0
            self.wfile.write(body[: len(body) // 2] if broken else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def store(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MGL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MGL_CACHE_GB", raising=False)
    monkeypatch.setattr(storage, "_WAITS", (0.01, 0.02, 0.03))
    return tmp_path / "cache"


def partials(folder):
    return list((folder / "partial").iterdir())


def test_a_local_folder_only_joins(tmp_path):
    (tmp_path / "x.ogg").write_bytes(b"12345")
    folder = open_folder(tmp_path)
    assert isinstance(folder, LocalFolder)
    assert folder.name == str(tmp_path)
    for name in ("x.ogg", "no such/file.ogg", *ODD_NAMES):
        assert folder.path(name) == tmp_path / name
    assert folder.size("x.ogg") == 5
    folder.ahead(["x.ogg", "../y"])
    with pytest.raises(InputError, match=r"y\.ogg"):
        folder.size("y.ogg")
    with pytest.raises(InputError, match="there is no such folder"):
        open_folder(tmp_path / "no")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_folder(tmp_path, name):
    (tmp_path / "x").write_bytes(b"secret")
    (tmp_path / "inner" / "a").mkdir(parents=True)
    for folder in (open_folder(tmp_path / "inner"), open_folder(f"file://{tmp_path}/inner")):
        for ask in (folder.path, folder.size):
            with pytest.raises(InputError, match="no file inside the folder"):
                ask(name)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_files_of_any_name_are_fetched_whole(tmp_path, store, cache_folder, scheme):
    root = tmp_path / "root"
    for number, name in enumerate(ODD_NAMES):
        store.files[name] = os.urandom(1000 + number)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(store.files[name])
    folder = open_folder(store.url if scheme == "http" else f"file://{root}/")
    for name, content in store.files.items():
        assert folder.size(name) == len(content)
        path = folder.path(name)
        assert path.read_bytes() == content
        assert path.suffix == Path(name).suffix
        assert path.is_relative_to(cache_folder)
    assert not partials(cache_folder)
    if scheme == "http":
        assert store.asked("GET") == store.asked("HEAD") == ODD_NAMES
    else:
        with pytest.raises(InputError, match="is a folder, not a file"):
            folder.path("album")


def test_a_cached_file_costs_no_request_and_another_process_only_asks_for_its_version(store):
    store.files["a.ogg"] = b"sound"
    folder = open_folder(store.url)
    paths = {folder.path("a.ogg") for _ in range(3)}
    assert store.requests == [("HEAD", "a.ogg"), ("GET", "a.ogg")]
    paths.add(open_folder(store.url + "/").path("a.ogg"))
    assert len(paths) == 1
    assert store.requests[2:] == [("HEAD", "a.ogg")]


@pytest.mark.parametrize("change", ["etag", "size"])
def test_a_changed_file_is_fetched_anew(store, monkeypatch, change):
    store.files["a.ogg"] = b"old"
    folder = open_folder(store.url)
    folder.path("a.ogg")
    store.files["a.ogg"], store.etags["a.ogg"] = (b"new", '"2"') if change == "etag" else (b"newer", '"1"')
    assert folder.path("a.ogg").read_bytes() == b"old"  # what the store said is still believed
    monkeypatch.setattr(storage.time, "monotonic", lambda now=time.monotonic: now() + storage._REMEMBER)
    assert folder.path("a.ogg").read_bytes() == store.files["a.ogg"]


def test_a_file_that_changes_between_question_and_download_is_asked_for_again(store):
    store.files["a.ogg"] = b"old"
    folder = open_folder(store.url)
    folder.size("a.ogg")
    store.files["a.ogg"] = b"longer"
    assert folder.path("a.ogg").read_bytes() == b"longer"


def test_a_cached_file_that_lost_its_end_or_vanished_is_fetched_anew(store, cache_folder):
    store.files["a.ogg"] = b"sound"
    folder = open_folder(store.url)
    for damage in (lambda path: path.write_bytes(b"so"), lambda path: path.unlink()):
        damage(folder.path("a.ogg"))
        assert folder.path("a.ogg").read_bytes() == b"sound"
    assert len(store.asked("GET")) == 3


def test_downloads_that_break_off_are_tried_four_times(store, cache_folder):
    store.files["a.ogg"] = os.urandom(100_000)
    store.cut["a.ogg"] = 3
    folder = open_folder(store.url)
    assert folder.path("a.ogg").read_bytes() == store.files["a.ogg"]
    assert len(store.asked("GET")) == 4
    store.files["b.ogg"], store.cut["b.ogg"] = os.urandom(100_000), 9
    with pytest.raises(StorageError) as told:
        folder.path("b.ogg")
    assert f"{store.url}/b.ogg" in str(told.value)
    assert "\n" not in str(told.value)
    assert store.asked("GET").count("b.ogg") == 4
    assert not partials(cache_folder)


@pytest.mark.parametrize(("status", "asked", "told"), [(500, 4, "500"), (429, 4, "429"), (403, 1, "credentials")])
def test_answers_of_the_store_are_told_in_one_line(store, status, asked, told):
    store.status["a.ogg"] = status
    with pytest.raises(InputError, match=told) as error:
        open_folder(store.url).path("a.ogg")
    assert isinstance(error.value, StorageError) == (asked == 4)
    assert f"{store.url}/a.ogg" in str(error.value)
    assert len(store.asked("HEAD")) == asked


def test_what_is_not_there_is_told_at_once(tmp_path, store):
    for folder in (open_folder(store.url), open_folder(f"file://{tmp_path}/no")):
        for ask in (folder.path, folder.size):
            with pytest.raises(InputError, match=f"{folder.name}/a.ogg: there is no such file") as error:
                ask("a.ogg")
            assert not isinstance(error.value, StorageError)
    assert len(store.asked("HEAD")) == 2
    store.shutdown()
    store.server_close()
    with pytest.raises(StorageError, match="check network"):
        open_folder(store.url).path("a.ogg")


def test_schemes_without_a_driver_are_refused_with_the_remedy(monkeypatch):
    from fsspec.registry import known_implementations

    with pytest.raises(InputError, match="'nosuch' is no storage"):
        open_folder("nosuch://bucket/x")
    monkeypatch.setitem(
        known_implementations, "far", {"class": "missing_driver.Files", "err": "Install missing_driver"}
    )
    for location in ("far://bucket/x", "simplecache::far://bucket/x"):
        with pytest.raises(InputError, match="pip install missing_driver"):
            open_folder(location)


def test_refused_credentials_are_told(tmp_path, monkeypatch):
    class NoCredentialsError(Exception):
        pass

    for error in (PermissionError("Forbidden"), NoCredentialsError("Unable to locate credentials")):
        folder = open_folder(f"file://{tmp_path}")
        calls = []

        def info(url, error=error, calls=calls):
            calls.append(url)
            raise error

        monkeypatch.setattr(folder._here(), "filesystem", type("Refusing", (), {"info": staticmethod(info)}))
        with pytest.raises(InputError, match=r"refuses \((Forbidden|Unable to locate credentials)\)"):
            folder.path("x.ogg")
        assert len(calls) == 1


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan", "inf"])
def test_the_limit_must_be_a_number(monkeypatch, given):
    monkeypatch.setenv("MGL_CACHE_GB", given)
    with pytest.raises(InputError, match="MGL_CACHE_GB"):
        open_folder("file:///")


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MGL_CACHE_GB", "0.5")
    assert Cache.from_environment() == Cache(tmp_path / "cache", 500_000_000)
    monkeypatch.delenv("MGL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache.from_environment().folder == tmp_path / "xdg" / "musicgen-lightning"


def test_a_file_larger_than_the_cache_is_refused(store, cache_folder, monkeypatch):
    monkeypatch.setenv("MGL_CACHE_GB", "1e-6")
    store.files.update(small=bytes(1000), large=bytes(1001))
    folder = open_folder(store.url)
    folder.path("small")
    with pytest.raises(InputError, match=r"large.*raise MGL_CACHE_GB"):
        folder.path("large")
    assert store.asked("GET") == ["small"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path, store, cache_folder, monkeypatch):
    store.files["a"] = b"a"
    cache_folder.write_text("a file is in the way")
    with pytest.raises(InputError, match="set MGL_CACHE"):
        open_folder(store.url).path("a")
    cache_folder.unlink()

    def full(partial):
        raise OSError(28, "No space left on device")

    cache = Cache(cache_folder, 100)
    with pytest.raises(InputError, match="No space left on device"):
        cache.fill(cache.place(("x",), "x"), 1, "x", full)
    assert not partials(cache_folder)


class Model:
    """The brute-force cache: a list of names, the least recently used first."""

    def __init__(self, limit):
        self.limit, self.held = limit, []

    def ask(self, name, size):
        if name in self.held:
            self.held.remove(name)
        elif sum(size for _, size in self.held) + size > self.limit:
            room = max(0, self.limit - size - int(cache_module._SLACK * self.limit))
            while sum(size for _, size in self.held) > room:
                self.held.pop(0)
        self.held.append(name)


@settings(max_examples=30)
@given(st.integers(40, 200), st.lists(st.integers(0, 14), min_size=10, max_size=40))
def test_the_least_recently_used_leave_first_and_the_limit_holds(limit, asked):
    model = Model(limit)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "_GRACE", 0.0)
        patch.setattr(cache_module, "_SLACK", 0.2)
        cache = Cache(Path(folder), limit)
        for clock, number in enumerate(asked):
            size = 1 + 3 * number % 40
            file = cache.place((str(number),), f"{number}.ogg")
            if not cache.use(file, size):
                cache.fill(file, size, "test", lambda partial, size=size: partial.write_bytes(bytes(size)) and None)
            os.utime(file, (clock, clock))
            model.ask((file.name, size), size)
            held = {(file.name, file.stat().st_size) for file in (cache.folder / "objects").iterdir()}
            assert held == set(model.held)
            assert sum(size for _, size in held) <= limit


def fill(cache, name, size=10):
    file = cache.place((name,), name)
    cache.fill(file, size, name, lambda partial: partial.write_bytes(bytes(size)) and None)
    return file


def test_what_was_just_used_and_what_is_not_ours_stays(cache_folder, caplog):
    (cache_folder / "objects").mkdir(parents=True)
    foreign = cache_folder / "objects" / "my only copy.wav"
    foreign.write_bytes(bytes(1000))
    os.utime(foreign, (0, 0))
    cache = Cache(cache_folder, 25)
    first, second = fill(cache, "first"), fill(cache, "second")
    assert not caplog.messages
    third = fill(cache, "third")  # nothing may leave: the limit gives way, and says so
    assert all(file.exists() for file in (first, second, third))
    assert "raise MGL_CACHE_GB" in caplog.messages[0]
    long_ago = time.time() - cache_module._GRACE - 1
    for age, file in enumerate((third, first, second)):
        os.utime(file, (long_ago - age,) * 2)
    assert cache.use(second, 10)
    fourth = fill(cache, "fourth")
    assert [file.exists() for file in (first, second, third, fourth, foreign)] == [False, True, False, True, True]


def test_a_driver_that_says_nothing_of_a_short_file_is_found_out(cache_folder):
    cache = Cache(cache_folder, 100)
    file = cache.place(("x",), "x")
    with pytest.raises(ConnectionError, match="2 of 10 bytes arrived"):
        cache.fill(file, 10, "x", lambda partial: partial.write_bytes(b"12") and None)
    assert not file.exists()
    assert not partials(cache_folder)


def test_a_file_used_between_look_and_removal_stays(cache_folder):
    file = fill(Cache(cache_folder, 100), "x")
    modified = file.stat().st_mtime
    os.utime(file, (modified + 1, modified + 1))
    assert not cache_module._remove(str(file), modified)
    assert file.exists()
    assert cache_module._remove(str(file), modified + 1)
    assert not file.exists()


def test_what_other_processes_fetched_is_seen_after_some_seconds(cache_folder, monkeypatch):
    monkeypatch.setattr(cache_module, "_GRACE", 0.0)
    ours, other = Cache(cache_folder, 30), Cache(cache_folder, 30)
    fill(ours, "a")
    fill(other, "b")
    fill(other, "c")
    ours._look = 0.0
    fill(ours, "d")
    assert sum(file.stat().st_size for file in (cache_folder / "objects").iterdir()) <= 30


def test_the_remains_of_a_killed_process_are_not_waited_for_and_leave_after_an_hour(store, cache_folder):
    store.files["a.ogg"] = b"sound"
    file = open_folder(store.url).path("a.ogg")
    file.unlink()
    young, old = (cache_folder / "partial" / f"{file.name}.{n:020d}.1-x.partial" for n in range(2))
    for partial, age in ((young, cache_module._STALL + 1), (old, cache_module._LITTER + 1)):
        partial.write_bytes(b"so")
        os.utime(partial, (time.time() - age,) * 2)
    begun = time.monotonic()
    assert open_folder(store.url).path("a.ogg").read_bytes() == b"sound"
    assert time.monotonic() - begun < 5
    assert partials(cache_folder) == [young]


FETCH = """
import sys
from datamodules.storage import open_folder
print("ready", flush=True)
sys.stdin.readline()
print(open_folder(sys.argv[1]).path("a.ogg"), flush=True)
"""


def test_processes_that_want_one_file_at_once_all_get_it_whole(store):
    store.files["a.ogg"] = os.urandom(300_000)
    store.delay = 0.7
    command = [sys.executable, "-c", FETCH, store.url]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert Path(out.strip()).read_bytes() == store.files["a.ogg"]
    assert 1 <= len(store.asked("GET")) < 3  # the later ones wait for the first


def test_reading_ahead_overlaps_and_no_file_is_fetched_twice(store):
    names = [f"{number}.ogg" for number in range(12)]
    store.files.update((name, name.encode()) for name in names)
    store.delay = 0.25
    folder = open_folder(store.url)
    begun = time.monotonic()
    folder.ahead(names)
    folder.ahead(names)
    for name in names:
        assert folder.path(name).read_bytes() == name.encode()
    assert time.monotonic() - begun < 0.75 * len(names) * store.delay
    assert sorted(store.asked("GET")) == sorted(names)
    assert 2 <= store.peak <= storage._READERS + 1  # and the one that path() fetches itself
    folder.ahead(names)
    assert len(store.asked("GET")) == len(names)
    assert not folder._here().flight


def test_a_file_that_waits_for_its_turn_is_taken_over(store):
    names = [f"{number}.ogg" for number in range(3 * storage._READERS)]
    store.files.update((name, b"x") for name in names)
    store.delay = 0.3
    folder = open_folder(store.url)
    folder.ahead(names)
    folder.path(names[-1])
    assert names[-1] in store.asked("GET")[: storage._READERS + 1]
    for name in names:
        folder.path(name)
    assert sorted(store.asked("GET")) == sorted(names)


def test_threads_of_one_process_share_a_download(store):
    store.files["a.ogg"] = b"sound"
    store.delay = 0.2
    folder = open_folder(store.url)
    folder.size("a.ogg")
    found = []
    threads = [threading.Thread(target=lambda: found.append(folder.path("a.ogg"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert store.asked("GET") == ["a.ogg"]


def test_what_fails_while_reading_ahead_is_raised_by_path_alone(store):
    store.files["good"] = b"x"
    folder = open_folder(store.url)
    folder.ahead(["bad", "../worse", "good"])
    assert folder.path("good").read_bytes() == b"x"
    with pytest.raises(InputError, match="there is no such file"):
        folder.path("bad")
    with pytest.raises(InputError, match="no file inside"):
        folder.path("../worse")
    store.files["bad"] = b"mended"
    assert folder.path("bad").read_bytes() == b"mended"


def test_no_more_files_wait_than_the_bound(store, monkeypatch):
    monkeypatch.setattr(storage, "_WAITING", 3)
    store.delay = 0.1
    names = [f"{number}" for number in range(12)]
    store.files.update((name, b"x") for name in names)
    folder = open_folder(store.url)
    folder.ahead(names)
    assert len(folder._here().waiting) <= 3
    for name in names:
        folder.path(name)
    assert sorted(store.asked("GET")) == sorted(names)


def test_what_is_remembered_of_files_is_bounded(store, monkeypatch):
    monkeypatch.setattr(storage, "_REMEMBERED", 3)
    store.files.update((str(number), b"x") for number in range(9))
    folder = open_folder(store.url)
    for name in store.files:
        folder.path(name)
    assert list(folder._here().known) == ["6", "7", "8"]


def read(folder, name, queue):
    queue.put(folder.path(name).read_bytes())


def test_folders_travel_to_other_processes(store):
    store.files.update(a=b"a", b=b"b", c=b"c")
    folder = open_folder(store.url)
    folder.path("a")
    store.delay = 0.2
    folder.ahead(["b"])
    copy = pickle.loads(pickle.dumps(folder))
    assert isinstance(copy, RemoteFolder)
    assert copy.path("c").read_bytes() == b"c"
    # A fork, with an event loop running and a lock that may be held.
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    for name in ("a", "b", "c"):
        child = context.Process(target=read, args=(folder, name, queue))
        child.start()
        assert queue.get(timeout=20) == name.encode()
        child.join()


def test_a_process_ends_while_files_are_read_ahead(store):
    names = [f"{number}" for number in range(9)]
    store.files.update((name, bytes(100_000)) for name in names)
    store.delay = 60
    code = (
        "import sys, time; from datamodules.storage import open_folder; folder = open_folder(sys.argv[1])\n"
        "folder.ahead(sys.argv[2:])\n"
        "while not list(folder.cache.folder.glob('partial/*')): time.sleep(0.01)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, store.url, *names], timeout=50, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in ran.stderr


def test_nothing_is_imported_before_it_is_needed():
    code = "import sys, datamodules.storage; print(*{'fsspec', 'aiohttp', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
