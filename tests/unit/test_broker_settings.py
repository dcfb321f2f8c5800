"""A broker's settings as those of its topics."""

from __future__ import annotations

import pytest

from logstore.broker_settings import _SYNONYMS, topic_settings
from logstore.config import SETTINGS, LogConfig


@pytest.mark.kafka("CONFIG-03")
def test_hours_become_milliseconds() -> None:
    config = LogConfig.from_kafka(
        topic_settings({"log.roll.hours": "2", "log.roll.jitter.hours": "2", "log.retention.hours": "960"})
    )
    assert config.segment_ms == 7_200_000
    assert config.segment_jitter_ms == 7_200_000
    assert config.retention_ms == 40 * 24 * 3_600_000


def test_the_finest_unit_that_is_set_wins() -> None:
    broker = {"log.retention.hours": "1", "log.retention.minutes": "30", "log.roll.ms": "5", "log.roll.hours": "9"}
    assert topic_settings(broker) == {"retention.ms": "1800000", "segment.ms": "5"}
    assert topic_settings(broker | {"log.retention.ms": "77"})["retention.ms"] == "77"


def test_no_limit_is_any_negative_number_and_no_time_at_all_is_refused() -> None:
    found = topic_settings({"log.retention.ms": "-5", "log.retention.bytes": "-2"})
    assert found == {"retention.ms": "-1", "retention.bytes": "-1"}
    with pytest.raises(ValueError, match=r"log\.retention\.hours is 0"):
        topic_settings({"log.retention.hours": "0"})
    with pytest.raises(ValueError, match="no number"):
        topic_settings({"log.roll.hours": "two"})


def test_what_is_not_of_logs_is_left_out_and_every_setting_of_kafkas_has_its_synonym() -> None:
    assert topic_settings({"broker.id": "3", "num.io.threads": "8", "log.segment.bytes": "1000"}) == {
        "segment.bytes": "1000"
    }
    assert set(SETTINGS) - set(_SYNONYMS) == {"durability"}
    assert LogConfig.from_kafka(topic_settings({})) == LogConfig()
