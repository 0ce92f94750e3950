"""What a folder, list or table is understood as: every row is a clip or is told why not, and nothing shifts."""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path

import pytest

from engine.errors import InvalidRequest
from training.data.archive import unpack
from training.data.files import pictures_in
from training.data.sent import list_sent
from training.data.sources import Found, Listing, Wish, list_source


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def pairs(listing: Listing, root: Path) -> list[tuple[str, str]]:
    return [(each.path.relative_to(root).as_posix(), each.caption) for each in listing.found]


def refused(listing: Listing) -> str:
    return "\n".join(f"{each.origin}: {each.reason}" for each in listing.rejections)


def test_two_lists_keep_blank_lines_in_their_place(tmp_path: Path) -> None:
    write(tmp_path, {"prompts.txt": "\ufeffone\r\n\r\nthree\r\nfour\r\n\r\n\r\n", "videos.txt": "a.mp4\nb.mp4\n\nv/d.mp4\n"})
    listing = list_source(tmp_path, Wish())
    assert pairs(listing, tmp_path) == [("a.mp4", "one"), ("b.mp4", ""), ("v/d.mp4", "four")]
    assert "line 3 of videos.txt: is blank" in refused(listing) and listing.rejections[0].caption == "three"


@pytest.mark.parametrize(("prompts", "videos", "says"), [
    ("one\ntwo\nthree\n", "a.mp4\nb.mp4\n", "Line 3 is the first without a partner: 'three'"),
    ("one\n\ntwo\n", "a.mp4\nb.mp4\n", "Line 2 is the first that is blank in only one"),
])
def test_lists_that_do_not_match_are_refused_with_the_place(tmp_path: Path, prompts: str, videos: str, says: str) -> None:
    write(tmp_path, {"prompts.txt": prompts, "videos.txt": videos})
    with pytest.raises(InvalidRequest, match="do not match") as error:
        list_source(tmp_path, Wish())
    assert says in str(error.value)


def test_a_line_that_is_no_text_is_refused_and_moves_no_other(tmp_path: Path) -> None:
    write(tmp_path, {"prompts.txt": b"one\ncaf\xe9\nthree\n", "videos.txt": "a.mp4\nb.mp4\nc.mp4\n"})
    listing = list_source(tmp_path, Wish())
    assert pairs(listing, tmp_path) == [("a.mp4", "one"), ("c.mp4", "three")]
    assert "line 2 of prompts.txt is not UTF-8: byte 4 is 0xe9" in refused(listing)


def test_a_table_with_the_guides_triple_quotes(tmp_path: Path) -> None:
    text = 'words,clip path\n"""A rabbit, named ""Rib"", and a goat.""","""00000.mp4"""\n"plain, with comma",1.mp4\n,2.mp4\nlost,\n'
    write(tmp_path, {"data.csv": text})
    with pytest.raises(InvalidRequest, match="'words', 'clip path'"):
        list_source(tmp_path, Wish())
    with pytest.raises(InvalidRequest, match="caption_column: is 'no'"):
        list_source(tmp_path, Wish(video_column="clip path", caption_column="no"))
    listing = list_source(tmp_path, Wish(video_column="clip path", caption_column="words"))
    assert pairs(listing, tmp_path) == [("00000.mp4", 'A rabbit, named "Rib", and a goat.'), ("1.mp4", "plain, with comma"), ("2.mp4", "")]
    assert "line 5 of data.csv: has nothing in the column 'clip path'" in refused(listing)


def test_tsv_jsonl_json_and_a_root_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "t", {"metadata.tsv": "file_name\ttext\nv/1.mp4\ta, b\n"})
    assert pairs(list_source(tmp_path / "t", Wish()), tmp_path / "t") == [("v/1.mp4", "a, b")]
    write(tmp_path / "j", {"set.jsonl": '{"video_path": "1.mp4", "prompt": "one"}\n\nnot json\n{"video_path": 7}\n[1]\n'})
    listing = list_source(tmp_path / "j" / "set.jsonl", Wish(root=tmp_path / "videos"))
    assert pairs(listing, tmp_path) == [("videos/1.mp4", "one")]
    assert [each.origin for each in listing.rejections] == [f"line {number} of set.jsonl" for number in (3, 4, 5)]
    write(tmp_path, {"whole.json": json.dumps({"data": [{"media": {"path": "x.mp4"}, "caption": ["first", "second"]}]})})
    assert pairs(list_source(tmp_path / "whole.json", Wish()), tmp_path) == [("x.mp4", "first")]


