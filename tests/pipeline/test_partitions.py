"""Tables in Hive partitions, through the real command."""

from __future__ import annotations

from tests.outputs import content, markers, metadata, write_table

FAST = ("--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 4, "--actors", 1)


def test_partitions_are_columns_at_the_start_on_resume_and_when_appended_to(tmp_path, stand_in_command):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for style, steps in (("flat", 1), ("oil%20paint", 2)):
        place = folder / f"style={style}" / f"steps={steps}"
        place.mkdir(parents=True)
        write_table(place / "part-0.parquet", {"prompt": [f"a red circle {i}" for i in range(3)]})
    plan = stand_in_command("plan", folder, out, *FAST).stdout
    assert "carried style" in plan
    inside = stand_in_command("generate", folder, folder / "style=new", *FAST, status=2)
    assert "would read the output as a prompt table" in inside.stderr
    inside = stand_in_command("generate", f"{folder}/style=*", folder / "style=new" / "k=1", *FAST, status=2)
    assert "would read the output as a prompt table" in inside.stderr

    stand_in_command("generate", folder, out, *FAST)
    rows = metadata(out)
    assert [(row["style"], row["steps"]) for row in rows] == [("flat", 1)] * 3 + [("oil paint", 2)] * 3
    before = content(out)

    (out / "00001_stats.json").unlink()
    place = folder / "style=a" / "steps=1"
    place.mkdir(parents=True)
    write_table(place / "part-0.parquet", {"prompt": ["a blue square"]})
    process = stand_in_command("generate", folder, out, *FAST)
    assert "3 of them made now" in process.stdout
    after = content(out)
    assert {name: after[name] for name in before} == before
    assert [row["style"] for row in metadata(out)][-1] == "a"
    assert len(markers(out)) == 3

    # A renamed partition is another table, though its file is the same.
    (folder / "style=a").rename(folder / "style=b")
    process = stand_in_command("generate", folder, out, *FAST, status=2)
    assert "was an input of OUT and is no longer among the prompts" in process.stderr
