"""What of an address is told: who reads a report or a log must not get in."""

from __future__ import annotations

import pytest

from pipeline.addresses import without_secret, without_secrets


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://me:pw@host:5000", "http://host:5000"),
        ("http://token@host/path", "http://host/path"),
        ("postgresql+psycopg://me:p'w@ss@db/runs?password=x", "postgresql+psycopg://db/runs"),
        ("https://bucket.example/x.pth?X-Amz-Signature=ab&Expires=9#part", "https://bucket.example/x.pth"),
        (
            "rayfall run x.yaml --set 'tracking.uri=http://me:pw@host/?a=b&c=d' --set seed=1",
            "rayfall run x.yaml --set 'tracking.uri=http://host/' --set seed=1",
        ),
        ("postgresql://mlflow:a/b@db/runs", "postgresql://db/runs"),
        ("postgresql://mlflow:a#b@c?d@db:5432/runs", "postgresql://db:5432/runs"),
        ("HTTPS://me:pw@host:443/a@v1", "HTTPS://host:443/a@v1"),
        ("s3://bucket/of@v1/x", "s3://bucket/of@v1/x"),
        ("--set 'scorer={weights: https://h/w?sig=a,b/c}' x", "--set 'scorer={weights: https://h/w}' x"),
        ("--set 'scorers=[{weights: https://h/w?sig=a}, {k: 1}]'", "--set 'scorers=[{weights: https://h/w}, {k: 1}]'"),
        ("failed (https://h/w?sig=a)", "failed (https://h/w)"),
        ("sqlite:////data/m.db", "sqlite:////data/m.db"),
        ("https://github.com/a/b@v1/c", "https://github.com/a/b@v1/c"),
        ("me@example.org asks: why?", "me@example.org asks: why?"),
        (
            "host='h', port=9): no answer to /x?token=ab/api&name=c (refused)",
            "host='h', port=9): no answer to /x (refused)",
        ),
        ("is it yes/no? x=1, or a/b?", "is it yes/no? x=1, or a/b?"),
    ],
)
def test_users_passwords_and_queries_are_left_out(text: str, told: str) -> None:
    assert without_secret(text) == told


def test_settings_lose_theirs_wherever_they_stand_and_prose_keeps_its_links() -> None:
    link = "After https://example.org/paper?id=7 and more."
    settings = {
        "tracking": {"uri": "http://me:pw@h"},
        "scorers": [{"weights": "https://h/x?sig=1"}],
        "description": link,
    }
    assert without_secrets(settings) == {
        "tracking": {"uri": "http://h"},
        "scorers": [{"weights": "https://h/x"}],
        "description": link,
    }
    assert without_secrets({"seed": 1, "level": None}) == {"seed": 1, "level": None}