def test_a_comma_outside_quotes_is_told_and_cuts_no_caption(tmp_path: Path) -> None:
    write(tmp_path, {"set.csv": 'file_name,text\na.mp4,A fox runs, then stops\nb.mp4,"A fox runs, then stops"\nc.mp4,one,,\nd.mp4\n',
                     "set.tsv": "file_name\ttext\na.mp4\tone\ttwo\n"})
    listing = list_source(tmp_path / "set.csv", Wish())
    assert pairs(listing, tmp_path) == [("b.mp4", "A fox runs, then stops"), ("c.mp4", "one"), ("d.mp4", "")]
    assert refused(listing) == ("line 2 of set.csv: has 3 fields, the header 2: put the caption in quotes, as a comma outside them ends a "
                                "field.")
    assert "has 3 fields, the header 2: put the caption in quotes, as a tab" in refused(list_source(tmp_path / "set.tsv", Wish()))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_jsonl_lines_end_at_ends_of_lines_only(tmp_path: Path, end: str) -> None:
    rows = [json.dumps({"file_name": "1.mp4", "text": "one\u2028two\u0085three"}, ensure_ascii=False), "",
            '{"file_name": "2.mp4", "text": "no\x0bJSON"}', '{"file_name": "3.mp4", "text": "last"}', ""]
    write(tmp_path, {"set.jsonl": end.join(rows)})
    listing = list_source(tmp_path / "set.jsonl", Wish())
    assert pairs(listing, tmp_path) == [("1.mp4", "one two three"), ("3.mp4", "last")]
    assert [each.origin for each in listing.rejections] == ["line 3 of set.jsonl"]  # one line, one refusal


def test_videos_beside_texts_labels_and_folders_of_pictures(tmp_path: Path) -> None:
    write(tmp_path, {"a/1.mp4": "", "a/1.txt": "two\nlines\n", "a/2.MOV": "", "a/2.json": '{"caption": "from json"}', "a/3.webm": "",
                     "a/3.txt": b"\xff\xfeh\x00i\x00", "a/4.mkv": "", "a/4.txt": b"\xe9", "a/left.txt": "alone", ".hidden/9.mp4": "",
                     "videos/5.mp4": "", "labels/5.txt": "sat", "shots/f10.png": "", "shots/f9.png": "", "shots/caption.txt": "frames"})
    listing = list_source(tmp_path, Wish(picture_fps=12))
    assert pairs(listing, tmp_path) == [("a/1.mp4", "two lines"), ("a/2.MOV", "from json"), ("a/3.webm", "hi"), ("shots", "frames"),
                                        ("videos/5.mp4", "sat")]
    assert Found(tmp_path / "shots", "frames", "shots", "frames", 12) in listing.found
    assert [path.name for path in pictures_in(tmp_path / "shots")] == ["f9.png", "f10.png"]
    assert "4.txt is not UTF-8" in refused(listing) and "a/left.txt: is a caption without a video" in refused(listing)


