"""The small text files of a data directory: offset checkpoints, `partition.metadata`, `meta.properties`, the
clean-shutdown marker, `quorum-state`. Bytes -> values, and offset checkpoints back to bytes.

Every parser takes the whole file, refuses more than 64 MiB of it, and raises CorruptCheckpointError, naming line and
byte, for anything Kafka would refuse. Immutable values and pure functions: thread-safe. Formats: FORMAT.md §5.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from logstore.errors import CorruptCheckpointError, InvalidNameError
from logstore.names import TopicPartition

FILE_SIZE_MAX = 64 * 1024 * 1024
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

# On disk; never change.
_CHECKPOINT_VERSION = 0
_META_PROPERTIES_VERSION_MAX = 1
_QUORUM_STATE_VERSION_MAX = 1
_ZERO_UUID = "A" * 22

# What Java's readLine, \s and parseInt take: no Unicode line ends, blanks or digits.
_LINE = re.compile(rb"([^\r\n]*)(?:\r\n?|\n|\Z)")
_BLANKS = re.compile(r"\s+", re.ASCII)
_NUMBER = re.compile(r"([+-]?)(?=[0-9])0*+([0-9]*+)")
_LABEL = re.compile(r":\s+", re.ASCII)
_UUID = re.compile(r"([A-Za-z0-9_-]{22})(?:==)?")
_PROPERTY = re.compile(r"((?:\\.|[^\\=: \t\f])*+)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n", "f": "\f"}


class CheckpointLine(NamedTuple):
    """One line of a text file, without its end; lines are counted from 1, `position` is its first byte."""

    line_number: int
    position: int
    text: str

    def error(self, problem: str) -> CorruptCheckpointError:
        """Return (not raise) the error that says what is wrong with this line."""
        return CorruptCheckpointError(f"line {self.line_number} {problem}", position=self.position)

    def number(self, text: str, maximum: int) -> int:
        """Read part of this line as a decimal in -maximum-1..maximum; raises CorruptCheckpointError."""
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise self.error(f"has {_shown(text)} where a number belongs")
        number = int(match[1] + (match[2] or "0")) if len(match[2]) <= len(str(maximum)) else maximum + 1
        if not -maximum - 1 <= number <= maximum:
            raise self.error(f"has a number out of range, {_shown(text)}")
        return number

    def fields(self, count: int) -> list[str]:
        """Split this line at blanks into exactly `count` parts; raises CorruptCheckpointError."""
        # A blank before the first part makes an empty part, as in Java; blanks after the last do not.
        parts = _BLANKS.split(self.text.rstrip(" \t\n\v\f\r"))
        if len(parts) != count:
            raise self.error(f"does not have {count} parts: {_shown(self.text)}")
        return parts


class PartitionMetadata(NamedTuple):
    """What `partition.metadata` says. `topic_id` is never the zero UUID."""

    version: int
    topic_id: UUID


class MetaProperties(NamedTuple):
    """What `meta.properties` says; in version 1 cluster and node id are always there. `node_id` is also `broker.id`."""

    version: int
    cluster_id: str | None = None
    node_id: int | None = None
    directory_id: UUID | None = None


class CleanShutdown(NamedTuple):
    """What `.kafka_cleanshutdown` says. That the file exists is what counts; older Kafkas leave it empty."""

    version: int | None = None
    broker_epoch: int | None = None


class QuorumState(NamedTuple):
    """What `quorum-state` in `__cluster_metadata-0` says; -1 is no leader, or no vote.

    Version 0 has cluster id, applied offset and voters; version 1 only adds the directory id of the vote.
    """

    data_version: int
    leader_id: int
    leader_epoch: int
    voted_id: int
    voted_directory_id: UUID | None = None
    cluster_id: str | None = None
    applied_offset: int | None = None
    current_voters: tuple[int, ...] = ()


def parse_checkpoint(data: bytes) -> Iterator[CheckpointLine]:
    """Yield the entry lines of a checkpoint of version 0 (FORMAT.md §5.1); an empty file has none.

    Raises:
        CorruptCheckpointError: another version, no number in one of the first two lines, or as many entries as the
            second line says are not there. What an entry is made of is left to the caller.
    """
    lines = _text_lines(data)
    first = next(lines, None)
    if first is not None and first.number(first.text, INT32_MAX) != _CHECKPOINT_VERSION:
        raise first.error(f"gives version {_shown(first.text)}; only {_CHECKPOINT_VERSION} is known")
    second = next(lines, None)
    if second is None:
        return
    expected = second.number(second.text, INT32_MAX)
    count = 0
    for count, line in enumerate(lines, 1):
        if count > expected:
            raise line.error(f"is one more than the {expected} entries that line 2 counts")
        yield line
    if count != expected:
        raise second.error(f"counts {expected} entries, but there are {count}")


def format_checkpoint(entries: Iterable[str]) -> bytes:
    """Return the text of a checkpoint of version 0 with these entry lines."""
    lines = list(entries)
    return "".join(f"{line}\n" for line in (_CHECKPOINT_VERSION, len(lines), *lines)).encode()


def parse_offset_checkpoint(data: bytes) -> dict[TopicPartition, int]:
    """Read one of the four offset checkpoints of a log directory; of two lines for a partition the last counts.

    Raises:
        CorruptCheckpointError: as `parse_checkpoint`, or an entry is not `topic partition offset`.
    """
    offsets = {}
    for line in parse_checkpoint(data):
        topic, partition, offset = line.fields(3)
        if not topic:
            raise line.error("starts with a blank")
        offsets[TopicPartition(topic, line.number(partition, INT32_MAX))] = line.number(offset, INT64_MAX)
    return offsets


def format_offset_checkpoint(offsets: Mapping[TopicPartition, int]) -> bytes:
    """Return the text of an offset checkpoint, sorted by topic and partition.

    Raises:
        InvalidNameError: a topic is empty or has a blank in it, so that its line could not be read back.
    """
    for topic, _ in offsets:
        if not topic or _BLANKS.search(topic):
            raise InvalidNameError(f"topic {topic!r} cannot stand in a checkpoint")
    return format_checkpoint(f"{topic} {partition} {offset}" for (topic, partition), offset in sorted(offsets.items()))


def parse_partition_metadata(data: bytes) -> PartitionMetadata:
    """Read `partition.metadata` (FORMAT.md §5.3); any version from 0 is accepted, and only two lines are looked at.

    Raises:
        CorruptCheckpointError: a line is missing or is not `name: value`, or the topic id is no UUID, or zero.
    """
    lines = _text_lines(data)
    line, text = _labelled_value(next(lines, None), "version")
    version = line.number(text, INT32_MAX)
    if version < 0:
        raise line.error(f"gives version {version}")
    line, text = _labelled_value(next(lines, None), "topic id")
    topic_id = _uuid(line, text)
    if not topic_id.int:
        raise line.error("has the zero UUID for a topic id")
    return PartitionMetadata(version, topic_id)


def format_partition_metadata(topic_id: UUID) -> bytes:
    """Return the text of `partition.metadata`, which has no newline at its end."""
    return f"version: 0\ntopic_id: {format_kafka_uuid(topic_id)}".encode()


def parse_properties(data: bytes) -> dict[str, str]:
    """Read a Java properties file in UTF-8: comments, continued lines, escapes; the last value of a key counts.

    Raises:
        CorruptCheckpointError: the text is not UTF-8, or a Unicode escape in it is broken.
    """
    return {key: value for _, key, value in _properties(data)}


def parse_meta_properties(data: bytes) -> MetaProperties:
    """Read `meta.properties` (FORMAT.md §5.4); keys that mean nothing to Kafka are ignored.

    Raises:
        CorruptCheckpointError: as `parse_properties`, or a version above 1, a required key that is missing, an id that
            is no number, or a directory id that is no UUID.
    """
    found = {key: (line, value) for line, key, value in _properties(data)}

    def number(key: str) -> int | None:
        return found[key][0].number(found[key][1], INT32_MAX) if key in found else None

    version = number("version") or 0
    if not 0 <= version <= _META_PROPERTIES_VERSION_MAX:
        raise found["version"][0].error(f"gives version {version}; known are 0 to {_META_PROPERTIES_VERSION_MAX}")
    cluster_id = found["cluster.id"][1] if "cluster.id" in found else None
    node_id = number("node.id" if version else "broker.id")
    if version and (cluster_id is None or node_id is None):
        missing = "cluster.id" if cluster_id is None else "node.id"
        raise CorruptCheckpointError(f"version {version} of the properties has no {missing}")
    directory_id = _uuid(*found["directory.id"]) if "directory.id" in found else None
    return MetaProperties(version, cluster_id, node_id, directory_id)


def parse_clean_shutdown(data: bytes) -> CleanShutdown:
    """Read `.kafka_cleanshutdown`; unknown fields are ignored, the version is not checked, an empty file is fine.

    Raises:
        CorruptCheckpointError: not JSON, or not numbers. Kafka then takes the broker epoch for unknown and goes on.
    """
    values = _json_object(data) if data else {}
    return CleanShutdown(_json_number(values, "version", INT32_MAX), _json_number(values, "brokerEpoch", INT64_MAX))


def parse_quorum_state(data: bytes) -> QuorumState:
    """Read `quorum-state` of KRaft, data versions 0 and 1; unknown fields are ignored.

    Raises:
        CorruptCheckpointError: not JSON, another version, or a field that is missing or of another type.
    """
    values = _json_object(data)

    def required(name: str) -> int:
        number = _json_number(values, name, INT32_MAX)
        if number is None:
            raise CorruptCheckpointError(f"the field {name!r} is missing")
        return number

    version = required("data_version")
    if not 0 <= version <= _QUORUM_STATE_VERSION_MAX:
        raise CorruptCheckpointError(f"data_version is {version}; known are 0 to {_QUORUM_STATE_VERSION_MAX}")
    directory_id = parse_kafka_uuid(_json_text(values, "votedDirectoryId") or _ZERO_UUID)
    return QuorumState(
        data_version=version,
        leader_id=required("leaderId"),
        leader_epoch=required("leaderEpoch"),
        voted_id=required("votedId"),
        voted_directory_id=directory_id if directory_id.int else None,
        cluster_id=_json_text(values, "clusterId"),
        applied_offset=_json_number(values, "appliedOffset", INT64_MAX),
        current_voters=_json_voters(values),
    )


def parse_kafka_uuid(text: str) -> UUID:
    """Read a UUID as Kafka writes it: 22 characters of URL-safe base64, padding optional.

    Raises:
        CorruptCheckpointError: the text has another form.
    """
    match = _UUID.fullmatch(text)
    if match is None:
        raise CorruptCheckpointError(f"{_shown(text)} is not a UUID in URL-safe base64")
    return UUID(bytes=base64.urlsafe_b64decode(match[1] + "=="))


def format_kafka_uuid(value: UUID) -> str:
    """Return the 22 characters Kafka writes for this UUID."""
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")


def _check_size(data: bytes) -> None:
    if len(data) > FILE_SIZE_MAX:
        raise CorruptCheckpointError(f"a text file of {len(data)} bytes is larger than any of Kafka's")


def _text_lines(data: bytes) -> Iterator[CheckpointLine]:
    _check_size(data)
    for line_number, match in enumerate(_LINE.finditer(data), 1):
        position = match.start()
        if position == len(data):
            return
        try:
            text = match[1].decode()
        except UnicodeDecodeError as error:
            raise CorruptCheckpointError(f"line {line_number} is not UTF-8", position=position + error.start) from error
        yield CheckpointLine(line_number, position, text)


def _labelled_value(line: CheckpointLine | None, meaning: str) -> tuple[CheckpointLine, str]:
    if line is None:
        raise CorruptCheckpointError(f"there is no line for the {meaning}")
    parts = _LABEL.split(line.text)
    if len(parts) != 2 or not parts[1]:
        raise line.error(f"is not 'name: value' of the {meaning}: {_shown(line.text)}")
    return line, parts[1]


def _uuid(line: CheckpointLine, text: str) -> UUID:
    try:
        return parse_kafka_uuid(text)
    except CorruptCheckpointError as error:
        raise line.error(f"has an id that is none: {error.reason}") from None


def _properties(data: bytes) -> Iterator[tuple[CheckpointLine, str, str]]:
    for line in _logical_lines(data):
        match = _PROPERTY.fullmatch(line.text)
        assert match is not None  # a logical line never ends in a lone backslash
        key, value = match.groups()
        yield line, _unescaped(line, key), _unescaped(line, value)


def _logical_lines(data: bytes) -> Iterator[CheckpointLine]:
    """Drop blank lines and comments; join a line that ends in an odd number of backslashes to the next one."""
    first: CheckpointLine | None = None
    parts: list[str] = []
    for line in _text_lines(data):
        text = line.text.lstrip(" \t\f")
        if not parts and text[:1] in ("", "#", "!"):
            continue
        first = first or line
        goes_on = (len(text) - len(text.rstrip("\\"))) % 2
        if text != "\\":
            parts.append(text[:-1] if goes_on else text)
        if not goes_on:
            yield first._replace(text="".join(parts))
            first, parts = None, []
    if first is not None:
        yield first._replace(text="".join(parts))


def _unescaped(line: CheckpointLine, text: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] == "u":
            raise line.error("has a \\u escape without four hex digits")
        return _ESCAPED.get(match[2], match[2])

    plain = _ESCAPE.sub(replacement, text)
    try:
        # Java's characters are UTF-16: two escapes can be the halves of one character.
        return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise line.error("has an escape that is half a character") from None


def _json_object(data: bytes) -> dict[str, object]:
    _check_size(data)
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise CorruptCheckpointError("the JSON text is not UTF-8", position=error.start) from error
    except json.JSONDecodeError as error:
        position = len(error.doc[: error.pos].encode())
        raise CorruptCheckpointError(f"line {error.lineno} is not JSON: {error.msg}", position=position) from error
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError("the JSON text has a number or a nesting beyond all bounds") from error
    if not isinstance(value, dict):
        raise CorruptCheckpointError("the JSON text is not an object", position=0)
    return value


def _json_number(values: Mapping[str, object], name: str, maximum: int) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or not -maximum - 1 <= value <= maximum:
        raise CorruptCheckpointError(f"the field {name!r} is {_shown(value)}, not a number in range")
    return value


def _json_text(values: Mapping[str, object], name: str) -> str | None:
    value = values.get(name)
    # A JSON escape can be half a character, which no terminal or file takes.
    if not isinstance(value, str | None) or _HALF_CHARACTER.search(value or ""):
        raise CorruptCheckpointError(f"the field {name!r} is {_shown(value)}, not a text")
    return value


def _json_voters(values: Mapping[str, object]) -> tuple[int, ...]:
    voters = values.get("currentVoters") or []
    known = []
    for voter in voters if isinstance(voters, list) else [None]:
        number = _json_number(voter, "voterId", INT32_MAX) if isinstance(voter, dict) else None
        if number is None:
            raise CorruptCheckpointError("the field 'currentVoters' is not a list of voter ids")
        known.append(number)
    return tuple(known)


def _shown(value: object) -> str:
    text = "a list or object" if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
