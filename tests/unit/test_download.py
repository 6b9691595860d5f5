"""The downloader against a real HTTP server that misbehaves: the file is whole, or is not there."""

import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from email.utils import formatdate

import pytest
from misbehaving_site import File, running_site

from plmscale.corpus.fetch import fetch
from plmscale.download import partial as partial_module
from plmscale.download import sources
from plmscale.download.download import download
from plmscale.errors import PlmscaleError
from plmscale.progress import Progress

BIG = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(3_000_000)


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_site() as running:
        running.files["big"] = File(BIG)
        yield running


@pytest.fixture
def got(site, tmp_path):
    """Download `name` of the site; returns (bytes, seconds waited for before each attempt)."""

    def run(name="big", **options):
        waits = []
        options = {"connections": 1, "wait": waits.append} | options
        places = options.pop("places", f"{site.url}/{name}")
        download(places, tmp_path / "out" / "file", **options)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["file"]
        return (tmp_path / "out" / "file").read_bytes(), waits

    return run


def left(tmp_path):
    """Return what lies in the folder of the target after a failure."""
    return sorted(p.name for p in (tmp_path / "out").iterdir())


def test_a_good_server_is_asked_once(got, site):
    data, waits = got(sha256=sha(BIG).upper(), md5=hashlib.md5(BIG).hexdigest(), size=len(BIG))
    assert (data, waits, site.ranges()) == (BIG, [], [None])
    assert site.asked[0]["Accept-Encoding"] == "identity"


def test_a_cut_is_gone_on_from_and_not_fetched_twice(got, site):
    site.moods = [{"cut": 1000}, {"cut": 500_000}]
    data, waits = got()  # without a checksum: the entity tag says that it is one file
    assert (data, waits) == (BIG, [1, 2])
    assert site.ranges() == [None, "bytes=1000-", "bytes=501000-"]
    assert [h.get("If-Range") for h in site.asked] == [None, '"one"', '"one"']


def test_attempts_are_counted_anew_while_the_file_grows(got, site):
    site.moods = [{"cut": 1_100_000}, {"cut": 1_100_000}]
    assert got(attempts=2)[0] == BIG


def test_the_back_off_doubles_and_ends(got, site, tmp_path):
    site.always = {"cut": 10}
    waits = []
    with pytest.raises(PlmscaleError, match=r"cannot be fetched.*after 4 attempts.*are kept in"):
        got(attempts=4, wait=waits.append)
    assert waits == [1, 2, 4]
    assert left(tmp_path) == [".file.part", ".file.part.json"]


def test_the_next_process_goes_on(got, site, tmp_path):
    site.moods = [{"cut": 700_000}]
    with pytest.raises(PlmscaleError, match=r"0\.7 MB are kept in"):
        got(attempts=1, sha256=sha(BIG))
    assert got(sha256=sha(BIG))[0] == BIG
    assert site.ranges() == [None, "bytes=700000-"]


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("dated", [True, False])
def test_a_file_that_changed_in_between_starts_anew(got, site, if_range, checksum, dated):
    states = [
        (f'"{n}"', "") if not dated else ("", formatdate(n * 1e8, usegmt=True)) for n in (1, 2)
    ]
    site.files["big"] = File(OTHER, *states[0])
    site.always = {"if_range": if_range}
    site.moods = [{"cut": 1_000_000}]

    def change(_):
        site.files["big"] = File(BIG, *states[1])

    assert got(wait=change, sha256=sha(BIG) if checksum else None)[0] == BIG


def test_a_shorter_file_in_between_starts_anew(got, site):
    site.moods = [{"cut": 2_000_000}]
    short = BIG[:1000]
    assert got(wait=lambda _: site.files.update(big=File(short, '"two"')))[0] == short


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_mark_of_the_state_only_a_checksum_lets_it_go_on(got, site, etag):
    site.files["big"] = File(BIG, etag)
    site.moods = [{"cut": 1000}, {}, {"cut": 1000}]
    assert got()[0] == BIG
    assert got(sha256=sha(BIG))[0] == BIG  # already there
    assert site.ranges() == [None, None]
    site.files["other"] = File(OTHER, etag)
    assert got("other", sha256=sha(OTHER))[0] == OTHER
    assert site.ranges()[2:] == [None, "bytes=1000-"]


def test_halves_of_two_states_that_nothing_tells_apart_are_found_by_the_checksum(got, site):
    site.files["big"] = File(OTHER, "")
    site.moods = [{"cut": 1_000_000}]
    data, _ = got(sha256=sha(BIG), wait=lambda _: site.files.update(big=File(BIG, "")))
    assert data == BIG
    assert site.ranges() == [None, "bytes=1000000-", None]