def test_every_file_that_became_no_clip_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"1.mp4": "", "1.txt": "one", "1.json": "{}", "2.gif": "", "3.WMV": "", "4.zip": "", "5.json": '{"caption": "five"}',
                     "README.md": "", "licence.txt": "", "Thumbs.db": "", ".hidden.gif": "", "below/list.csv": "video,text\n",
                     "below/6.png": "", "below/x": "", "more/7.png": "", "more/8.png": ""})
    listing = list_source(tmp_path, Wish())
    assert pairs(listing, tmp_path) == [("1.mp4", "one"), ("more", "")]
    assert {each.origin: each.reason.partition(".")[0] for each in listing.rejections} == {
        "2.gif": "is of a kind that is not used here", "3.WMV": "is of a kind that is not used here",
        "below/x": "is of a kind that is not used here", "4.zip": "is an archive in a folder, which is not unpacked",
        "5.json": "is the caption of no video beside it", "below/list.csv": "is a table further down"}
    assert [note.partition(":")[0] for note in listing.notes] == ["1 picture lying beside the clips is not used",
                                                                  "1 file beside clips is not used"]


def test_tables_that_nobody_chose_are_not_passed_over(tmp_path: Path) -> None:
    tables = {name: "video,text\n1.mp4,one\n" for name in ("train.csv", "val.csv")}
    write(tmp_path, tables | {"1.mp4": "", "2.mp4": "", "below/3.mp4": "", "below/.4.mp4": ""})
    with pytest.raises(InvalidRequest, match=r"has 2 tables \(train\.csv, val\.csv\), and which one is meant"):
        list_source(tmp_path, Wish())
    (tmp_path / "val.csv").rename(tmp_path / "metadata.csv")
    listing = list_source(tmp_path, Wish())
    assert pairs(listing, tmp_path) == [("1.mp4", "one")]
    says = "is in the folder, and no line that can be read names it."
    assert refused(listing) == f"2.mp4: {says}\nbelow/3.mp4: {says}"
    (tmp_path / "link").symlink_to(tmp_path)
    write(tmp_path, {"metadata.csv": "video,text\nlink/1.mp4,one\nbelow/../2.mp4,two\nbelow/3.mp4,three\n"})
    assert list_source(tmp_path, Wish()).rejections == ()


def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(folder: Path) -> list[Path]:
        if folder.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return pictures_in(folder)

    write(tmp_path, {"1.mp4": "", "closed/2.mp4": ""})
    monkeypatch.setattr("training.data.sources.pictures_in", closed)
    assert refused(list_source(tmp_path, Wish())) == "closed: is a folder that cannot be opened (Permission denied)."


def test_archives_from_a_browser_are_unpacked_whatever_comes_with_them(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"metadata.csv": "video,text\nvideos/1.mp4,one\n"})
    zipped(one / "a.ZIP", {"videos/1.mp4": b"", "videos/2.mp4": b""})
    listing, told = list_sent(one, tmp_path / "files", Wish())
    assert pairs(listing, tmp_path / "files") == [("videos/1.mp4", "one")] and told == ()
    assert refused(listing).startswith("videos/2.mp4: is in the folder, and no line")
    some = write(tmp_path / "some", {"3.mp4": "", "4.txt": "lone", "c.zip": "no archive"})
    zipped(some / "a.zip", {"in/1.mp4": b"", "in/1.txt": b"a", "in/x.exe": b""})
    zipped(some / "b.zip", {"1.mp4": b"", "1.txt": b"b"})
    listing, told = list_sent(some, tmp_path / "more", Wish())
    assert [(each.origin, each.caption) for each in listing.found] == [("3.mp4", ""), ("a.zip: 1.mp4", "a"), ("b.zip: 1.mp4", "b")]
    assert all(each.path.is_relative_to(tmp_path / "more") and each.path.is_file() for each in listing.found)
    assert [each.origin for each in (*listing.rejections, *told)] == ["4.txt", "a.zip: in/x.exe", "c.zip"]


def test_a_name_no_file_can_have_is_one_row_s_matter(tmp_path: Path) -> None:
    longest = "x" * 251 + ".mp4"  # 255 bytes: a legal name, with no room for another ending
    write(tmp_path, {"list/data.csv": f"video,text\n{'y' * 300}.mp4,too long\na.mp4,good\n", f"clips/{longest}": "", "clips/b.mp4": "",
                     "clips/b.txt": "good"})
    assert [each.caption for each in list_source(tmp_path / "list/data.csv", Wish()).found] == ["too long", "good"]
    assert pairs(list_source(tmp_path / "clips", Wish()), tmp_path / "clips")[0] == ("b.mp4", "good")


