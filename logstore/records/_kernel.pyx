# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True
"""The compiled kernel: the same functions as `_kernel_py.py`, which says what each of them means.

Free functions on buffers and integers: no I/O, no state, therefore thread-safe; but for the cleaner's table, which is
one thread's at a time. Every length read from a buffer is
bounded by the bytes that are there before it is used. Functions that may take long and make no Python objects release
the GIL; short ones keep it, because to get it back beside a busy thread takes far longer than they do.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

from zlib import crc32

from logstore.checksum import crc32c

from logstore.errors import CorruptRecordError, InvalidRecordError
from logstore.records.header import FLAW_REASONS, BatchHeader, FilterCounts, FilteredBatch, RecordStats

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        PyObject* (*tp_alloc)(PyTypeObject*, Py_ssize_t) except NULL
    void PyTuple_SET_ITEM(PyObject* tuple, Py_ssize_t index, PyObject* item)
    object PyUnicode_DecodeUTF8(const char* data, Py_ssize_t size, const char* errors)
    PyObject* PyLong_FromLongLong(long long value) except NULL
    void Py_DecRef(PyObject* object)

# The numbers of header.py, as C constants: on disk, or shared with the twin. Never change one alone.
cdef enum:
    OVERHEAD = 12
    MAGIC_AT = 16
    UP_TO_MAGIC = 17
    HEADER_V2 = 61
    INT32_MAX = 2147483647

cdef enum:  # WalkEnd
    END = 0
    INCOMPLETE = 1
    BAD_SIZE = 2
    BAD_MAGIC = 3
    BAD_CRC = 4

cdef enum:  # Flaw
    RECORDS_END_EARLY = 1
    RECORD_TOO_LONG = 2
    VARINT_ENDLESS = 3
    FIELD_TOO_LONG = 4
    HEADER_COUNT = 5
    HEADER_KEY_NULL = 6
    RECORD_SLACK = 7
    BYTES_LEFT = 8
    COUNT_NEGATIVE = 9
    OFFSET_ORDER = 10
    NO_MEMORY = 100  # of the compiled kernel alone

cdef enum:  # LineMode and ByteEncoding
    JSON = 0
    TEXT = 1
    UTF8 = 0
    BASE64 = 1


# Kafka's; which partition a key belongs to depends on them. Never change.
cdef uint32_t MURMUR2_SEED = 0x9747B28C
cdef uint32_t MURMUR2_FACTOR = 0x5BD1E995

cdef object INT64_MAX = 2**63 - 1
cdef str NEGATIVE = "a position in a buffer is not below 0"

cdef PyTypeObject* HEADER_TYPE = <PyTypeObject*>BatchHeader


# Without GC: what a record holds is bytes, text and tuples of them, which form no cycles.
@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class Record:
    """One record of a log; the twin says what its fields mean."""

    cdef readonly int64_t offset
    cdef readonly int64_t timestamp
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly tuple headers

    def __init__(self, int64_t offset, int64_t timestamp, bytes key, bytes value, tuple headers=()):
        self.offset, self.timestamp, self.key, self.value, self.headers = offset, timestamp, key, value, headers

    def replace(self, **changes):
        """A copy with some fields changed."""
        return Record(**{**{name: getattr(self, name) for name in RECORD_FIELDS}, **changes})

    def __eq__(self, other):
        if not isinstance(other, Record):
            return NotImplemented
        return same(self, other)

    def __hash__(self):
        return hash((self.offset, self.timestamp, self.key, self.value, self.headers))

    def __repr__(self):
        return f"Record({', '.join(f'{name}={getattr(self, name)!r}' for name in RECORD_FIELDS)})"

    def __reduce__(self):
        return Record, (self.offset, self.timestamp, self.key, self.value, self.headers)


RECORD_FIELDS = ("offset", "timestamp", "key", "value", "headers")


cdef bint same(Record one, Record other):
    return (
        one.offset == other.offset and one.timestamp == other.timestamp and one.key == other.key
        and one.value == other.value and one.headers == other.headers
    )


cdef inline uint32_t big32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | <uint32_t>p[3]


cdef inline uint32_t little32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[3] << 24) | (<uint32_t>p[2] << 16) | (<uint32_t>p[1] << 8) | <uint32_t>p[0]


cdef inline uint64_t big64(const uint8_t* p) noexcept nogil:
    return (<uint64_t>big32(p) << 32) | <uint64_t>big32(p + 4)


cdef inline int smallest(int magic) noexcept nogil:
    return 14 if magic == 0 else 22 if magic == 1 else HEADER_V2 - OVERHEAD


cdef inline int header_size(int magic) noexcept nogil:
    """Bytes of the fields that a `BatchHeader` shows."""
    return HEADER_V2 if magic == 2 else 26 if magic == 1 else 18


# ---------------------------------------------------------------- indexes


def floor_entry(
    buffer, Py_ssize_t count, Py_ssize_t entry_bytes, Py_ssize_t key_bytes, Py_ssize_t key_position, int64_t target
):
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if (key_bytes != 4 and key_bytes != 8) or entry_bytes < 0 or not 0 <= key_position <= entry_bytes - key_bytes:
            raise ValueError(f"no key of {key_bytes} bytes at {key_position} in an entry of {entry_bytes}")
        if count > view.len // entry_bytes:
            raise ValueError(f"{count} entries of {entry_bytes} bytes are more than {view.len} bytes")
        return floor_of(<const uint8_t*>view.buf + key_position, count, entry_bytes, key_bytes == 8, target)
    finally:
        PyBuffer_Release(&view)


cdef Py_ssize_t floor_of(
    const uint8_t* p, Py_ssize_t count, Py_ssize_t entry_bytes, bint wide, int64_t target
) noexcept nogil:
    cdef Py_ssize_t low = 0, high = count, middle
    cdef int64_t key
    while low < high:
        middle = low + (high - low) // 2
        key = <int64_t>big64(p + middle * entry_bytes) if wide else <int32_t>big32(p + middle * entry_bytes)
        if target < key:
            high = middle
        else:
            low = middle + 1
    return low - 1


# ---------------------------------------------------------------- batches


def walk_batches(buffer, Py_ssize_t start, Py_ssize_t end, int64_t base_position, bint verify):
    cdef Py_buffer view
    cdef Py_ssize_t position = start, total
    cdef int status = END, magic
    cdef int64_t size
    cdef const uint8_t* p
    cdef list headers = []
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        end = min(end, view.len)
        while position < end:
            p = <const uint8_t*>view.buf + position
            if end - position < UP_TO_MAGIC:
                status = INCOMPLETE
                break
            size = <int32_t>big32(p + 8)
            magic = p[MAGIC_AT]
            if size < 14:
                status = BAD_SIZE
                break
            if magic > 2:
                status = BAD_MAGIC
                break
            if size < smallest(magic):
                status = BAD_SIZE
                break
            total = OVERHEAD + size
            if total > end - position:
                status = INCOMPLETE
                break
            if verify:
                # These views end with the call: the checksum functions keep no reference.
                if magic == 2:
                    crc = crc32c(PyMemoryView_FromMemory(<char*>p + 21, total - 21, PyBUF_READ))
                else:
                    crc = crc32(PyMemoryView_FromMemory(<char*>p + 16, total - 16, PyBUF_READ))
                if <uint32_t>crc != (big32(p + 17) if magic == 2 else big32(p + 12)):
                    status = BAD_CRC
                    break
            headers.append(make_header(p, magic, total, base_position + position))
            position += total
        return headers, position, status
    finally:
        PyBuffer_Release(&view)


def parse_header(buffer, Py_ssize_t position, int64_t file_position):
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef Py_ssize_t left
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        left = view.len - position if position >= 0 else -1
        p = <const uint8_t*>view.buf + position
        if left < UP_TO_MAGIC or left < header_size(p[MAGIC_AT]):
            raise CorruptRecordError("the bytes end inside the header of a batch", position=position)
        return make_header(p, p[MAGIC_AT], OVERHEAD + <int64_t><int32_t>big32(p + 8), file_position)
    finally:
        PyBuffer_Release(&view)


cdef object make_header(const uint8_t* p, int magic, int64_t total, int64_t position):
    cdef int64_t values[14]
    values[0] = position
    values[1] = total
    values[2] = <int64_t>big64(p)
    values[4] = magic
    if magic == 2:
        values[3] = <int32_t>big32(p + 12)
        values[5] = big32(p + 17)
        values[6] = <int16_t>((<uint16_t>p[21] << 8) | p[22])
        values[7] = <int32_t>big32(p + 23)
        values[8] = <int64_t>big64(p + 27)
        values[9] = <int64_t>big64(p + 35)
        values[10] = <int64_t>big64(p + 43)
        values[11] = <int16_t>((<uint16_t>p[51] << 8) | p[52])
        values[12] = <int32_t>big32(p + 53)
        values[13] = <int32_t>big32(p + 57)
    else:
        values[3] = -1
        values[5] = big32(p + 12)
        values[6] = <int8_t>p[17]
        values[7] = 0
        values[8] = <int64_t>big64(p + 18) if magic == 1 else -1
        values[9] = values[8]
        values[10] = values[11] = values[12] = -1
        values[13] = -1 if p[17] & 7 else 1
    return make_named(HEADER_TYPE, values, 14)


cdef object make_named(PyTypeObject* kind, const int64_t* values, int count):
    """A named tuple of whole numbers."""
    cdef PyObject* made = kind.tp_alloc(kind, count)
    cdef object result = <object>made
    cdef int i
    Py_DecRef(made)
    for i in range(count):
        PyTuple_SET_ITEM(made, i, PyLong_FromLongLong(values[i]))
    return result


def find_candidate(buffer, Py_ssize_t start, Py_ssize_t end, int64_t size_max, int64_t offset_min, int64_t offset_max):
    cdef Py_buffer view
    cdef Py_ssize_t position, found = -1
    cdef const uint8_t* p
    cdef int magic
    cdef int64_t size, offset, length
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        end = min(end, view.len)
        with nogil:
            position = start
            while position <= end - UP_TO_MAGIC:
                p = <const uint8_t*>view.buf + position
                magic = p[MAGIC_AT]
                if magic <= 2:
                    size = <int32_t>big32(p + 8)
                    if smallest(magic) <= size and OVERHEAD + size <= size_max - (position - start):
                        offset = <int64_t>big64(p)
                        length = OVERHEAD + smallest(magic)
                        if offset_min <= offset <= offset_max and end - position >= length and plausible(p, magic):
                            found = position
                            break
                position += 1
        return found
    finally:
        PyBuffer_Release(&view)


cdef Py_ssize_t LONG_WALK = 1 << 20  # bytes


def find_batch(buffer, Py_ssize_t start, Py_ssize_t end, int64_t offset):
    cdef Py_buffer view
    cdef Py_ssize_t position = start
    cdef int64_t size = 0, base_offset = 0
    cdef int status
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if start < 0:
            raise ValueError(NEGATIVE)
        end = min(end, view.len)
        if end - start < LONG_WALK:
            status = seek_batch(<const uint8_t*>view.buf, &position, end, offset, &size, &base_offset)
        else:
            with nogil:
                status = seek_batch(<const uint8_t*>view.buf, &position, end, offset, &size, &base_offset)
        if status >= 0:
            return position, 0, status
        return position, size, base_offset
    finally:
        PyBuffer_Release(&view)


cdef int seek_batch(
    const uint8_t* buffer, Py_ssize_t* at, Py_ssize_t end, int64_t offset, int64_t* total, int64_t* base_offset
) noexcept nogil:
    """Move `at` to the batch found and return -1, or to where the walk stops and return the WalkEnd."""
    cdef Py_ssize_t position = at[0], left
    cdef int64_t size, last_offset
    cdef const uint8_t* p
    cdef int magic, status = END
    while position < end:
        p = buffer + position
        left = end - position
        if left < UP_TO_MAGIC:
            status = INCOMPLETE
            break
        size = <int32_t>big32(p + 8)
        magic = p[MAGIC_AT]
        if size < 14:
            status = BAD_SIZE
            break
        if magic > 2:
            status = BAD_MAGIC
            break
        if size < smallest(magic):
            status = BAD_SIZE
            break
        last_offset = <int64_t>big64(p)
        if magic == 2:
            if left < HEADER_V2:
                status = INCOMPLETE
                break
            last_offset = <int64_t>(<uint64_t>last_offset + <uint64_t><int64_t><int32_t>big32(p + 23))
        if last_offset >= offset:
            base_offset[0] = <int64_t>big64(p)
            total[0] = OVERHEAD + size
            status = -1
            break
        if OVERHEAD + size > left:
            status = INCOMPLETE
            break
        position += OVERHEAD + size
    at[0] = position
    return status


cdef bint plausible(const uint8_t* p, int magic) noexcept nogil:
    cdef int64_t delta, count
    if magic == 2:
        delta = <int32_t>big32(p + 23)
        count = <int32_t>big32(p + 57)
        return p[21] == 0 and p[22] < 128 and (p[22] & 7) <= 4 and delta >= 0 and 0 <= count <= delta + 1
    return p[17] < 16 and (p[17] & 7) <= 3


# ---------------------------------------------------------------- records


cdef struct Fields:
    int64_t timestamp_delta
    int64_t offset_delta
    Py_ssize_t tail  # where the length of the key is
    Py_ssize_t key
    Py_ssize_t key_size  # -1: null
    Py_ssize_t value
    Py_ssize_t value_size  # -1: null
    Py_ssize_t headers
    int64_t headers_count
    Py_ssize_t end


cdef inline int varint(const uint8_t* p, Py_ssize_t* position, Py_ssize_t end, int size_max, int64_t* out) noexcept nogil:
    """Read a zig-zag number of at most `size_max` bytes (5 or 10); bits beyond the type fall off."""
    cdef Py_ssize_t at = position[0]
    cdef uint64_t raw = 0
    cdef int shift = 0
    cdef uint8_t byte
    if at < end and p[at] < 0x80:  # most are that small
        raw = p[at]
        out[0] = <int64_t>(raw >> 1) ^ -<int64_t>(raw & 1)
        position[0] = at + 1
        return 0
    while True:
        if at >= end:
            return FIELD_TOO_LONG
        byte = p[at]
        at += 1
        raw |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift == 7 * size_max:
            return VARINT_ENDLESS
    if size_max == 5:
        raw &= <uint64_t>0xFFFFFFFF
    out[0] = <int64_t>(raw >> 1) ^ -<int64_t>(raw & 1)
    position[0] = at
    return 0


cdef inline int sized(const uint8_t* p, Py_ssize_t* position, Py_ssize_t end, Py_ssize_t* at, Py_ssize_t* size) noexcept nogil:
    cdef int64_t length = 0
    cdef int flaw = varint(p, position, end, 5, &length)
    if flaw:
        return flaw
    at[0] = position[0]
    if length < 0:
        size[0] = -1
        return 0
    if length > end - position[0]:
        return FIELD_TOO_LONG
    size[0] = length
    position[0] += length
    return 0


cdef inline int parse_start(const uint8_t* p, Py_ssize_t start, Py_ssize_t limit, Fields* f) noexcept nogil:
    """Read a record up to its offset delta, and where key and end are; 0 or a Flaw."""
    cdef Py_ssize_t position = start
    cdef int64_t number = 0
    cdef int flaw
    if start >= limit:
        return RECORDS_END_EARLY
    flaw = varint(p, &position, limit, 5, &number)
    if flaw:
        return flaw
    if number < 0 or number > limit - position:
        return RECORD_TOO_LONG
    f.end = position + number
    position += 1
    flaw = varint(p, &position, f.end, 10, &f.timestamp_delta)
    if flaw:
        return flaw
    flaw = varint(p, &position, f.end, 5, &f.offset_delta)
    f.tail = f.key = position
    return flaw


cdef int parse_record(const uint8_t* p, Py_ssize_t start, Py_ssize_t limit, Fields* f) noexcept nogil:
    """Read one record and check all of it, headers included; 0 or a Flaw."""
    cdef Py_ssize_t position, end, at = 0, size = 0
    cdef int64_t i
    cdef int flaw = parse_start(p, start, limit, f)
    if flaw:
        return flaw
    position, end = f.key, f.end
    flaw = sized(p, &position, end, &f.key, &f.key_size)
    if flaw:
        return flaw
    flaw = sized(p, &position, end, &f.value, &f.value_size)
    if flaw:
        return flaw
    flaw = varint(p, &position, end, 5, &f.headers_count)
    if flaw:
        return flaw
    if f.headers_count < 0 or f.headers_count > end - position:
        return HEADER_COUNT
    f.headers = position
    for i in range(f.headers_count):
        flaw = sized(p, &position, end, &at, &size)
        if flaw:
            return flaw
        if size < 0:
            return HEADER_KEY_NULL
        flaw = sized(p, &position, end, &at, &size)
        if flaw:
            return flaw
    if position != end:
        return RECORD_SLACK
    return 0


cdef object flaw_error(int flaw, Py_ssize_t position):
    if flaw == NO_MEMORY:
        return MemoryError()
    return InvalidRecordError(FLAW_REASONS[flaw], position=position)


def decode_records(
    buffer, Py_ssize_t start, Py_ssize_t end, int64_t count, int64_t base_offset, int64_t base_timestamp, append_time
):
    cdef Py_buffer view
    cdef Fields f
    cdef const uint8_t* p
    cdef Py_ssize_t position = start
    cdef int64_t i, timestamp, fixed = 0
    cdef bint is_fixed = append_time is not None
    cdef int flaw
    cdef list records = []
    if is_fixed:
        fixed = append_time
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        end = min(end, view.len)
        for i in range(count):
            flaw = parse_record(p, position, end, &f)
            if flaw:
                raise flaw_error(flaw, position)
            timestamp = fixed if is_fixed else <int64_t>(<uint64_t>base_timestamp + <uint64_t>f.timestamp_delta)
            records.append(make_record(p, &f, <int64_t>(<uint64_t>base_offset + <uint64_t>f.offset_delta), timestamp))
            position = f.end
        return records, position
    finally:
        PyBuffer_Release(&view)


def decode_at(
    buffer, Py_ssize_t position, Py_ssize_t end, int64_t count, int64_t base_offset, int64_t base_timestamp,
    append_time, int64_t offset,
):
    cdef Py_buffer view
    cdef Fields f
    cdef const uint8_t* p
    cdef int64_t i, timestamp, wanted = <int64_t>(<uint64_t>offset - <uint64_t>base_offset), fixed = 0
    cdef bint is_fixed = append_time is not None
    cdef int flaw
    if is_fixed:
        fixed = append_time
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if position < 0:
            raise ValueError(NEGATIVE)
        p = <const uint8_t*>view.buf
        end = min(end, view.len)
        for i in range(count):
            flaw = parse_start(p, position, end, &f)
            if flaw == 0 and f.offset_delta == wanted:
                flaw = parse_record(p, position, end, &f)
                if flaw == 0:
                    timestamp = fixed if is_fixed else <int64_t>(<uint64_t>base_timestamp + <uint64_t>f.timestamp_delta)
                    return make_record(p, &f, offset, timestamp)
            if flaw:
                raise flaw_error(flaw, position)
            position = f.end
        return None
    finally:
        PyBuffer_Release(&view)


def find_record(buffer, Py_ssize_t position, Py_ssize_t end, int64_t offset):
    cdef Py_buffer view
    cdef Fields f
    cdef const uint8_t* p
    cdef Py_ssize_t batch_end
    cdef int64_t size = 0, base_offset = 0, i, timestamp, wanted
    cdef int attributes
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if position < 0:
            raise ValueError(NEGATIVE)
        end = min(end, view.len)
        if seek_batch(<const uint8_t*>view.buf, &position, end, offset, &size, &base_offset) >= 0:
            return None
        p = <const uint8_t*>view.buf
        attributes = p[position + 22]
        if base_offset > offset or size > end - position or p[position + MAGIC_AT] != 2 or attributes & 0x27:
            return None
        batch_end = position + size
        wanted = offset - base_offset
        timestamp = <int64_t>big64(p + position + (35 if attributes & 8 else 27))
        i = <int32_t>big32(p + position + 57)
        position += HEADER_V2
        while i > 0:
            i -= 1
            if parse_start(p, position, batch_end, &f):
                return None
            if f.offset_delta == wanted:
                if parse_record(p, position, batch_end, &f):
                    return None
                if not attributes & 8:
                    timestamp = <int64_t>(<uint64_t>timestamp + <uint64_t>f.timestamp_delta)
                return make_record(p, &f, offset, timestamp)
            position = f.end
        return None
    finally:
        PyBuffer_Release(&view)


def decode_plain_batches(
    buffer, Py_ssize_t start, Py_ssize_t end, int64_t offset_min, int64_t offset_end, int mask, Py_ssize_t records_max
):
    cdef Py_buffer view
    cdef Fields f
    cdef const uint8_t* p
    cdef const uint8_t* h
    cdef Py_ssize_t position = start, at, batch_end, mark
    cdef int64_t size, base_offset, delta, count, i, timestamp
    cdef bint is_append_time
    cdef list records = []
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if start < 0:
            raise ValueError(NEGATIVE)
        p = <const uint8_t*>view.buf
        end = min(end, view.len)
        while end - position >= HEADER_V2 and len(records) < records_max:
            h = p + position
            size = <int32_t>big32(h + 8)
            base_offset, delta = <int64_t>big64(h), <int32_t>big32(h + 23)
            count = <int32_t>big32(h + 57)
            if h[MAGIC_AT] != 2 or size < HEADER_V2 - OVERHEAD or OVERHEAD + size > end - position or h[22] & mask:
                break
            if delta < 0 or count <= 0 or base_offset < offset_min or base_offset >= offset_end - delta:
                break
            batch_end = position + OVERHEAD + size
            crc = crc32c(PyMemoryView_FromMemory(<char*>h + 21, OVERHEAD + size - 21, PyBUF_READ))
            if <uint32_t>crc != big32(h + 17):
                break
            is_append_time = h[22] & 8
            timestamp = <int64_t>big64(h + (35 if is_append_time else 27))
            at, mark = position + HEADER_V2, len(records)
            for i in range(count):
                if parse_record(p, at, batch_end, &f):
                    break
                records.append(make_record(
                    p, &f, <int64_t>(<uint64_t>base_offset + <uint64_t>f.offset_delta),
                    timestamp if is_append_time else <int64_t>(<uint64_t>timestamp + <uint64_t>f.timestamp_delta),
                ))
                at = f.end
            if len(records) - mark != count or at != batch_end:
                del records[mark:]
                break
            position, offset_min = batch_end, base_offset + delta + 1
        return records, position, offset_min
    finally:
        PyBuffer_Release(&view)


cdef Record make_record(const uint8_t* p, Fields* f, int64_t offset, int64_t timestamp):
    cdef Record record = Record.__new__(Record)
    record.offset = offset
    record.timestamp = timestamp
    if f.key_size >= 0:
        record.key = PyBytes_FromStringAndSize(<const char*>p + f.key, f.key_size)
    if f.value_size >= 0:
        record.value = PyBytes_FromStringAndSize(<const char*>p + f.value, f.value_size)
    record.headers = make_headers(p, f) if f.headers_count else ()
    return record


cdef tuple make_headers(const uint8_t* p, Fields* f):
    cdef Py_ssize_t position = f.headers, at = 0, size = 0
    cdef int64_t i
    cdef list headers = []
    for i in range(f.headers_count):
        sized(p, &position, f.end, &at, &size)
        name = PyUnicode_DecodeUTF8(<const char*>p + at, size, "surrogateescape")
        sized(p, &position, f.end, &at, &size)
        headers.append((name, PyBytes_FromStringAndSize(<const char*>p + at, size) if size >= 0 else None))
    return tuple(headers)


def check_records(buffer, Py_ssize_t start, Py_ssize_t end, int64_t count):
    cdef Py_buffer view
    cdef Fields f
    cdef const uint8_t* p
    cdef Py_ssize_t position = start, disordered = -1
    cdef int64_t i, first = 0, last = -1, time_min = 0, time_max = 0
    cdef int64_t null_keys = 0, tombstones = 0, headers = 0, key_bytes = 0, value_bytes = 0
    cdef int flaw = 0
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        end = min(end, view.len)
        with nogil:
            for i in range(count):
                flaw = parse_record(p, position, end, &f)
                if flaw:
                    break
                if disordered < 0 and (f.offset_delta <= last if i else f.offset_delta < 0):
                    disordered = position
                last = f.offset_delta
                if i == 0:
                    first = last
                    time_min = time_max = f.timestamp_delta
                time_min = min(time_min, f.timestamp_delta)
                time_max = max(time_max, f.timestamp_delta)
                null_keys += f.key_size < 0
                tombstones += f.value_size < 0
                headers += f.headers_count
                key_bytes += max(f.key_size, 0)
                value_bytes += max(f.value_size, 0)
                position = f.end
        if flaw == 0 and position != end:
            flaw = BYTES_LEFT
        if flaw:
            raise flaw_error(flaw, position)
        if count <= 0:
            return RecordStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1)
        return RecordStats(
            count, first, last, time_min, time_max, null_keys, tombstones, headers, key_bytes, value_bytes, disordered
        )
    finally:
        PyBuffer_Release(&view)


# ---------------------------------------------------------------- encoding


cdef inline int put_varint(uint8_t* p, int64_t number, bint wide) noexcept nogil:
    """Write a zig-zag number; how many bytes it took."""
    cdef uint64_t raw = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    cdef int size = 0
    if not wide:
        raw &= <uint64_t>0xFFFFFFFF
    while raw >= 0x80:
        p[size] = <uint8_t>(raw & 0x7F) | 0x80
        raw >>= 7
        size += 1
    p[size] = <uint8_t>raw
    return size + 1


cdef inline int varint_size(int64_t number) noexcept nogil:
    cdef uint64_t raw = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    cdef int size = 1
    while raw >= 0x80:
        raw >>= 7
        size += 1
    return size


cdef bytes as_bytes(object data, Py_ssize_t index, str what):
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"record {index}: {what} must be bytes or None, not {type(data).__name__}")
    return bytes(data)


cdef tuple plain_headers(object headers, Py_ssize_t index):
    """Headers as a flat tuple of bytes and None: name, value, name, value."""
    cdef list flat = []
    for name, value in headers:
        if not isinstance(name, str):
            raise TypeError(f"record {index}: a header name must be text, not {type(name).__name__}")
        flat.append(name.encode("utf-8", "surrogateescape"))
        flat.append(value if value is None else as_bytes(value, index, "header value"))
    return tuple(flat)


cdef inline Py_ssize_t field_size(object data):
    cdef Py_ssize_t size
    if data is None:
        return 1
    size = PyBytes_GET_SIZE(data)
    return varint_size(size) + size


cdef inline uint8_t* put_field(uint8_t* p, object data):
    cdef Py_ssize_t size
    if data is None:
        p[0] = 1
        return p + 1
    size = PyBytes_GET_SIZE(data)
    p += put_varint(p, size, False)
    memcpy(p, PyBytes_AS_STRING(data), size)
    return p + size


cdef tuple NO_HEADERS = ()
cdef Py_ssize_t GUESS_MAX = 1 << 26  # bytes set aside because the first record suggests so many


cdef int64_t checked_time(object when, Py_ssize_t index) except? -1:
    if not isinstance(when, int):
        raise TypeError(f"record {index}: timestamp {when!r} is no whole number")
    if not -1 <= when <= INT64_MAX:
        raise ValueError(f"record {index}: timestamp {when} is negative, or beyond 64 bits")
    return when


def encode_records(items, Py_ssize_t reserve, int64_t base_offset, base_timestamp, default_timestamp):
    cdef bytearray out = bytearray(reserve)
    cdef Py_ssize_t used = reserve, needed, guess, body, index = 0
    cdef int64_t delta, previous = -1, timestamp, base = 0, max_timestamp = -1
    cdef bint has_base = base_timestamp is not None
    cdef uint8_t* p
    cdef tuple item, headers
    cdef object key, value, one, wide
    cdef Record record
    cdef int64_t usual = checked_time(default_timestamp, 0)
    if has_base:
        base = base_timestamp
    for one in items:
        headers = NO_HEADERS
        if type(one) is Record:
            record = <Record>one
            wide = record.offset - <object>base_offset
            if not previous < wide <= INT32_MAX:
                raise ValueError(f"record {index}: its offset does not follow the one before, or is beyond the batch")
            delta, key, value, timestamp = wide, record.key, record.value, record.timestamp
            if timestamp < -1:
                raise ValueError(f"record {index}: timestamp {timestamp} is negative, or beyond 64 bits")
            if record.headers:
                headers = plain_headers(record.headers, index)
        else:
            if not isinstance(one, tuple) or not 2 <= PyTuple_GET_SIZE(one) <= 4:
                raise TypeError(f"record {index}: expected a tuple of 2 to 4 fields or a Record")
            item = <tuple>one
            delta, key, value, timestamp = index, item[0], item[1], usual
            if PyTuple_GET_SIZE(item) > 2:
                timestamp = checked_time(item[2], index)
            if PyTuple_GET_SIZE(item) > 3 and item[3]:
                headers = plain_headers(item[3], index)
        if not has_base:
            base = timestamp
            has_base = True
        if key is not None and not PyBytes_CheckExact(key):
            key = as_bytes(key, index, "key")
        if value is not None and not PyBytes_CheckExact(value):
            value = as_bytes(value, index, "value")
        body = 1 + varint_size(<int64_t>(<uint64_t>timestamp - <uint64_t>base)) + varint_size(delta)
        body += field_size(key) + field_size(value) + varint_size(PyTuple_GET_SIZE(headers) // 2)
        if headers is not NO_HEADERS:
            for data in headers:
                body += field_size(data)
        if body > INT32_MAX:
            raise ValueError(f"record {index}: larger than a record can be")
        needed = used + body + 5
        if needed > PyByteArray_GET_SIZE(out):
            guess = needed + needed // 2 if index else needed + min((body + 6) * (len(items) - 1), GUESS_MAX)
            PyByteArray_Resize(out, guess)
        p = <uint8_t*>PyByteArray_AS_STRING(out) + used
        p += put_varint(p, body, False)
        p[0] = 0  # attributes
        p += 1
        p += put_varint(p, <int64_t>(<uint64_t>timestamp - <uint64_t>base), True)
        p += put_varint(p, delta, False)
        p = put_field(p, key)
        p = put_field(p, value)
        p += put_varint(p, PyTuple_GET_SIZE(headers) // 2, False)
        if headers is not NO_HEADERS:
            for data in headers:
                p = put_field(p, data)
        used = p - <uint8_t*>PyByteArray_AS_STRING(out)
        previous = delta
        max_timestamp = max(max_timestamp, timestamp)
        index += 1
    PyByteArray_Resize(out, used)
    return out, previous, base if has_base else -1, max_timestamp


def encode_plain_batch(items, default_timestamp):
    cdef tuple encoded = encode_records(items, HEADER_V2, 0, None, default_timestamp)
    cdef bytearray out = encoded[0]
    cdef int64_t last_delta = encoded[1], base = encoded[2], newest = encoded[3]
    cdef Py_ssize_t size = PyByteArray_GET_SIZE(out)
    cdef uint8_t* p
    if last_delta + 1 != len(items) or not last_delta >= 0:
        raise ValueError("the offsets of the records do not ascend from 0 by one" if len(items) else
                         "a batch needs at least one record")
    if size > INT32_MAX:
        raise ValueError(f"a batch of {size} bytes is larger than Kafka's format can say")
    p = <uint8_t*>PyByteArray_AS_STRING(out)
    put_big(p, 0, 8)  # the log numbers it
    put_big(p + 8, size - OVERHEAD, 4)
    put_big(p + 12, -1, 4)
    p[MAGIC_AT] = 2
    put_big(p + 21, 0, 2)
    put_big(p + 23, last_delta, 4)
    put_big(p + 27, base, 8)
    put_big(p + 35, newest, 8)
    put_big(p + 43, -1, 8)
    put_big(p + 51, -1, 2)
    put_big(p + 53, -1, 4)
    put_big(p + 57, last_delta + 1, 4)
    put_big(p + 17, <int64_t>crc32c(PyMemoryView_FromMemory(<char*>p + 21, size - 21, PyBUF_READ)), 4)
    return out, last_delta, newest


cdef inline void put_big(uint8_t* p, int64_t number, int width) noexcept nogil:
    cdef int i
    for i in range(width):
        p[i] = <uint8_t>(<uint64_t>number >> (8 * (width - 1 - i)))


# ---------------------------------------------------------------- lines


cdef struct Text:
    uint8_t* data
    Py_ssize_t size
    Py_ssize_t capacity
    bint failed


cdef inline uint8_t* room(Text* out, Py_ssize_t more) noexcept nogil:
    """Where the next bytes go, with room for `more` of them; NULL when there is no memory."""
    cdef uint8_t* grown
    cdef Py_ssize_t capacity
    if out.size + more > out.capacity:
        capacity = (out.size + more) * 2
        grown = <uint8_t*>realloc(out.data, capacity)
        if grown == NULL:
            out.failed = True
            return NULL
        out.data = grown
        out.capacity = capacity
    return out.data + out.size


cdef inline void put(Text* out, const char* data, Py_ssize_t size) noexcept nogil:
    cdef uint8_t* p = room(out, size)
    if p != NULL:
        memcpy(p, data, size)
        out.size += size


cdef void put_number(Text* out, int64_t number) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int i = 20
    cdef uint64_t rest = <uint64_t>number
    if number < 0:
        put(out, "-", 1)
        rest = 0 - rest
    while True:
        i -= 1
        digits[i] = 48 + <uint8_t>(rest % 10)
        rest //= 10
        if rest == 0:
            break
    put(out, <const char*>digits + i, 20 - i)


cdef void put_digits(Text* out, int64_t number, int width) noexcept nogil:
    cdef uint8_t* p = room(out, width)
    cdef int i
    if p != NULL:
        for i in range(width - 1, -1, -1):
            p[i] = 48 + <uint8_t>(number % 10)
            number //= 10
        out.size += width


cdef void put_time(Text* out, int64_t timestamp) noexcept nogil:
    """ISO 8601 in UTC; the number itself outside the years 1 to 9999; a dash for none."""
    cdef int64_t days, rest, era, of_era, year_of_era, of_year, month
    if timestamp == -1:
        put(out, "-", 1)
        return
    if timestamp < -<int64_t>62135596800000 or timestamp > <int64_t>253402300799999:
        put_number(out, timestamp)
        return
    days = timestamp // 86400000
    rest = timestamp % 86400000
    if rest < 0:  # C rounds towards zero
        rest += 86400000
        days -= 1
    # Days to a date: count from 1 March of year 0, in eras of 400 years (146,097 days).
    days += 719468
    era = days // 146097
    of_era = days - era * 146097
    year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    put_digits(out, year_of_era + era * 400 + (1 if month >= 10 else 0), 4)
    put(out, "-", 1)
    put_digits(out, month + 3 if month < 10 else month - 9, 2)
    put(out, "-", 1)
    put_digits(out, of_year - (153 * month + 2) // 5 + 1, 2)
    put(out, "T", 1)
    put_digits(out, rest // 3600000, 2)
    put(out, ":", 1)
    put_digits(out, rest // 60000 % 60, 2)
    put(out, ":", 1)
    put_digits(out, rest // 1000 % 60, 2)
    put(out, ".", 1)
    put_digits(out, rest % 1000, 3)
    put(out, "Z", 1)


cdef const char* HEX = "0123456789abcdef"
cdef const char* ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef void put_base64(Text* out, const uint8_t* data, Py_ssize_t size) noexcept nogil:
    cdef uint8_t* p = room(out, (size + 2) // 3 * 4)
    cdef Py_ssize_t i = 0
    cdef uint32_t three
    if p == NULL:
        return
    while i + 2 < size:
        three = (<uint32_t>data[i] << 16) | (<uint32_t>data[i + 1] << 8) | data[i + 2]
        p[0] = ALPHABET[three >> 18]
        p[1] = ALPHABET[(three >> 12) & 63]
        p[2] = ALPHABET[(three >> 6) & 63]
        p[3] = ALPHABET[three & 63]
        p += 4
        i += 3
    if i < size:
        three = (<uint32_t>data[i] << 16) | ((<uint32_t>data[i + 1] << 8) if i + 1 < size else 0)
        p[0] = ALPHABET[three >> 18]
        p[1] = ALPHABET[(three >> 12) & 63]
        p[2] = ALPHABET[(three >> 6) & 63] if i + 1 < size else 61
        p[3] = 61
    out.size += (size + 2) // 3 * 4


cdef void put_hex(Text* out, const uint8_t* data, Py_ssize_t size) noexcept nogil:
    cdef uint8_t* p = room(out, size * 2)
    cdef Py_ssize_t i
    if p != NULL:
        for i in range(size):
            p[2 * i] = HEX[data[i] >> 4]
            p[2 * i + 1] = HEX[data[i] & 15]
        out.size += size * 2


cdef inline int sequence_size(const uint8_t* p, Py_ssize_t left) noexcept nogil:
    """Bytes of the UTF-8 sequence at p (RFC 3629), 0 if there is none."""
    cdef uint8_t lead = p[0], second
    if lead < 0x80:
        return 1
    if lead < 0xC2 or lead > 0xF4 or left < 2:
        return 0
    second = p[1]
    if second & 0xC0 != 0x80:
        return 0
    if lead < 0xE0:
        return 2
    if left < 3 or p[2] & 0xC0 != 0x80:
        return 0
    if lead < 0xF0:
        if (lead == 0xE0 and second < 0xA0) or (lead == 0xED and second > 0x9F):
            return 0
        return 3
    if left < 4 or p[3] & 0xC0 != 0x80:
        return 0
    if (lead == 0xF0 and second < 0x90) or (lead == 0xF4 and second > 0x8F):
        return 0
    return 4


cdef inline bint eight_plain(const uint8_t* p) noexcept nogil:
    """Whether eight bytes are ASCII that JSON prints as it is: no control, quote, backslash or high bit."""
    cdef uint64_t word, quote, slash, low
    memcpy(&word, p, 8)
    quote = word ^ <uint64_t>0x2222222222222222
    slash = word ^ <uint64_t>0x5C5C5C5C5C5C5C5C
    low = word - <uint64_t>0x2020202020202020
    quote = (quote - <uint64_t>0x0101010101010101) & ~quote
    slash = (slash - <uint64_t>0x0101010101010101) & ~slash
    return ((word | low | quote | slash) & <uint64_t>0x8080808080808080) == 0


cdef bint put_json_text(Text* out, const uint8_t* data, Py_ssize_t size) noexcept nogil:
    """A JSON string; False, with nothing written, where the bytes are not UTF-8."""
    cdef Py_ssize_t before = out.size, i = 0
    cdef int length, k
    cdef uint8_t byte
    cdef uint8_t* p
    cdef uint8_t* begin
    begin = room(out, size * 6 + 2)
    if begin == NULL:
        return True
    p = begin
    p[0] = 34
    p += 1
    while i < size:
        while i + 8 <= size and eight_plain(data + i):
            memcpy(p, data + i, 8)
            p += 8
            i += 8
        if i >= size:
            break
        byte = data[i]
        if byte >= 0x80:
            length = sequence_size(data + i, size - i)
            if length == 0:
                out.size = before
                return False
            for k in range(length):
                p[k] = data[i + k]
            p += length
            i += length
            continue
        i += 1
        if byte >= 0x20 and byte != 34 and byte != 92:
            p[0] = byte
            p += 1
            continue
        p[0] = 92
        if byte == 34 or byte == 92:
            p[1] = byte
        elif byte == 10:
            p[1] = 110
        elif byte == 13:
            p[1] = 114
        elif byte == 9:
            p[1] = 116
        elif byte == 8:
            p[1] = 98
        elif byte == 12:
            p[1] = 102
        else:
            p[1] = 117
            p[2] = 48
            p[3] = 48
            p[4] = HEX[byte >> 4]
            p[5] = HEX[byte & 15]
            p += 4
        p += 2
    p[0] = 34
    out.size += p + 1 - begin
    return True


cdef void put_json(Text* out, const uint8_t* data, Py_ssize_t size, int encoding) noexcept nogil:
    if size < 0:
        put(out, "null", 4)
    elif encoding == UTF8:
        if not put_json_text(out, data, size):
            put(out, '{"base64":"', 11)
            put_base64(out, data, size)
            put(out, '"}', 2)
    else:
        put(out, '"', 1)
        if encoding == BASE64:
            put_base64(out, data, size)
        else:
            put_hex(out, data, size)
        put(out, '"', 1)


cdef inline bint prints(const uint8_t* p, int length) noexcept nogil:
    """Whether a character stays on its line and shows: no C1 control, no line or paragraph separator."""
    if length == 2:
        return not (p[0] == 0xC2 and p[1] < 0xA0)
    if length == 3:
        return not (p[0] == 0xE2 and p[1] == 0x80 and (p[2] == 0xA8 or p[2] == 0xA9))
    return True


cdef void put_text(Text* out, const uint8_t* data, Py_ssize_t size, int encoding) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef int length, k
    cdef uint8_t byte
    cdef uint8_t* p
    if size < 0:
        put(out, "null", 4)
        return
    if encoding == BASE64:
        put_base64(out, data, size)
        return
    if encoding != UTF8:
        put_hex(out, data, size)
        return
    p = room(out, size * 4)
    if p == NULL:
        return
    while i < size:
        byte = data[i]
        length = sequence_size(data + i, size - i)
        if byte == 10 or byte == 9 or byte == 92:
            p[0] = 92
            p[1] = 110 if byte == 10 else 116 if byte == 9 else 92
            p += 2
            i += 1
        elif length == 0 or byte < 0x20 or byte == 0x7F or not prints(data + i, length):
            for k in range(max(length, 1)):
                p[0] = 92
                p[1] = 120
                p[2] = HEX[data[i + k] >> 4]
                p[3] = HEX[data[i + k] & 15]
                p += 4
            i += max(length, 1)
        else:
            for k in range(length):
                p[k] = data[i + k]
            p += length
            i += length
    out.size = p - out.data


cdef struct Style:
    int mode
    int encoding
    const char* prefix
    Py_ssize_t prefix_size
    const char* middle
    Py_ssize_t middle_size
    const char* suffix
    Py_ssize_t suffix_size


cdef Style read_style(object style):
    cdef Style s
    s.mode, s.encoding = style[0], style[1]
    s.prefix, s.prefix_size = PyBytes_AS_STRING(style[2]), PyBytes_GET_SIZE(style[2])
    s.middle, s.middle_size = PyBytes_AS_STRING(style[3]), PyBytes_GET_SIZE(style[3])
    s.suffix, s.suffix_size = PyBytes_AS_STRING(style[4]), PyBytes_GET_SIZE(style[4])
    return s


cdef void put_line(Text* out, Style* s, const uint8_t* p, Fields* f, int64_t offset, int64_t timestamp) noexcept nogil:
    """One line; keys, values and headers are ranges of the buffer p."""
    cdef Py_ssize_t position = f.headers, at = 0, size = 0
    cdef int64_t i
    if s.mode == JSON or s.mode == TEXT:
        put(out, s.prefix, s.prefix_size)
        put_number(out, offset)
    if s.mode == JSON:
        put(out, ',"timestamp":', 13)
        put_number(out, timestamp)
        put(out, s.middle, s.middle_size)
        put_json(out, p + f.key, f.key_size, s.encoding)
        put(out, ',"value":', 9)
        put_json(out, p + f.value, f.value_size, s.encoding)
        put(out, ',"headers":[', 12)
        for i in range(f.headers_count):
            put(out, "[" if i == 0 else ",[", 1 if i == 0 else 2)
            sized(p, &position, f.end, &at, &size)
            put_json(out, p + at, size, UTF8)
            put(out, ",", 1)
            sized(p, &position, f.end, &at, &size)
            put_json(out, p + at, size, s.encoding)
            put(out, "]", 1)
        put(out, "]", 1)
    elif s.mode == TEXT:
        put(out, "	", 1)
        put_time(out, timestamp)
        put(out, "	", 1)
        put_text(out, p + f.key, f.key_size, s.encoding)
        put(out, "	", 1)
        put_text(out, p + f.value, f.value_size, s.encoding)
        for i in range(f.headers_count):
            put(out, "	" if i == 0 else " ", 1)
            sized(p, &position, f.end, &at, &size)
            put_text(out, p + at, size, UTF8)
            put(out, "=", 1)
            sized(p, &position, f.end, &at, &size)
            put_text(out, p + at, size, s.encoding)
    elif f.value_size > 0:
        put(out, <const char*>p + f.value, f.value_size)
    put(out, s.suffix, s.suffix_size)


def format_body(
    buffer, Py_ssize_t start, Py_ssize_t end, int64_t count, int64_t base_offset, int64_t base_timestamp, append_time,
    style, Py_ssize_t bytes_wanted,
):
    cdef Py_buffer view
    cdef Fields f
    cdef Text out
    cdef Style s = read_style(style)
    cdef const uint8_t* p
    cdef Py_ssize_t position = start
    cdef int64_t done = 0, timestamp, fixed = 0
    cdef bint is_fixed = append_time is not None
    cdef int flaw = 0
    if is_fixed:
        fixed = append_time
    out.data, out.size, out.capacity, out.failed = NULL, 0, 0, False
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        end = min(end, view.len)
        with nogil:
            room(&out, 4096)
            while done < count and out.size < bytes_wanted and not out.failed:
                flaw = parse_record(p, position, end, &f)
                if flaw:
                    break
                timestamp = fixed if is_fixed else <int64_t>(<uint64_t>base_timestamp + <uint64_t>f.timestamp_delta)
                put_line(&out, &s, p, &f, <int64_t>(<uint64_t>base_offset + <uint64_t>f.offset_delta), timestamp)
                position = f.end
                done += 1
        if out.failed:
            raise MemoryError()
        lines = PyBytes_FromStringAndSize(<const char*>out.data, out.size)
        if flaw:
            error = flaw_error(flaw, position)
            error.lines, error.lines_count = lines, done
            raise error
        return lines, position, done
    finally:
        free(out.data)
        PyBuffer_Release(&view)


def format_records(records, style):
    cdef Text out
    cdef Style s = read_style(style)
    cdef Fields f
    cdef bytes packed
    cdef Record record
    out.data, out.size, out.capacity, out.failed = NULL, 0, 0, False
    try:
        for record in records:
            packed = pack(record, &f)
            put_line(&out, &s, <const uint8_t*>PyBytes_AS_STRING(packed), &f, record.offset, record.timestamp)
            if out.failed:
                raise MemoryError()
        return PyBytes_FromStringAndSize(<const char*>out.data, out.size)
    finally:
        free(out.data)


cdef bytes pack(Record record, Fields* f):
    """Key, value and headers of a record behind each other, as `put_line` wants them."""
    cdef bytes key = record.key, value = record.value
    cdef tuple headers = plain_headers(record.headers, 0)
    cdef Py_ssize_t size = 0
    cdef bytearray out
    cdef uint8_t* p
    cdef bytes start = (b"" if key is None else key) + (b"" if value is None else value)
    f.key, f.key_size = 0, -1 if key is None else len(key)
    f.value, f.value_size = max(f.key_size, 0), -1 if value is None else len(value)
    f.headers, f.headers_count = len(start), len(headers) // 2
    f.end = f.headers
    if not headers:
        return start
    for data in headers:
        size += field_size(data)
    out = bytearray(size)
    p = <uint8_t*>PyByteArray_AS_STRING(out)
    for data in headers:
        p = put_field(p, data)
    f.end += size
    return start + bytes(out)


# ---------------------------------------------------------------- keys and partitions


def murmur2(key):
    cdef bytes data = <bytes>key if PyBytes_CheckExact(key) else copied_key(key)
    if data is None:
        raise TypeError(f"a key must be bytes, not {type(key).__name__}")
    return <int32_t>murmur2_of(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


def partition_keys(keys, partitions):
    if not 1 <= partitions <= INT32_MAX:
        raise ValueError(f"{partitions} partitions; a topic has 1 to {INT32_MAX}")
    cdef uint32_t count = partitions
    cdef uint32_t hash
    cdef list chosen = []
    cdef bytes data
    for key in keys:
        if key is None:
            chosen.append(-1)
            continue
        data = <bytes>key if PyBytes_CheckExact(key) else copied_key(key)
        if data is None:
            raise TypeError(f"key {len(chosen)}: must be bytes or None, not {type(key).__name__}")
        hash = murmur2_of(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        chosen.append((hash & <uint32_t>INT32_MAX) % count)
    return chosen


cdef bytes copied_key(object key):
    """The bytes of a key that is no `bytes` object; None where it has no bytes."""
    return bytes(key) if isinstance(key, (bytes, bytearray, memoryview)) else None


cdef uint32_t murmur2_of(const uint8_t* p, Py_ssize_t size) noexcept nogil:
    cdef uint32_t hash = MURMUR2_SEED ^ <uint32_t>size
    cdef uint32_t word
    while size >= 4:
        word = little32(p) * MURMUR2_FACTOR
        hash = (hash * MURMUR2_FACTOR) ^ ((word ^ (word >> 24)) * MURMUR2_FACTOR)
        p += 4
        size -= 4
    if size:
        if size == 3:
            hash ^= <uint32_t>p[2] << 16
        if size >= 2:
            hash ^= <uint32_t>p[1] << 8
        hash = (hash ^ p[0]) * MURMUR2_FACTOR
    hash = (hash ^ (hash >> 13)) * MURMUR2_FACTOR
    return hash ^ (hash >> 15)


# ---------------------------------------------------------------- the cleaner's table
#
# What follows is the compiled twin of `_cleaning_py.py`, which says what each function means.

cdef extern from *:
    """
    #include <string.h>
    #include <stdint.h>

    static inline uint64_t little64(const uint8_t *p) {
        uint64_t word;
        memcpy(&word, p, 8);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }

    /* Twenty-four bytes at any address; `stored` is the offset plus one, so that zeros are an empty slot. */
    typedef struct __attribute__((packed)) { uint64_t low, high, stored; } key_slot;

    #define ROTATED(word, bits) ((word) << (bits) | (word) >> (64 - (bits)))

    typedef struct { uint64_t a, b, c, d; } sip_state;

    static inline void sip_round(sip_state *s) {
        s->a += s->b; s->c += s->d;
        s->b = ROTATED(s->b, 13) ^ s->a; s->d = ROTATED(s->d, 16) ^ s->c;
        s->a = ROTATED(s->a, 32);
        s->c += s->b; s->a += s->d;
        s->b = ROTATED(s->b, 17) ^ s->c; s->d = ROTATED(s->d, 21) ^ s->a;
        s->c = ROTATED(s->c, 32);
    }
    """
    uint64_t little64(const uint8_t* p) nogil
    ctypedef struct key_slot:
        uint64_t low
        uint64_t high
        uint64_t stored
    ctypedef struct sip_state:
        uint64_t a
        uint64_t b
        uint64_t c
        uint64_t d
    void sip_round(sip_state* s) nogil
    void __builtin_prefetch(const void* address) nogil

cdef enum:
    SHORT_KEY = 15  # bytes; longer keys are hashed
    SLOT_BYTES = 24
    SEED_BYTES = 16

cdef struct Table:
    key_slot* slots
    uint64_t size  # slots
    int64_t capacity  # keys
    int64_t count  # keys
    uint64_t seed_low
    uint64_t seed_high
    uint64_t shard  # of the keys, one part in so many is taken
    uint64_t shards

cdef struct Tag:
    uint64_t low
    uint64_t high  # its uppermost byte: the length of a short key, 128 or more for a long one
    uint64_t slot


cdef inline void sip_start(sip_state* s, const Table* t) noexcept nogil:
    s.a = t.seed_low ^ <uint64_t>0x736F6D6570736575
    s.b = t.seed_high ^ <uint64_t>0x646F72616E646F6D
    s.c = t.seed_low ^ <uint64_t>0x6C7967656E657261
    s.d = t.seed_high ^ <uint64_t>0x7465646279746573


cdef inline void sip_word(sip_state* s, uint64_t word) noexcept nogil:
    s.d ^= word
    sip_round(s)
    sip_round(s)
    s.a ^= word


cdef inline uint64_t sip_last(sip_state* s) noexcept nogil:
    sip_round(s)
    sip_round(s)
    sip_round(s)
    sip_round(s)
    return s.a ^ s.b ^ s.c ^ s.d


cdef void sip_bytes(sip_state* s, const uint8_t* data, Py_ssize_t size, Py_ssize_t before) noexcept nogil:
    """Feed the last bytes and the length, to which `before` bytes fed already belong."""
    cdef uint8_t rest[8]
    cdef Py_ssize_t i = 0, k
    while i + 8 <= size:
        sip_word(s, little64(data + i))
        i += 8
    for k in range(8):
        rest[k] = data[i + k] if i + k < size else 0
    rest[7] = <uint8_t>(size + before)
    sip_word(s, little64(rest))


cdef inline uint64_t slot_of(const Table* t, uint64_t low, uint64_t high) noexcept nogil:
    """SipHash-1-3 of a tag, brought into the range of slots; who does not know the seed cannot make a long run."""
    cdef sip_state s
    cdef uint64_t mixed
    sip_start(&s, t)
    s.d ^= low
    sip_round(&s)
    s.a ^= low
    s.d ^= high
    sip_round(&s)
    s.a ^= high
    s.c ^= 0xFF
    sip_round(&s)
    sip_round(&s)
    sip_round(&s)
    mixed = s.a ^ s.b ^ s.c ^ s.d
    if t.size <= <uint64_t>0xFFFFFFFF:
        return ((mixed >> 32) * t.size) >> 32
    return mixed % t.size


cdef inline void make_tag(
    const Table* t, const uint8_t* key, Py_ssize_t size, Py_ssize_t left, Tag* tag
) noexcept nogil:
    """The tag of a key and the slot to begin at; `left` bytes can be read from where the key begins."""
    cdef sip_state s
    cdef uint8_t copy[16]
    if size > SHORT_KEY:
        sip_start(&s, t)
        s.b ^= 0xEE
        sip_bytes(&s, key, size, 0)
        s.c ^= 0xEE
        tag.low = sip_last(&s)
        s.b ^= 0xDD
        tag.high = sip_last(&s) | <uint64_t>1 << 63
    else:
        if left >= 16:
            tag.low = little64(key)
            tag.high = little64(key + 8)
        else:
            memset(copy, 0, 16)
            memcpy(copy, key, size)
            tag.low = little64(copy)
            tag.high = little64(copy + 8)
        if size < 8:
            tag.low &= (<uint64_t>1 << (8 * size)) - 1
            tag.high = 0
        else:
            tag.high &= (<uint64_t>1 << (8 * (size - 8))) - 1
        tag.high |= <uint64_t>size << 56
    tag.slot = slot_of(t, tag.low, tag.high)


cdef inline bint is_foreign(const Table* t, const Tag* tag) noexcept nogil:
    """Whether a key is of a part that is left out; asked only where there are parts."""
    cdef sip_state s
    sip_start(&s, t)
    sip_word(&s, tag.low)
    sip_word(&s, tag.high)
    return sip_last(&s) % t.shards != t.shard


cdef inline key_slot* find_slot(const Table* t, const Tag* tag) noexcept nogil:
    """The slot of a key, or the empty one where it would go; NULL in a table that has no slots."""
    cdef uint64_t at = tag.slot, tried
    cdef key_slot* slot
    for tried in range(t.size):
        slot = t.slots + at
        if slot.stored == 0 or (slot.low == tag.low and slot.high == tag.high):
            return slot
        at += 1
        if at == t.size:
            at = 0
    return NULL


cdef inline bint put_tag(Table* t, const Tag* tag, int64_t offset) noexcept nogil:
    cdef key_slot* slot
    if t.count >= t.capacity:
        return False
    slot = find_slot(t, tag)
    if slot == NULL:
        return False
    if slot.stored == 0:
        slot.low, slot.high = tag.low, tag.high
        t.count += 1
    slot.stored = <uint64_t>offset + 1
    return True


cdef inline int64_t get_tag(const Table* t, const Tag* tag) noexcept nogil:
    cdef key_slot* slot = find_slot(t, tag)
    return -1 if slot == NULL else <int64_t>(slot.stored - 1)


@cython.final
cdef class KeyTable:
    """The latest offset of each key, in memory that the caller gives; the twin says what the methods mean."""

    cdef Py_buffer memory
    cdef Table t

    def __cinit__(self, memory, seed):
        cdef bytes key = bytes(seed)
        if len(key) != SEED_BYTES:
            raise ValueError(f"the seed of a table has {SEED_BYTES} bytes, not {len(key)}")
        PyObject_GetBuffer(memory, &self.memory, PyBUF_WRITABLE)
        self.t.slots = <key_slot*>self.memory.buf
        self.t.size = <uint64_t>self.memory.len // SLOT_BYTES
        self.t.capacity = self.t.size * 3 // 4
        self.t.seed_low = little64(<const uint8_t*>PyBytes_AS_STRING(key))
        self.t.seed_high = little64(<const uint8_t*>PyBytes_AS_STRING(key) + 8)
        self.clear()

    def __dealloc__(self):
        PyBuffer_Release(&self.memory)  # of a buffer never taken it does nothing

    @property
    def slots(self):
        return self.t.size

    @property
    def capacity(self):
        return self.t.capacity

    @property
    def count(self):
        return self.t.count

    def clear(self):
        self.t.count = 0
        self.t.shard, self.t.shards = 0, 1
        with nogil:
            memset(self.t.slots, 0, self.t.size * SLOT_BYTES)

    def restrict(self, shard, shards):
        if not 0 <= shard < shards <= INT32_MAX:
            raise ValueError(f"there is no part {shard} of {shards}")
        self.clear()
        self.t.shard, self.t.shards = shard, shards

    def absorb(self, KeyTable other):
        cdef uint64_t i
        cdef key_slot* slot
        cdef Tag tag
        cdef bint fits = other.t.seed_low == self.t.seed_low and other.t.seed_high == self.t.seed_high
        if not fits or self.t.count + other.t.count > self.t.capacity:
            raise ValueError("a table takes in one of the same seed whose keys it has room for")
        with nogil:
            for i in range(other.t.size):
                slot = other.t.slots + i
                if slot.stored:
                    tag.low, tag.high = slot.low, slot.high
                    tag.slot = slot_of(&self.t, tag.low, tag.high)
                    put_tag(&self.t, &tag, <int64_t>(slot.stored - 1))

    def put(self, key, offset):
        cdef Tag tag
        if not 0 <= offset <= INT64_MAX:
            raise ValueError(f"{offset} is no offset")
        self.make(key, &tag)
        if self.t.shards > 1 and is_foreign(&self.t, &tag):
            return True
        return put_tag(&self.t, &tag, offset)

    def get(self, key):
        cdef Tag tag
        self.make(key, &tag)
        return get_tag(&self.t, &tag)

    cdef int make(self, key, Tag* tag) except -1:
        cdef bytes data = bytes(key)
        make_tag(&self.t, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0, tag)
        return 0


# ---------------------------------------------------------------- the cleaner's batches and records

cdef enum:  # MapEnd, and what only this module knows
    MAP_END = 0
    MAP_INCOMPLETE = 1
    MAP_OTHER = 2
    MAP_FULL = 3
    MAP_BAD_CRC = 4
    MAP_BAD = 5
    MAP_RANGE = 6
    MAP_FILLED = 7
    MAP_ORDER = 8
    MAP_MORE = 101  # the stretch has its bytes, and the walk goes on

cdef enum:
    NOT_PLAIN = 0x37  # attributes: a codec, transactional, control
    APPEND_TIME = 0x08
    HORIZON = 0x40
    KEPT_ATTRIBUTES = 0x7F
    GROWTH_MAX = 10  # bytes by which re-encoding can lengthen a record
    RECORD_MIN = 7  # bytes of the smallest record
    NO_KEY = 1  # flags of an Item
    TOMBSTONE = 2
    GOES = 4
    FOREIGN = 8  # of a part of the keys that is left out
    STRETCH = 1048576  # bytes that are looked at between two times of holding the GIL
    LONG_PARSE = 262144  # bytes from which on the GIL is released

cdef struct Item:
    Tag tag  # of the key
    int64_t timestamp
    int64_t offset
    Py_ssize_t tail  # position of the key's length
    uint32_t tail_size
    int32_t offset_delta
    int flags

cdef struct Items:
    Item* data
    Py_ssize_t capacity
    Py_ssize_t count

cdef struct Batch:
    Py_ssize_t position
    Py_ssize_t size
    int64_t base_offset
    int64_t last_offset
    int64_t base_timestamp
    int64_t max_timestamp
    int64_t count
    int attributes
    bint is_protected
    Py_ssize_t out_position
    Py_ssize_t out_size  # 0: dropped
    bint is_new  # written anew, so it wants a CRC

cdef struct Batches:
    Batch* data
    Py_ssize_t capacity
    Py_ssize_t count

cdef struct Rule:
    int64_t latest
    int64_t now
    int64_t horizon
    bint drops_unkeyed

cdef struct Counts:  # FilterCounts
    int64_t batches
    int64_t records
    int64_t kept
    int64_t superseded
    int64_t expired
    int64_t tombstones
    int64_t unkeyed
    int64_t verbatim
    int64_t reencoded
    int64_t emptied
    int64_t dropped
    int64_t stamped

cdef PyTypeObject* FILTERED_TYPE = <PyTypeObject*>FilteredBatch


cdef int grow_batches(Batches* batches) except -1:
    cdef Py_ssize_t capacity = max(batches.capacity * 2, 64)
    cdef Batch* grown = <Batch*>realloc(batches.data, capacity * sizeof(Batch))
    if grown == NULL:
        raise MemoryError()
    batches.data, batches.capacity = grown, capacity
    return 0


cdef int64_t batch_crc(const uint8_t* p, Py_ssize_t size) except -1:
    """The CRC-32C of a whole batch; most keep the GIL, which to get back takes longer than to sum them up."""
    # The view ends with the call: the checksum function keeps no reference.
    return crc32c(PyMemoryView_FromMemory(<char*>p + 21, size - 21, PyBUF_READ), 0, 0 if size < STRETCH else -1)


cdef int walk_plain(
    const uint8_t* buffer, Py_ssize_t* at, Py_ssize_t end, bint has_end, int64_t offset_end, object protected,
    Batches* batches,
) except -1:
    """List the plain batches of a stretch, CRCs checked; why it ends. `at` moves behind them."""
    cdef Py_ssize_t position = at[0], left, total, stop = position + STRETCH
    cdef const uint8_t* p
    cdef int64_t size, base_offset, delta
    cdef int magic
    cdef Batch* b
    batches.count = 0
    while True:
        at[0] = position
        left = end - position
        if left < UP_TO_MAGIC:
            return MAP_INCOMPLETE if left > 0 else MAP_END
        if position >= stop:
            return MAP_MORE
        p = buffer + position
        size = <int32_t>big32(p + 8)
        magic = p[MAGIC_AT]
        if magic > 2 or size < smallest(magic):
            return MAP_BAD
        total = OVERHEAD + size
        if total > left:
            return MAP_INCOMPLETE
        if magic != 2:
            return MAP_OTHER
        base_offset, delta = <int64_t>big64(p), <int32_t>big32(p + 23)
        if has_end and base_offset >= offset_end:
            return MAP_RANGE
        if p[22] & NOT_PLAIN:
            return MAP_OTHER
        if batch_crc(p, total) != big32(p + 17):
            return MAP_BAD_CRC
        if base_offset < 0 or delta < 0 or base_offset > <int64_t>0x7FFFFFFFFFFFFFFF - delta:
            return MAP_BAD
        if batches.count == batches.capacity:
            grow_batches(batches)
        b = batches.data + batches.count
        b.position, b.size = position, total
        b.base_offset, b.last_offset = base_offset, base_offset + delta
        b.base_timestamp, b.max_timestamp = <int64_t>big64(p + 27), <int64_t>big64(p + 35)
        b.count = <int32_t>big32(p + 57)
        b.attributes = p[22]
        b.is_protected = protected and b.last_offset in protected
        b.out_size = 0
        batches.count += 1
        position += total


cdef int grow_items(Items* items, int64_t count, Py_ssize_t size) noexcept nogil:
    """Make room for `count` records in `size` bytes; more than fit there are never stored."""
    cdef Py_ssize_t needed = min(count, <int64_t>(size // RECORD_MIN))
    cdef Item* grown
    if needed > items.capacity:
        needed = max(needed, 256)
        grown = <Item*>realloc(items.data, needed * sizeof(Item))
        if grown == NULL:
            return NO_MEMORY
        items.data, items.capacity = grown, needed
    return 0


cdef int parse_items(
    const Table* t, const uint8_t* p, Py_ssize_t* at, Py_ssize_t end, const Batch* b, Items* items
) noexcept nogil:
    """Read the records of a batch, which fill `at` to `end`; 0 or a Flaw, and `at` is where it is."""
    cdef Py_ssize_t position = at[0]
    cdef int64_t i, offset, previous = -1
    cdef bint is_append_time = b.attributes & APPEND_TIME
    cdef Fields f
    cdef Item* item
    cdef int flaw
    items.count = 0
    if b.count < 0:
        return COUNT_NEGATIVE
    if grow_items(items, b.count, end - position):
        return NO_MEMORY
    for i in range(b.count):
        at[0] = position
        flaw = parse_record(p, position, end, &f)
        if flaw:
            return flaw
        if f.offset_delta <= previous or b.base_offset > <int64_t>0x7FFFFFFFFFFFFFFF - f.offset_delta:
            return OFFSET_ORDER
        offset = b.base_offset + f.offset_delta
        if offset > b.last_offset:
            return OFFSET_ORDER
        previous = f.offset_delta
        item = items.data + i
        item.offset, item.offset_delta = offset, <int32_t>f.offset_delta
        item.timestamp = b.max_timestamp
        if not is_append_time:
            item.timestamp = <int64_t>(<uint64_t>b.base_timestamp + <uint64_t>f.timestamp_delta)
        item.tail, item.tail_size = f.tail, <uint32_t>(f.end - f.tail)
        item.flags = NO_KEY
        if f.key_size >= 0:
            item.flags = 0 if f.value_size >= 0 else TOMBSTONE
            make_tag(t, p + f.key, f.key_size, end - f.key, &item.tag)
            if t.shards > 1 and is_foreign(t, &item.tag):
                item.flags |= FOREIGN
            # The first two slots that will be looked at, which need not share a cache line.
            __builtin_prefetch(t.slots + item.tag.slot)
            __builtin_prefetch(<const uint8_t*>(t.slots + item.tag.slot + 2) - 1)
        position = f.end
    at[0] = position
    if position != end:
        return BYTES_LEFT
    items.count = b.count
    return 0


cdef int read_items(Table* t, Py_buffer* view, const Batch* b, Items* items) except -1:
    """Read the decompressed records of one batch. Raises InvalidRecordError."""
    cdef Py_ssize_t position = 0
    cdef int flaw
    if view.len < LONG_PARSE:
        flaw = parse_items(t, <const uint8_t*>view.buf, &position, view.len, b, items)
    else:
        with nogil:
            flaw = parse_items(t, <const uint8_t*>view.buf, &position, view.len, b, items)
    if flaw:
        raise flaw_error(flaw, position)
    return 0


cdef Batch read_batch(header, int64_t count) except *:
    """What a header says of its batch, for records that come by themselves. Raises InvalidRecordError."""
    cdef Batch b
    last_offset = header.base_offset + header.last_offset_delta
    if header.base_offset < 0 or header.last_offset_delta < 0 or last_offset > INT64_MAX:
        raise flaw_error(OFFSET_ORDER, 0)
    b.base_offset, b.last_offset = header.base_offset, last_offset
    b.base_timestamp, b.max_timestamp = header.base_timestamp, header.max_timestamp
    b.attributes = header.attributes & 0xFF
    b.count = count
    b.is_protected = False
    return b


# ---------------------------------------------------------------- the map

cdef struct MapSums:
    int64_t latest
    int64_t records
    int64_t unkeyed
    int64_t expected  # the least offset that the next batch can begin with


def map_plain_batches(
    KeyTable table not None, buffer, Py_ssize_t start, Py_ssize_t end, int64_t offset_min, int64_t offset_end,
    int64_t expected=0,
):
    cdef Py_buffer view
    cdef Table* t = &table.t
    cdef Batches batches
    cdef Items items
    cdef MapSums sums
    cdef const uint8_t* p
    cdef Py_ssize_t after
    cdef int status, stopped
    memset(&batches, 0, sizeof(Batches))
    memset(&items, 0, sizeof(Items))
    sums.latest, sums.records, sums.unkeyed, sums.expected = -1, 0, 0, expected
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if start < 0:
            raise ValueError(NEGATIVE)
        p, end = <const uint8_t*>view.buf, min(end, view.len)
        status = MAP_MORE
        while status == MAP_MORE:
            after = start
            status = walk_plain(p, &after, end, True, offset_end, None, &batches)
            if after - start < LONG_PARSE:
                stopped = map_batches(t, p, &batches, offset_min, offset_end, &items, &sums, &start)
            else:
                with nogil:
                    stopped = map_batches(t, p, &batches, offset_min, offset_end, &items, &sums, &start)
            if stopped == NO_MEMORY:
                raise MemoryError()
            if stopped:
                status = stopped
        return start, sums.latest, sums.records, sums.unkeyed, status, sums.expected
    finally:
        free(items.data)
        free(batches.data)
        PyBuffer_Release(&view)


cdef int map_batches(
    Table* t, const uint8_t* p, const Batches* batches, int64_t offset_min, int64_t offset_end, Items* items,
    MapSums* sums, Py_ssize_t* at,
) noexcept nogil:
    """Put batch after batch and move `at` behind them; 0, or why it stops before one."""
    cdef Py_ssize_t i, position
    cdef const Batch* b
    cdef int flaw
    for i in range(batches.count):
        b = batches.data + i
        position = b.position + HEADER_V2
        if b.base_offset < sums.expected:
            return MAP_ORDER
        flaw = parse_items(t, p, &position, b.position + b.size, b, items)
        if flaw:
            return NO_MEMORY if flaw == NO_MEMORY else MAP_BAD
        if not put_items(t, items, offset_min, offset_end, sums):
            return MAP_FULL
        if b.last_offset >= offset_min:
            sums.latest = max(sums.latest, min(b.last_offset, offset_end - 1))
        sums.expected = b.last_offset + (b.last_offset < <int64_t>0x7FFFFFFFFFFFFFFF)
        at[0] = b.position + b.size
    return 0


cdef bint put_items(
    Table* t, const Items* items, int64_t offset_min, int64_t offset_end, MapSums* sums
) noexcept nogil:
    """Put the keys of one batch; False once the table is full, and nothing of the batch is counted then."""
    cdef Py_ssize_t i
    cdef const Item* item
    cdef int64_t records = sums.records, unkeyed = sums.unkeyed
    for i in range(items.count):
        item = items.data + i
        if not offset_min <= item.offset < offset_end:
            continue
        if item.flags & NO_KEY:
            sums.unkeyed += 1
        else:
            if not item.flags & FOREIGN and not put_tag(t, &item.tag, item.offset):
                sums.records, sums.unkeyed = records, unkeyed
                return False
            sums.latest = max(sums.latest, item.offset)
        sums.records += 1
    return True


def map_records(
    KeyTable table not None, payload, int64_t count, int64_t base_offset, int64_t offset_min, int64_t offset_end
):
    cdef Py_buffer view
    cdef Table* t = &table.t
    cdef Batch b
    cdef Items items
    cdef MapSums sums
    cdef bint is_full
    memset(&items, 0, sizeof(Items))
    memset(&b, 0, sizeof(Batch))
    b.base_offset, b.last_offset, b.count = base_offset, INT64_MAX, count
    sums.latest, sums.records, sums.unkeyed = -1, 0, 0
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        if base_offset < 0:
            raise flaw_error(OFFSET_ORDER, 0)
        read_items(t, &view, &b, &items)
        is_full = not put_items(t, &items, offset_min, offset_end, &sums)
        return sums.latest, sums.records, sums.unkeyed, is_full
    finally:
        free(items.data)
        PyBuffer_Release(&view)


# ---------------------------------------------------------------- the filter

cdef struct Outcome:
    int64_t kept
    int64_t base_timestamp
    int64_t max_timestamp
    bint is_verbatim
    bint is_stamped
    bint is_emptied


cdef Rule read_rule(rule) except *:
    cdef Rule r
    r.latest, r.now, r.horizon, r.drops_unkeyed = rule.latest, rule.now_ms, rule.new_horizon_ms, rule.drops_unkeyed
    return r


def filter_plain_batches(
    KeyTable table not None, buffer, Py_ssize_t start, Py_ssize_t end, out, Py_ssize_t out_start, rule
):
    cdef Py_buffer view, room
    cdef Table* t = &table.t
    cdef Batches batches
    cdef Items items
    cdef Counts counts
    cdef Rule r = read_rule(rule)
    cdef const uint8_t* p
    cdef Py_ssize_t after
    cdef int status, stopped
    cdef list written = []
    protected = rule.protected
    memset(&batches, 0, sizeof(Batches))
    memset(&items, 0, sizeof(Items))
    memset(&counts, 0, sizeof(Counts))
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(out, &room, PyBUF_WRITABLE)
        try:
            if start < 0 or out_start < 0:
                raise ValueError(NEGATIVE)
            p, end = <const uint8_t*>view.buf, min(end, view.len)
            status = MAP_MORE
            while status == MAP_MORE:
                after = start
                status = walk_plain(p, &after, end, False, 0, protected, &batches)
                if after - start < LONG_PARSE:
                    stopped = filter_batches(t, p, &batches, &r, &items, &counts, &room, &start, &out_start)
                else:
                    with nogil:
                        stopped = filter_batches(t, p, &batches, &r, &items, &counts, &room, &start, &out_start)
                if stopped == NO_MEMORY:
                    raise MemoryError()
                if stopped:
                    status = stopped
                finish_batches(<uint8_t*>room.buf, &batches, written)
            return start, out_start, written, make_counts(&counts), status
        finally:
            PyBuffer_Release(&room)
    finally:
        free(items.data)
        free(batches.data)
        PyBuffer_Release(&view)


cdef int filter_batches(
    const Table* t, const uint8_t* p, Batches* batches, const Rule* rule, Items* items, Counts* counts, Py_buffer* room,
    Py_ssize_t* at, Py_ssize_t* out_at,
) noexcept nogil:
    """Write what stays of batch after batch and move both positions behind it; 0, or why it stops before one."""
    cdef uint8_t* out = <uint8_t*>room.buf
    cdef Py_ssize_t i, position
    cdef Outcome outcome
    cdef Batch* b
    cdef int flaw
    for i in range(batches.count):
        b = batches.data + i
        position = b.position + HEADER_V2
        flaw = parse_items(t, p, &position, b.position + b.size, b, items)
        if flaw:
            return NO_MEMORY if flaw == NO_MEMORY else MAP_BAD
        if b.size + GROWTH_MAX * b.count > room.len - out_at[0]:
            return MAP_FILLED
        decide(t, items, b, rule, &outcome, counts)
        b.out_position, b.is_new, b.max_timestamp = out_at[0], not outcome.is_verbatim, outcome.max_timestamp
        if outcome.is_verbatim:
            memmove(out + out_at[0], p + b.position, b.size)
            b.out_size = b.size
        elif outcome.kept or outcome.is_emptied:
            b.out_size = write_batch(out + out_at[0], p, b, items, &outcome)
        out_at[0] += b.out_size
        at[0] = b.position + b.size
    return 0


cdef void decide(
    const Table* t, Items* items, const Batch* b, const Rule* rule, Outcome* outcome, Counts* counts
) noexcept nogil:
    """Mark the records that go and say what becomes of their batch (CLEANER §4.3)."""
    cdef bint has_horizon = b.attributes & HORIZON
    cdef bint is_past = has_horizon and b.base_timestamp <= rule.now
    cdef int64_t tombstones = 0, first = 0, newest = 0
    cdef Py_ssize_t i
    cdef Item* item
    outcome.kept = 0
    for i in range(items.count):
        item = items.data + i
        if item.offset <= rule.latest:
            if item.flags & NO_KEY:
                counts.unkeyed += 1
                if rule.drops_unkeyed:
                    item.flags |= GOES
                    continue
            elif item.offset < get_tag(t, &item.tag):
                counts.superseded += 1
                item.flags |= GOES
                continue
            elif is_past and item.flags & TOMBSTONE:
                counts.expired += 1
                item.flags |= GOES
                continue
        tombstones += (item.flags & TOMBSTONE) != 0
        if outcome.kept == 0:
            first = newest = item.timestamp
        newest = max(newest, item.timestamp)
        outcome.kept += 1
    outcome.is_stamped = not has_horizon and tombstones > 0 and b.last_offset <= rule.latest
    outcome.is_verbatim = (
        outcome.kept == items.count and not outcome.is_stamped and (items.count > 0 or b.is_protected)
    )
    outcome.is_emptied = outcome.kept == 0 and not outcome.is_verbatim and b.is_protected
    outcome.max_timestamp = b.max_timestamp if outcome.is_verbatim or outcome.kept == 0 else newest
    if outcome.is_verbatim or (has_horizon and outcome.kept):
        outcome.base_timestamp = b.base_timestamp
    else:
        outcome.base_timestamp = -1 if outcome.kept == 0 else rule.horizon if outcome.is_stamped else first
    counts.batches += 1
    counts.records += items.count
    counts.kept += outcome.kept
    counts.tombstones += tombstones
    counts.stamped += outcome.is_stamped
    if outcome.is_verbatim:
        counts.verbatim += 1
    elif outcome.kept:
        counts.reencoded += 1
    elif outcome.is_emptied:
        counts.emptied += 1
    else:
        counts.dropped += 1


cdef Py_ssize_t write_batch(
    uint8_t* out, const uint8_t* p, const Batch* b, const Items* items, const Outcome* outcome
) noexcept nogil:
    """Write a batch of the records that stay, without its CRC; its size (CLEANER §4.7)."""
    cdef int attributes = b.attributes & (KEPT_ATTRIBUTES if outcome.kept else APPEND_TIME)
    cdef Py_ssize_t size
    if outcome.is_stamped:
        attributes |= HORIZON
    size = write_items(out + HEADER_V2, p, items, outcome.base_timestamp) + HEADER_V2
    memcpy(out, p + b.position, HEADER_V2)
    put_big(out + 8, size - OVERHEAD, 4)
    put_big(out + 21, attributes, 2)
    put_big(out + 27, outcome.base_timestamp, 8)
    put_big(out + 35, outcome.max_timestamp, 8)
    put_big(out + 57, outcome.kept, 4)
    return size


cdef Py_ssize_t write_items(uint8_t* out, const uint8_t* p, const Items* items, int64_t base) noexcept nogil:
    """Write the records that stay with deltas against `base`; how many bytes they take."""
    cdef uint8_t start[16]
    cdef uint8_t* begin = out
    cdef const Item* item
    cdef Py_ssize_t i, size
    start[0] = 0  # attributes
    for i in range(items.count):
        item = items.data + i
        if item.flags & GOES:
            continue
        size = 1 + put_varint(start + 1, <int64_t>(<uint64_t>item.timestamp - <uint64_t>base), True)
        size += put_varint(start + size, item.offset_delta, False)
        out += put_varint(out, size + item.tail_size, False)
        memcpy(out, start, size)
        memcpy(out + size, p + item.tail, item.tail_size)
        out += size + item.tail_size
    return out - begin


cdef Py_ssize_t measure_items(const Items* items, int64_t base) noexcept nogil:
    """How many bytes `write_items` will write."""
    cdef Py_ssize_t i, size, total = 0
    cdef const Item* item
    for i in range(items.count):
        item = items.data + i
        if not item.flags & GOES:
            size = 1 + varint_size(<int64_t>(<uint64_t>item.timestamp - <uint64_t>base))
            size += varint_size(item.offset_delta) + item.tail_size
            total += varint_size(size) + size
    return total


cdef int finish_batches(uint8_t* out, const Batches* batches, list written) except -1:
    """Set the CRCs of the batches that are new, and list all that were written."""
    cdef Py_ssize_t i, j
    cdef const Batch* b
    cdef uint8_t* p
    cdef int64_t values[5]
    for i in range(batches.count):
        b = batches.data + i
        if not b.out_size:
            continue
        if b.is_new:
            p = out + b.out_position
            put_big(p + 17, batch_crc(p, b.out_size), 4)
        values[0], values[1], values[2], values[3] = b.out_position, b.out_size, b.base_offset, b.last_offset
        values[4] = b.max_timestamp
        written.append(make_named(FILTERED_TYPE, values, 5))
    return 0


cdef object make_counts(const Counts* c):
    return FilterCounts(
        c.batches, c.records, c.kept, c.superseded, c.expired, c.tombstones, c.unkeyed, c.verbatim, c.reencoded,
        c.emptied, c.dropped, c.stamped,
    )


def filter_records(KeyTable table not None, payload, int64_t count, header, rule):
    cdef Py_buffer view
    cdef Table* t = &table.t
    cdef Rule r = read_rule(rule)
    cdef Batch b = read_batch(header, count)
    cdef Items items
    cdef Counts counts
    cdef Outcome outcome
    cdef bytes kept = None
    b.is_protected = b.last_offset in rule.protected
    memset(&items, 0, sizeof(Items))
    memset(&counts, 0, sizeof(Counts))
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        read_items(t, &view, &b, &items)
        decide(t, &items, &b, &r, &outcome, &counts)
        if not outcome.is_verbatim:
            kept = PyBytes_FromStringAndSize(NULL, measure_items(&items, outcome.base_timestamp))
            write_items(<uint8_t*>PyBytes_AS_STRING(kept), <const uint8_t*>view.buf, &items, outcome.base_timestamp)
        return (
            kept, outcome.kept, outcome.base_timestamp, outcome.max_timestamp, outcome.is_stamped, make_counts(&counts)
        )
    finally:
        free(items.data)
        PyBuffer_Release(&view)


# ---------------------------------------------------------------- the digest

cdef struct DigestSums:
    int64_t values
    int64_t tombstones
    int64_t superseded
    uint64_t digest


def digest_plain_batches(
    KeyTable table not None, buffer, Py_ssize_t start, Py_ssize_t end, int64_t offset_end
):
    cdef Py_buffer view
    cdef Table* t = &table.t
    cdef Batches batches
    cdef Items items
    cdef DigestSums sums
    cdef const uint8_t* p
    cdef Py_ssize_t after
    cdef int status, stopped
    memset(&batches, 0, sizeof(Batches))
    memset(&items, 0, sizeof(Items))
    memset(&sums, 0, sizeof(DigestSums))
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if start < 0:
            raise ValueError(NEGATIVE)
        p, end = <const uint8_t*>view.buf, min(end, view.len)
        status = MAP_MORE
        while status == MAP_MORE:
            after = start
            status = walk_plain(p, &after, end, True, offset_end, None, &batches)
            if after - start < LONG_PARSE:
                stopped = digest_batches(t, p, &batches, offset_end, &items, &sums, &start)
            else:
                with nogil:
                    stopped = digest_batches(t, p, &batches, offset_end, &items, &sums, &start)
            if stopped == NO_MEMORY:
                raise MemoryError()
            if stopped:
                status = stopped
        return start, sums.values, sums.tombstones, sums.superseded, sums.digest, status
    finally:
        free(items.data)
        free(batches.data)
        PyBuffer_Release(&view)


cdef int digest_batches(
    const Table* t, const uint8_t* p, const Batches* batches, int64_t offset_end, Items* items, DigestSums* sums,
    Py_ssize_t* at,
) noexcept nogil:
    """Sum up batch after batch and move `at` behind them; 0, or why it stops before one."""
    cdef Py_ssize_t i, position
    cdef const Batch* b
    cdef int flaw
    for i in range(batches.count):
        b = batches.data + i
        position = b.position + HEADER_V2
        flaw = parse_items(t, p, &position, b.position + b.size, b, items)
        if flaw:
            return NO_MEMORY if flaw == NO_MEMORY else MAP_BAD
        digest_items(t, p, items, offset_end, sums)
        at[0] = b.position + b.size
    return 0


cdef void digest_items(
    const Table* t, const uint8_t* p, const Items* items, int64_t offset_end, DigestSums* sums
) noexcept nogil:
    cdef Py_ssize_t i
    cdef const Item* item
    cdef sip_state s
    for i in range(items.count):
        item = items.data + i
        if item.flags & (NO_KEY | FOREIGN) or item.offset >= offset_end:
            continue
        if get_tag(t, &item.tag) != item.offset:
            sums.superseded += 1
        elif item.flags & TOMBSTONE:
            sums.tombstones += 1
        else:
            sums.values += 1
            sip_start(&s, t)
            sip_word(&s, <uint64_t>item.offset)
            sip_word(&s, <uint64_t>item.timestamp)
            sip_bytes(&s, p + item.tail, item.tail_size, 16)
            s.c ^= 0xFF
            sums.digest += sip_last(&s)


def digest_records(KeyTable table not None, payload, int64_t count, header, int64_t offset_end):
    cdef Py_buffer view
    cdef Table* t = &table.t
    cdef Batch b = read_batch(header, count)
    cdef Items items
    cdef DigestSums sums
    memset(&items, 0, sizeof(Items))
    memset(&sums, 0, sizeof(DigestSums))
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        read_items(t, &view, &b, &items)
        digest_items(t, <const uint8_t*>view.buf, &items, offset_end, &sums)
        return sums.values, sums.tombstones, sums.superseded, sums.digest
    finally:
        free(items.data)
        PyBuffer_Release(&view)