def test_a_server_that_ignores_ranges_starts_anew(got, site):
    site.always = {"ranges": False}
    site.moods = [{"cut": 1000}]
    assert got(sha256=sha(BIG))[0] == BIG


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_final_answer_is_believed_at_once(got, site, tmp_path, status):
    site.always = {"status": status}
    with pytest.raises(
        PlmscaleError, match=rf"/big: cannot be fetched: the server answers {status}"
    ):
        got()
    assert len(site.asked) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_left_in_peace_as_long_as_it_asks(got, site, status):
    busy = {"status": status, "headers": {"Retry-After": "7"}}
    site.moods = [busy, busy, {"status": status}]
    data, waits = got()
    assert (data, waits) == (BIG, [7, 7, 4])


def test_retry_after_may_be_a_date_and_may_be_nonsense(got, site):
    long_ago = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    site.moods = [
        {"status": 503, "headers": long_ago},
        {"status": 503, "headers": {"Retry-After": "x"}},
    ]
    assert got()[1] == [1, 2]


def test_a_server_that_asks_for_hours_is_given_up(got, site):
    site.always = {"status": 503, "headers": {"Retry-After": "7200"}}
    with pytest.raises(PlmscaleError, match="asks to wait 7,200 s"):
        got()
    assert len(site.asked) == 1


def test_a_length_that_is_too_long(got, site, tmp_path):
    site.always = {"length": len(BIG) + 10}
    assert got(sha256=sha(BIG))[0] == BIG  # the checksum does not lie
    (tmp_path / "out" / "file").unlink()
    with pytest.raises(PlmscaleError, match="cannot be fetched"):
        got(attempts=3)
    assert "file" not in left(tmp_path)


def test_a_length_that_is_too_short(got, site, tmp_path):
    site.always = {"length": len(BIG) - 10}
    with pytest.raises(PlmscaleError, match="SHA-256 is"):
        got(sha256=sha(BIG))
    with pytest.raises(PlmscaleError, match=r"has 2,999,990 bytes, expected 3,000,000"):
        got(size=len(BIG))
    assert left(tmp_path) == []


def test_no_length_at_all(got, site, tmp_path):
    site.always = {"sized": False}
    site.moods = [{}, {"cut": 1000}, {"cut": 1000}]
    assert got()[0] == BIG
    (tmp_path / "out" / "file").unlink()
    assert got(size=len(BIG))[0] == BIG
    (tmp_path / "out" / "file").unlink()
    assert got(sha256=sha(BIG))[0] == BIG


def test_a_truncated_gzip(got, site, tmp_path):
    whole = gzip.compress(BIG)
    site.files = {"cut.gz": File(whole[:-100]), "whole.gz": File(whole)}
    with pytest.raises(PlmscaleError, match="SHA-256 is"):
        got("cut.gz", sha256=sha(whole))
    with pytest.raises(PlmscaleError, match=r"cut\.gz: the gzip cannot be read to its end"):
        got("cut.gz")
    assert left(tmp_path) == []
    assert got(places=[f"{site.url}/cut.gz", f"{site.url}/whole.gz"])[0] == whole


def test_a_wrong_checksum_is_final_and_leaves_nothing(got, site, tmp_path):
    with pytest.raises(PlmscaleError, match=r"MD5 is .* expected 00"):
        got(sha256=sha(BIG), md5="0" * 32)
    assert len(site.asked) == 1
    assert left(tmp_path) == []


def test_a_silent_server_is_left_and_asked_again(got, site):
    site.moods = [{"stall": 2000}]
    assert got(timeout=0.3)[0] == BIG
    assert site.ranges() == [None, "bytes=2000-"]


def test_mirrors_in_order_and_bytes_of_one_go_on_from_another(got, site, tmp_path, capsys):
    site.files["copy"] = File(BIG, '"elsewhere"')
    places = [f"{site.url}/gone", f"{site.url}/big", f"{site.url}/copy"]
    site.moods = [{}, {"cut": 1000}, {"status": 403}]
    assert got(places=places, sha256=sha(BIG))[0] == BIG
    assert site.ranges() == [None, None, "bytes=1000-", "bytes=1000-"]
    assert site.asked[-1].get("If-Range") is None
    assert "/gone: cannot be fetched: the server answers 404" in capsys.readouterr().err
    (tmp_path / "out" / "file").unlink()
    with pytest.raises(PlmscaleError, match=r"/a: cannot be fetched.*/b: cannot be fetched"):
        got(places=[f"{site.url}/a", f"{site.url}/b"])