@pytest.mark.parametrize(("name", "content", "says"), [
    ("x.pdf", b"%PDF", "nothing a set can be made of"), ("e.csv", b"", "is empty"), ("n.csv", b"video\n\xff.mp4", "is not UTF-8"),
    ("prompts.txt", b"one", "without videos.txt"),
])
def test_what_is_no_set_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    write(tmp_path, {name: content})
    with pytest.raises(InvalidRequest, match=says):
        list_source(tmp_path / name, Wish())


def test_parquet_with_videos_inside_and_beside(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    inside = pyarrow.table({"video": [{"bytes": b"\0\0\0\x18ftypisom", "path": "q.mp4"}, {"bytes": None, "path": "beside.mp4"}, None],
                            "caption": ["one", "two", "three"]})
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(inside, tmp_path / "data" / "train-0.parquet")
    listing = list_source(tmp_path, Wish(into=tmp_path / "own"))
    assert pairs(listing, tmp_path) == [("own/00000.mp4", "one"), ("data/beside.mp4", "two")]
    assert "row 3 of train-0.parquet: has no video" in refused(listing)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(InvalidRequest, match="cannot be read as parquet"):
        list_source(tmp_path / "bad.parquet", Wish())


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_cannot_leave_its_folder(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.mp4")
    link.external_attr = 0o120777 << 16
    path = zipped(tmp_path / "set.zip", {"set/1.mp4": b"v", "../out.mp4": b"x", "/abs.mp4": b"x", "..\\win.mp4": b"x", "C:\\w.mp4": b"x",
                                         "set/run.sh": b"x", "__MACOSX/1.mp4": b"x"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    reasons = {each.origin: each.reason for each in unpack(path, tmp_path / "in")}
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()} == {"set.zip", "in/set/1.mp4"}
    assert set(reasons) == {"../out.mp4", "/abs.mp4", "../win.mp4", "C:/w.mp4", "set/run.sh", "link.mp4"} or len(reasons) == 6
    assert "is a link" in reasons["link.mp4"]


def test_odd_names_in_a_zip_are_told_and_the_rest_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", {"set/1.mp4": b"first", f"set/{'狐' * 86}.mp4": b"long", f"set/{'狐' * 80}.mp4": b"fits",
                                         "set/a.txt": b"words", "set/a.txt/b.mp4": b"x"})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("set/1.mp4", b"second")
    reasons = {each.origin: each.reason for each in unpack(path, tmp_path / "in")}
    assert sorted(file.name for file in (tmp_path / "in").rglob("*") if file.is_file()) == ["1.mp4", "a.txt", f"{'狐' * 80}.mp4"]
    assert (tmp_path / "in" / "set" / "1.mp4").read_bytes() == b"first"
    assert "more than 255 bytes" in reasons.pop(f"set/{'狐' * 86}.mp4")
    assert set(reasons) == {"set/1.mp4", "set/a.txt/b.mp4"} and all("the first one is kept" in each for each in reasons.values())


def test_bombs_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="would grow"):
        unpack(zipped(tmp_path / "bomb.zip", {"a.mp4": bytes(4 << 20)}), tmp_path / "in")
    with pytest.raises(InvalidRequest, match="has 5,001 files"):
        unpack(zipped(tmp_path / "many.zip", {f"{number}.txt": b"" for number in range(5001)}), tmp_path / "in")
    (tmp_path / "no.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(InvalidRequest, match="cannot be unpacked"):
        unpack(tmp_path / "no.zip", tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("way", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damaged_entries_are_refused_however_they_were_packed(tmp_path: Path, way: int) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", way) as archive:
        archive.writestr("a.txt", "many words of a caption\n" * 80)
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[50:80] = b"\xff" * 30
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(InvalidRequest, match="cannot be unpacked"):
        unpack(tmp_path / "set.zip", tmp_path / "in")
