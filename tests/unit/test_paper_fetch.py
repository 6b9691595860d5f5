"""The archive of released logs: only listed files, all of them, all as expected, or nothing."""

import hashlib
import io
import tarfile
import zipfile

import pytest
from paper_logs_example import RELEASED

from plmscale import cli
from plmscale.errors import PlmscaleError
from plmscale.files import sha256_file
from plmscale.paper.fetch import CHECKSUMS, fetch_logs, read_checksums

FILES = {
    "gpt_valid/a.csv": b"Wall time,Step,Value\n1,2,3\n",
    "mlm_valid/b b (1).csv": b"Wall time,Step,Value\n4,5,6\n",
    "ur50/副本.csv": b"x" * 5000,
}
TOP = "ScalingProteinLM-12acfa0"


def checksums(folder, files=FILES):
    path = folder / "logs.sha256"
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def tar_of(folder, members):
    path = folder / "logs.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
    return path


def zip_of(folder, members):
    path = folder / "logs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return path


def members(files=FILES):
    logs = {f"{TOP}/data/training_logs/{name}": data for name, data in files.items()}
    return {f"{TOP}/README.md": b"no log", f"{TOP}/data/other.csv": b"no log", **logs}


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_listed_files_come_out_and_no_others(tmp_path, pack):
    extra = members() | {f"{TOP}/data/training_logs/unlisted.csv": b"not in the table"}
    url = pack(tmp_path, extra).as_uri()
    assert fetch_logs(url, checksums(tmp_path), tmp_path / "deep" / "logs") == 3
    out = tmp_path / "deep" / "logs"
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == FILES
    assert [p.name for p in out.parent.iterdir()] == ["logs"]


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_a_file_of_other_content_is_named(tmp_path, pack):
    url = pack(tmp_path, members(FILES | {"mlm_valid/b b (1).csv": b"tampered"})).as_uri()
    with pytest.raises(PlmscaleError, match=r"mlm_valid/b b \(1\)\.csv has SHA-256"):
        fetch_logs(url, checksums(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_missing_file_is_named(tmp_path):
    url = tar_of(tmp_path, members({"ur50/副本.csv": FILES["ur50/副本.csv"]})).as_uri()
    with pytest.raises(PlmscaleError, match=r"gpt_valid/a\.csv is not in the archive"):
        fetch_logs(url, checksums(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize(
    "name",
    ["../../evil.csv", f"{TOP}/data/training_logs/../../../../evil.csv", "/tmp/evil.csv",
     f"{TOP}/data/training_logs\\..\\evil.csv"],
)  # fmt: skip
def test_entries_that_leave_the_folder_are_ignored(tmp_path, pack, name):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    url = pack(inside, {name: b"evil"} | members()).as_uri()
    assert fetch_logs(url, checksums(inside), inside / "out") == 3
    assert not list(tmp_path.rglob("*evil*"))


def test_a_link_does_not_stand_for_a_file(tmp_path):
    path = tar_of(tmp_path, members({k: v for k, v in FILES.items() if "gpt" not in k}))
    linked = tmp_path / "linked.tar"
    with tarfile.open(path) as old, tarfile.open(linked, "w") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        link = tarfile.TarInfo(f"{TOP}/data/training_logs/gpt_valid/a.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        new.addfile(link)
    with pytest.raises(PlmscaleError, match="is not in the archive"):
        fetch_logs(linked.as_uri(), checksums(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6])
def test_a_truncated_archive_leaves_nothing(tmp_path, pack, keep):
    path = pack(tmp_path, members())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(PlmscaleError, match="cannot be read"):
        fetch_logs(path.as_uri(), checksums(tmp_path), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "logs.sha256"])


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    url = tar_of(tmp_path, members()).as_uri()
    with pytest.raises(PlmscaleError, match="exists already"):
        fetch_logs(url, checksums(tmp_path), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert fetch_logs(url, checksums(tmp_path), tmp_path / "empty") == 3


def test_addresses_and_tables_that_are_wrong(tmp_path):
    with pytest.raises(PlmscaleError, match="cannot be fetched"):
        fetch_logs((tmp_path / "none.zip").as_uri(), checksums(tmp_path), tmp_path / "out")
    with pytest.raises(PlmscaleError, match="cannot be fetched"):
        fetch_logs("no address", checksums(tmp_path), tmp_path / "out")
    with pytest.raises(PlmscaleError, match="checksums cannot be read"):
        read_checksums(tmp_path / "none")
    digest = "0" * 64
    for text in (
        "",
        "abc  a.csv\n",
        f"{digest} a.csv\n",
        f"{digest}  ../a.csv\n",
        f"{digest}  /a\n",
    ):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(PlmscaleError, match="bad"):
            read_checksums(tmp_path / "bad")


def test_the_shipped_table_is_that_of_the_released_logs():
    table = read_checksums(CHECKSUMS)
    assert len(table) == 294
    assert table == {
        path.relative_to(RELEASED).as_posix(): sha256_file(path) for path in RELEASED.rglob("*.csv")
    }


def test_command_line(tmp_path, capsys):
    url = tar_of(tmp_path, members()).as_uri()
    table, out = str(checksums(tmp_path)), tmp_path / "out"
    words = ["paper-logs", "--url", url, "--checksums", table, "--out", str(out)]
    assert cli.main(words) == 0
    assert "3 files" in capsys.readouterr().out
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err
