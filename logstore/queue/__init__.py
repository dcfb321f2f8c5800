"""Durable queues in a Python program: topics, producers and consumers over a store. See the modules."""

from logstore.queue.assignors import ASSIGNORS
from logstore.queue.consumer import Consumer
from logstore.queue.membership import Member, group_ids, group_state
from logstore.queue.offsets_store import OffsetsStore
from logstore.queue.partitioner import DefaultPartitioner, Partitioner, RoundRobinPartitioner
from logstore.queue.producer import Producer
from logstore.queue.protocol import (
    Assignment,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from logstore.queue.reading import Message
from logstore.queue.sending import RecordPlace, SendFuture, SentRange
from logstore.queue.service import StoreService
from logstore.queue.work_queue import WorkQueue
from logstore.queue.work_queue_errors import JobLostError, QueueClosedError
from logstore.queue.work_queue_job import Job, JobId, QueueStats

__all__ = [
    "ASSIGNORS",
    "Assignment",
    "Consumer",
    "DefaultPartitioner",
    "Job",
    "JobId",
    "JobLostError",
    "Member",
    "Message",
    "OffsetsStore",
    "Partitioner",
    "Producer",
    "QueueClosedError",
    "QueueStats",
    "RecordPlace",
    "RoundRobinPartitioner",
    "SendFuture",
    "SentRange",
    "StoreService",
    "Subscription",
    "WorkQueue",
    "decode_assignment",
    "decode_subscription",
    "encode_assignment",
    "encode_subscription",
    "group_ids",
    "group_state",
]