def test_without_a_checksum_mirrors_are_not_mixed(got, site):
    site.files["copy"] = File(OTHER, '"one"')
    site.moods = [{"cut": 1000}]
    assert got(places=[f"{site.url}/big", f"{site.url}/copy"], attempts=1)[0] == OTHER


def test_several_connections_give_the_same_file(got, site, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 100_000)
    assert got(connections=4, sha256=sha(BIG))[0] == BIG
    assert len(site.asked) == 30
    assert set(site.ranges()) == {f"bytes={n}-{n + 99_999}" for n in range(0, 3_000_000, 100_000)}


@pytest.mark.parametrize(
    "mood",
    [{"cut": 50_000}, {"status": 503}, {"status": 429}, {"ranges": False}, {"cap": 70_000},
     {"stall": 10}, {"sized": False, "cut": 5}],
)  # fmt: skip
@pytest.mark.parametrize("at", [0, 1, 7])
def test_several_connections_and_one_fails(got, site, monkeypatch, mood, at):
    monkeypatch.setattr(sources, "PIECE", 100_000)
    site.moods = [{}] * at + [mood]
    assert got(connections=3, timeout=0.5)[0] == BIG


def test_after_a_failure_one_connection_is_used(got, site):
    site.moods = [{"status": 503}]
    assert got(connections=3)[0] == BIG
    assert site.ranges() == ["bytes=0-8388607", None]


@pytest.mark.parametrize("if_range", [True, False])
def test_several_connections_never_mix_two_states(got, site, monkeypatch, if_range):
    monkeypatch.setattr(sources, "PIECE", 100_000)
    site.files["big"] = File(OTHER)
    site.always = {"if_range": if_range}
    site.moods = [{}] * 9 + [{"change": {"big": File(BIG, '"two"')}}]
    assert got(connections=3)[0] == BIG


def test_a_complete_part_needs_no_more_bytes(got, site, tmp_path):
    site.moods = [{"length": len(BIG) + 1}]
    with pytest.raises(PlmscaleError, match=r"3\.0 MB are kept"):
        got(attempts=1)
    note = tmp_path / "out" / ".file.part.json"
    note.write_text(note.read_text().replace("3000001", "3000000"))
    assert got()[0] == BIG
    assert site.ranges() == [None, "bytes=3000000-"]


def test_several_connections_and_the_file_changes(got, site, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 100_000)
    site.files["big"] = File(OTHER)
    site.moods = [{}] * 5 + [{"cut": 10}]
    assert got(connections=3, wait=lambda _: site.files.update(big=File(BIG, '"two"')))[0] == BIG


@pytest.mark.parametrize("connections", [1, 3])
def test_an_empty_file(got, site, connections):
    site.files["none"] = File(b"")
    assert got("none", connections=connections)[0] == b""


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_local_files_go_on_too(got, tmp_path, form):
    source = tmp_path / "source"
    source.write_bytes(BIG)
    out = tmp_path / "out"
    out.mkdir()
    state = {"etag": "", "modified": str(source.stat().st_mtime_ns), "size": len(BIG)}
    place = form.format(source)
    note = {"place": place, "version": state}
    (out / ".file.part").write_bytes(b"!" * 10)  # shows below that these bytes were kept
    (out / ".file.part.json").write_text(json.dumps(note))
    assert got(places=place)[0] == b"!" * 10 + BIG[10:]
    assert got(places=place)[0] == BIG


@pytest.mark.parametrize(
    "note", [None, "{", "[]", '{"place": 1}', '{"place": "x", "version": {"a": 1}}']
)
def test_bytes_that_nothing_vouches_for_are_not_used(got, site, tmp_path, note):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".file.part").write_bytes(b"!" * 10)
    if note:
        (tmp_path / "out" / ".file.part.json").write_text(note)
    assert got()[0] == BIG


def test_places_that_are_none(got, tmp_path):
    for place, words in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "no plain file"),
        ("ftp://a.b/c", "speaks http and https"),
        ("file://elsewhere/x", "another machine"),
        ("http://[", "cannot be fetched"),
        ("http://127.0.0.1:1/x", "refused"),
    ):
        with pytest.raises(PlmscaleError, match=words):
            got(places=str(place), attempts=2)


