"""Lines have the shape of the contract, and JSON lines give back every byte."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from by_hand import batch, message, record
from helpers.directories import START, Partition
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.inspect import (
    DumpOptions,
    Format,
    PartitionFiles,
    Renderer,
    Selection,
    control_object,
    resolve,
    select_partition,
)
from logstore.inspect.dump import Place
from logstore.names import TopicPartition
from logstore.records import BatchOptions, ByteEncoding, Codec, Record, TimestampType, encode_batch, iter_batches

ORDERS = TopicPartition("orders", 3)
data = st.none() | st.binary(max_size=12) | st.text(max_size=8).map(str.encode)
header_names = st.text(max_size=6) | st.binary(max_size=4).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
any_records = st.lists(
    st.tuples(data, data, st.lists(st.tuples(header_names, data), max_size=3)), min_size=1, max_size=5
)
BATCH_FIELDS = [
    "segment",
    "position",
    "size",
    "base_offset",
    "last_offset",
    "count",
    "magic",
    "codec",
    "timestamp_type",
    "max_timestamp",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "leader_epoch",
    "transactional",
    "control",
    "delete_horizon_ms",
    "crc",
    "valid",
]


def selection(raw: bytes | bytearray, partition: TopicPartition | None = ORDERS, *, is_whole: bool = True) -> Selection:
    place = Place(partition, Path("00000000000000000000.log"), DumpOptions())
    return Selection(place, next(iter(iter_batches(bytes(raw), verify=False))), is_whole)


def rendered(raw: bytes | bytearray, line_format: Format = Format.JSON, **options: Any) -> bytes:
    partition = options.pop("partition", ORDERS)
    is_whole = options.pop("is_whole", True)
    return b"".join(
        lines for lines, _ in Renderer(line_format, **options).lines(selection(raw, partition, is_whole=is_whole))
    )


def objects(raw: bytes | bytearray, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rendered(raw, **options).splitlines()]


def to_bytes(value: Any) -> bytes | None:
    """What `append --json` will make of a value of a line."""
    return None if value is None else base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()


def to_name(value: Any) -> str:
    return (to_bytes(value) or b"").decode("utf-8", "surrogateescape")


# ---------------------------------------------------------------- JSON


@settings(deadline=None, database=None)
@given(any_records, st.sampled_from([Codec.NONE, Codec.GZIP]), st.booleans())
def test_json_gives_back_every_byte(drawn: list[Any], codec: Codec, is_whole: bool) -> None:
    wanted = [Record(n, START, key, value, tuple(headers)) for n, (key, value, headers) in enumerate(drawn)]
    raw = encode_batch(wanted, options=BatchOptions(codec=codec))
    got = [
        Record(
            line["offset"], line["timestamp"], to_bytes(line["key"]), to_bytes(line["value"]),
            tuple((to_name(name), to_bytes(value)) for name, value in line["headers"]),
        )
        for line in objects(raw, is_whole=is_whole)
    ]  # fmt: skip
    assert got == wanted


def test_a_json_line_has_the_fields_of_the_contract_in_their_order() -> None:
    raw = encode_batch([(b"k", b"v", 7, (("h", b"x"), ("n", None)))], base_offset=17)
    assert rendered(raw) == (
        b'{"topic":"orders","partition":3,"offset":17,"timestamp":7,"timestamp_type":"CreateTime",'
        b'"key":"k","value":"v","headers":[["h","x"],["n",null]]}\n'
    )


def test_null_and_empty_and_text_and_other_bytes_are_told_apart() -> None:
    raw = encode_batch([(None, b""), ("é".encode(), b"\xff\x00"), (b'{"base64":"x"}', b"null")])
    assert [(one["key"], one["value"]) for one in objects(raw)] == [
        (None, ""), ("é", {"base64": "/wA="}), ('{"base64":"x"}', "null"),
    ]  # fmt: skip


@pytest.mark.parametrize(("encoding", "shown"), [(ByteEncoding.BASE64, "/wA="), (ByteEncoding.HEX, "ff00")])
def test_an_encoding_applies_to_keys_values_and_header_values(encoding: ByteEncoding, shown: str) -> None:
    raw = encode_batch([(b"\xff\0", b"\xff\0", 7, (("h", b"\xff\0"), ("n", None)))])
    [line] = objects(raw, encoding=encoding)
    assert (line["key"], line["value"], line["headers"]) == (shown, shown, [["h", shown], ["n", None]])


def test_the_timestamp_type_is_kafkas_word() -> None:
    append_time = BatchOptions(timestamp_type=TimestampType.LOG_APPEND_TIME, append_time=99)
    [line] = objects(encode_batch([(None, b"v", 7)], options=append_time))
    assert (line["timestamp"], line["timestamp_type"]) == (99, "LogAppendTime")
    [line] = objects(message(0, None, b"v"))
    assert (line["timestamp"], line["timestamp_type"]) == (-1, "NoTimestampType")


def test_a_file_by_itself_has_neither_topic_nor_partition() -> None:
    [line] = objects(encode_batch([(None, b"v")]), partition=None)
    assert (line["topic"], line["partition"]) == (None, None)


def test_a_name_that_is_not_utf8_is_still_json() -> None:
    [line] = objects(encode_batch([(None, b"v")]), partition=TopicPartition("caf\udce9\n\u2028", 1))
    assert line["topic"] == "caf\udce9\n\u2028"


def test_the_batch_of_a_record_is_shown_where_it_is_asked_for() -> None:
    raw = batch(record(b"k", b"v"), base_offset=5, attributes=0x50, producer_id=7, producer_epoch=1, base_timestamp=9)
    [line] = objects(raw, with_batch=True)
    assert list(line["batch"]) == BATCH_FIELDS
    shown = {name: line["batch"][name] for name in ("transactional", "control", "delete_horizon_ms", "valid", "codec")}
    assert shown == {"transactional": True, "control": False, "delete_horizon_ms": 9, "valid": True, "codec": "none"}
    assert "batch" not in objects(raw)[0]


@pytest.mark.parametrize(
    ("is_valid", "verified", "shown"), [(True, True, True), (False, True, False), (True, False, None)]
)
def test_validity_is_told_as_far_as_it_was_checked(is_valid: bool, verified: bool, shown: bool | None) -> None:
    raw = selection(encode_batch([(None, b"v")]))
    line = Renderer(Format.JSON, verified=verified).batch_line(raw, is_valid, with_identity=False)
    assert json.loads(line)["valid"] is shown


def test_the_base_offset_of_a_compressed_set_is_that_of_its_first_message(kafka_fixtures: Path) -> None:
    target = resolve(kafka_fixtures / "kafka-2.8.2" / "clean" / "v1-gzip-0")
    assert isinstance(target, PartitionFiles)
    first = next(iter(select_partition(target, None, DumpOptions())))
    assert isinstance(first, Selection)
    shown = json.loads(Renderer(Format.JSON).batch_json(first, True))
    assert (shown["base_offset"], shown["count"]) == (0, shown["last_offset"] + 1)


def test_an_unknown_codec_is_named_by_its_number() -> None:
    shown = Renderer(Format.JSON).batch_json(selection(batch(body=b"", attributes=6)), True)
    assert json.loads(shown)["codec"] == "unknown-6"


# ---------------------------------------------------------------- control records


def marker(key: bytes, value: bytes | None) -> bytearray:
    return batch(record(key, value), attributes=0x30, producer_id=1, producer_epoch=0)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        (b"\0\0\0\0", b"\0\0\0\0\0\7", {"type": "ABORT", "coordinator_epoch": 7}),
        (b"\0\0\0\1", b"\0\0\0\0\0\0", {"type": "COMMIT", "coordinator_epoch": 0}),
        (b"\0\0\0\x63", b"?!", {"type": "UNKNOWN", "number": 99, "base64": "PyE="}),
    ],
)
def test_a_control_record_says_what_it_is_and_has_neither_key_nor_value(
    key: bytes, value: bytes, shown: dict[str, Any]
) -> None:
    [line] = objects(marker(key, value))
    assert (line["key"], line["value"], line["control"]) == (None, None, shown)


@pytest.mark.parametrize(("key", "value"), [(b"\0", b""), (b"\0\0\0\0", b"\0"), (b"\0\0\0\2", b"\0\1nonsense")])
def test_a_control_record_that_cannot_be_read_says_why(key: bytes, value: bytes) -> None:
    assert control_object(Record(0, 0, key, value))["error"]


def test_a_control_record_has_no_raw_value() -> None:
    assert rendered(marker(b"\0\0\0\0", b"\0\0\0\0\0\7"), Format.RAW) == b""
    assert rendered(marker(b"\0\0\0\0", b"\0\0\0\0\0\7"), Format.TEXT).endswith(
        b"\tcontrol ABORT coordinator_epoch=7\n"
    )


# ---------------------------------------------------------------- internal topics


OFFSETS = TopicPartition("__consumer_offsets", 0)


@pytest.mark.kafka("DUMP-10")
def test_what_a_decoder_cannot_read_is_said_and_the_dump_goes_on() -> None:
    raw = encode_batch([(b"\0\1", b"?", 7), (b"\x7f\xff", None, 7), (None, b"v", 7)])
    first, second, third = objects(raw, partition=OFFSETS)
    assert "skipping" in first["key"]["error"]
    assert (second["offset"], third["offset"]) == (1, 2)


def test_decoding_can_be_turned_off() -> None:
    raw = encode_batch([(b"\0\1", b"?", 7)])
    assert objects(raw, partition=OFFSETS, decode=False)[0]["key"] == "\0\1"


# ---------------------------------------------------------------- text, CSV, raw


def text(raw: bytes | bytearray, **options: Any) -> list[str]:
    return rendered(raw, Format.TEXT, **options).decode().split("\n")[:-1]


def test_a_text_line_is_partition_offset_time_key_value_and_headers() -> None:
    raw = encode_batch([(b"k", b"v", 1_700_000_000_123, (("a", b"1"), ("b", None)))], base_offset=17)
    assert text(raw) == ["orders-3\t17\t2023-11-14T22:13:20.123Z\tk\tv\ta=1 b=null"]


def test_what_would_not_print_on_one_line_is_escaped() -> None:
    raw = encode_batch([(b"a\nb\tc\\d", "é\x85\u2028\x7f\xff".encode("latin-1", "ignore") + "값".encode(), 0)])
    [line] = text(raw)
    assert line.split("\t")[3:] == ["a\\nb\\tc\\\\d", "\\xe9\\x85\\x7f\\xff값"]


def test_names_in_text_are_escaped_too() -> None:
    [line] = text(encode_batch([(None, b"v")]), partition=TopicPartition("a\nb\udce9", 1))
    assert line.startswith("a\\nb\\xe9-1\t")


def test_csv_is_read_back_by_any_reader_and_tells_null_from_empty() -> None:
    raw = encode_batch([(None, b"", 7), (b'say "hi", x\ny', b"v", 7, (("h", b"1"),))])
    out = rendered(raw, Format.CSV).decode()
    assert out.split("\n")[0] == 'orders,3,0,7,CreateTime,,"",'
    rows = list(csv.reader(io.StringIO(out, newline="")))
    assert rows[1][5:] == ['say "hi", x\ny', "v", '[["h","1"]]']
    assert len(Renderer(Format.CSV).columns) == len(rows[0]) == len(rows[1])


def test_csv_holds_the_batch_where_it_is_asked_for() -> None:
    renderer = Renderer(Format.CSV, with_batch=True)
    out = b"".join(lines for lines, _ in renderer.lines(selection(encode_batch([(None, b"v")])))).decode()
    [row] = csv.reader(io.StringIO(out))
    assert list(json.loads(row[renderer.columns.index("batch")])) == BATCH_FIELDS


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_raw_is_the_values_alone(end: bytes) -> None:
    raw = encode_batch([(b"k", b"one"), (b"k", None), (b"k", b""), (b"k", b"\xff")])
    assert rendered(raw, Format.RAW, raw_end=end) == end.join([b"one", b"", b"", b"\xff", b""])


def test_rows_of_small_files_are_lines_of_every_format() -> None:
    row = {"topic": "a\tb", "offset": 3, "at": None}
    assert Renderer(Format.JSON).row(row) == b'{"topic":"a\\tb","offset":3,"at":null}\n'
    assert Renderer(Format.TEXT).row(row) == b"topic=a\\tb\toffset=3\tat=null\n"
    assert Renderer(Format.CSV).row(row) == b"a\tb,3,\n"


def test_a_large_batch_is_rendered_in_pieces_that_make_up_the_whole() -> None:
    raw = encode_batch([(b"k", bytes(1000)) for _ in range(5000)])
    pieces = list(Renderer(Format.JSON).lines(selection(raw)))
    assert len(pieces) > 1 and sum(count for _, count in pieces) == 5000
    assert sum(lines.count(b"\n") for lines, _ in pieces) == 5000


def test_batches_in_text_say_the_same(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "orders-3")
    first = partition.append(b"v", b"v")
    line = Renderer(Format.TEXT).batch_line(selection(partition.log.read_bytes()), True, with_identity=False).decode()
    crc = first.header.crc
    assert line == (
        f"orders-3\t00000000000000000000.log offsets 0..1 count 2 position 0 size {first.header.size} v2 none "
        f"CreateTime {START} epoch 0 crc {crc:#010x} valid\n"
    )