def test_a_full_disk_keeps_what_there_is(got, site, tmp_path, monkeypatch):
    usage = partial_module.shutil.disk_usage
    monkeypatch.setattr(
        partial_module.shutil, "disk_usage", lambda _: usage("/")._replace(free=10**6)
    )
    site.moods = [{"cut": 1000}]
    with pytest.raises(PlmscaleError, match=r"no space left.*2\.0 MB more are needed"):
        got()
    # The file system's own answer: no file of this process may grow beyond a megabyte.
    (tmp_path / "out" / ".file.part").unlink(missing_ok=True)
    code = (
        "import resource, sys; from plmscale.corpus.fetch import fetch;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)); fetch(*sys.argv[1:])"
    )
    words = [f"{site.url}/big", sha(BIG), str(tmp_path / "out" / "file")]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert "1.0 MB are kept in" in run.stderr
    assert "PlmscaleError" in run.stderr
    assert (tmp_path / "out" / ".file.part").read_bytes() == BIG[: 10**6]
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert got(sha256=sha(BIG))[0] == BIG
    assert site.ranges()[-1] == "bytes=1000000-"


def test_the_words_for_a_full_disk(tmp_path):
    with (
        partial_module.locked(tmp_path / "part", {}) as part,
        open("/dev/full", "r+b", buffering=0) as part.handle,
        pytest.raises(PlmscaleError, match=r"no space left .*part; free some and start again"),
    ):
        part.append(b"x")


def test_a_killed_process_is_gone_on_from(got, site, tmp_path):
    site.moods = [{"stall": 800_000}]
    code = "import sys; from plmscale.corpus.fetch import fetch; fetch(*sys.argv[1:])"
    words = [f"{site.url}/big", sha(BIG), str(tmp_path / "out" / "file")]
    child = subprocess.Popen([sys.executable, "-c", code, *words])
    part = tmp_path / "out" / ".file.part"
    try:
        for _ in range(1000):
            if part.exists() and part.stat().st_size == 800_000:
                break
            threading.Event().wait(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert left(tmp_path) == [".file.part", ".file.part.json"]
    assert got(sha256=sha(BIG))[0] == BIG
    assert site.ranges()[-1] == "bytes=800000-"


def test_processes_after_one_target_share_one_download(site, tmp_path):
    code = "import sys; from plmscale.corpus.fetch import fetch; fetch(*sys.argv[1:])"
    words = [sys.executable, "-c", code, f"{site.url}/big", sha(BIG), str(tmp_path / "file")]
    site.moods = [{"stall": 800_000}]
    first = subprocess.Popen(words)
    while not site.asked:
        assert first.poll() is None
        site.released.wait(0.02)
    others = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert all("another process fetches" in child.stderr.readline() for child in others)
    site.released.set()
    assert [child.wait() for child in (first, *others)] == [0] * 3
    for child in others:
        child.stderr.close()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == BIG
    assert site.ranges() == ["bytes=0-8388607", "bytes=800000-"]


def test_a_file_system_without_locks(got, site, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(partial_module.fcntl, "flock", refuse)
    site.moods = [{"cut": 1000}]
    assert got()[0] == BIG
    assert len(site.asked) == 2


def test_the_mode_follows_the_umask(got, tmp_path):
    old = os.umask(0o027)
    try:
        got()
    finally:
        os.umask(old)
    assert (tmp_path / "out" / "file").stat().st_mode & 0o777 == 0o640


def test_a_source_needs_a_checksum(tmp_path):
    with pytest.raises(ValueError, match="needs a checksum"):
        fetch("x", None, tmp_path / "y")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, seconds):
    """Return what 100 MB in so many steps of a second look like."""
    now = [0.0]
    progress = Progress("u.gz", stream, lambda: now[0])
    progress.at(0, 100_000_000)
    for _ in range(seconds):
        now[0] += 1
        progress.add(100_000_000 // seconds)
    progress.end()
    return stream.getvalue()


def test_a_log_gets_few_lines_with_rate_and_time_left():
    assert shown(io.StringIO(), 100).splitlines() == [
        "plmscale: u.gz: 30.0 MB of 100.0 MB (30%), 1.0 MB/s, 0:01:10 left",
        "plmscale: u.gz: 60.0 MB of 100.0 MB (60%), 1.0 MB/s, 0:00:40 left",
        "plmscale: u.gz: 90.0 MB of 100.0 MB (90%), 1.0 MB/s, 0:00:10 left",
        "plmscale: u.gz: 100.0 MB in 0:01:40, 1.0 MB/s",
    ]
    assert shown(io.StringIO(), 1) == ""


def test_a_terminal_gets_one_line_that_updates():
    text = shown(Terminal(), 100)
    assert text.count("\n") == 1
    assert "\ru.gz: 42.0 MB of 100.0 MB (42%), 1.0 MB/s, 0:00:58 left" in text
    assert text.endswith("\rplmscale: u.gz: 100.0 MB in 0:01:40, 1.0 MB/s\n")
